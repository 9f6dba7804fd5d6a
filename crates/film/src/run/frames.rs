//! From latents to frames, and what becomes of each.

use std::panic::resume_unwind;
use std::sync::mpsc;

use longreel_kernels::Tensor;
use longreel_media::{FilmWriter, Frame, VideoReader, thumbnail};
use longreel_models::{ModelError, VaeDecoderState};
use longreel_sampling::Segment;

use super::reel::{Denoised, Reel, Tell};
use super::{FRAMES, LATENTS, Run, SHEET, pixel_count, pixel_frame, sheet_step, unit};
use crate::condition::{VAE_BUDGET_BYTES, fit_frame, to_tensor, video_options};
use crate::drift::DriftMeter;
use crate::error::FilmError;
use crate::events::{Event, Observer};
use crate::request::{Carry, StartFrom};

/// Why decoding stopped.
enum Ended {
    Decoding(ModelError),
    /// Nobody takes frames any more.
    Taking,
}

impl From<ModelError> for Ended {
    fn from(error: ModelError) -> Self {
        Self::Decoding(error)
    }
}

/// Has what `decode` gives taken by a thread of its own, in order. One slice is taken and one decoded at a time, and
/// none waits between.
fn taken_beside(
    decode: impl FnOnce(&mut dyn FnMut(Tensor) -> Result<(), Ended>) -> Result<(), Ended>,
    take: &mut (dyn FnMut(Tensor) -> Result<(), FilmError> + Send),
) -> Result<(), FilmError> {
    std::thread::scope(|scope| {
        let (give, given) = mpsc::sync_channel::<Tensor>(0);
        let taking = scope.spawn(move || given.into_iter().try_for_each(take));
        let decoded = decode(&mut |frames| give.send(frames).map_err(|_| Ended::Taking));
        drop(give);
        taking.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        match decoded {
            Err(Ended::Decoding(error)) => Err(error.into()),
            // Why taking ended was told above.
            Ok(()) | Err(Ended::Taking) => Ok(()),
        }
    })
}

impl Run<'_> {
    /// Hands a denoised window over to be taken into the film.
    pub(super) fn hand_over(
        &mut self,
        segment: &Segment,
        window: Tensor,
        made_from: (String, u64),
        observer: &mut dyn Observer,
    ) -> Result<(), FilmError> {
        let recent = self.remember(&window.slice0(segment.added()));
        self.latents += segment.added().len();
        self.next_segment = segment.index + 1;
        let (segment, reused_steps) = (*segment, self.reused_steps);
        let denoised = Denoised { segment, window, recent, made_from, reused_steps };
        self.taker.take(denoised, observer)
    }

    /// Keeps the latents that the next segment's prefix and a resumed decoder need.
    fn remember(&mut self, added: &Tensor) -> Tensor {
        let receptive = self.networks.vae.decoder.receptive_latents();
        let keep = self.plan.history_latents().max(receptive);
        let all = match &self.recent {
            Some(recent) => Tensor::concat0(&[recent, added]),
            None => added.clone(),
        };
        let count = all.dim(0);
        self.recent.insert(all.slice0(count.saturating_sub(keep)..count)).clone()
    }
}

impl Reel<'_> {
    /// Takes a denoised window into the film: dumps, frames, drift, checkpoint.
    ///
    /// # Errors
    /// Those of the decoder, the encoder and the disk.
    pub fn take_in(&mut self, denoised: Denoised, tell: &mut Tell<'_>) -> Result<(), FilmError> {
        let Denoised { ref segment, ref window, .. } = denoised;
        let added = window.slice0(segment.added());
        if let Some(file) = self.appended.get_mut(LATENTS) {
            file.write_f32(added.data()).map_err(FilmError::io("write", LATENTS))?;
        }
        if segment.index == 0 {
            self.begin_film(tell)?;
        }
        match self.plan.request().carry {
            Carry::Latents => {
                let skip = match self.plan.request().start {
                    // The video's own frames are already in the film.
                    StartFrom::Video(_) if segment.index == 0 => {
                        pixel_frame(segment.prefix_latents)
                    }
                    _ => 0,
                };
                let mut state = std::mem::take(&mut self.decoder_state);
                self.decode(&added, &mut state, skip as usize, 0)?;
                self.decoder_state = state;
            }
            Carry::Pixels => {
                let skip = match self.plan.request().start {
                    StartFrom::Image(_) if segment.index == 0 => 0,
                    _ => pixel_frame(segment.prefix_latents),
                };
                let film = window.slice0(0..segment.film_latents());
                let undumped = if segment.index == 0 { 0 } else { skip };
                let state = &mut VaeDecoderState::new();
                self.decode(&film, state, skip as usize, undumped as usize)?;
            }
        }
        self.progress.latents += added.dim(0);
        self.progress.next_segment = segment.index + 1;
        self.progress.reused_steps = denoised.reused_steps;
        self.end_part(&denoised, tell)
    }

    /// Opens the film's file and, when a video is extended, puts the video's frames into it.
    fn begin_film(&mut self, tell: &mut Tell<'_>) -> Result<(), FilmError> {
        self.writer = Some(FilmWriter::create(&self.outputs.film, &self.options)?);
        let plan = self.plan.clone();
        let request = plan.request();
        let StartFrom::Video(path) = &request.start else {
            return Ok(());
        };
        tell(Event::Stage { what: "copying the video that is extended".into() });
        for frame in VideoReader::open(path, &video_options(request))? {
            let (frame, _) = fit_frame(&frame?, request)?;
            if request.carry == Carry::Pixels {
                self.remember_pixels(&to_tensor(std::slice::from_ref(&frame)));
            }
            self.put(frame)?;
        }
        // The look of the video is no segment's; the first segment still has its seam measured.
        self.meter =
            DriftMeter::resume(&self.meter.state(), self.meter.last_frame().map(<[u8]>::to_vec));
        Ok(())
    }

    /// Decodes latents as a continuation of `state`, a slice at a time; a GPU decodes the next one while a slice is taken
    /// in. The first `skip` frames do not go into the film, the first `undumped` ones not into the dump, which holds
    /// what the dumped latents decode to.
    fn decode(
        &mut self,
        latents: &Tensor,
        state: &mut VaeDecoderState,
        mut skip: usize,
        mut undumped: usize,
    ) -> Result<(), FilmError> {
        let networks = self.networks;
        let decoder = &networks.vae.decoder;
        let enlarges = networks.upscaler.is_some() && self.plan.request().finish.size.is_some();
        let mut take = |frames: Tensor| self.take_frames(&frames, &mut skip, &mut undumped);
        // The processor has nothing idle to take frames with, and two networks at a time would take the memory of both.
        if decoder.device().gpu().is_none() || enlarges {
            return decoder.decode_each(latents, state, VAE_BUDGET_BYTES, take);
        }
        taken_beside(|give| decoder.decode_each(latents, state, VAE_BUDGET_BYTES, give), &mut take)
    }

    /// Takes decoded frames `[F, H, W, 3]` in [-1, 1] in, but for those that are to be skipped.
    fn take_frames(
        &mut self,
        frames: &Tensor,
        skip: &mut usize,
        undumped: &mut usize,
    ) -> Result<(), FilmError> {
        if !frames.data().iter().all(|v| v.is_finite()) {
            return Err(FilmError::NotFinite { what: "the VAE's picture".into() });
        }
        let dropped = |count: &mut usize| {
            let dropped = (*count).min(frames.dim(0));
            *count -= dropped;
            dropped
        };
        self.dump_frames(frames, dropped(undumped))?;
        match dropped(skip) {
            0 => self.write_frames(frames),
            first => self.write_frames(&frames.slice0(first..frames.dim(0))),
        }
    }

    /// Adds decoded frames `[F, H, W, 3]` in [-1, 1] from frame `first` on to the dump, when there is
    /// one.
    fn dump_frames(&mut self, frames: &Tensor, first: usize) -> Result<(), FilmError> {
        let Some(file) = self.appended.get_mut(FRAMES) else {
            return Ok(());
        };
        let frame_len = frames.shape()[1..].iter().product::<usize>();
        let values: Vec<f32> =
            frames.data()[first * frame_len..].iter().map(|&v| unit(v)).collect();
        file.write_f32(&values).map_err(FilmError::io("write", FRAMES))?;
        self.progress.dumped_frames += (frames.dim(0) - first) as u64;
        Ok(())
    }

    /// Writes decoded frames `[F, H, W, 3]` in [-1, 1].
    fn write_frames(&mut self, frames: &Tensor) -> Result<(), FilmError> {
        let (height, width) = (frames.dim(1), frames.dim(2));
        for frame in frames.data().chunks_exact(height * width * 3) {
            let rgb = frame.iter().map(|&v| (unit(v) * 255.0).round() as u8).collect();
            self.put(Frame::new(width as u32, height as u32, rgb)?)?;
        }
        if self.plan.request().carry == Carry::Pixels {
            self.remember_pixels(frames);
        }
        Ok(())
    }

    /// Keeps the frames `[F, H, W, 3]` that the next segment's prefix needs.
    fn remember_pixels(&mut self, added: &Tensor) {
        let keep = pixel_count(self.plan.history_latents());
        let all = match &self.recent_pixels {
            Some(before) => Tensor::concat0(&[before, added]),
            None => added.clone(),
        };
        let count = all.dim(0);
        self.recent_pixels = Some(all.slice0(count.saturating_sub(keep)..count));
    }

    /// One frame into drift meter, contact sheet and file.
    fn put(&mut self, frame: Frame) -> Result<(), FilmError> {
        let before = self.meter.last_frame().filter(|_| self.finisher.inserts());
        let before = before.map(<[u8]>::to_vec);
        self.meter.push(frame.width() as usize, frame.rgb());
        if let Some(file) = self.appended.get_mut(SHEET)
            && self.progress.frames.is_multiple_of(sheet_step(self.plan.request()))
            && let Some((_, side)) = self.outputs.sheet()
        {
            let small = thumbnail(&frame, side)?;
            file.write(small.rgb()).map_err(FilmError::io("write", SHEET))?;
        }
        let writer = self.writer.as_mut().expect("begin_film opened it");
        let upscaler = self.networks.upscaler.as_ref();
        self.finisher.put(upscaler, before, &frame, &mut |frame| Ok(writer.push(frame)?))?;
        self.progress.frames += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(index: usize) -> Tensor {
        Tensor::from_vec(&[1], vec![index as f32])
    }

    #[test]
    fn slices_are_taken_in_order_and_none_is_lost() {
        let mut taken = Vec::new();
        let mut take = |frames: Tensor| {
            taken.push(frames.data()[0] as usize);
            Ok(())
        };
        taken_beside(|give| (0..9).try_for_each(|index| give(slice(index))), &mut take)
            .expect("taken");
        assert_eq!(taken, (0..9).collect::<Vec<_>>());
    }

    #[test]
    fn what_ends_one_side_ends_the_other_and_is_told() {
        let mut decoded = 0;
        let mut take = |frames: Tensor| match frames.data()[0] as usize {
            2 => Err(FilmError::NotFinite { what: "slice 2".into() }),
            _ => Ok(()),
        };
        let decode = |give: &mut dyn FnMut(Tensor) -> Result<(), Ended>| {
            (0..1000).try_for_each(|index| {
                decoded = index;
                give(slice(index))
            })
        };
        let error = taken_beside(decode, &mut take).expect_err("the third");
        assert!(error.to_string().contains("slice 2") && decoded < 5, "{error}, {decoded}");
        let broken = || ModelError::Input {
            what: "the latents",
            value: "none".into(),
            rule: "some are wanted".into(),
        };
        let mut taken = 0;
        let mut count = |_| {
            taken += 1;
            Ok(())
        };
        let decode = |give: &mut dyn FnMut(Tensor) -> Result<(), Ended>| {
            give(slice(0))?;
            Err(Ended::from(broken()))
        };
        let error = taken_beside(decode, &mut count).expect_err("the decoder's");
        assert_eq!((error.to_string(), taken), (FilmError::from(broken()).to_string(), 1));
    }
}
