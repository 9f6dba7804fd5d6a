//! One pass of each network.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use longreel_film::{decode_flops, forward_flops, tokens_per_frame};
use longreel_kernels::spans::{Span, measured};
use longreel_kernels::{Device, Tensor};
use longreel_models::{
    ContextOptions, ForwardOptions, ModelError, SparseAttention, SplitContext, SplitTransformer,
    TextEncoder, Transformer, Vae, VaeDecoderState,
};
use longreel_weights::{
    ExpectedTensor, PublishedModel, TensorSource, TransformerConfig, VaeConfig, WeightDtype,
    published_text_encoder,
};

use super::Measured;
use super::random::{Random, write};

/// Activations of the decoder that stand in memory at once, in bytes, as films have it.
const DECODE_BYTES: usize = 256 << 20;
/// Shorter side of the smallest picture that the decoder is measured with, in pixels.
const SMALLEST: usize = 128;
/// Tokens of the prompt that the text encoder reads, and those that the transformer is shown.
const PROMPT_TOKENS: usize = 128;

/// What is denoised or decoded at once.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Latent frames.
    pub latents: usize,
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
}

impl Window {
    /// The same picture for another time.
    pub fn with_latents(self, latents: usize) -> Self {
        Self { latents, ..self }
    }
}

fn source(tensors: &[ExpectedTensor], folder: &Path) -> Result<TensorSource> {
    let file = folder.join("random.safetensors");
    // The one before may still be mapped.
    let _ = std::fs::remove_file(&file);
    write(tensors, &file).with_context(|| {
        format!(
            "random weights cannot be written to {}; TMPDIR chooses another place",
            file.display()
        )
    })?;
    Ok(TensorSource::open_file(&file)?)
}

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
        let source = source(&config.expected_tensors(), self.folder)?;
        Ok(match self.dtype {
            Some(dtype) => source.in_dtype(dtype),
            None => source,
        })
    }
}

/// A pass, its seconds, and its operations. On a GPU the first pass brings weights and compiles
/// kernels, the second captures what recurs, the third is timed, and in the fourth, which is slower, each
/// operation is waited for.
fn timed<T>(device: &Device, mut pass: impl FnMut() -> T) -> (T, f64, Vec<Span>) {
    if device.gpu().is_some() {
        pass();
        pass();
        let begun = Instant::now();
        pass();
        let seconds = begun.elapsed().as_secs_f64();
        let (result, spans) = measured(pass);
        return (result, seconds, spans);
    }
    let begun = Instant::now();
    let (result, spans) = measured(pass);
    (result, begun.elapsed().as_secs_f64(), spans)
}

/// Seconds of a network with `all` layers, by those of one with `one` layer and with `some`.
fn counted_up(one: f64, some: f64, layers: usize, all: usize) -> f64 {
    if layers == all {
        return some;
    }
    let layer = ((some - one) / (layers - 1).max(1) as f64).max(0.0);
    // With one layer alone what comes before and behind the layers counts with each: an upper bound.
    if layers == 1 { one * all as f64 } else { one + layer * (all - 1) as f64 }
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
        let begun = Instant::now();
        network.forward(&self.input, &self.timesteps, contexts, &self.options)?;
        Ok(begun.elapsed().as_secs_f64())
    }
}

/// How the transformer is measured.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// With so many layers, instead of as many as there is time for.
    pub layers: Option<usize>,
    /// With attention that leaves keys out: the share of its weights that is kept.
    pub sparse_attention: Option<f32>,
}

/// One forward pass of the transformer.
pub fn transformer(
    model: &PublishedModel,
    window: Window,
    asked: Asked,
    budget: f64,
    weights: Weights<'_>,
    device: &Device,
) -> Result<Measured> {
    let mut config = model.transformer.clone();
    let all = config.num_layers;
    let Window { latents, height, width } = window;
    let per_frame = tokens_per_frame(&config, height, width);
    let mut pass = |layers: usize| -> Result<(f64, Vec<_>, Option<f64>)> {
        config.num_layers = layers;
        let network = Transformer::load(&config, weights.of(&config)?)?.on(device);
        let shown = Shown::new(&config, window, asked.sparse_attention);
        let Shown { input, text, image, timesteps, options } = shown;
        let context = network.context(&text, image.as_ref(), &ContextOptions::default())?;
        let (velocity, seconds, spans) =
            timed(device, || network.forward(&input, &timesteps, &context, &options));
        if !velocity?.data().iter().all(|value| value.is_finite()) {
            return Err(anyhow!("the transformer's result holds NaN or infinity"));
        }
        Ok((seconds, spans, network.pairs()?.share()))
    };
    let (one, first_spans, _) = pass(1)?;
    // The first layer sees all keys.
    let least = if asked.sparse_attention.is_some() { 2.min(all) } else { 1 };
    let wanted = asked.layers.unwrap_or_else(|| ((budget / one) as usize).clamp(least, all));
    let (some, spans, kept_share) =
        if wanted > 1 { pass(wanted)? } else { (one, first_spans, None) };
    let mut flops = forward_flops(&model.transformer, 0..latents, per_frame, None);
    let left_out = 1.0 - kept_share.unwrap_or(1.0);
    flops.attention *= 1.0 - left_out * (all - 1) as f64 / all as f64;
    let flops = flops.total();
    Ok(Measured {
        name: "transformer",
        kept_share,
        what: format!("a pass over {latents} latent frames, {} tokens", latents * per_frame),
        seconds: counted_up(one, some, wanted, all),
        flops,
        layers: (wanted, all),
        instead: (wanted < all).then(|| format!("{wanted} of {all} layers")),
        spans,
    })
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
pub fn ways(
    model: &PublishedModel,
    window: Window,
    layers: usize,
    weights: Weights<'_>,
    devices: &[Device],
) -> Result<Vec<Way>> {
    let config = TransformerConfig { num_layers: layers, ..model.transformer.clone() };
    let network = Transformer::load(&config, weights.of(&config)?)?;
    let shown = Shown::new(&config, window, None);
    let one = SplitTransformer::new(vec![network.clone().on(&devices[0])])?;
    let contexts = [shown.context(&one)?, shown.context(&one)?];
    let [first, second] = contexts.each_ref();
    let (mut apart, mut together, mut alone) = (f64::INFINITY, Some(f64::INFINITY), f64::INFINITY);
    for _ in 0..ROUNDS {
        let [a, b] = [shown.seconds(&one, &[first])?, shown.seconds(&one, &[second])?];
        (apart, alone) = (apart.min(a + b), alone.min(a).min(b));
        together = match (together, shown.seconds(&one, &[first, second])) {
            (None, _) => None,
            (_, Err(ModelError::Gpu(error))) if error.is_memory() => None,
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
        ranks.extend(devices[1..].iter().map(|device| network.clone().on(device)));
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

/// The decoder over a few latent frames, of a smaller picture where one of this size would take more
/// than `budget` operations: what a pixel takes does not depend on how many there are.
pub fn decoder(window: Window, budget: f64, folder: &Path, device: &Device) -> Result<Measured> {
    let config = VaeConfig::from_json("{}")?;
    let Window { latents, height, width } = window;
    let cost = |height, width| latents as f64 * decode_flops(&config, height, width);
    let (mut h, mut w) = (height, width);
    while cost(h, w) > budget && h.min(w) >= 2 * SMALLEST {
        // Sides stay multiples of 16.
        [h, w] = [h, w].map(|side| side / 32 * 16);
    }
    let vae = Vae::load(&config, source(&config.expected_tensors(), folder)?)?.on(device);
    let channels = vae.encoder.latent_channels();
    let latent = Random(7).tensor(&[latents, channels, h / 8, w / 8]);
    let mut frames = 0;
    let (decoded, seconds, spans) = timed(device, || {
        frames = 0;
        let state = &mut VaeDecoderState::new();
        vae.decoder.decode_each::<ModelError>(&latent, state, DECODE_BYTES, |part| {
            frames += part.dim(0);
            Ok(())
        })
    });
    decoded?;
    Ok(Measured {
        name: "VAE decoder",
        kept_share: None,
        what: format!("{latents} latent frames to {frames} frames of {width}x{height}"),
        seconds: seconds * cost(height, width) / cost(h, w),
        flops: cost(height, width),
        layers: (1, 1),
        instead: ((h, w) != (height, width)).then(|| format!("{w}x{h}")),
        spans,
    })
}

/// The text encoder over a prompt.
pub fn text_encoder(budget: f64, folder: &Path, device: &Device) -> Result<Measured> {
    let mut config = published_text_encoder();
    let all = config.num_layers;
    // The table of words is half of the file and is hardly read.
    config.vocab_size = 1_024;
    let ids: Vec<u32> = (0..PROMPT_TOKENS as u32).map(|id| 2 + id % 1_000).collect();
    let mut pass = |layers: usize| -> Result<(f64, Vec<_>)> {
        config.num_layers = layers;
        let network =
            TextEncoder::load(&config, source(&config.expected_tensors(), folder)?)?.on(device);
        let (embedded, seconds, spans) = timed(device, || network.encode(&ids));
        embedded?;
        Ok((seconds, spans))
    };
    let (one, first_spans) = pass(1)?;
    let wanted = ((budget / one / 8.0) as usize).clamp(1, 4.min(all));
    let (some, spans) = if wanted > 1 { pass(wanted)? } else { (one, first_spans) };
    let flops: f64 = spans.iter().map(|span| span.flops).sum();
    Ok(Measured {
        name: "text encoder",
        kept_share: None,
        what: format!("a prompt of {PROMPT_TOKENS} tokens"),
        seconds: counted_up(one, some, wanted, all),
        flops: flops / wanted as f64 * all as f64,
        layers: (wanted, all),
        instead: (wanted < all).then(|| format!("{wanted} of {all} layers")),
        spans,
    })
}
