//! One segment: its window, its denoising, and what is told meanwhile.

use longreel_kernels::Tensor;
use longreel_media::write_jpeg;
use longreel_models::ForwardOptions;
use longreel_sampling::Segment;

use super::{Run, pixel_frame};
use crate::denoise::{RowDone, SegmentTask, denoise};
use crate::error::FilmError;
use crate::events::{Change, Event, Leave, Observer, Stop, StopSignal};
use crate::request::Carry;

/// What came of a segment.
pub(super) enum Made {
    /// It is in the film.
    Whole,
    /// It is to be made from other prompts, for which it was given up.
    Changed(Change),
    /// It was given up, since the run is to stop.
    GivenUp,
}

impl Run<'_> {
    /// One segment, begun before there is leave for it when the leave takes its time.
    pub(super) fn make(
        &mut self,
        segment: &Segment,
        stop: &StopSignal,
        observer: &mut dyn Observer,
    ) -> Result<Made, FilmError> {
        let mut leave = None;
        if self.allowed <= segment.index
            && let Leave::Given(change) = observer.leave(segment.index, false)
        {
            self.allowed = segment.index + 1;
            if let Some(change) = change {
                self.follow(change, observer)?;
            }
            // Whoever gives leave may have taken a while.
            if stop.get() != Stop::No {
                return Ok(Made::GivenUp);
            }
        }
        let is_allowed = self.allowed > segment.index;
        let plan = self.plan.clone();
        let request = plan.request();
        let (prompt, seed) = request.in_force(pixel_frame(segment.first_new_latent));
        observer.event(Event::Segment {
            segment: segment.index,
            segments: plan.segments.count(),
            prompt: prompt.to_owned(),
        });
        self.peeks.begin(self.timing.row_seconds);
        let made_from = (prompt.to_owned(), seed);
        let window = self.window(segment, seed)?;
        let timetable = plan.timetable(segment)?;
        let rows_after = self.rows_after(segment, timetable.rows().len());
        let latents_left = plan.segments.total().map(|t| t.get() - self.latents);
        let (cond, uncond) = self.prompter.contexts(prompt)?;
        let task = SegmentTask {
            denoisers: &self.networks.denoisers,
            cond,
            uncond,
            guidance: plan.guidance,
            guidance_batch: plan.guidance_batch,
            extra_channels: self.conditions.extra_channels.as_ref(),
            timetable: &timetable,
            schedule: &plan.schedule,
            solver: &plan.solver,
            keeping: plan.keeping,
            forward: ForwardOptions {
                fps: Some(request.fps),
                causal_block: plan.causal_mask,
                attention_window: plan.attention_window,
                answer_from: 0,
                sparse: plan.sparse,
            },
            noise: &self.noise,
            seed,
            segment: segment.index,
            prefix: segment.prefix_latents,
            addnoise_condition: request.addnoise_condition,
        };
        let (kept, denoisers) = (&mut self.kept, &self.networks.denoisers);
        let (timing, peeks, taker) = (&mut self.timing, &mut self.peeks, &mut self.taker);
        let (decoder, outputs) = (&self.networks.vae.decoder, self.outputs);
        let mut on_row = |row: &RowDone<'_>| -> Result<bool, FilmError> {
            let RowDone { done, rows, seconds, .. } = *row;
            timing.row_seconds += seconds;
            timing.rows += 1;
            taker.look(observer)?;
            let left = rows_after.zip(latents_left).map(|(after, latents)| {
                let row = timing.row_seconds / timing.rows as f64;
                let latent = taker.seconds_of_a_latent();
                let rows = row * (rows - done + after) as f64;
                if taker.is_beside() {
                    // Behind the longer of both there is at least the last segment's decoding.
                    let last = latent * latents.min(segment.new_latents) as f64;
                    return (rows + last).max(latent * latents as f64);
                }
                rows + latent * latents as f64
            });
            observer.event(Event::Step {
                segment: segment.index,
                step: done,
                steps: rows,
                seconds,
                left_seconds: left,
                kept_share: match plan.sparse {
                    Some(_) => kept.since_last(denoisers.pairs()?),
                    None => None,
                },
            });
            // The last row is followed by the segment's frames themselves.
            if outputs.live
                && done < rows
                && taker.is_idle()
                && peeks.is_due(timing.row_seconds)
                && let Some(frame) = peeks.make(timing.row_seconds, decoder, &(row.clean)()?)?
            {
                let name = format!("preview-{:06}-{done:04}.jpg", segment.index);
                let path = outputs.preview_folder().join(name);
                write_jpeg(&path, &frame)?;
                let path = path.display().to_string();
                let (segment, seconds) = (segment.index, peeks.last_seconds());
                observer.event(Event::Preview { segment, step: done, seconds, path });
            }
            if !is_allowed && leave.is_none() {
                if let Leave::Given(change) = observer.leave(segment.index, false) {
                    let change = change.filter(|change| change.prompts != request.prompts);
                    leave = Some(change);
                }
                // Without leave it is not begun, and a change begins it anew.
                return Ok(stop.get() == Stop::No && !matches!(leave, Some(Some(_))));
            }
            Ok(stop.get() != Stop::Now)
        };
        let latents = denoise(&task, window, self.cache.as_mut(), &mut on_row)?;
        for message in self.networks.denoisers.warnings() {
            observer.event(Event::Warning { message });
        }
        if latents.is_some() && !is_allowed && leave.is_none() {
            // Whoever gives leave may wait for the segment before.
            self.taker.settle(observer)?;
            let Leave::Given(change) = observer.leave(segment.index, true) else {
                return Ok(Made::GivenUp);
            };
            leave = Some(change.filter(|change| change.prompts != request.prompts));
            if stop.get() != Stop::No {
                return Ok(Made::GivenUp);
            }
        }
        if let Some(change) = leave {
            self.allowed = segment.index + 1;
            if let Some(change) = change {
                return Ok(Made::Changed(change));
            }
        }
        let Some(latents) = latents else { return Ok(Made::GivenUp) };
        if let Some(cache) = &self.cache {
            self.reused_steps += cache.reused();
        }
        self.hand_over(segment, latents, made_from, observer)?;
        Ok(Made::Whole)
    }

    /// Rows of the segments after this one; all but the last have as many as a middle one.
    fn rows_after(&self, segment: &Segment, rows: usize) -> Option<usize> {
        let count = self.plan.segments.count()?;
        Some(rows * (count - segment.index - 1))
    }

    /// The window before denoising: prefix, noise, last image.
    fn window(&mut self, segment: &Segment, seed: u64) -> Result<Tensor, FilmError> {
        let request = self.plan.request();
        let (h, w) = (request.height / 8, request.width / 8);
        let channels = self.networks.vae.encoder.latent_channels();
        let film = segment.film_latents();
        let mut window = self.noise.initial(seed, segment.index, [film, channels, h, w])?;
        let prefix = if segment.index == 0 {
            self.conditions.prefix.clone()
        } else {
            Some(self.history(segment.prefix_latents)?)
        };
        if let Some(prefix) = prefix {
            window.data_mut()[..prefix.len()].copy_from_slice(prefix.data());
        }
        if segment.end_latents > 0
            && let Some(end) = &self.conditions.end
        {
            window = Tensor::concat0(&[&window, end]);
        }
        Ok(window)
    }

    /// The latents a later segment begins with.
    fn history(&mut self, count: usize) -> Result<Tensor, FilmError> {
        if self.plan.request().carry == Carry::Pixels
            && let Some(pixels) = self.taker.reel().recent_pixels()
        {
            return crate::condition::encode(&self.networks.vae.encoder, pixels);
        }
        let recent = self.recent.as_ref().expect("a later segment has a film before it");
        Ok(recent.slice0(recent.dim(0) - count..recent.dim(0)))
    }
}
