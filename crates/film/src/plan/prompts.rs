//! The prompts of a plan, and others in their place.

use super::FilmPlan;
use super::checks::check_values;
use crate::error::PlanError;
use crate::request::{FilmRequest, TimedPrompt};

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
