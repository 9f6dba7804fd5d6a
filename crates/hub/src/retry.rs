//! When a call is tried again, and after how long.

use std::time::{Duration, SystemTime};

/// How patient calls are.
#[derive(Debug, Clone)]
pub struct Patience {
    /// Failures in a row after which it is given up; a download that got on begins to count anew.
    pub tries: u32,
    /// The first wait; each later one is twice as long.
    pub first: Duration,
    /// The longest wait between two tries.
    pub longest: Duration,
    /// The longest wait that a server may ask for.
    pub longest_asked: Duration,
    /// How long a connection may be silent.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            tries: 6,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            longest_asked: Duration::from_secs(300),
            silence: Duration::from_secs(30),
        }
    }
}

impl Patience {
    /// The wait after `failures` of them in a row (from 1), or what the server asked for. `None`: give up.
    pub(crate) fn wait(&self, failures: u32, asked: Option<Duration>) -> Option<Duration> {
        if failures >= self.tries || asked.is_some_and(|asked| asked > self.longest_asked) {
            return None;
        }
        let doubled = self.first.saturating_mul(1 << (failures.saturating_sub(1)).min(16));
        Some(asked.unwrap_or(Duration::ZERO).max(doubled.min(self.longest)))
    }
}

/// What `Retry-After` asks for: seconds, or until a date.
pub(crate) fn asked_wait(header: Option<&str>, now: SystemTime) -> Option<Duration> {
    let text = header?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    Some(until.duration_since(now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end() {
        let patience = Patience::default();
        let waits: Vec<_> = (1..=6).map(|n| patience.wait(n, None).map(|w| w.as_secs())).collect();
        assert_eq!(waits, [Some(1), Some(2), Some(4), Some(8), Some(16), None]);
    }

    #[test]
    fn a_server_that_asks_for_more_time_gets_it_within_reason() {
        let patience = Patience::default();
        let wait = |seconds| patience.wait(1, Some(Duration::from_secs(seconds)));
        assert_eq!(wait(45), Some(Duration::from_secs(45)));
        assert_eq!(wait(3600), None);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(asked_wait(Some(" 7 "), now), Some(Duration::from_secs(7)));
        let date = "Sun, 06 Nov 1994 08:49:47 GMT";
        assert_eq!(asked_wait(Some(date), now), Some(Duration::from_secs(10)));
        assert_eq!(asked_wait(Some("soon"), now), None);
    }
}
