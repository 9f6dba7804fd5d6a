//! Under which terms a job is taken in: what a request says that is not about the film.

use axum::http::StatusCode;
use longreel_jobs::{Clock, Scope, SystemClock};
use serde_json::{Map, Value};

use super::problem::Problem;
use crate::access::Caller;
use crate::code::{About, Code};
use crate::shared::Shared;

/// Priorities that can be asked for, on both sides of 0.
const PRIORITY_MAX: i32 = 100;
/// The longest deadline, in seconds: a year.
const DEADLINE_MAX_S: f64 = 31_536_000.0;

/// What a request says that is not about the film.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Higher goes first.
    pub priority: i32,
    /// In how many milliseconds from its taking in the film is no longer wanted.
    wanted_for_ms: Option<i64>,
    /// Where its end is reported.
    pub webhook_url: Option<String>,
}

impl Terms {
    /// Takes the terms out of a request.
    ///
    /// # Errors
    /// Values out of their range, a priority that is not the caller's to ask for, an address that
    /// must not be called.
    pub async fn take(
        shared: &Shared,
        caller: &Caller,
        asked: &mut Map<String, Value>,
    ) -> Result<Self, Problem> {
        let mut take = |key| asked.remove(key).filter(|value| !value.is_null());
        let priority = take("priority").map_or(Ok(0), |value| priority(&value))?;
        if priority > 0 && !caller.allows(Scope::Admin) {
            let detail = format!(
                "priority is {priority}; this key may ask for 0 and below, more needs the scope admin"
            );
            return Err(Problem::new(StatusCode::FORBIDDEN, Code::PriorityNotAllowed, detail)
                .about(About::value("priority", priority))
                .limit(0));
        }
        let wanted_for_ms = take("deadline_seconds").map(|value| deadline(&value)).transpose()?;
        let webhook_url = match take("webhook_url") {
            None => None,
            Some(Value::String(url)) => Some(url),
            Some(other) => {
                let rule = "it has to be an address as a text";
                return Err(Problem::value("webhook_url", other, rule));
            }
        };
        if let Some(url) = &webhook_url {
            shared.fetcher.check(url).await?;
        }
        Ok(Self { priority, wanted_for_ms, webhook_url })
    }

    /// When the film is no longer wanted, in milliseconds since 1970, if it is taken in now. A request
    /// may have waited for its plan until then.
    pub fn deadline_ms(&self) -> Option<i64> {
        self.wanted_for_ms.map(|ms| SystemClock.now_ms().saturating_add(ms))
    }
}

/// A number, which forms send as a text.
fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::String(text) => text.trim().parse().ok(),
        value => value.as_f64(),
    };
    number.filter(|number: &f64| number.is_finite())
}

fn priority(value: &Value) -> Result<i32, Problem> {
    let max = f64::from(PRIORITY_MAX);
    match number(value) {
        // Whole and small, so that nothing is cut off.
        Some(number) if number.fract() == 0.0 && (-max..=max).contains(&number) => {
            Ok(number as i32)
        }
        _ => {
            let rule = format!(
                "it can be a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}, 0 is usual"
            );
            Err(Problem::value("priority", value, rule).limit(PRIORITY_MAX as u64))
        }
    }
}

/// Milliseconds from now.
fn deadline(value: &Value) -> Result<i64, Problem> {
    match number(value) {
        Some(seconds) if (1.0..=DEADLINE_MAX_S).contains(&seconds) => Ok((seconds * 1000.0) as i64),
        _ => {
            let rule = format!(
                "it can be 1 to {DEADLINE_MAX_S}, the seconds from now in which the film is of use"
            );
            Err(Problem::value("deadline_seconds", value, rule).limit(DEADLINE_MAX_S as u64))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_taken_from_json_and_from_forms_and_nothing_else() {
        assert_eq!(priority(&json!(-100)).ok(), Some(-100));
        assert_eq!(priority(&json!("7")).ok(), Some(7));
        assert_eq!(deadline(&json!(1.5)).ok(), Some(1_500));
        assert_eq!(deadline(&json!("60")).ok(), Some(60_000));
        for value in [json!(101), json!(-101), json!(0.5), json!("high"), json!("NaN"), json!([1])]
        {
            assert!(priority(&value).is_err(), "{value}");
        }
        for value in [json!(0), json!(-5), json!(1e300), json!("inf"), json!(true), json!("soon")] {
            assert!(deadline(&value).is_err(), "{value}");
        }
    }
}
