//! How often a key may call: a bucket of tokens for each, filled up at a steady rate.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use longreel_jobs::{KeyId, RateLimit};

/// The buckets of all keys that called. Of one server; several do not know of each other's.
#[derive(Debug, Default)]
pub struct Rates(Mutex<HashMap<KeyId, Bucket>>);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// What became of a call, by the rate of its key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// The limit.
    pub limit: RateLimit,
    /// Calls that are left at this moment.
    pub remaining: u32,
    /// Until the bucket is full again.
    pub full_in: Duration,
    /// Until the next call is taken, when this one is not.
    pub refused_for: Option<Duration>,
}

impl Rates {
    /// Takes a token out of a key's bucket, if there is one.
    pub fn take(&self, key: KeyId, limit: RateLimit, now: Instant) -> Rate {
        let per_second = f64::from(limit.per_minute.max(1)) / 60.0;
        let size = f64::from(limit.burst.max(1));
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(key).or_insert(Bucket { tokens: size, at: now });
        let filled = now.saturating_duration_since(bucket.at).as_secs_f64() * per_second;
        bucket.tokens = (bucket.tokens + filled).min(size);
        bucket.at = now;
        let is_taken = bucket.tokens >= 1.0;
        if is_taken {
            bucket.tokens -= 1.0;
        }
        let tokens = bucket.tokens;
        let in_time = |tokens: f64| Duration::from_secs_f64(tokens / per_second);
        Rate {
            limit,
            remaining: tokens as u32,
            full_in: in_time(size - tokens),
            refused_for: (!is_taken).then(|| in_time(1.0 - tokens)),
        }
    }
}

impl Rate {
    /// `RateLimit-Policy` and `RateLimit`, as the draft for these headers has them: what may be asked
    /// for in how long, what is left of it and when it is whole again, in seconds.
    pub fn headers(&self) -> [(&'static str, String); 2] {
        let RateLimit { per_minute, burst } = self.limit;
        let window = (u64::from(burst) * 60).div_ceil(u64::from(per_minute.max(1)));
        let whole = self.full_in.as_secs_f64().ceil();
        [
            ("ratelimit-policy", format!("\"key\";q={burst};w={window}")),
            ("ratelimit", format!("\"key\";r={};t={whole}", self.remaining)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_at_once_and_then_what_the_rate_allows() {
        let (rates, start) = (Rates::default(), Instant::now());
        let limit = RateLimit { per_minute: 60, burst: 3 };
        let take = |key, ms| rates.take(KeyId::new(key), limit, start + Duration::from_millis(ms));
        for left in [2, 1, 0] {
            let rate = take(1, 0);
            assert_eq!((rate.refused_for, rate.remaining), (None, left));
        }
        let refused = take(1, 400);
        assert_eq!(refused.refused_for, Some(Duration::from_millis(600)));
        assert_eq!(refused.headers()[0].1, "\"key\";q=3;w=3");
        assert_eq!(refused.headers()[1].1, "\"key\";r=0;t=3");
        assert_eq!(take(2, 400).refused_for, None, "another key has a bucket of its own");
        assert_eq!(take(1, 1_000).refused_for, None);
        assert!(take(1, 1_001).refused_for.is_some());
        // It fills up to its size and no further.
        assert_eq!(take(1, 3_600_000).remaining, 2);
    }
}
