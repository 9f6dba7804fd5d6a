//! Latents to pictures.

use longreel_kernels::{Device, Tensor, ops};
use longreel_weights::{TensorSource, VaeConfig};

use super::Shape;
use super::layers::Slot;
use super::network::{Builder, Network, restore};
use super::tiles::VaeTiles;
use crate::ModelError;
use crate::error::input;

/// The decoder half of the autoencoder.
#[derive(Debug)]
pub struct VaeDecoder {
    network: Network,
    config: VaeConfig,
    shape: Shape,
    channels: usize,
    /// Strips of a picture, one after the other.
    strips: usize,
}

/// What a [`VaeDecoder`] remembers between calls: for each causal convolution the last two frames it
/// saw. A new state stands before the first latent frame of a clip.
#[derive(Debug, Clone, Default)]
pub struct VaeDecoderState {
    /// Empty before the first call.
    slots: Vec<Slot>,
    /// Of each strip, where the decoder works in strips: what is before them is in `slots`.
    strips: Vec<Vec<Slot>>,
    /// Names of the slots, in their order.
    names: Vec<String>,
}

impl VaeDecoderState {
    /// The state at the start of a clip.
    pub fn new() -> Self {
        Self::default()
    }

    /// True when nothing was decoded yet.
    pub fn is_start(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// The state as named tensors `[0..=2, H, W, C]`, none at the start of a clip. At real sizes they
    /// take gigabytes (4.6 GB at 544x960); [`VaeDecoder::rebuild_state`] needs only latents. Of a decoder
    /// that works in strips they are named by the strip too, `strip.0.…`.
    ///
    /// # Errors
    /// What went wrong on the device that they come from.
    pub fn to_tensors(&self) -> Result<Vec<(String, Tensor)>, ModelError> {
        let whole = self.names.iter().cloned().zip(&self.slots);
        let strips = self.strips.iter().enumerate().flat_map(|(strip, slots)| {
            let name = move |name: &String| format!("strip.{strip}.{name}");
            self.names.iter().map(name).zip(slots)
        });
        let filled = whole.chain(strips).filter_map(|(name, slot)| Some((name, slot.as_ref()?)));
        filled.map(|(name, slot)| Ok((name, slot.on(&Device::Cpu)?.into_owned()))).collect()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.slots.iter().chain(self.strips.iter().flatten()).flatten().map(Tensor::bytes).sum()
    }
}

impl VaeDecoder {
    /// Bytes of pictures that are put together of strips at once, about.
    pub const TOGETHER_BYTES: usize = 512 << 20;

    /// Latent frames of `[h, w]` that go through all strips before the next ones do.
    pub fn frames_together(config: &VaeConfig, [h, w]: [usize; 2]) -> usize {
        let doublings = config.dim_mult.len().saturating_sub(1);
        let halvings = config.temperal_downsample.iter().filter(|&&time| time).count();
        let pictures = (4 * config.out_channels * h * w) << (2 * doublings + halvings);
        (Self::TOGETHER_BYTES / pictures.max(1)).max(1)
    }

    /// Takes the decoder's tensors; the caller finishes the source.
    pub fn load(config: &VaeConfig, source: &mut TensorSource) -> Result<Self, ModelError> {
        let shape = Shape::new(config)?;
        let base = config.decoder_base_dim.unwrap_or(config.base_dim);
        let widths: Vec<usize> = config.dim_mult.iter().rev().map(|m| base * m).collect();
        // The reference reverses the whole list and reads it from the front.
        let time: Vec<bool> = shape.time_levels.iter().rev().copied().collect();
        let z = shape.latent_channels;
        let mut build = Builder::new(source, 1);
        build.pointwise("post_quant_conv", z, z)?;
        build.causal("decoder.conv_in", z, widths[0])?;
        build.middle("decoder.mid_block", widths[0])?;
        let mut width = widths[0];
        for (level, &out) in widths.iter().enumerate() {
            for block in 0..=config.num_res_blocks {
                build.residual(
                    &format!("decoder.up_blocks.{level}.resnets.{block}"),
                    width,
                    out,
                )?;
                width = out;
            }
            if level + 1 < widths.len() {
                let name = format!("decoder.up_blocks.{level}.upsamplers.0");
                build.up(&name, out, out / 2, time[level])?;
                width = out / 2;
            }
        }
        build.head("decoder", width, config.out_channels)?;
        let (network, channels) = (build.finish(), config.out_channels);
        Ok(Self { network, config: config.clone(), shape, channels, strips: 1 })
    }

    /// From now on clips that begin are decoded in so many strips of the picture, from the top: one at least,
    /// and no more than there are rows of latents. The pictures are the same in every bit on the processor;
    /// it takes less memory, and somewhat longer.
    pub fn set_strips(&mut self, strips: usize) {
        self.strips = strips.max(1);
    }

    /// The same network, run by `device`. Weights are brought there when they are first used.
    pub fn on(mut self, device: &Device) -> Self {
        self.network.device = device.clone();
        self
    }

    /// The device that runs it.
    pub fn device(&self) -> &Device {
        &self.network.device
    }

    /// Ratio of picture to latent height and width.
    pub fn spatial_factor(&self) -> usize {
        self.shape.spatial
    }

    /// Pictures for each latent frame but the first.
    pub fn temporal_factor(&self) -> usize {
        self.shape.temporal
    }

    /// Channels of a latent.
    pub fn latent_channels(&self) -> usize {
        self.shape.latent_channels
    }

    /// Bytes that a state holds for latents of `h` x `w`.
    pub fn state_bytes(&self, h: usize, w: usize) -> usize {
        self.network.state_bytes(h * w)
    }

    /// The least budget for latents of `h` x `w` that is kept: one frame at a time at full size. With
    /// less the decoder still works, and takes this much.
    pub fn least_budget_bytes(&self, h: usize, w: usize) -> usize {
        self.network.least_bytes(h * w)
    }

    /// How many latent frames back the state can see: it depends on these last ones and on nothing
    /// before them.
    pub fn receptive_latents(&self) -> usize {
        self.network.receptive_frames()
    }

    /// Decodes the next latent frames of a clip, `[T, z, h, w]` (normalised, as the transformer made
    /// them), to pictures `[F, H, W, 3]` in -1..=1.
    ///
    /// `budget_bytes` bounds the working memory besides the state and the result; a decoder in strips takes
    /// no more than it has to.
    ///
    /// # Errors
    /// A shape that does not fit the model or the clip begun with this state.
    pub fn decode(
        &self,
        latents: &Tensor,
        state: &mut VaeDecoderState,
        budget_bytes: usize,
    ) -> Result<Tensor, ModelError> {
        let mut values = Vec::new();
        let mut shape = [0; 4];
        self.decode_each(latents, state, budget_bytes, |part| {
            shape[0] += part.dim(0);
            shape[1..].copy_from_slice(&part.shape()[1..]);
            if values.is_empty() {
                values = part.into_vec();
            } else {
                values.extend_from_slice(part.data());
            }
            Ok::<_, ModelError>(())
        })?;
        Ok(Tensor::from_vec(&shape, values))
    }

    /// As [`decode`](Self::decode), but hands each part to `sink` as soon as it is done, so that the
    /// pictures of a segment need not stand in memory together.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), and those of `sink`, after which the state is of no more use.
    pub fn decode_each<E: From<ModelError>>(
        &self,
        latents: &Tensor,
        state: &mut VaeDecoderState,
        budget_bytes: usize,
        mut sink: impl FnMut(Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        let (x, [h, w]) = self.denormalised(latents, state)?;
        self.open(state, h);
        let sink = &mut |mut part: Tensor| {
            ops::clamp_inplace(&mut part, -1.0, 1.0);
            sink(part)
        };
        if state.strips.is_empty() {
            return self.network.run(x, h * w, &mut state.slots, budget_bytes, sink);
        }
        let tiles = VaeTiles::new(&self.config, h, state.strips.len());
        let together = Self::frames_together(&self.config, [h, w]);
        let (slots, strips) = (&mut state.slots, &mut state.strips);
        self.network.run_in_strips(&x, h * w, &tiles, together, slots, strips, sink)
    }

    /// Rebuilds a state from latents instead of stored tensors; it is equal in every bit to that of
    /// the stream that decoded `past`.
    ///
    /// `past` holds the latents decoded so far, `[T, z, h, w]`, all of them or at least the last
    /// [`receptive_latents`](Self::receptive_latents); `starts_clip` says that `past` begins with the
    /// first one of the clip. Takes the time of decoding that many.
    ///
    /// # Errors
    /// Too few latents; shapes as in [`decode`](Self::decode).
    pub fn rebuild_state(
        &self,
        past: &Tensor,
        starts_clip: bool,
        budget_bytes: usize,
    ) -> Result<VaeDecoderState, ModelError> {
        let need = self.receptive_latents();
        let have = past.shape().first().copied().unwrap_or(0);
        if !starts_clip && have < need {
            let rule = format!("the last {need} of the clip are needed to rebuild the decoder");
            return Err(input("the number of past latent frames", have, rule));
        }
        let mut state = VaeDecoderState::new();
        let drop_part = |_| Ok::<_, ModelError>(());
        if have > need || !starts_clip {
            self.open(&mut state, past.shape().get(2).copied().unwrap_or(1));
            let middle = self.network.slots_in_the_middle();
            state.strips.iter_mut().for_each(|strip| strip.clone_from(&middle));
            if state.strips.is_empty() {
                state.slots = middle;
            }
            let last = past.slice0(have - need..have);
            self.decode_each(&last, &mut state, budget_bytes, drop_part)?;
        } else if have > 0 {
            self.decode_each(past, &mut state, budget_bytes, drop_part)?;
        }
        Ok(state)
    }

    /// The state that [`VaeDecoderState::to_tensors`] wrote down of a decoder that does not work in strips. No
    /// tensors give the start of a clip.
    ///
    /// # Errors
    /// A tensor is unknown, missing or of the wrong shape.
    pub fn state_from_tensors(
        &self,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
    ) -> Result<VaeDecoderState, ModelError> {
        let slots = restore(&self.network, tensors)?;
        Ok(VaeDecoderState { slots, strips: Vec::new(), names: self.slot_names() })
    }

    fn slot_names(&self) -> Vec<String> {
        self.network.slots().iter().map(|slot| slot.name.clone()).collect()
    }

    /// Begins a clip of `rows` rows of latents, unless it has begun.
    fn open(&self, state: &mut VaeDecoderState, rows: usize) {
        if state.slots.is_empty() {
            state.slots = self.network.empty_slots();
            state.names = self.slot_names();
            let strips = self.strips.min(rows);
            if strips > 1 && self.shape.spatial > 1 {
                state.strips = vec![self.network.empty_slots(); strips];
            }
        }
    }

    /// `[T, z, h, w]` to `[T, h, w, z]` in the decoder's own scale, and `[h, w]`.
    fn denormalised(
        &self,
        latents: &Tensor,
        state: &VaeDecoderState,
    ) -> Result<(Tensor, [usize; 2]), ModelError> {
        let z = self.shape.latent_channels;
        let [frames, h, w] = match *latents.shape() {
            [t, c, h, w] if c == z && t > 0 && h > 0 && w > 0 => [t, h, w],
            _ => {
                let rule = format!("the VAE takes [T, {z}, h, w], none of them 0");
                return Err(input("the shape of the latents", latents.shape(), rule));
            }
        };
        self.check_size(state, h, w)?;
        let pixels = h * w;
        let mut x = Tensor::zeros(&[frames, h, w, z]);
        let frames = x.data_mut().chunks_exact_mut(pixels * z);
        for (out, frame) in frames.zip(latents.data().chunks_exact(pixels * z)) {
            for (channel, plane) in frame.chunks_exact(pixels).enumerate() {
                let (scale, mean) = (self.shape.inverse_std[channel], self.shape.mean[channel]);
                for (pixel, value) in plane.iter().enumerate() {
                    out[pixel * z + channel] = value / scale + mean;
                }
            }
        }
        Ok((x, [h, w]))
    }

    fn check_size(&self, state: &VaeDecoderState, h: usize, w: usize) -> Result<(), ModelError> {
        let known = self.network.slots();
        if !state.slots.is_empty() && state.slots.len() != known.len() {
            return Err(input("the decoder state", "another model's", "start with a new one"));
        }
        for (slot, info) in state.slots.iter().zip(known) {
            if let Some(history) = slot
                && history.dim(0) > 0
                && history.shape()[1..] != [h * info.scale, w * info.scale, info.channels]
            {
                let here = [history.dim(1) / info.scale, history.dim(2) / info.scale];
                let rule = format!("this clip began with {here:?}: start a new state");
                return Err(input("the size of the latents", [h, w], rule));
            }
        }
        Ok(())
    }

    /// Channels of a picture.
    pub fn channels(&self) -> usize {
        self.channels
    }
}
