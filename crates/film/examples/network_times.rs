//! Times each network of a model folder on its own: one forward pass, VAE decode and encode, the text
//! encoder. Prints one JSON object with the best of several rounds in seconds: with one thread the CPU
//! time, which other programs disturb little, with several the time on the clock.
//!
//! ```text
//! cargo run --release -p longreel-film --example network_times -- MODEL WIDTH HEIGHT FRAMES THREADS
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
        return Err("usage: network_times MODEL WIDTH HEIGHT FRAMES THREADS".into());
    };
    let numbers = numbers.iter().map(|n| n.parse()).collect::<Result<Vec<usize>, _>>()?;
    let [width, height, frames, threads] = numbers[..] else {
        return Err("usage: network_times MODEL WIDTH HEIGHT FRAMES THREADS".into());
    };
    // Inside the pool, as the program runs, so that no operation has to wake it.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let line = pool.install(|| time_networks(model, width, height, frames));
    println!("{}", line.map_err(|problem| problem.to_string())?);
    Ok(())
}

/// The networks are timed one after the other; an error is one of loading.
fn time_networks(
    model: &str,
    width: usize,
    height: usize,
    frames: usize,
) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let folder = ModelFolder::open(std::path::Path::new(model))?;

    let tokenizer = Tokenizer::from_dir(folder.tokenizer()?)?;
    let (config, source) = folder.text_encoder()?;
    let encoder = TextEncoder::load(&config, source)?;
    let ids = tokenizer.encode("a red circle moves right on a blue background", 512)?.ids;
    let (text_seconds, text) = best(|| encoder.encode(&ids))?;

    let (config, source) = folder.transformer()?;
    let transformer = Transformer::load(&config, source)?;
    let context = transformer.context(&text, None, &ContextOptions::default())?;
    let latent_frames = (frames - 1) / 4 + 1;
    let latents = wave(&[latent_frames, config.in_channels, height / 8, width / 8]);
    let timesteps = vec![500.0; latent_frames];
    let options = ForwardOptions { fps: Some(24), ..Default::default() };
    let (forward_seconds, _) =
        best(|| transformer.forward(&latents, &timesteps, &context, &options))?;

    let (config, source) = folder.vae()?;
    let vae = Vae::load(&config, source)?;
    let latents = wave(&[latent_frames, config.z_dim, height / 8, width / 8]);
    let (decode_seconds, pixels) =
        best(|| vae.decoder.decode(&latents, &mut VaeDecoderState::new(), BUDGET_BYTES))?;
    let (encode_seconds, _) =
        best(|| vae.encoder.encode(&pixels, &mut VaeEncoderState::new(), BUDGET_BYTES))?;

    Ok(format!(
        "{{\"text\": {text_seconds}, \"forward\": {forward_seconds}, \
         \"vae_decode\": {decode_seconds}, \"vae_encode\": {encode_seconds}}}"
    ))
}

/// Smooth values in [-1, 1]; their size matters to the time, their look does not.
fn wave(shape: &[usize]) -> Tensor {
    let count = shape.iter().product();
    Tensor::from_vec(shape, (0..count).map(|i| (i as f32 * 0.37).sin()).collect())
}

/// Runs `work` for about half a second, at least three times; the shortest time and the last result.
fn best<T, E>(mut work: impl FnMut() -> Result<T, E>) -> Result<(f64, T), E> {
    let mut shortest = f64::INFINITY;
    let mut result = work()?;
    let (begun, mut rounds) = (Instant::now(), 0);
    while rounds < 3 || begun.elapsed().as_secs_f64() < 0.5 {
        let (started, cpu) = (Instant::now(), cpu_seconds());
        result = work()?;
        let wall = started.elapsed().as_secs_f64();
        let took = match (cpu, cpu_seconds()) {
            (Some(before), Some(after)) if rayon::current_num_threads() == 1 => after - before,
            _ => wall,
        };
        shortest = shortest.min(took);
        rounds += 1;
    }
    Ok((shortest, result))
}

/// What this thread has used, where the system tells (Linux).
fn cpu_seconds() -> Option<f64> {
    // Giving way makes the kernel bring the number up to date.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<f64>().ok()? * 1e-9)
}
