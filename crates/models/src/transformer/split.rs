//! The transformer on one device or on several that share each forward.

use longreel_kernels::ranks::LocalGroup;
use longreel_kernels::{Device, Tensor};
use longreel_weights::TransformerConfig;

use super::strip::Strip;
use super::{Context, ContextOptions, ForwardOptions, KeyValueCache, Pass, Transformer};
use crate::ModelError;
use crate::error::input;

/// A transformer on devices that share each forward: each has all weights and a strip of the picture.
/// On one device it is that network and nothing else.
///
/// Results are those of one device, bit for bit where an operation's result for a row does not depend on
/// how many rows there are: on the processor, and on GPUs but for what a library may choose by the
/// number of rows.
#[derive(Debug)]
pub struct SplitTransformer {
    ranks: Vec<Transformer>,
    group: LocalGroup,
}

/// [`Context`] on each device.
#[derive(Debug)]
pub struct SplitContext {
    ranks: Vec<Context>,
}

/// [`KeyValueCache`] on each device, of its heads.
#[derive(Debug)]
pub struct SplitCache {
    ranks: Vec<KeyValueCache>,
}

/// [`Pass`] on each device.
#[derive(Debug)]
pub struct SplitPass<'a> {
    model: &'a SplitTransformer,
    passes: Vec<Pass<'a>>,
}

impl SplitTransformer {
    /// Copies of one network, each on its device, as the ranks of a group; there is at least one.
    ///
    /// # Errors
    /// The heads cannot be shared out evenly; the system gives no threads.
    pub fn new(ranks: Vec<Transformer>) -> Result<Self, ModelError> {
        let (heads, count) = (ranks[0].config().num_attention_heads, ranks.len());
        if !heads.is_multiple_of(count) {
            let counts: Vec<_> = (1..count).filter(|&n| heads.is_multiple_of(n)).collect();
            let rule = format!("each takes as many of the {heads} heads: use {counts:?} of them");
            return Err(input("the number of devices", count, rule));
        }
        let devices = ranks.iter().map(|model| model.device.clone()).collect();
        Ok(Self { ranks, group: LocalGroup::new(devices)? })
    }

    /// The copies, for another group; what they have on their devices stays there.
    pub fn into_ranks(self) -> Vec<Transformer> {
        self.ranks
    }

    /// The config it was built from.
    pub fn config(&self) -> &TransformerConfig {
        self.ranks[0].config()
    }

    /// The devices that share each forward.
    pub fn devices(&self) -> &[Device] {
        self.group.devices()
    }

    /// As [`Transformer::context`].
    ///
    /// # Errors
    /// As there.
    pub fn context(
        &self,
        text: &Tensor,
        image: Option<&Tensor>,
        options: &ContextOptions,
    ) -> Result<SplitContext, ModelError> {
        let ranks = self.ranks.iter().collect();
        let ranks =
            self.group.run(ranks, |_, model: &Transformer| model.context(text, image, options))?;
        Ok(SplitContext { ranks })
    }

    /// A cache of nothing; see [`KeyValueCache`].
    pub fn new_cache(&self) -> SplitCache {
        let count = self.ranks.len();
        let ranks = self.ranks.iter().map(|model| KeyValueCache::of_heads(model, count)).collect();
        SplitCache { ranks }
    }

    /// As [`Transformer::forward`].
    ///
    /// # Errors
    /// As there; and fewer rows of patches than devices.
    pub fn forward(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
        context: &SplitContext,
        options: &ForwardOptions,
    ) -> Result<Tensor, ModelError> {
        self.ranks[0].check_window(latents, timesteps)?;
        let parts = self.cut(0, latents)?.into_iter().zip(&context.ranks).collect();
        let strips = self.group.run(parts, |ranks, ((strip, latents), context)| {
            let model = &self.ranks[ranks.rank()];
            let mut pass = model.begin_at(0, &latents, timesteps, options, Some(strip))?;
            pass.run(context, None, ranks)?;
            pass.finish()
        })?;
        Ok(Strip::join(strips))
    }

    /// As [`Transformer::forward_after`].
    ///
    /// # Errors
    /// As there; and fewer rows of patches than devices.
    pub fn forward_after(
        &self,
        cache: &mut SplitCache,
        keep: usize,
        latents: &Tensor,
        timesteps: &[f32],
        context: &SplitContext,
        options: &ForwardOptions,
    ) -> Result<Tensor, ModelError> {
        self.ranks[0].check_keep(keep, latents, options)?;
        let first = cache.next_frame();
        let parts = self.cut(first, latents)?.into_iter().zip(&context.ranks);
        let parts = parts.zip(&mut cache.ranks).collect();
        let strips = self.group.run(parts, |ranks, (((strip, latents), context), cache)| {
            let model = &self.ranks[ranks.rank()];
            let mut pass = model.begin_at(first, &latents, timesteps, options, Some(strip))?;
            pass.run(context, Some((cache, keep)), ranks)?;
            pass.finish()
        })?;
        Ok(Strip::join(strips))
    }

    /// As [`Transformer::begin`].
    ///
    /// # Errors
    /// As there; and fewer rows of patches than devices.
    pub fn begin(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
        options: &ForwardOptions,
    ) -> Result<SplitPass<'_>, ModelError> {
        self.ranks[0].check_window(latents, timesteps)?;
        let passes = self.group.run(self.cut(0, latents)?, |ranks, (strip, latents)| {
            let model = &self.ranks[ranks.rank()];
            model.begin_at(0, &latents, timesteps, options, Some(strip))
        })?;
        Ok(SplitPass { model: self, passes })
    }

    /// Latents of a window from frame `first` on, as each rank gets them.
    fn cut(&self, first: usize, latents: &Tensor) -> Result<Vec<(Strip, Tensor)>, ModelError> {
        let model = &self.ranks[0];
        let rows = model.grid(first, latents.shape())?[1];
        Strip::cut(latents, [rows, model.patch()[0]], self.ranks.len())
    }
}

impl SplitCache {
    /// As [`KeyValueCache::next_frame`].
    pub fn next_frame(&self) -> usize {
        self.ranks[0].next_frame()
    }

    /// As [`KeyValueCache::held_frames`].
    pub fn held_frames(&self) -> usize {
        self.ranks[0].held_frames()
    }

    /// As [`KeyValueCache::bytes`], of all devices.
    pub fn bytes(&self) -> u64 {
        self.ranks.iter().map(KeyValueCache::bytes).sum()
    }

    /// As [`KeyValueCache::forget`].
    pub fn forget(&mut self, frames: std::ops::Range<usize>) {
        self.ranks.iter_mut().for_each(|cache| cache.forget(frames.clone()));
    }
}

impl SplitPass<'_> {
    /// As [`Pass::temb`], on the host.
    ///
    /// # Errors
    /// What went wrong on the device.
    pub fn temb(&self) -> Result<Tensor, ModelError> {
        // It is the same on all.
        Ok(self.passes[0].temb().on(&Device::Cpu)?.into_owned())
    }

    /// As [`Pass::time_proj`], on the host.
    ///
    /// # Errors
    /// What went wrong on the device.
    pub fn time_proj(&self) -> Result<Tensor, ModelError> {
        Ok(self.passes[0].time_proj().on(&Device::Cpu)?.into_owned())
    }

    /// The shape of the hidden state, `[tokens, dim]`.
    pub fn hidden_shape(&self) -> [usize; 2] {
        let hidden = self.passes.iter().map(Pass::hidden);
        [hidden.map(|strip| strip.dim(0)).sum(), self.passes[0].hidden().dim(1)]
    }

    /// The hidden state on the host, strip by strip.
    ///
    /// # Errors
    /// What went wrong on a device.
    pub fn hidden(&self) -> Result<Tensor, ModelError> {
        let strips = self.passes.iter().map(|pass| pass.hidden().on(&Device::Cpu));
        let strips = strips.collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::concat0(&strips.iter().map(AsRef::as_ref).collect::<Vec<_>>()))
    }

    /// As [`Pass::run_blocks`].
    ///
    /// # Errors
    /// As there.
    pub fn run_blocks(&mut self, context: &SplitContext) -> Result<(), ModelError> {
        let parts = self.passes.iter_mut().zip(&context.ranks).collect();
        self.model.group.run(parts, |ranks, (pass, context): (&mut Pass<'_>, _)| {
            pass.run(context, None, ranks)
        })?;
        Ok(())
    }

    /// As [`Pass::add_residual`], in the order of [`hidden`](Self::hidden).
    ///
    /// # Errors
    /// As there.
    pub fn add_residual(&mut self, residual: &Tensor) -> Result<(), ModelError> {
        let mut end = 0;
        let tokens: Vec<usize> = self.passes.iter().map(|pass| pass.hidden().dim(0)).collect();
        if residual.shape() != self.hidden_shape() {
            let rule = format!("the hidden state is {:?}", self.hidden_shape());
            return Err(input("the shape of the cached residual", residual.shape(), rule));
        }
        for (pass, tokens) in self.passes.iter_mut().zip(tokens) {
            let start = end;
            end += tokens;
            pass.add_residual(&residual.slice0(start..end))?;
        }
        Ok(())
    }

    /// As [`Pass::finish`].
    ///
    /// # Errors
    /// As there.
    pub fn finish(self) -> Result<Tensor, ModelError> {
        let strips = self.model.group.run(self.passes, |_, pass| pass.finish())?;
        Ok(Strip::join(strips))
    }
}
