//! The live line: where the work is, and how long it will still take.

use std::time::{Duration, Instant};

use longreel_film::{human_frames, human_seconds};

use super::screen::Line;
use super::words::segment_name;

const BAR: usize = 24;

/// Where the work is.
#[derive(Debug, Clone, Default)]
pub struct Work {
    stage: Option<(String, Instant)>,
    segment: Option<(usize, Option<usize>)>,
    step: Option<(usize, usize)>,
    frames: u64,
    left: Option<(f64, Instant)>,
}

impl Work {
    /// A stage without steps began.
    pub fn stage(&mut self, what: &str, now: Instant) {
        self.stage = Some((what.to_string(), now));
    }

    /// A segment began.
    pub fn segment(&mut self, segment: usize, segments: Option<usize>, now: Instant) {
        self.stage = Some(("starting".to_string(), now));
        self.segment = Some((segment, segments));
        self.step = None;
    }

    /// A step is done.
    pub fn step(&mut self, step: usize, steps: usize, left_seconds: Option<f64>, now: Instant) {
        // After the last step the segment is decoded, which takes a while and has no steps.
        self.stage = (step >= steps).then(|| ("decoding".to_string(), now));
        self.step = Some((step, steps));
        self.left = left_seconds.map(|left| (left, now));
    }

    /// Frames are in the file.
    pub fn part(&mut self, frames: u64) {
        self.frames = frames;
        self.stage = None;
    }

    /// How many segments there are, once that is known.
    pub fn segments(&self) -> Option<usize> {
        self.segment.and_then(|(_, segments)| segments)
    }
}

impl Line for Work {
    fn line(&self, now: Instant, columns: usize) -> String {
        let mut parts = Vec::new();
        if let Some((segment, segments)) = self.segment {
            parts.push(segment_name(segment, segments));
        }
        if let Some((step, steps)) = self.step {
            let filled = BAR * step.min(steps) / steps.max(1);
            parts.push(format!("[{}{}]", "#".repeat(filled), ".".repeat(BAR - filled)));
            parts.push(format!("step {step}/{steps}"));
        }
        if let Some((what, since)) = &self.stage {
            let age = now.saturating_duration_since(*since);
            parts.push(match age < Duration::from_secs(2) {
                true => what.clone(),
                false => format!("{what} ({})", human_seconds(age.as_secs() as f64)),
            });
        }
        if self.frames > 0 {
            parts.push(human_frames(self.frames));
        }
        if let Some((left, since)) = self.left {
            let left = left - now.saturating_duration_since(since).as_secs_f64();
            // Below a second the clock would flicker rather than inform.
            if left >= 1.0 {
                parts.push(format!("{} left", human_seconds(left.round())));
            }
        }
        let line = parts.join("  ");
        // Words are cut rather than wrapped: a wrapped line cannot be drawn over.
        line.chars().take(columns).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_runs_between_steps_and_the_line_never_wraps() {
        let start = Instant::now();
        let mut work = Work::default();
        work.segment(1, Some(5), start);
        work.step(15, 30, Some(100.0), start);
        work.part(97);
        let at = |seconds, columns| work.line(start + Duration::from_secs(seconds), columns);
        assert_eq!(
            at(0, 200),
            "segment 2/5  [############............]  step 15/30  97 frames  1 min 40 s left"
        );
        assert!(at(40, 200).ends_with("1 min 00 s left"), "{}", at(40, 200));
        assert!(!at(100, 200).contains("left"), "{}", at(100, 200));
        assert_eq!(at(0, 20).chars().count(), 20);
    }

    #[test]
    fn a_stage_shows_its_age_once_it_takes_long() {
        let start = Instant::now();
        let mut work = Work::default();
        work.stage("loading the model", start);
        assert_eq!(work.line(start, 80), "loading the model");
        assert_eq!(work.line(start + Duration::from_secs(12), 80), "loading the model (12 s)");
        work.segment(0, None, start);
        work.step(3, 3, None, start);
        assert!(work.line(start, 80).contains("decoding"), "{}", work.line(start, 80));
    }
}
