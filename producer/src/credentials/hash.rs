//! Hashing passwords: argon2id off the asynchronous threads, a bounded number at a time.

use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::sync::Arc;
use tokio::sync::Semaphore;

use super::CredentialError;

/// Fewest characters of a password.
const CHARACTERS_MIN: usize = 8;

/// Longest password, in bytes: room for any sentence, and a bound on what is hashed.
const BYTES_MAX: usize = 1024;

/// Passwords that are hashed at a time: each takes a processor for some ten milliseconds, and 19 MiB.
const AT_ONCE: usize = 2;

/// Passwords that are hashed or wait for it; beyond, the caller is told to come again.
const WAITING_MAX: usize = 512;

/// A password on its way to its hash. It cannot be printed, and an error about it does not hold it.
pub struct Password(String);

impl Password {
    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<String> {
        if self.0.chars().count() < CHARACTERS_MIN {
            Some(format!(
                "the password has fewer than {CHARACTERS_MIN} characters"
            ))
        } else if self.0.len() > BYTES_MAX {
            Some(format!("the password is longer than {BYTES_MAX} bytes"))
        } else {
            None
        }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<password>")
    }
}

impl From<&str> for Password {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl<'de> Deserialize<'de> for Password {
    // The error of a `String` quotes what it found instead.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer);
        text.map(Self)
            .map_err(|_| D::Error::custom("the password is not a text"))
    }
}

pub(super) struct Hasher {
    at_once: Arc<Semaphore>,
    waiting: Semaphore,
    /// Of no password; compared where there is no hash.
    nobodys: String,
}

impl Hasher {
    pub(super) fn new() -> Self {
        Self {
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Semaphore::new(WAITING_MAX),
            nobodys: hash(&Password(String::new())).unwrap_or_default(),
        }
    }

    pub(super) async fn hash(&self, password: Password) -> Result<String, CredentialError> {
        self.run(move || hash(&password)).await
    }

    pub(super) async fn matches(
        &self,
        hash: Option<String>,
        password: Password,
    ) -> Result<bool, CredentialError> {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobodys.clone());
        let matches = self.run(move || matches(&hash, &password)).await?;
        Ok(matches && known)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, CredentialError> + Send + 'static,
    ) -> Result<T, CredentialError> {
        let _waiting = self
            .waiting
            .try_acquire()
            .map_err(|_| CredentialError::Overloaded)?;
        let turn = Arc::clone(&self.at_once).acquire_owned().await;
        let turn = turn.expect("the semaphore is never closed");
        // The turn goes with the work: a caller who leaves does not let another begin beside it.
        let work = move || {
            let result = work();
            drop(turn);
            result
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| CredentialError::Hash(error.to_string()))?
    }
}

fn hash(password: &Password) -> Result<String, CredentialError> {
    let salt = SaltString::generate(&mut OsRng);
    Argon2::default()
        .hash_password(password.0.as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(|error| CredentialError::Hash(error.to_string()))
}

fn matches(hash: &str, password: &Password) -> Result<bool, CredentialError> {
    use argon2::password_hash::Error;
    let fault = |error: Error| CredentialError::Hash(error.to_string());
    let hash = PasswordHash::new(hash).map_err(fault)?;
    match Argon2::default().verify_password(password.0.as_bytes(), &hash) {
        Ok(()) => Ok(true),
        Err(Error::Password) => Ok(false),
        Err(error) => Err(fault(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_matches_its_own_hash_only_and_has_another_one_each_time() {
        let hasher = Hasher::new();
        let first = hasher.hash("correct horse".into()).await.unwrap();
        let second = hasher.hash("correct horse".into()).await.unwrap();
        assert_ne!(first, second);
        assert!(
            first.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{first}"
        );
        let matches = async |hash: Option<&String>, password: &str| {
            hasher
                .matches(hash.cloned(), password.into())
                .await
                .unwrap()
        };
        assert!(matches(Some(&first), "correct horse").await);
        assert!(matches(Some(&second), "correct horse").await);
        assert!(!matches(Some(&first), "correct horsf").await);
        assert!(!matches(None, "").await);
    }

    #[test]
    fn a_password_shows_in_no_error_and_not_when_printed() {
        let error = serde_json::from_str::<Password>("12345678").unwrap_err();
        assert!(!error.to_string().contains("1234"), "{error}");
        let password: Password = serde_json::from_str("\"hunter2hunter2\"").unwrap();
        assert_eq!(format!("{password:?}"), "<password>");
    }

    #[test]
    fn a_password_has_eight_characters_and_an_end() {
        assert!(Password::from("7 chars").fault().is_some());
        assert!(Password::from("8 chars!").fault().is_none());
        assert!(Password::from("ééééééé").fault().is_some());
        assert!(Password::from("x".repeat(1025).as_str()).fault().is_some());
    }
}
