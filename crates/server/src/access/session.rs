//! Sessions of the page: a cookie in the place of a key, since a browser sends no headers of ours
//! with what a page shows by itself (pictures, films, events).
//!
//! The cookie names the key and the time it ends, and is signed with a secret of the data folder. It
//! holds no key; and each request looks the key up, so that a revoked one ends its sessions at once.

use std::str::FromStr;

use axum::http::{HeaderMap, header};
use longreel_jobs::{KeyId, SigningSecret};

use super::Access;

/// The cookie's name.
const COOKIE: &str = "longreel_session";
/// How long a session lasts, in seconds: 30 days.
const LASTS_S: i64 = 30 * 86_400;
/// What a session's signature is of, so that it is no signature of anything else.
const PURPOSE: &[u8] = b"longreel session";

impl Access {
    /// The cookie of a new session of this key. `is_secure` keeps it off connections in the clear.
    pub fn open_session(&self, key: KeyId, now_s: i64, is_secure: bool) -> String {
        let value = write(&self.secret, key, now_s.saturating_add(LASTS_S));
        cookie(&value, LASTS_S, is_secure)
    }

    /// A cookie that takes the session's place and ends at once.
    pub fn close_session(&self, is_secure: bool) -> String {
        cookie("", 0, is_secure)
    }

    /// The key of the session that a request belongs to.
    pub fn session(&self, headers: &HeaderMap, now_s: i64) -> Option<KeyId> {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|c| c.to_str().ok());
        let mut pairs = cookies.flat_map(|cookies| cookies.split(';'));
        pairs.find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            if name == COOKIE { read(&self.secret, value, now_s) } else { None }
        })
    }
}

fn cookie(value: &str, seconds: i64, is_secure: bool) -> String {
    let secure = if is_secure { "; Secure" } else { "" };
    format!("{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
}

fn write(secret: &SigningSecret, key: KeyId, ends_s: i64) -> String {
    let signature = secret.sign(&key.to_string(), ends_s, PURPOSE);
    // A comma has no place in a cookie.
    format!("{key}.{ends_s}.{}", signature.trim_start_matches("v1,"))
}

fn read(secret: &SigningSecret, value: &str, now_s: i64) -> Option<KeyId> {
    let mut parts = value.splitn(3, '.');
    let key = KeyId::from_str(parts.next()?).ok()?;
    let ends_s: i64 = parts.next()?.parse().ok()?;
    let signature = format!("v1,{}", parts.next()?);
    let holds = secret.verify(&signature, &key.to_string(), ends_s, PURPOSE);
    (holds && now_s < ends_s).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use longreel_jobs::RandomIds;

    #[test]
    fn a_session_is_that_of_its_key_until_it_ends_and_cannot_be_made_up() {
        let secret = SigningSecret::generate(&RandomIds::default()).expect("random numbers");
        let key = KeyId::new(7);
        let value = write(&secret, key, 100);
        assert_eq!(read(&secret, &value, 99), Some(key));
        assert_eq!(read(&secret, &value, 100), None);
        let other = SigningSecret::generate(&RandomIds::default()).expect("random numbers");
        assert_eq!(read(&other, &value, 99), None);
        let later = value.replace(".100.", ".200.");
        let of_another = value.replace(&key.to_string(), &KeyId::new(8).to_string());
        for made_up in [&later, &of_another, &value[..value.len() - 2], "", "..", "a.b.c"] {
            assert_ne!(made_up, value);
            assert_eq!(read(&secret, made_up, 99), None, "{made_up}");
        }
        assert!(value.bytes().all(|b| b.is_ascii_graphic() && !b"\",;\\".contains(&b)), "{value}");
    }
}
