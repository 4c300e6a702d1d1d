//! libunftp's authenticator: asks stagerd.

use super::shared::{Shared, Verdict};
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use unftp_core::auth::{AuthenticationError, Authenticator, Credentials, Principal};

/// Asks stagerd about a login. What libunftp believes of client and connection is of the loopback and not used; nor is the
/// password in its [`Credentials`], which the gate does not tell it.
#[derive(Debug)]
pub(super) struct Doorman(pub(super) Arc<Shared>);

#[async_trait]
impl Authenticator for Doorman {
    async fn authenticate(&self, user: &str, _: &Credentials) -> Result<Principal, AuthenticationError> {
        let Some(password) = self.0.password.take() else { return Err(AuthenticationError::BadPassword) };
        let tls = self.0.tls.load(Relaxed);
        match self.0.gatekeeper.lock().await.login(user, password, tls).await {
            Ok(admission) => {
                let username = admission.customer.to_string();
                self.0.admission.put(admission);
                Ok(Principal { username })
            }
            Err(refusal) => {
                self.0.verdict.put(Verdict::Refused(refusal));
                Err(AuthenticationError::BadPassword)
            }
        }
    }
}
