//! The autoencoder and the text encoder.

use std::path::Path;

use anyhow::Result;
use longreel_film::{VAE_BUDGET_BYTES, decode_flops};
use longreel_kernels::Device;
use longreel_models::{ModelError, TextEncoder, Vae, VaeDecoderState, VaeEncoderState};
use longreel_weights::{VaeConfig, published_text_encoder};

use super::random::Random;
use super::rates::Chosen;
use super::timed::{PASSES, Timed, timed};
use super::weights::source;
use super::{Measured, Window};

/// Latent frames that are decoded or encoded for a first look, and by a processor in all.
const FEW: usize = 3;
/// Shorter side of the smallest picture that the autoencoder is measured with, in pixels.
const SMALLEST: usize = 128;
/// Tokens of the prompt that the text encoder reads.
const PROMPT_TOKENS: usize = 128;

/// How the autoencoder is measured.
#[derive(Debug, Clone, Copy)]
pub struct Pictures {
    /// All that there is to be decoded and encoded.
    pub window: Window,
    /// In how many strips pictures are decoded.
    pub strips: usize,
    /// Seconds for each of both.
    pub budget: f64,
    /// What the device reaches in a large product, in operations a second.
    pub flops_per_second: f64,
}

impl Pictures {
    /// The largest picture, of this one's shape about, of which a few latent frames take no more than the budget on a
    /// processor: what a pixel takes does not depend on how many there are.
    fn affordable(&self, config: &VaeConfig, device: &Device) -> Window {
        let Self { window, budget, flops_per_second, .. } = *self;
        let few = window.latents.min(FEW);
        let Window { mut height, mut width, .. } = window;
        let cost = |height, width| few as f64 * decode_flops(config, height, width);
        while device.gpu().is_none()
            && cost(height, width) > budget * flops_per_second
            && height.min(width) >= 2 * SMALLEST
        {
            // Sides stay multiples of 16.
            [height, width] = [height, width].map(|side| side / 32 * 16);
        }
        Window { latents: few, height, width }
    }

    /// What was measured, as that of all pictures.
    fn measured(
        &self,
        (name, what): (&'static str, String),
        shown: Window,
        timed: Timed,
    ) -> Measured {
        let whole = self.window;
        let places = |window: Window| (window.frames() * window.height * window.width) as f64;
        let times = places(whole) / places(shown);
        let picture = format!("{}x{}", shown.width, shown.height);
        let frames = format!("{} of {} latent frames", shown.latents, whole.latents);
        let smaller = (shown.height, shown.width) != (whole.height, whole.width);
        let instead = match (smaller, shown.latents < whole.latents) {
            (false, false) => None,
            (true, false) => Some(picture),
            (false, true) => Some(frames),
            (true, true) => Some(format!("{frames} of {picture}")),
        };
        Measured {
            name,
            what,
            seconds: timed.seconds.times(times),
            work: Chosen::Nothing.work_of(&timed.spans).times(times),
            chosen: Chosen::Nothing,
            layers: (1, 1),
            instead,
            kept_share: None,
            brought: None,
            spans: timed.spans,
        }
    }

    /// Does `run` with the latent frames that there is time for.
    fn timed<T>(
        &self,
        few: Window,
        device: &Device,
        mut run: impl FnMut(Window) -> Result<T, ModelError>,
    ) -> Result<(Window, Timed)> {
        let look = timed(device, 0.0, || run(few))?;
        let all = self.window.latents;
        let each = look.seconds.best / few.frames() as f64;
        let runs = if device.gpu().is_some() { PASSES } else { 1 };
        let frames = (self.budget / (runs as f64 * each)) as usize;
        let latents = match device.gpu() {
            Some(_) => (frames / 4).clamp(few.latents, all),
            None => few.latents,
        };
        if latents == few.latents && frames < 2 * few.frames() {
            return Ok((few, look));
        }
        let shown = few.with_latents(latents);
        Ok((shown, timed(device, self.budget, || run(shown))?))
    }
}

/// The decoder over all latent frames, and the encoder over all pictures.
///
/// # Errors
/// What went wrong on the device, its memory above all.
pub fn autoencoder(pictures: &Pictures, folder: &Path, device: &Device) -> Result<[Measured; 2]> {
    let config = VaeConfig::from_json("{}")?;
    let mut vae = Vae::load(&config, source(&config.expected_tensors(), folder)?)?.on(device);
    vae.decoder.set_strips(pictures.strips);
    let few = pictures.affordable(&config, device);
    let Window { height, width, .. } = pictures.window;
    let (latents, frames) = (pictures.window.latents, pictures.window.frames());
    let channels = vae.encoder.latent_channels();
    let all = Random(7).tensor(&[latents, channels, few.height / 8, few.width / 8]);
    let (shown, decoded) = pictures.timed(few, device, |shown| {
        let latent = all.slice0(0..shown.latents);
        let state = &mut VaeDecoderState::new();
        let ignore = |_| Ok::<_, ModelError>(());
        vae.decoder.decode_each(&latent, state, VAE_BUDGET_BYTES, ignore)
    })?;
    let what = format!("{latents} latent frames to {frames} frames of {width}x{height}");
    let decoder = pictures.measured(("VAE decoder", what), shown, decoded);
    let some = Random(7).tensor(&[4 * PART, few.height, few.width, 3]);
    let (shown, encoded) = pictures.timed(few, device, |shown| {
        let state = &mut VaeEncoderState::new();
        // A part at a time, as a film's conditions are, of which those behind the first have four pictures for each.
        let mut left = shown.latents;
        while left > 0 {
            let latents = left.min(PART);
            let count = if left == shown.latents { 4 * latents - 3 } else { 4 * latents };
            vae.encoder.encode(&some.slice0(0..count), state, VAE_BUDGET_BYTES)?;
            left -= latents;
        }
        Ok(())
    })?;
    let what = format!("{frames} frames of {width}x{height} to {latents} latent frames");
    let encoder = pictures.measured(("VAE encoder", what), shown, encoded);
    Ok([decoder, encoder])
}

/// Latent frames whose pictures are encoded at once.
const PART: usize = 4;

/// The text encoder over a prompt.
///
/// # Errors
/// What went wrong on the device, its memory above all.
pub fn text_encoder(budget: f64, folder: &Path, device: &Device) -> Result<Measured> {
    let mut config = published_text_encoder();
    let all = config.num_layers;
    // The table of words is half of the file and is hardly read.
    config.vocab_size = 1_024;
    let ids: Vec<u32> = (0..PROMPT_TOKENS as u32).map(|id| 2 + id % 1_000).collect();
    let mut passes = |layers: usize, budget: f64| {
        config.num_layers = layers;
        let network =
            TextEncoder::load(&config, source(&config.expected_tensors(), folder)?)?.on(device);
        anyhow::Ok(timed(device, budget, || network.encode(&ids))?)
    };
    let one = passes(1, 0.0)?;
    let runs = if device.gpu().is_some() { PASSES } else { 1 };
    let layers = ((budget / (runs as f64 * one.seconds.best) / 8.0) as usize).clamp(1, 4.min(all));
    let some = if layers > 1 { Some(passes(layers, budget)?) } else { None };
    let one_seconds = one.seconds;
    let some = some.unwrap_or(one);
    Ok(Measured {
        name: "text encoder",
        what: format!("a prompt of {PROMPT_TOKENS} tokens"),
        seconds: some.seconds.counted_up(one_seconds, layers, all),
        work: Chosen::Nothing.work_of(&some.spans).times(all as f64 / layers as f64),
        chosen: Chosen::Nothing,
        layers: (layers, all),
        instead: (layers < all).then(|| format!("{layers} of {all} layers")),
        kept_share: None,
        brought: None,
        spans: some.spans,
    })
}
