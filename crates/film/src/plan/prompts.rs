//! The prompts of a plan, and others in their place.

use super::FilmPlan;
use super::checks::check_values;
use crate::error::PlanError;
use crate::request::{FilmRequest, TimedPrompt};

/// Segments of an endless film that are looked at: more than are made in a lifetime.
const ENDLESS_SEGMENTS: usize = 1 << 30;
/// Prompts without a segment that are told of one by one.
const SHOWN_UNUSED: usize = 3;
/// Of a prompt that is told of.
const SHOWN_CHARACTERS: usize = 40;

impl FilmPlan {
    /// The same film with other prompts.
    ///
    /// # Errors
    /// Prompts that cannot be used.
    pub(crate) fn with_prompts(&self, prompts: Vec<TimedPrompt>) -> Result<Self, PlanError> {
        let request = FilmRequest { prompts, ..self.request.clone() };
        check_values(&request)?;
        Ok(Self { request, ..self.clone() })
    }

    /// Where segment `segment` begins.
    fn begins(&self, segment: usize) -> u64 {
        self.first_frame(segment).unwrap_or(u64::MAX)
    }

    /// The first of `count` segments that begins at or behind a prompt, or `count`; and whether one is made from that
    /// prompt.
    fn first_segment(&self, index: usize, count: usize) -> (usize, bool) {
        let from = self.request.prompts[index].from_frame;
        let (mut next, mut end) = (0, count);
        while next < end {
            let middle = next.midpoint(end);
            match self.begins(middle) < from {
                true => next = middle + 1,
                false => end = middle,
            }
        }
        let is_used = |segment: usize| {
            segment < count && self.request.prompt_at(self.begins(segment)) == index
        };
        (next, is_used(next) || is_used(0))
    }

    /// How many prompts the film's segments are made from, one after the other; of an endless one that of a segment.
    pub(super) fn prompts_used(&self) -> usize {
        let Some(count) = self.segments.count() else { return 1 };
        let prompts = &self.request.prompts;
        let used = (0..prompts.len()).filter(|&index| self.first_segment(index, count).1);
        let mut texts: Vec<&str> = used.map(|index| prompts[index].prompt.as_str()).collect();
        // Of those that differ in their seeds alone the first one is as good.
        texts.dedup();
        texts.len()
    }

    /// What there is to say of prompts that no segment is made from, since each is made from one alone: the one in force
    /// where it begins.
    pub(super) fn unused_prompts(&self) -> Vec<String> {
        let prompts = &self.request.prompts;
        let count = self.segments.count().unwrap_or(ENDLESS_SEGMENTS);
        let unused = |index: usize| -> Option<String> {
            let timed = &prompts[index];
            let (next, is_used) = self.first_segment(index, count);
            if is_used {
                return None;
            }
            let why = if next < count {
                let taken = prompts[index + 1].from_frame;
                format!("none begins before the next prompt does, at frame {taken}")
            } else {
                format!("the last one begins at frame {}", self.begins(count - 1))
            };
            let shown: String = timed.prompt.chars().take(SHOWN_CHARACTERS).collect();
            Some(format!(
                "the prompt from frame {} on ({shown}) is used by no segment: {why}",
                timed.from_frame
            ))
        };
        let mut unused: Vec<String> = (0..prompts.len()).filter_map(unused).collect();
        let more = unused.len().saturating_sub(SHOWN_UNUSED);
        unused.truncate(SHOWN_UNUSED);
        if more > 0 {
            unused.push(format!("{more} more prompts are used by no segment"));
        }
        unused
    }

    /// The prompts of the film when segment `segment` has another prompt or another seed. A prompt
    /// holds up to the next one that the film has, a seed to the film's end. `None` when there is no
    /// such segment.
    pub fn changed_prompts(
        &self,
        prompts: &[TimedPrompt],
        segment: usize,
        prompt: Option<&str>,
        seed: Option<u64>,
    ) -> Option<Vec<TimedPrompt>> {
        let first = self.first_frame(segment)?;
        let before = segment.checked_sub(1).and_then(|segment| self.first_frame(segment));
        let film_seed = self.request.seed;
        let at =
            |frame: u64| &prompts[prompts.iter().rposition(|p| p.from_frame <= frame).unwrap_or(0)];
        let seed_of = |timed: &TimedPrompt| timed.seed.unwrap_or(film_seed);
        let (now, wanted_seed) = (at(first), seed.unwrap_or(seed_of(at(first))));
        let wanted = (prompt.unwrap_or(&now.prompt), wanted_seed);
        let mut changed = prompts.to_vec();
        if let Some(seed) = seed {
            for later in changed.iter_mut().filter(|p| p.from_frame > first) {
                if seed_of(later) != seed {
                    later.seed = (seed != film_seed).then_some(seed);
                }
            }
        }
        if wanted == (now.prompt.as_str(), seed_of(now)) {
            return Some(changed);
        }
        // Of those that begin for this very segment the last one counted, and now none.
        changed.retain(|p| p.from_frame > first || before.is_some_and(|b| p.from_frame <= b));
        let held = before.map(at).map(|timed| (timed.prompt.as_str(), seed_of(timed)));
        if held != Some(wanted) {
            let place = changed.partition_point(|p| p.from_frame <= first);
            let from_frame = if segment == 0 { 0 } else { first };
            let seed = (wanted.1 != film_seed).then_some(wanted.1);
            let prompt = wanted.0.to_owned();
            changed.insert(place, TimedPrompt { from_frame, prompt, seed });
        }
        Some(changed)
    }
}
