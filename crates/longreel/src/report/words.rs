//! Events in words.

use std::borrow::Cow;

use longreel_film::{PlanSummary, SegmentDrift, human_frames, human_seconds};

/// A film in half a line.
pub fn plan_in_short(plan: &PlanSummary) -> String {
    let length = match (plan.frames, plan.film_seconds) {
        (Some(frames), Some(seconds)) => {
            format!("{} ({})", human_frames(frames), human_seconds(seconds))
        }
        _ => "endless".to_string(),
    };
    let segments = match plan.segments {
        Some(1) => " in one segment".to_string(),
        Some(segments) => format!(" in {segments} segments"),
        None => String::new(),
    };
    let per = if plan.frames.is_some() { "" } else { " a segment" };
    format!(
        "{}x{}, {length}{segments}, about {}{per}",
        plan.width,
        plan.height,
        human_seconds(plan.expected_seconds)
    )
}

/// Text with what a terminal would obey written out, as `\u{1b}`: prompts and names come from films and stories of others.
/// Ends of lines and tabs stay.
pub fn visible(text: &str) -> Cow<'_, str> {
    let is_obeyed = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(is_obeyed) {
        return text.into();
    }
    let written = |c: char| match is_obeyed(c) {
        true => c.escape_unicode().to_string(),
        false => c.to_string(),
    };
    text.chars().map(written).collect::<String>().into()
}

/// `segment 2/5`; people count from 1.
pub fn segment_name(segment: usize, segments: Option<usize>) -> String {
    match segments {
        Some(segments) => format!("segment {}/{segments}", segment + 1),
        None => format!("segment {}", segment + 1),
    }
}

/// `, 3 min 20 s left`, or nothing.
pub fn time_left(seconds: Option<f64>) -> String {
    match seconds {
        Some(seconds) if seconds >= 1.0 => format!(", {} left", human_seconds(seconds.round())),
        _ => String::new(),
    }
}

/// Says when another tenth of a segment's steps is done.
#[derive(Debug, Default)]
pub struct Tenths(usize);

impl Tenths {
    /// The percentage, when `step` of `steps` is the first in a tenth.
    pub fn passed(&mut self, step: usize, steps: usize) -> Option<usize> {
        let tenth = 10 * step / steps.max(1);
        let new = tenth > self.0;
        self.0 = self.0.max(tenth);
        new.then(|| 100 * step / steps.max(1))
    }
}

/// How far the segments got from the first, in constant memory.
#[derive(Debug, Default)]
pub struct Drifts {
    last: Option<SegmentDrift>,
    /// The largest jump at a seam, beside the change of neighbouring frames in that segment.
    worst_seam: Option<(f64, f64)>,
}

impl Drifts {
    /// Takes in a segment.
    pub fn add(&mut self, drift: &SegmentDrift) {
        if let Some(jump) = drift.seam_jump
            && self.worst_seam.is_none_or(|(worst, _)| jump > worst)
        {
            self.worst_seam = Some((jump, drift.frame_change));
        }
        self.last = Some(drift.clone());
    }

    /// One line, once there is a second segment.
    pub fn summary(&self) -> Option<String> {
        let last = self.last.as_ref().filter(|d| d.segment > 0)?;
        let [red, green, blue] = last.change.colour;
        let mut text = format!(
            "drift of segment {} from the first, of 255: red {red:+.1} green {green:+.1} blue \
             {blue:+.1}, contrast {:+.1}, saturation {:+.1}, sharpness {:+.1}",
            last.segment + 1,
            last.change.contrast,
            last.change.saturation,
            last.change.sharpness
        );
        if let Some((jump, usual)) = self.worst_seam {
            text.push_str(&format!("; worst seam {jump:.1}, frames differ by {usual:.1}"));
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longreel_film::Look;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        assert_eq!(visible("a dog\n\t狗 🎬"), "a dog\n\t狗 🎬");
        assert_eq!(
            visible("\x1b]0;title\x07dog\r\u{9b}2J"),
            "\\u{1b}]0;title\\u{7}dog\\u{d}\\u{9b}2J"
        );
    }

    #[test]
    fn each_tenth_is_told_once_and_few_steps_are_all_told() {
        let told = |steps: usize| {
            let mut tenths = Tenths::default();
            (1..=steps).filter_map(|s| tenths.passed(s, steps)).collect::<Vec<_>>()
        };
        assert_eq!(told(3), [33, 66, 100]);
        assert_eq!(told(100).len(), 10);
        assert_eq!(told(37).last(), Some(&100));
        assert!(told(37).len() <= 10);
    }

    #[test]
    fn drift_is_told_from_the_second_segment_on_with_the_worst_seam() {
        let drift = |segment, seam_jump, red| SegmentDrift {
            segment,
            frames: 9,
            look: Look::default(),
            change: Look { colour: [red, 0.0, 0.0], ..Look::default() },
            seam_jump,
            frame_change: 2.0,
        };
        let mut drifts = Drifts::default();
        drifts.add(&drift(0, None, 0.0));
        assert_eq!(drifts.summary(), None);
        drifts.add(&drift(1, Some(9.0), 1.0));
        drifts.add(&drift(2, Some(3.0), -1.25));
        let text = drifts.summary().expect("two seams");
        assert!(text.contains("segment 3") && text.contains("red -1.2"), "{text}");
        assert!(text.contains("worst seam 9.0, frames differ by 2.0"), "{text}");
    }
}
