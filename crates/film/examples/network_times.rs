//! Times each network of a model folder on its own: one forward pass, VAE decode and encode, the text
//! encoder. Prints one JSON object with the best of several rounds in seconds.
//!
//! ```text
//! cargo run --release -p longreel-film --example network_times -- MODEL WIDTH HEIGHT FRAMES ROUNDS
//! ```
//!
//! `benches/compare.py` runs it beside diffusers.

use std::time::Instant;

use longreel_kernels::Tensor;
use longreel_models::{
    ContextOptions, ForwardOptions, TextEncoder, Tokenizer, Transformer, Vae, VaeDecoderState,
    VaeEncoderState,
};
use longreel_weights::ModelFolder;

const BUDGET_BYTES: usize = 1 << 30;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, numbers @ ..] = arguments.as_slice() else {
        return Err("usage: network_times MODEL WIDTH HEIGHT FRAMES ROUNDS".into());
    };
    let numbers = numbers.iter().map(|n| n.parse()).collect::<Result<Vec<usize>, _>>()?;
    let [width, height, frames, rounds] = numbers[..] else {
        return Err("usage: network_times MODEL WIDTH HEIGHT FRAMES ROUNDS".into());
    };
    let folder = ModelFolder::open(std::path::Path::new(model))?;

    let tokenizer = Tokenizer::from_dir(folder.tokenizer()?)?;
    let (config, source) = folder.text_encoder()?;
    let encoder = TextEncoder::load(&config, source)?;
    let ids = tokenizer.encode("a red circle moves right on a blue background", 512)?.ids;
    let (text_seconds, text) = best(rounds, || encoder.encode(&ids))?;

    let (config, source) = folder.transformer()?;
    let transformer = Transformer::load(&config, source)?;
    let context = transformer.context(&text, None, &ContextOptions::default())?;
    let latent_frames = (frames - 1) / 4 + 1;
    let latents = wave(&[latent_frames, config.in_channels, height / 8, width / 8]);
    let timesteps = vec![500.0; latent_frames];
    let options = ForwardOptions { fps: Some(24), causal_block: None };
    let (forward_seconds, _) =
        best(rounds, || transformer.forward(&latents, &timesteps, &context, &options))?;

    let (config, source) = folder.vae()?;
    let vae = Vae::load(&config, source)?;
    let latents = wave(&[latent_frames, config.z_dim, height / 8, width / 8]);
    let (decode_seconds, pixels) =
        best(rounds, || vae.decoder.decode(&latents, &mut VaeDecoderState::new(), BUDGET_BYTES))?;
    let (encode_seconds, _) =
        best(rounds, || vae.encoder.encode(&pixels, &mut VaeEncoderState::new(), BUDGET_BYTES))?;

    println!(
        "{{\"text\": {text_seconds}, \"forward\": {forward_seconds}, \
         \"vae_decode\": {decode_seconds}, \"vae_encode\": {encode_seconds}}}"
    );
    Ok(())
}

/// Smooth values in [-1, 1]; their size matters to the time, their look does not.
fn wave(shape: &[usize]) -> Tensor {
    let count = shape.iter().product();
    Tensor::from_vec(shape, (0..count).map(|i| (i as f32 * 0.37).sin()).collect())
}

/// Runs `work` `rounds` times; the shortest time and the last result.
fn best<T, E>(rounds: usize, mut work: impl FnMut() -> Result<T, E>) -> Result<(f64, T), E> {
    let mut shortest = f64::INFINITY;
    let mut timed = || {
        let started = Instant::now();
        let result = work();
        shortest = shortest.min(started.elapsed().as_secs_f64());
        result
    };
    let mut result = timed()?;
    for _ in 1..rounds {
        result = timed()?;
    }
    Ok((shortest, result))
}
