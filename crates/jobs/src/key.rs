//! API keys: who may call, for what, how often.
//!
//! A key's secret is 256 random bits, so a plain SHA-256 of it is safe to keep: there is no shorter
//! list of likely secrets to try than all of them. It is shown once, when the key is made.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::id::KeyId;

/// What every secret begins with, so that scanners for leaked secrets know it.
const PREFIX: &str = "lr_";
/// Characters of a secret that are shown in lists, [`PREFIX`] included: 48 of its 256 bits.
const SHOWN: usize = PREFIX.len() + 8;
/// Characters of a secret: [`PREFIX`] and 32 bytes in base64.
const LENGTH: usize = PREFIX.len() + 43;

/// What a key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// See jobs, events and films.
    #[serde(rename = "jobs:read")]
    JobsRead,
    /// Ask for films, steer, cancel and delete them.
    #[serde(rename = "jobs:write")]
    JobsWrite,
    /// See and change what belongs to others, keys and limits included.
    #[serde(rename = "admin")]
    Admin,
}

/// How often a key may call: a bucket of `burst` calls that fills up again at `per_minute`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Calls a minute in the long run. At least 1.
    pub per_minute: u32,
    /// Calls at once. At least 1.
    pub burst: u32,
}

/// A key as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewKey {
    /// What it is for, for people. 1 to 128 bytes.
    pub name: String,
    /// Whose jobs it makes; several keys may have one owner. 1 to 128 bytes.
    pub owner: String,
    /// What it allows; at least one.
    pub scopes: Vec<Scope>,
    /// How often it may call; `None` is the server's own limit.
    pub rate_limit: Option<RateLimit>,
    /// When it ends by itself, in milliseconds since 1970.
    pub expires_ms: Option<i64>,
}

/// What is kept of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Names it.
    pub id: KeyId,
    /// What was asked.
    pub asked: NewKey,
    /// The beginning of its secret, to tell keys apart.
    pub prefix: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: i64,
    /// When it was revoked, in milliseconds since 1970.
    pub revoked_ms: Option<i64>,
    /// When it was last used, to the minute, in milliseconds since 1970.
    pub last_used_ms: Option<i64>,
}

impl ApiKey {
    /// True when it allows `scope`; [`Scope::Admin`] allows all.
    pub fn allows(&self, scope: Scope) -> bool {
        self.asked.scopes.contains(&scope) || self.asked.scopes.contains(&Scope::Admin)
    }
}

/// A new key, with the secret that is shown this once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedKey {
    /// What is kept.
    pub key: ApiKey,
    /// What the client sends.
    pub secret: ApiKeySecret,
}

/// Why a secret was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefusal {
    /// There is no such key.
    #[error("this API key is not known; is it complete, {LENGTH} characters from lr_ on?")]
    Unknown,
    /// It was revoked.
    #[error("this API key was revoked; ask for another one")]
    Revoked,
    /// Its time is over.
    #[error("this API key has expired; ask for another one")]
    Expired,
}

/// The secret of a key.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKeySecret(String);

impl fmt::Debug for ApiKeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeySecret({}..)", self.prefix())
    }
}

impl ApiKeySecret {
    /// The secret of these random bits.
    pub fn new(random: [u8; 32]) -> Self {
        Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random)))
    }

    /// Reads what a client sent; `None` when it has not the form of a secret.
    pub fn parse(text: &str) -> Option<Self> {
        let encoded = text.strip_prefix(PREFIX)?;
        let is_whole = text.len() == LENGTH && URL_SAFE_NO_PAD.decode(encoded).is_ok();
        is_whole.then(|| Self(text.to_owned()))
    }

    /// What the client sends.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The part that is shown in lists.
    pub fn prefix(&self) -> &str {
        &self.0[..SHOWN]
    }

    pub(crate) fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

/// Compares in the same time wherever the first difference is.
pub(crate) fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    a.len() == b.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_reads_back_and_shows_only_its_prefix() {
        let secret = ApiKeySecret::new([7; 32]);
        assert_eq!(secret.reveal().len(), LENGTH);
        assert_eq!(ApiKeySecret::parse(secret.reveal()).as_ref(), Some(&secret));
        assert!(!format!("{secret:?}").contains(&secret.reveal()[SHOWN..]));
    }

    #[test]
    fn what_is_no_secret_is_refused_before_the_database_is_asked() {
        let almost = ApiKeySecret::new([7; 32]).reveal()[..LENGTH - 1].to_owned();
        let texts =
            [String::new(), "lr_".into(), almost.clone(), almost.clone() + "é", almost + "!"];
        for text in texts {
            assert_eq!(ApiKeySecret::parse(&text), None, "{text}");
        }
    }

    #[test]
    fn comparison_sees_every_byte_and_the_length() {
        assert!(equal_in_constant_time(&[1, 2, 3], &[1, 2, 3]));
        for other in [&[1, 2, 4][..], &[0, 2, 3], &[1, 2], &[1, 2, 3, 4], &[]] {
            assert!(!equal_in_constant_time(&[1, 2, 3], other));
        }
    }
}
