//! A trial session in the forker, before the first client: the pages that a session touches are then shared with all of them, and
//! what cannot work is noticed at the start. Its login is refused, so that this process is never confined.

use crate::config::Config;
use crate::gatekeeper::{Admission, Gatekeeper, Over, Refusal};
use crate::session::{Context, Public, serve};
use async_trait::async_trait;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use tobj::{Fault, Message, Request, Secret, Sha256, Text, TlsVersion};
use tokio_rustls::TlsAcceptor;

const SCRIPT: &str = "FEAT\r\nUSER nobody\r\nPASS nothing\r\nQUIT\r\n";

/// Lets nobody in.
struct Nobody;

#[async_trait]
impl Gatekeeper for Nobody {
    async fn open(&mut self) -> Result<(), Refusal> {
        Ok(())
    }
    /// Goes through what is said to stagerd and heard from it.
    async fn login(&mut self, user: &str, password: Secret, tls: bool) -> Result<Admission, Refusal> {
        let request = Request::FtpLogin { user: Text::lossy(user), password, tls };
        let said = Message::request(request).map_err(|e| Refusal::Gone(e.into()))?.encode();
        let heard = Message::decode(said.map_err(|e| Refusal::Gone(e.into()))?.as_bytes());
        heard.map_err(|e| Refusal::Gone(e.into()))?;
        Err(Refusal::Fault(Fault::Denied))
    }
    async fn digest(&mut self, _: &str) -> Result<Sha256, Refusal> {
        Err(Refusal::Fault(Fault::Denied))
    }
    async fn begin(&mut self, _: &str, _: u64, _: Option<TlsVersion>) -> Result<u64, Refusal> {
        Err(Refusal::Fault(Fault::Denied))
    }
    async fn end(&mut self, _: u64, _: Over) -> Result<(), Refusal> {
        Err(Refusal::Fault(Fault::Denied))
    }
}

/// Runs the trial session.
pub(super) fn up(config: &Arc<Config>, tls: Option<TlsAcceptor>) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (session, _) = listener.accept()?;
    client.write_all(SCRIPT.as_bytes())?;
    let mut config = Config::clone(config);
    (config.require_tls, config.max_failed_logins) = (false, u32::MAX);
    let (config, public) = (config.into(), Public::Local);
    let context = Context { config, tls, public, failed_login_delay: Duration::ZERO, reporter: None };
    // Its refused login is nobody's and belongs in no log.
    let silent = tracing::subscriber::NoSubscriber::default();
    tracing::subscriber::with_default(silent, || serve(session, Box::new(Nobody), context))?;
    let mut replies = String::new();
    client.read_to_string(&mut replies)?;
    let codes: Vec<&str> =
        replies.lines().filter(|l| l.as_bytes().get(3) == Some(&b' ')).filter_map(|l| l.get(..3)).collect();
    if codes == ["220", "211", "331", "530", "221"] { Ok(()) } else { Err(io::Error::other(replies)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trial_session_runs() {
        let config: Config = toml::from_str("listen = []").unwrap();
        up(&Arc::new(config), None).unwrap();
    }
}
