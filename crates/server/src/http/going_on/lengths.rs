//! How long a film gets that goes on from another one.

use serde_json::{Map, Value};

use super::super::asked;
use super::super::problem::Problem;
use crate::code::About;

/// The length that is added, a multiple of 4, or `None` when nothing is said.
pub fn added_frames(wanted: &Map<String, Value>, fps: u32) -> Result<Option<u64>, Problem> {
    let Some((frames, is_exact)) = frames_of(wanted, fps)? else { return Ok(None) };
    let nearest = ((frames + 2.0) / 4.0).floor() as u64 * 4;
    if is_exact && nearest as f64 != frames || nearest == 0 {
        let below = (frames / 4.0).floor() as u64 * 4;
        let choice = if below == 0 { "4".to_owned() } else { format!("{below} or {}", below + 4) };
        let detail =
            format!("{frames} frames are added; it has to be a multiple of 4, use {choice}");
        let about = About::value("num_frames", frames);
        return Err(Problem::invalid(detail).about(about).allowed(choice.split(" or ")));
    }
    Ok(Some(nearest))
}

/// The length of the whole, or `None` when nothing is said.
pub fn total_frames(wanted: &Map<String, Value>, fps: u32) -> Result<Option<u64>, Problem> {
    let Some((frames, is_exact)) = frames_of(wanted, fps)? else { return Ok(None) };
    // A count that is not 4n + 1 is refused by the plan, in the words that are known for it.
    let nearest =
        if is_exact { frames } else { ((frames - 1.0) / 4.0).round().max(0.0) * 4.0 + 1.0 };
    Ok(Some(nearest as u64))
}

/// Frames by `num_frames`, exactly, or by `seconds`.
fn frames_of(wanted: &Map<String, Value>, fps: u32) -> Result<Option<(f64, bool)>, Problem> {
    let frames = asked::number::<u32>(wanted, "num_frames")?;
    let seconds = asked::number::<f64>(wanted, "seconds")?;
    match (frames, seconds) {
        (Some(_), Some(_)) => {
            Err(Problem::invalid("num_frames and seconds say the same thing; keep one")
                .about(About::field("num_frames")))
        }
        (Some(frames), None) => Ok(Some((frames.into(), true))),
        (None, Some(seconds)) if (0.0..=1e6).contains(&seconds) => {
            Ok(Some(((seconds * f64::from(fps)).round(), false)))
        }
        (None, Some(seconds)) => {
            Err(Problem::value("seconds", seconds, "it can be 0 to 1000000").limit(1_000_000))
        }
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(json: Value) -> Map<String, Value> {
        json.as_object().cloned().expect("an object")
    }

    #[test]
    fn added_lengths_are_multiples_of_four_and_seconds_are_rounded_to_them() {
        let added = |json| added_frames(&of(json), 24);
        assert!(matches!(added(json!({})), Ok(None)));
        for (json, frames) in [
            (json!({"num_frames": 40}), 40),
            (json!({"num_frames": "40"}), 40),
            (json!({"seconds": 2}), 48),
            (json!({"seconds": "2.1"}), 52),
        ] {
            assert_eq!(added(json.clone()).expect("good"), Some(frames), "{json}");
        }
        for json in [
            json!({"num_frames": 41}),
            json!({"num_frames": 0}),
            json!({"seconds": 0.01}),
            json!({"seconds": -1}),
            json!({"seconds": "NaN"}),
            json!({"seconds": 1, "num_frames": 4}),
            json!({"num_frames": 1.5}),
            json!({"num_frames": [4]}),
        ] {
            assert!(added(json.clone()).is_err(), "{json}");
        }
    }

    #[test]
    fn whole_lengths_by_seconds_are_of_the_frames_that_can_be() {
        let total = |json| total_frames(&of(json), 24).expect("good");
        assert_eq!(total(json!({"seconds": 2})), Some(49));
        assert_eq!(total(json!({"num_frames": 50})), Some(50));
        assert_eq!(total(json!({"seconds": 0})), Some(1));
        assert_eq!(total(json!({})), None);
    }
}
