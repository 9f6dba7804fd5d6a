//! Who may call, for what, how often.
//!
//! A server that only its own machine reaches asks for no keys, and everybody there is one owner who
//! may do all. Any other asks for a key with each request: as `Authorization: Bearer …`, or as the
//! cookie of a [`session`] that was opened with one, for what a browser asks for by itself.

mod caller;
mod origins;
mod rates;
mod secrets;
mod session;

use longreel_jobs::{RateLimit, SigningSecret};

pub use caller::Caller;
pub use origins::{OriginError, Origins};
pub use rates::{Rate, Rates};
pub use secrets::{SecretFileError, read_secret, secret_in};

/// Who may call.
#[derive(Debug, Clone)]
pub struct AccessOptions {
    /// Ask for keys even where only this machine can call.
    pub require_keys: bool,
    /// Pages of these may call, beside the server's own.
    pub origins: Origins,
    /// How often a key may call that has no limit of its own.
    pub rate_limit: RateLimit,
}

/// What is known of who may call, while the server runs.
#[derive(Debug)]
pub(crate) struct Access {
    /// Whether a key is asked for.
    pub needs_keys: bool,
    /// Pages of others that may call.
    pub origins: Origins,
    rate_limit: RateLimit,
    rates: Rates,
    /// Signs the cookies of sessions.
    secret: SigningSecret,
}

impl Access {
    /// Access of a server that runs.
    pub fn new(options: &AccessOptions, needs_keys: bool, secret: SigningSecret) -> Self {
        let (origins, rate_limit) = (options.origins.clone(), options.rate_limit);
        Self { needs_keys, origins, rate_limit, rates: Rates::default(), secret }
    }

    /// Counts a call of somebody; `None` where nobody counts.
    pub fn count(&self, caller: &Caller) -> Option<Rate> {
        let key = caller.key()?;
        let limit = key.asked.rate_limit.unwrap_or(self.rate_limit);
        Some(self.rates.take(key.id, limit, std::time::Instant::now()))
    }
}
