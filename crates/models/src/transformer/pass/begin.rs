//! From latents to a forward whose blocks are still to be run.

use longreel_kernels::{Mask, Tensor, in_pool, ops};

use super::Pass;
use crate::ModelError;
use crate::error::input;
use crate::transformer::sparse::Chosen;
use crate::transformer::strip::Strip;
use crate::transformer::{AttentionWindow, ForwardOptions, Transformer};

impl Transformer {
    /// Embeds latents `[T, in_channels, H, W]` and timesteps (one for each latent frame, or one).
    ///
    /// # Errors
    /// Shapes that do not fit the model; a missing frame rate.
    pub fn begin(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
        options: &ForwardOptions,
    ) -> Result<Pass<'_>, ModelError> {
        self.check_window(latents, timesteps)?;
        self.begin_at(0, latents, timesteps, options, None)
    }

    /// Whether there are no more timesteps than latent frames.
    pub(in crate::transformer) fn check_window(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
    ) -> Result<(), ModelError> {
        let frames = self.grid(0, latents.shape())?[0];
        if timesteps.len() > frames {
            let rule = format!("it must be 1 or the number of latent frames, {frames}");
            return Err(input("the number of timesteps", timesteps.len(), rule));
        }
        Ok(())
    }

    /// As [`begin`](Self::begin), for frames of a window from frame `first` on. `timesteps` are those
    /// of the window, or one for all. `latents` are the whole picture, or a strip of it.
    pub(in crate::transformer) fn begin_at(
        &self,
        first: usize,
        latents: &Tensor,
        timesteps: &[f32],
        options: &ForwardOptions,
        strip: Option<Strip>,
    ) -> Result<Pass<'_>, ModelError> {
        let grid = self.grid(first, latents.shape())?;
        let frames = first..first + grid[0];
        if timesteps.len() != 1 && timesteps.len() < frames.end {
            let rule = format!("it must be 1 or the number of latent frames, {}", frames.end);
            return Err(input("the number of timesteps", timesteps.len(), rule));
        }
        if let Some(bad) = timesteps.iter().find(|t| !t.is_finite()) {
            return Err(input("a timestep", bad, "it must be a finite number"));
        }
        let answer_from = options.answer_from;
        if answer_from >= grid[0] {
            let rule = format!("it must be below the number of latent frames given, {}", grid[0]);
            return Err(input("answer_from", answer_from, rule));
        }
        let device = &self.device;
        let same = timesteps.iter().all(|t| *t == timesteps[0]);
        // The embeddings of the whole window, so that they are the same whichever frames are run.
        let (mut temb, mut time_proj) =
            in_pool(|| self.time.forward(if same { &timesteps[..1] } else { timesteps }, device))?;
        if !same && timesteps.len() != grid[0] {
            temb = temb.slice0(frames.clone());
            time_proj = time_proj.slice0(frames.clone());
        }
        if let Some(embedding) = &self.fps {
            let rule = "this model was trained with frame rates: give one (its own is 24)";
            let fps = options.fps.ok_or_else(|| input("the frame rate", "none", rule))?;
            let added = embedding.forward(fps, device)?;
            ops::add_row(&mut time_proj, &added);
        }
        let strip = strip.unwrap_or(Strip { first: 0, all: grid[1] });
        let frame_tokens = strip.all * grid[2];
        let mask = self.mask(frame_tokens, options)?;
        let of_frame = |frame: usize| timesteps[frame.min(timesteps.len() - 1)];
        let sparse = Chosen::of(options, frames.map(of_frame), frame_tokens);
        let latents = latents.on(device)?;
        let patches = in_pool(|| ops::patchify(&latents, self.patch()));
        let rope = self.rope.table([first, strip.first], grid, device)?;
        // They stay until the blocks were run, which are to find the same places free each time: before this, what is
        // computed of the timesteps depends on how many frames the window has.
        let [patches, temb, time_proj] = [patches, temb, time_proj].map(Tensor::into_kept);
        Ok(Pass {
            model: self,
            grid,
            strip,
            patches,
            hidden: None,
            samples: 1,
            temb,
            time_proj,
            rope,
            mask,
            answer_from,
            cut: false,
            sparse,
        })
    }

    /// Which tokens a token sees, where a frame has `tokens`.
    fn mask(&self, tokens: usize, options: &ForwardOptions) -> Result<Mask, ModelError> {
        let Some(block) = options.causal_block else {
            return match options.attention_window {
                None => Ok(Mask::None),
                Some(_) => Err(input("causal_block", "none", "a window needs causal blocks")),
            };
        };
        if block == 0 {
            return Err(input("causal_block", 0, "it must be at least 1"));
        }
        let tokens_per_block = block.saturating_mul(tokens);
        Ok(match options.attention_window {
            None => Mask::BlockCausal { tokens_per_block },
            Some(AttentionWindow { before, sink }) => {
                Mask::BlockWindow { tokens_per_block, before, sink }
            }
        })
    }

    /// Patches along time, height and width, of frames from `first` on.
    pub(in crate::transformer) fn grid(
        &self,
        first: usize,
        shape: &[usize],
    ) -> Result<[usize; 3], ModelError> {
        let channels = self.in_channels();
        let [ph, pw] = self.patch();
        let grid = match *shape {
            [t, c, h, w] if c == channels && h % ph == 0 && w % pw == 0 => [t, h / ph, w / pw],
            _ => {
                let rule = format!(
                    "this model takes [T, {channels}, H, W] with H a multiple of {ph} and W of {pw}"
                );
                return Err(input("the shape of the latents", shape, rule));
            }
        };
        let most = self.config().rope_max_seq_len;
        let last = [first + grid[0], grid[1], grid[2]];
        if grid.contains(&0) || last.iter().any(|&n| n > most) {
            let rule = format!("each axis must have between 1 and {most} patches");
            return Err(input("the grid of latent patches", last, rule));
        }
        Ok(grid)
    }
}
