//! Password hashes: Argon2id, a bounded number at once, the same time for customers that do not exist.

use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use std::sync::Arc;
use tobj::Secret;
use tokio::sync::Semaphore;

/// Memory of one hash in KiB: 19 MiB (OWASP's password storage cheat sheet, its first choice with one lane).
pub const MEMORY: u32 = 19 * 1024;
/// Passes over that memory.
pub const PASSES: u32 = 2;
/// Lanes, each of which could run on a core of its own.
pub const LANES: u32 = 1;
/// Most hashes at once, whatever the number of cores: they take `MEMORY` each.
pub const AT_ONCE: usize = 4;
/// Most that wait for their turn; who comes then is told to come later.
pub const WAITING: usize = 64;
/// Shortest password that an operator may set, in characters (NIST SP 800-63B, 5.1.1.2).
pub const SHORTEST: usize = 8;

/// Why there is no answer about a password.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// Too many wait already.
    #[error("too many passwords are being checked")]
    Busy,
    /// The parameters or a stored hash are of no use.
    #[error("the password hash failed")]
    Hash(#[source] argon2::password_hash::Error),
    /// No randomness, or the task was lost.
    #[error("the password hash could not run")]
    Run(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Hashes and checks passwords.
#[derive(Debug, Clone)]
pub struct Hasher {
    places: Arc<Semaphore>,
    cores: Arc<Semaphore>,
    nobody: Arc<str>,
}

impl Hasher {
    /// A hasher for this machine.
    ///
    /// # Errors
    /// [`HashError`] when hashing does not work at all.
    pub async fn new() -> Result<Self, HashError> {
        let at_once = std::thread::available_parallelism().map_or(1, usize::from).min(AT_ONCE);
        let random = Secret::random().map_err(|e| HashError::Run(e.into()))?;
        let hasher = Self {
            places: Arc::new(Semaphore::new(at_once + WAITING)),
            cores: Arc::new(Semaphore::new(at_once)),
            nobody: "".into(),
        };
        let nobody = hasher.hash(random).await?.into();
        Ok(Self { nobody, ..hasher })
    }

    /// The PHC string of a password, with a new salt.
    ///
    /// # Errors
    /// [`HashError::Busy`] when too many wait.
    pub async fn hash(&self, password: Secret) -> Result<String, HashError> {
        self.run(move || {
            let hash = argon2()?.hash_password(password.expose().as_bytes()).map_err(HashError::Hash)?;
            Ok(hash.to_string())
        })
        .await
    }

    /// Whether this is the password of the hash; without a hash it is not, after the same time.
    ///
    /// # Errors
    /// [`HashError::Busy`] when too many wait, [`HashError::Hash`] when what is stored is no hash.
    pub async fn verify(&self, password: Secret, stored: Option<String>) -> Result<bool, HashError> {
        let nobody = self.nobody.clone();
        self.run(move || {
            let exists = stored.is_some();
            let stored = stored.as_deref().unwrap_or(&nobody);
            match argon2()?.verify_password(password.expose().as_bytes(), stored) {
                Ok(()) => Ok(exists),
                Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
                Err(error) => Err(HashError::Hash(error)),
            }
        })
        .await
    }

    async fn run<T, F>(&self, work: F) -> Result<T, HashError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, HashError> + Send + 'static,
    {
        let place = self.places.clone().try_acquire_owned().map_err(|_| HashError::Busy)?;
        let core = self.cores.clone().acquire_owned().await.map_err(|e| HashError::Run(e.into()))?;
        let done = tokio::task::spawn_blocking(move || {
            // They go with the work, not with who waits for it: an abandoned hash still takes its core and memory.
            let _taken = (place, core);
            work()
        });
        done.await.map_err(|e| HashError::Run(e.into()))?
    }
}

fn argon2() -> Result<Argon2<'static>, HashError> {
    let params = Params::new(MEMORY, PASSES, LANES, None).map_err(|e| HashError::Hash(e.into()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(s: &str) -> Secret {
        Secret::new(s).unwrap()
    }

    #[tokio::test]
    async fn right_wrong_and_unknown() {
        let hasher = Hasher::new().await.unwrap();
        let hash = hasher.hash(secret("correct horse")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(hasher.verify(secret("correct horse"), Some(hash.clone())).await.unwrap());
        assert!(!hasher.verify(secret("battery staple"), Some(hash.clone())).await.unwrap());
        assert!(!hasher.verify(secret("correct horse"), None).await.unwrap());
        assert!(matches!(hasher.verify(secret("x"), Some("x".into())).await, Err(HashError::Hash(_))));
        assert_ne!(hasher.hash(secret("correct horse")).await.unwrap(), hash, "salted");
    }

    #[tokio::test]
    async fn the_stand_in_for_nobody_costs_as_much() {
        let hasher = Hasher::new().await.unwrap();
        let real = hasher.hash(secret("x")).await.unwrap();
        let cost = |hash: &str| hash.split('$').take(4).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(cost(&hasher.nobody), cost(&real));
    }

    #[tokio::test]
    async fn who_comes_when_all_places_are_taken_is_turned_away() {
        let hasher = Hasher::new().await.unwrap();
        let all = u32::try_from(hasher.places.available_permits()).unwrap();
        let taken = hasher.places.clone().acquire_many_owned(all - 1).await.unwrap();
        hasher.hash(secret("the last place")).await.unwrap();
        let last = hasher.places.clone().acquire_owned().await.unwrap();
        assert!(matches!(hasher.hash(secret("x")).await, Err(HashError::Busy)));
        drop((taken, last));
        hasher.hash(secret("x")).await.unwrap();
    }
}
