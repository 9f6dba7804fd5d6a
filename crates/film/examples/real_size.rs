//! One forward pass of a published model's transformer, with random bf16 weights: time, operations a
//! second and peak memory at the sizes that films are really made in.
//!
//! ```text
//! cargo run --release -p longreel-film --example real_size -- SkyReels-V2-DF-1.3B-540P 960x544 17 [LAYERS]
//! ```
//!
//! Writes the weights (2.8 GB for 1.3B) to the folder for temporary files and maps them, as a model's
//! file is mapped. All frames are denoised together. Fewer `LAYERS` than the model has make a long
//! window bearable: what a layer takes, in time and memory, does not depend on how many follow.

use std::error::Error;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use longreel_film::{
    forward_flops, human_bytes, human_seconds, peak_memory_bytes, tokens_per_frame,
};
use longreel_kernels::Tensor;
use longreel_models::{ContextOptions, ForwardOptions, Transformer};
use longreel_weights::{TensorSource, TransformerConfig, published_models};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: real_size MODEL WIDTHxHEIGHT FRAMES [LAYERS]";
    let [name, size, frames, layers @ ..] = words.as_slice() else { return Err(usage.into()) };
    let (width, height) = size.split_once('x').ok_or(usage)?;
    let (width, height): (usize, usize) = (width.parse()?, height.parse()?);
    let latent_frames = (frames.parse::<usize>()? - 1) / 4 + 1;
    let models = published_models();
    let mut config = models
        .iter()
        .find(|model| model.name == name)
        .ok_or_else(|| {
            format!("{name} is none of {:?}", models.iter().map(|m| m.name).collect::<Vec<_>>())
        })?
        .transformer
        .clone();
    let all_layers = config.num_layers;
    if let Some(layers) = layers.first() {
        config.num_layers = layers.parse()?;
    }

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("transformer.safetensors");
    let bytes = write_random(&config, &file)?;
    println!(
        "{name}, {} of {all_layers} layers: {} of weights",
        config.num_layers,
        human_bytes(bytes)
    );

    let transformer = Transformer::load(&config, TensorSource::open_file(&file)?)?;
    let noise = |shape: &[usize]| {
        let mut random = Random(7);
        let values = (0..shape.iter().product()).map(|_| random.next() * 2.0);
        Tensor::from_vec(shape, values.collect())
    };
    let context =
        transformer.context(&noise(&[60, config.text_dim]), None, &ContextOptions::default())?;
    let latents = noise(&[latent_frames, config.in_channels, height / 8, width / 8]);
    let options = ForwardOptions { fps: Some(24), causal_block: None };
    let per_frame = tokens_per_frame(&config, height, width);
    println!("{latent_frames} latent frames, {} tokens", latent_frames * per_frame);
    let begun = Instant::now();
    let velocity =
        transformer.forward(&latents, &vec![500.0; latent_frames], &context, &options)?;
    let seconds = begun.elapsed().as_secs_f64();
    if !velocity.data().iter().all(|v| v.is_finite()) {
        return Err("the result holds NaN or infinity".into());
    }
    let flops = forward_flops(&config, latent_frames, per_frame, None).total();
    println!("forward: {}, {:.1} GFLOP/s", human_seconds(seconds), flops / seconds / 1e9);
    if let Some(peak) = peak_memory_bytes() {
        println!("peak memory, mapped weights included: {}", human_bytes(peak));
    }
    Ok(())
}

/// xorshift32.
struct Random(u32);

impl Random {
    /// Uniform in -1 to 1.
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        (self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Writes every tensor of the network, the matrices scaled so that activations keep their size, and
/// returns the bytes written.
fn write_random(config: &TransformerConfig, path: &Path) -> Result<u64, Box<dyn Error>> {
    let tensors = config.expected_tensors();
    let (mut header, mut end) = (String::new(), 0);
    for (name, shape) in &tensors {
        let begin = end;
        end += 2 * shape.iter().product::<usize>();
        let comma = if header.is_empty() { '{' } else { ',' };
        header += &format!(
            "{comma}\"{name}\":{{\"dtype\":\"BF16\",\"shape\":{shape:?},\"data_offsets\":[{begin},{end}]}}"
        );
    }
    header.push('}');
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    let mut out = BufWriter::new(std::fs::File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    let mut random = Random(1);
    for (_, shape) in &tensors {
        let inputs: usize = shape.iter().skip(1).product();
        let scale = (3.0 / inputs as f32).sqrt();
        for _ in 0..shape.iter().product() {
            let bits = (random.next() * scale).to_bits();
            out.write_all(&((bits >> 16) as u16).to_le_bytes())?;
        }
    }
    out.flush()?;
    Ok((8 + header.len() + end) as u64)
}
