//! Passes of the transformer, and steps with guidance.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, anyhow};
use longreel_film::{ModelFacts, TransformerWeights, forward_flops, tokens_per_frame};
use longreel_kernels::spans::{Span, measured};
use longreel_kernels::{Device, GpuError, Products, Tensor, ops};
use longreel_models::{
    ContextOptions, ForwardOptions, ModelError, SparseAttention, SplitContext, SplitTransformer,
    Transformer,
};
use longreel_weights::{PublishedModel, TensorSource, TransformerConfig, WeightDtype};

use super::memory::{Film, Shared};
use super::random::Random;
use super::rates::{Chosen, Work};
use super::timed::{PASSES, Seconds, WARMING, wants_more};
use super::weights::source_of_blocks;
use super::{Brought, Measured, Window};

/// Tokens of the prompt that the transformer is shown.
const PROMPT_TOKENS: usize = 128;

/// Random weights of a transformer.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    /// Where their file is.
    pub folder: &'a Path,
    /// What they are converted to; bf16 as they are.
    pub dtype: Option<WeightDtype>,
}

impl Weights<'_> {
    fn of(&self, config: &TransformerConfig) -> Result<TensorSource> {
        let source = source_of_blocks(&config.expected_tensors(), self.folder)?;
        Ok(match self.dtype {
            Some(dtype) => source.in_dtype(dtype),
            None => source,
        })
    }
}

/// What the transformer is shown.
struct Shown {
    input: Tensor,
    text: Tensor,
    image: Option<Tensor>,
    timesteps: Vec<f32>,
    options: ForwardOptions,
}

impl Shown {
    fn new(config: &TransformerConfig, window: Window, sparse_attention: Option<f32>) -> Self {
        let Window { latents, height, width } = window;
        let mut random = Random(7);
        Self {
            text: random.tensor(&[PROMPT_TOKENS, config.text_dim]),
            image: config.image_dim.map(|dim| random.tensor(&[257, dim])),
            input: random.tensor(&[latents, config.in_channels, height / 8, width / 8]),
            timesteps: vec![500.0; latents],
            options: ForwardOptions {
                fps: Some(24),
                sparse: sparse_attention
                    .map(|mass| SparseAttention { mass, dense_above: f32::INFINITY }),
                ..Default::default()
            },
        }
    }

    fn context(&self, network: &SplitTransformer) -> Result<SplitContext, ModelError> {
        network.context(&self.text, self.image.as_ref(), &ContextOptions::default())
    }

    /// Seconds of a batch with these contexts.
    fn seconds(
        &self,
        network: &SplitTransformer,
        contexts: &[&SplitContext],
    ) -> Result<f64, ModelError> {
        Ok(self.timed(network, contexts)?.0)
    }

    /// The same, and whether all values are finite. As a film has it, latents and velocities stay where the network is,
    /// and that look at them is what is waited for.
    fn timed(
        &self,
        network: &SplitTransformer,
        contexts: &[&SplitContext],
    ) -> Result<(f64, bool), ModelError> {
        let input = self.input.on(&network.home())?;
        let begun = Instant::now();
        let velocities = network.forward(&input, &self.timesteps, contexts, &self.options)?;
        let mut is_finite = velocities.iter().map(ops::all_finite);
        let is_finite = is_finite.try_fold(true, |all, one| Ok::<_, ModelError>(all & one?))?;
        Ok((begun.elapsed().as_secs_f64(), is_finite))
    }
}

/// What is measured of a transformer.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The model.
    pub model: &'a PublishedModel,
    /// What its passes are over.
    pub window: Window,
    /// Its weights.
    pub weights: Weights<'a>,
    /// With so many layers, instead of as many as there is time for.
    pub layers: Option<usize>,
    /// With attention that leaves keys out: the share of its weights that is kept.
    pub sparse_attention: Option<f32>,
    /// How a GPU's memory is shared out.
    pub shared: Option<&'a Shared>,
}

/// What passes with some of the layers took.
struct Passes {
    pass: Seconds,
    step: Seconds,
    spans: Vec<Span>,
    kept_share: Option<f64>,
    /// Bytes of weights that were brought for a pass, and for a step.
    brought: [u64; 2],
}

impl Case<'_> {
    /// Layers to tell anything of the whole by.
    pub fn least_layers(&self) -> usize {
        let all = self.model.transformer.num_layers;
        // The first layer sees all keys.
        let least = if self.sparse_attention.is_some() { 2.min(all) } else { 1 };
        least.max(self.shared.map_or(1, |shared| shared.least_layers(all)))
    }

    /// The model with so many layers.
    fn cut(&self, layers: usize) -> PublishedModel {
        let config = &self.model.transformer;
        let transformer = TransformerConfig { num_layers: layers, ..config.clone() };
        PublishedModel { transformer, ..self.model.clone() }
    }

    /// That network, with its part of a GPU's memory.
    fn network(&self, layers: usize, device: &Device) -> Result<SplitTransformer> {
        let cut = self.cut(layers);
        self.share_out(layers, device, self.shared)?;
        let network = Transformer::load(&cut.transformer, self.weights.of(&cut.transformer)?)?;
        Ok(SplitTransformer::new(vec![network.on(device)])?)
    }

    fn share_out(&self, layers: usize, device: &Device, shared: Option<&Shared>) -> Result<()> {
        let (Some(gpu), Some(shared)) = (device.gpu(), shared) else { return Ok(()) };
        let cut = ModelFacts::of_published(&self.cut(layers), self.weights.dtype)?;
        let pass_bytes = TransformerWeights::of(&cut).pass_bytes();
        shared.for_layers(gpu, layers, self.model.transformer.num_layers, pass_bytes);
        Ok(())
    }

    /// Passes and steps with so many layers, as many as `budget` seconds allow.
    fn passes(&self, layers: usize, device: &Device, budget: f64) -> Result<Passes> {
        let network = self.network(layers, device)?;
        let shown = Shown::new(&self.model.transformer, self.window, self.sparse_attention);
        let contexts = [shown.context(&network)?, shown.context(&network)?];
        let [first, second] = contexts.each_ref();
        let gpu = device.gpu();
        let batch = self.shared.is_some_and(|shared| shared.batch);
        // What makes a pass, or the pass before, a step.
        let others = if batch { vec![first, second] } else { vec![second] };
        let rounds = if gpu.is_some() { WARMING } else { 0 };
        for _ in 0..rounds {
            shown.seconds(&network, &[first])?;
            shown.seconds(&network, &others)?;
        }
        let brought = || gpu.map_or(0, |gpu| gpu.brought_bytes());
        let (mut passes, mut steps, mut went) = (Vec::new(), Vec::new(), 0.0);
        let mut bytes = [0; 2];
        let mut fastest: Option<(f64, bool, Vec<Span>)> = None;
        while wants_more(device, steps.len(), went, budget) {
            let before = brought();
            // A look at each operation costs the processor nothing, and on a GPU waiting for each does.
            let (pass, spans) = match gpu {
                Some(_) => (shown.timed(&network, &[first]), Vec::new()),
                None => measured(|| shown.timed(&network, &[first])),
            };
            let ((pass, is_finite), between) = (pass?, brought());
            let rest = shown.seconds(&network, &others)?;
            let after = brought();
            bytes[0] += between - before;
            bytes[1] += after - if batch { between } else { before };
            went += pass + rest;
            if fastest.as_ref().is_none_or(|(least, ..)| pass < *least) {
                fastest = Some((pass, is_finite, spans));
            }
            passes.push(pass);
            steps.push(if batch { rest } else { pass + rest });
            if !batch {
                passes.push(rest);
            }
        }
        let (_, mut is_finite, mut spans) = fastest.expect("one at least");
        if gpu.is_some() {
            let (waited, its_spans) = measured(|| shown.timed(&network, &[first]));
            (is_finite, spans) = (waited?.1, its_spans);
        }
        if !is_finite {
            return Err(anyhow!("the transformer's result holds NaN or infinity"));
        }
        let rounds = steps.len() as u64;
        Ok(Passes {
            pass: Seconds::of(&passes),
            step: Seconds::of(&steps),
            spans,
            kept_share: network.pairs()?.share(),
            brought: bytes.map(|bytes| bytes / rounds),
        })
    }
}

/// A pass of the transformer, and a step with guidance: both passes as a film has them run.
///
/// # Errors
/// What went wrong on the device, its memory above all; a result that is not finite.
pub fn transformer(case: &Case<'_>, budget: f64, device: &Device) -> Result<[Measured; 2]> {
    let config = &case.model.transformer;
    let all = config.num_layers;
    let Window { latents, height, width } = case.window;
    let per_frame = tokens_per_frame(config, height, width);
    let one = case.passes(1, device, 0.0)?;
    // Of each round both passes; on a GPU one alone beside both, and some rounds that do not count.
    let runs = if device.gpu().is_some() { 3 * PASSES } else { 2 };
    let fits = (budget / (runs as f64 * one.pass.best)) as usize;
    let layers = case.layers.unwrap_or_else(|| fits.clamp(case.least_layers(), all));
    let some = match layers {
        1 if all > 1 && budget < one.step.best => None,
        _ => Some(case.passes(layers, device, budget)?),
    };
    let some = some.as_ref().unwrap_or(&one);
    let mut flops = forward_flops(config, 0..latents, per_frame, None);
    let left_out = 1.0 - some.kept_share.unwrap_or(1.0);
    flops.attention *= 1.0 - left_out * (all - 1) as f64 / all as f64;
    let products = case.weights.dtype.map_or(Products::default(), Products::from);
    let chosen = Chosen::of(device, products);
    let work = match chosen {
        Chosen::Layers => Work { chosen: flops.linear, others: flops.total() - flops.linear },
        _ => Work { chosen: flops.total(), others: 0.0 },
    };
    let brought = |seconds: Seconds, bytes: u64| {
        (bytes > 0).then(|| Brought { bytes, bytes_per_second: bytes as f64 / seconds.median })
    };
    let instead = (layers < all).then(|| format!("{layers} of {all} layers"));
    let pass = Measured {
        name: "transformer",
        what: format!("a pass over {latents} latent frames, {} tokens", latents * per_frame),
        seconds: some.pass.counted_up(one.pass, layers, all),
        work,
        chosen,
        layers: (layers, all),
        instead,
        kept_share: some.kept_share,
        brought: brought(some.pass, some.brought[0]),
        spans: some.spans.clone(),
    };
    let batch = case.shared.is_some_and(|shared| shared.batch);
    let how = if batch { "in one batch" } else { "one after the other" };
    let step = Measured {
        name: "step with guidance",
        what: format!("both passes {how}"),
        seconds: some.step.counted_up(one.step, layers, all),
        work: work.times(2.0),
        brought: brought(some.step, some.brought[1]),
        instead: pass.instead.clone(),
        spans: Vec::new(),
        ..pass
    };
    Ok([pass, step])
}

/// Another way to run passes of the transformer.
pub struct Way {
    /// What is done, and beside what.
    pub what: String,
    /// How many times as fast that is; `None` where a GPU has no room for it.
    pub times: Option<f64>,
    /// Layers it was measured with.
    pub layers: usize,
}

/// Rounds of each way, in turn; the fastest counts. On a GPU the first two make ready.
const ROUNDS: usize = 4;

/// Both passes of guidance as one batch, and the work of several devices, each beside what the first device
/// does pass by pass, with `layers` layers; and what a GPU's graphs give.
///
/// # Errors
/// What went wrong on a device.
pub fn ways(case: &Case<'_>, layers: usize, film: &Film, devices: &[Device]) -> Result<Vec<Way>> {
    let one = case.network(layers, &devices[0])?;
    let shown = Shown::new(&case.model.transformer, case.window, None);
    let contexts = [shown.context(&one)?, shown.context(&one)?];
    let [first, second] = contexts.each_ref();
    let (mut apart, mut together, mut alone) = (f64::INFINITY, Some(f64::INFINITY), f64::INFINITY);
    for _ in 0..ROUNDS {
        let [a, b] = [shown.seconds(&one, &[first])?, shown.seconds(&one, &[second])?];
        (apart, alone) = (apart.min(a + b), alone.min(a).min(b));
        together = match (together, shown.seconds(&one, &[first, second])) {
            (None, _) | (_, Err(ModelError::Gpu(GpuError::Memory { .. }))) => None,
            (Some(least), seconds) => Some(least.min(seconds?)),
        };
    }
    let what = "both passes of guidance in one batch, beside one after the other".to_owned();
    let mut ways = vec![Way { what, times: together.map(|seconds| apart / seconds), layers }];
    if let Some(gpu) = devices[0].gpu().filter(|gpu| gpu.tally().replayed > 0) {
        gpu.set_replays(false);
        let mut plain = f64::INFINITY;
        for _ in 0..ROUNDS {
            plain = plain.min(shown.seconds(&one, &[first])?);
        }
        gpu.set_replays(true);
        let what = "passes replayed as CUDA graphs, beside kernels started one by one".to_owned();
        ways.push(Way { what, times: Some(plain / alone), layers });
    }
    drop(contexts);
    if devices.len() > 1 {
        let mut ranks = one.into_ranks();
        let more = devices[1..].iter().map(|device| ranks[0].clone().on(device));
        let more: Vec<_> = more.collect();
        ranks.extend(more);
        let shared = film.share_strips(devices)?;
        for device in devices {
            case.share_out(layers, device, shared.as_ref())?;
        }
        let all = SplitTransformer::new(ranks)?;
        all.warnings().for_each(|warning| eprintln!("warning: {warning}"));
        let context = shown.context(&all)?;
        let mut split = f64::INFINITY;
        for _ in 0..ROUNDS {
            split = split.min(shown.seconds(&all, &[&context])?);
        }
        let count = devices.len();
        let by = all.way().map(|way| format!(", exchanging by {way}")).unwrap_or_default();
        let what = format!("{count} devices, each with a strip of the picture{by}, beside one");
        ways.push(Way { what, times: Some(alone / split), layers });
    }
    Ok(ways)
}

#[cfg(test)]
mod tests {
    use longreel_film::MemoryShare;
    use longreel_kernels::gpu::{Element, Gpu, WeightPlan};
    use longreel_shim::Shim;
    use longreel_weights::published_models;

    use super::*;
    use crate::bench::shim_folder;

    /// A small network of the published shape.
    fn model() -> PublishedModel {
        let large = published_models().remove(0);
        let transformer = TransformerConfig {
            num_attention_heads: 2,
            attention_head_dim: 64,
            ffn_dim: 256,
            text_dim: 32,
            freq_dim: 32,
            num_layers: 6,
            ..large.transformer
        };
        PublishedModel { transformer, ..large }
    }

    /// Half of the weights of a pass brought for each, and none of a prompt's: as much is brought as the plan says, with all layers and with some of
    /// them, from which the whole is counted up; and what is told of it is by the time of the pass.
    #[test]
    fn passes_bring_the_share_of_the_weights_that_does_not_stay() {
        let Some(shim) = Shim::or_skip(&shim_folder()) else { return };
        let device = Device::Gpu(Gpu::new(Box::new(shim.with_products()), Element::Bf16));
        let model = model();
        let folder = tempfile::tempdir().expect("a folder");
        let facts = ModelFacts::of_published(&model, None).expect("published");
        let bytes = facts.transformer_bytes;
        let pass_bytes = TransformerWeights::of(&facts).pass_bytes();
        let place = 2 * 128 * 6 * 128;
        let weights = WeightPlan { resident: pass_bytes as usize / 2, places: 4, place };
        let shared = Shared {
            share: MemoryShare {
                free_bytes: 8 << 30,
                activation_bytes: 1 << 20,
                weight_bytes: bytes,
                prompt_bytes: bytes - pass_bytes,
                weights,
            },
            transformer_bytes: bytes,
            batch: true,
            strips: 1,
        };
        let measure = |layers: usize, shared: Option<&Shared>| {
            let case = Case {
                model: &model,
                window: Window { latents: 1, height: 32, width: 32 },
                weights: Weights { folder: folder.path(), dtype: None },
                layers: Some(layers),
                sparse_attention: None,
                shared,
            };
            let measured = transformer(&case, 0.0, &device);
            let [pass, step] = measured.expect("a device");
            assert!(pass.seconds.tries >= 2 && pass.layers == (layers, 6), "{pass:?}");
            assert!(!pass.spans.is_empty() && step.spans.is_empty());
            assert_eq!(step.work, pass.work.times(2.0));
            [pass, step].map(|row| {
                let brought = row.brought?;
                // All weights of a pass once, where both passes are a batch too.
                let seconds = brought.bytes as f64 / brought.bytes_per_second;
                let told = row.layers.0 < 6 || (seconds / row.seconds.median - 1.0).abs() < 1e-9;
                assert!(told, "{row:?}");
                Some(brought.bytes as f64)
            })
        };
        assert_eq!(
            measure(6, None),
            [None, None],
            "everything stays where nothing else is planned"
        );
        let whole = shared.brought_bytes() as f64;
        // What lies in the places at the end of a pass is there for the next one.
        let kept = (4 * place) as f64;
        for (layers, expected) in [(6, whole), (4, whole * 3.0 / 5.0)] {
            for brought in measure(layers, Some(&shared)) {
                let brought = brought.expect("weights that do not stay");
                assert!(
                    (expected - kept..=expected + place as f64).contains(&brought),
                    "{brought} bytes with {layers} layers, of {expected}"
                );
            }
        }
    }
}
