//! Names of jobs, keys and deliveries, sortable by the time they were given.

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The system gave no random numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers ({cause}); is /dev/urandom or getrandom(2) blocked?")]
pub struct RandomError {
    /// What the system says.
    pub cause: String,
}

/// A text that is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no id; ids are 36 characters such as 01890a5d-ac96-774b-bcce-b302099a8057")]
pub struct IdError {
    /// The text, cut at 64 characters.
    pub text: String,
}

/// A source of ids and secrets.
pub trait Ids: Send + Sync + fmt::Debug {
    /// An id never given before: a UUID of version 7 (RFC 9562), so 48 bits of milliseconds and then
    /// random bits. Of one source, a later id is greater than an earlier one, also when the clock
    /// jumps back.
    ///
    /// # Errors
    /// When the system has no random numbers.
    fn id(&self, now_ms: i64) -> Result<u128, RandomError>;

    /// 256 bits nobody can guess.
    ///
    /// # Errors
    /// When the system has no random numbers.
    fn secret(&self) -> Result<[u8; 32], RandomError>;

    /// A secret in hexadecimal, which stands for a lease: 64 characters.
    ///
    /// # Errors
    /// When the system has no random numbers.
    fn token(&self) -> Result<String, RandomError> {
        Ok(self.secret()?.iter().map(|b| format!("{b:02x}")).collect())
    }
}

/// Ids and secrets from the system's random numbers.
#[derive(Debug, Default)]
pub struct RandomIds {
    last: Mutex<u128>,
}

impl Ids for RandomIds {
    fn id(&self, now_ms: i64) -> Result<u128, RandomError> {
        let mut random = [0; 16];
        fill(&mut random)?;
        Ok(after(&self.last, version_7(now_ms, u128::from_be_bytes(random))))
    }

    fn secret(&self) -> Result<[u8; 32], RandomError> {
        let mut random = [0; 32];
        fill(&mut random)?;
        Ok(random)
    }
}

fn fill(bytes: &mut [u8]) -> Result<(), RandomError> {
    getrandom::fill(bytes).map_err(|error| RandomError { cause: error.to_string() })
}

/// Ids and secrets that are the same in each run with the same seed. For tests: anybody who knows
/// the seed knows the secrets.
#[derive(Debug)]
pub struct SeededIds {
    seed: u64,
    count: Mutex<u64>,
    last: Mutex<u128>,
}

impl SeededIds {
    /// A source of its own for each `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, count: Mutex::new(0), last: Mutex::new(0) }
    }
}

impl Ids for SeededIds {
    fn id(&self, now_ms: i64) -> Result<u128, RandomError> {
        let secret = self.secret()?;
        let mut half = [0; 16];
        half.copy_from_slice(&secret[..16]);
        Ok(after(&self.last, version_7(now_ms, u128::from_be_bytes(half))))
    }

    fn secret(&self) -> Result<[u8; 32], RandomError> {
        let mut count = unpoisoned(&self.count);
        *count += 1;
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update(count.to_le_bytes());
        Ok(hash.finalize().into())
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A number is whole whatever happened to the thread that held it.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Version 7 and variant 10 set, time before 1970 counted as 1970.
fn version_7(now_ms: i64, random: u128) -> u128 {
    const TIME_BITS: u128 = (1 << 48) - 1;
    let time = (now_ms.max(0) as u128) & TIME_BITS;
    let low = random & !(TIME_BITS << 80) & !(0xf << 76) & !(0b11 << 62);
    time << 80 | low | 0x7 << 76 | 0b10 << 62
}

/// `id`, or the next one after the last when the clock has not moved on or has jumped back.
fn after(last: &Mutex<u128>, id: u128) -> u128 {
    let mut last = unpoisoned(last);
    if id <= *last {
        // A step in the random bits below the variant leaves 2^61 ids and more before it would
        // reach the variant's bits.
        *last += 1;
    } else {
        *last = id;
    }
    *last
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
            #[serde(try_from = "String", into = "String")]
            pub struct $name(u128);

            impl $name {
                /// An id given by an [`Ids`].
                pub fn new(id: u128) -> Self {
                    Self(id)
                }

                /// The id that it was made from.
                pub fn number(self) -> u128 {
                    self.0
                }
            }

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    write_uuid(self.0, f)
                }
            }

            impl FromStr for $name {
                type Err = IdError;

                fn from_str(text: &str) -> Result<Self, IdError> {
                    parse_uuid(text).map(Self)
                }
            }

            impl TryFrom<String> for $name {
                type Error = IdError;

                fn try_from(text: String) -> Result<Self, IdError> {
                    text.parse()
                }
            }

            impl From<$name> for String {
                fn from(id: $name) -> Self {
                    id.to_string()
                }
            }
        )*
    };
}

ids! {
    /// Names a job. Its text, 36 lower-case characters of a UUID, sorts by time.
    JobId,
    /// Names an API key; no secret.
    KeyId,
    /// Names a webhook delivery; the receiver gets it as `webhook-id`, the same in each attempt.
    DeliveryId,
}

fn write_uuid(id: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(
        f,
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        id >> 96,
        id >> 80 & 0xffff,
        id >> 64 & 0xffff,
        id >> 48 & 0xffff,
        id & 0xffff_ffff_ffff
    )
}

/// Exactly the form that is written, so that one id has one text.
fn parse_uuid(text: &str) -> Result<u128, IdError> {
    let refuse = || IdError { text: text.chars().take(64).collect() };
    let bytes = text.as_bytes();
    if bytes.len() != 36 {
        return Err(refuse());
    }
    let mut id = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let digit = match (at, byte) {
            (8 | 13 | 18 | 23, b'-') => continue,
            (8 | 13 | 18 | 23, _) => return Err(refuse()),
            (_, b'0'..=b'9') => byte - b'0',
            (_, b'a'..=b'f') => byte - b'a' + 10,
            _ => return Err(refuse()),
        };
        id = id << 4 | u128::from(digit);
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_source_rise_while_the_clock_stands_or_jumps_back() {
        let ids = RandomIds::default();
        let times = [1_000, 1_000, 999_999, 5, -7, 999_999, 1_000_000];
        let given: Vec<JobId> = times.map(|now| JobId::new(ids.id(now).unwrap())).to_vec();
        assert!(given.windows(2).all(|pair| pair[0] < pair[1]), "{given:?}");
        let texts: Vec<String> = given.iter().map(JobId::to_string).collect();
        assert!(texts.is_sorted(), "{texts:?}");
    }

    #[test]
    fn an_id_is_a_version_7_uuid_of_its_millisecond() {
        let id = JobId::new(RandomIds::default().id(0x0189_0a5d_ac96).unwrap()).to_string();
        assert!(id.starts_with("01890a5d-ac96-7"), "{id}");
        assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{id}");
    }

    #[test]
    fn an_id_has_one_text_and_nothing_else_is_taken_for_it() {
        let id = JobId::new(SeededIds::new(1).id(77).unwrap());
        assert_eq!(id.to_string().parse::<JobId>(), Ok(id));
        for text in ["", "../../etc/passwd", "01890A5D-AC96-774B-BCCE-B302099A8057", "é"] {
            assert!(text.parse::<JobId>().is_err(), "{text}");
        }
        assert!("01890a5dXac96-774b-bcce-b302099a8057".parse::<JobId>().is_err());
    }
}
