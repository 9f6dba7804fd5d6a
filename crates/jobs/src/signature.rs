//! Signatures of webhooks by the Standard Webhooks scheme, version 1
//! (<https://www.standardwebhooks.com>): HMAC-SHA256 over `id.timestamp.body`, in base64.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::id::{Ids, RandomError};

/// What a secret begins with when it is shown.
const PREFIX: &str = "whsec_";

/// A text that is no signing secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the webhook secret {problem}; it has to be whsec_ and the base64 of 24 to 64 random bytes, such \
     as `openssl rand -base64 32` prints"
)]
pub struct SecretError {
    /// What is wrong with it, without showing it.
    pub problem: String,
}

/// The key that sender and receiver of a webhook share.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(Vec<u8>);

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(..)")
    }
}

impl SigningSecret {
    /// A new one of 32 bytes.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn generate(ids: &dyn Ids) -> Result<Self, RandomError> {
        Ok(Self(ids.secret()?.to_vec()))
    }

    /// Reads one, with or without `whsec_`.
    ///
    /// # Errors
    /// When it is not base64 of 24 to 64 bytes, which is what the scheme asks for.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let text = text.trim();
        let encoded = text.strip_prefix(PREFIX).unwrap_or(text);
        let refuse = |problem: String| SecretError { problem };
        let key = STANDARD.decode(encoded).map_err(|e| refuse(format!("is not base64 ({e})")))?;
        if !(24..=64).contains(&key.len()) {
            return Err(refuse(format!("has {} bytes", key.len())));
        }
        Ok(Self(key))
    }

    /// As the receiver has to be told.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }

    /// The value of the header `webhook-signature` for a message: `v1,` and the signature.
    ///
    /// `id` goes into `webhook-id`, `timestamp_s` (seconds since 1970, of this attempt) into
    /// `webhook-timestamp`; the body is signed byte for byte as it is sent. While a secret is being
    /// replaced, the header takes the signatures of both, a space between them.
    pub fn sign(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        format!("v1,{}", STANDARD.encode(self.mac(id, timestamp_s, body).finalize().into_bytes()))
    }

    /// Whether `signature`, one as [`Self::sign`] gives it, is that of this message. Takes the same
    /// time wherever the first difference is.
    pub fn verify(&self, signature: &str, id: &str, timestamp_s: i64, body: &[u8]) -> bool {
        let given = signature.strip_prefix("v1,").and_then(|given| STANDARD.decode(given).ok());
        given.is_some_and(|given| self.mac(id, timestamp_s, body).verify_slice(&given).is_ok())
    }

    fn mac(&self, id: &str, timestamp_s: i64, body: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(format!("{id}.{timestamp_s}.").as_bytes());
        mac.update(body);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_the_published_examples_of_the_scheme() {
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(
            secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
        let secret = SigningSecret::parse("C2FVsBQIhrscChlQIMV+b5sSYspob7oD").unwrap();
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        assert_eq!(
            secret.sign("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553, body),
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="
        );
    }

    #[test]
    fn a_signature_holds_for_its_message_alone() {
        let secret = SigningSecret::generate(&crate::RandomIds::default()).unwrap();
        let other = SigningSecret::generate(&crate::RandomIds::default()).unwrap();
        let signature = secret.sign("a", 7, b"body");
        assert!(secret.verify(&signature, "a", 7, b"body"));
        assert!(!other.verify(&signature, "a", 7, b"body"));
        for (id, at, body) in [("b", 7, "body"), ("a", 8, "body"), ("a", 7, "bodY"), ("a", 7, "")] {
            assert!(!secret.verify(&signature, id, at, body.as_bytes()), "{id} {at} {body}");
        }
        for given in ["", "v1,", "v1,AAAA", "v2,x", &signature[3..], &signature[..20]] {
            assert!(!secret.verify(given, "a", 7, b"body"), "{given}");
        }
    }

    #[test]
    fn a_secret_reads_back_and_never_shows_in_debug_output() {
        let secret = SigningSecret::generate(&crate::RandomIds::default()).unwrap();
        let text = secret.reveal();
        assert_eq!(SigningSecret::parse(&text).unwrap(), secret);
        assert!(!format!("{secret:?}").contains(&text[PREFIX.len()..]));
    }

    #[test]
    fn a_weak_or_broken_secret_is_refused_without_being_shown() {
        for text in ["", "whsec_", "whsec_c2hvcnQ=", "hunter2 is not base64"] {
            let error = SigningSecret::parse(text).unwrap_err().to_string();
            assert!(error.contains("openssl rand"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
