//! One pass of each network.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use longreel_film::{decode_flops, forward_flops, tokens_per_frame};
use longreel_kernels::Device;
use longreel_kernels::spans::{Span, measured};
use longreel_models::{
    ContextOptions, ForwardOptions, ModelError, TextEncoder, Transformer, Vae, VaeDecoderState,
};
use longreel_weights::{
    ExpectedTensor, PublishedModel, TensorSource, VaeConfig, published_text_encoder,
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

/// A pass, its seconds, and its operations. On a GPU the first pass brings weights and compiles
/// kernels, the second is timed, and in the third, which is slower, each operation is waited for.
fn timed<T>(device: &Device, mut pass: impl FnMut() -> T) -> (T, f64, Vec<Span>) {
    if device.gpu().is_some() {
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

/// One forward pass of the transformer.
pub fn transformer(
    model: &PublishedModel,
    window: Window,
    layers: Option<usize>,
    budget: f64,
    folder: &Path,
    device: &Device,
) -> Result<Measured> {
    let mut config = model.transformer.clone();
    let all = config.num_layers;
    let Window { latents, height, width } = window;
    let per_frame = tokens_per_frame(&config, height, width);
    let mut pass = |layers: usize| -> Result<(f64, Vec<_>)> {
        config.num_layers = layers;
        let network =
            Transformer::load(&config, source(&config.expected_tensors(), folder)?)?.on(device);
        let mut random = Random(7);
        let text = random.tensor(&[PROMPT_TOKENS, config.text_dim]);
        let image = config.image_dim.map(|dim| random.tensor(&[257, dim]));
        let context = network.context(&text, image.as_ref(), &ContextOptions::default())?;
        let input = random.tensor(&[latents, config.in_channels, height / 8, width / 8]);
        let options = ForwardOptions { fps: Some(24), ..Default::default() };
        let timesteps = vec![500.0; latents];
        let (velocity, seconds, spans) =
            timed(device, || network.forward(&input, &timesteps, &context, &options));
        if !velocity?.data().iter().all(|value| value.is_finite()) {
            return Err(anyhow!("the transformer's result holds NaN or infinity"));
        }
        Ok((seconds, spans))
    };
    let (one, first_spans) = pass(1)?;
    let wanted = layers.unwrap_or_else(|| ((budget / one) as usize).clamp(1, all));
    let (some, spans) = if wanted > 1 { pass(wanted)? } else { (one, first_spans) };
    let flops = forward_flops(&model.transformer, 0..latents, per_frame, None).total();
    Ok(Measured {
        name: "transformer",
        what: format!("a pass over {latents} latent frames, {} tokens", latents * per_frame),
        seconds: counted_up(one, some, wanted, all),
        flops,
        layers: (wanted, all),
        instead: (wanted < all).then(|| format!("{wanted} of {all} layers")),
        spans,
    })
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
        what: format!("a prompt of {PROMPT_TOKENS} tokens"),
        seconds: counted_up(one, some, wanted, all),
        flops: flops / wanted as f64 * all as f64,
        layers: (wanted, all),
        instead: (wanted < all).then(|| format!("{wanted} of {all} layers")),
        spans,
    })
}
