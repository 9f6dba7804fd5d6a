//! What a film costs, before it is begun: arithmetic, memory, disk and time.

use std::ops::{AddAssign, Mul, Range};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use longreel_kernels::gpu::{Element, MOST_GRAPHS};
use longreel_kernels::{
    Activation, DType, Device, GpuError, Linear, Products, Tensor, Weight, ops,
};
use longreel_models::{AttentionWindow, VaeDecoder, VaeTile, VaeTiles};
use longreel_weights::{TransformerConfig, VaeConfig};
use serde::Serialize;

/// Floating-point operations of one forward pass of the transformer over `frames` latent frames of
/// `tokens_per_frame` tokens. A multiply-add counts as two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct ForwardFlops {
    /// Self-attention's scores and sums.
    pub attention: f64,
    /// All fully connected layers.
    pub linear: f64,
    /// Cross-attention's scores and sums.
    pub cross_attention: f64,
}

impl ForwardFlops {
    /// The sum.
    pub fn total(&self) -> f64 {
        self.attention + self.linear + self.cross_attention
    }
}

/// A forward pass at its longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Tokens of one sample.
    pub tokens: usize,
    /// Samples that go through the network together: 2 when the passes of guidance do.
    pub samples: usize,
}

impl Batch {
    /// A single sample.
    pub fn one(tokens: usize) -> Self {
        Self { tokens, samples: 1 }
    }

    /// Of all samples.
    pub fn all_tokens(self) -> usize {
        self.tokens * self.samples
    }
}

/// Tokens of one latent frame of `height x width` pixels.
pub fn tokens_per_frame(config: &TransformerConfig, height: usize, width: usize) -> usize {
    let [_, ph, pw] = patch(config);
    (height / 8 / ph) * (width / 8 / pw)
}

fn patch(config: &TransformerConfig) -> [usize; 3] {
    let p = &config.patch_size;
    [p[0], p[1], p[2]]
}

/// See [`ForwardFlops`], for the latent frames `run` of a window whose earlier ones are finished.
/// `causal` is set when attention is block-causal: latent frames of a block, and which earlier blocks
/// it sees.
pub fn forward_flops(
    config: &TransformerConfig,
    run: Range<usize>,
    tokens_per_frame: usize,
    causal: Option<(usize, Option<AttentionWindow>)>,
) -> ForwardFlops {
    let dim = (config.num_attention_heads * config.attention_head_dim) as f64;
    let ffn = config.ffn_dim as f64;
    let layers = config.num_layers as f64;
    let tokens = (run.len() * tokens_per_frame) as f64;
    let text = TEXT_TOKENS as f64;
    let seen = |frame: usize| match causal {
        None | Some((0 | 1, _)) => run.end,
        Some((block, window)) => {
            let own = frame / block;
            let near = window.map_or(0, |window| own.saturating_sub(window.before));
            let sink = window.map_or(0, |window| window.sink.min(near));
            ((own + 1) * block).min(run.end) - near * block + sink * block
        }
    };
    let pairs = run.clone().map(seen).sum::<usize>() as f64 * (tokens_per_frame as f64).powi(2);
    ForwardFlops {
        attention: layers * 4.0 * pairs * dim,
        linear: layers * tokens * (2.0 * 6.0 * dim * dim + 2.0 * 2.0 * dim * ffn),
        cross_attention: layers * 4.0 * tokens * text * dim,
    }
}

impl AddAssign for ForwardFlops {
    fn add_assign(&mut self, other: Self) {
        self.attention += other.attention;
        self.linear += other.linear;
        self.cross_attention += other.cross_attention;
    }
}

impl Mul<f64> for ForwardFlops {
    type Output = Self;

    fn mul(self, times: f64) -> Self {
        Self {
            attention: self.attention * times,
            linear: self.linear * times,
            cross_attention: self.cross_attention * times,
        }
    }
}

/// Tensors that a layer has exchanged: query, key and value to the heads, and what they saw back to the strips.
const EXCHANGES: f64 = 4.0;

/// Bytes that leave each of `count` GPUs that share passes of `tokens` tokens in all, in bf16: of each tensor of a
/// layer a GPU has `1 / count`, and all of that but its own heads goes to the others.
pub fn exchanged_bytes(config: &TransformerConfig, tokens: f64, count: usize) -> f64 {
    let dim = (config.num_attention_heads * config.attention_head_dim) as f64;
    let count = count as f64;
    let own = tokens / count * dim * 2.0;
    config.num_layers as f64 * EXCHANGES * own * (count - 1.0) / count
}

/// One convolution of the VAE decoder.
struct DecoderConv {
    inputs: usize,
    outputs: usize,
    /// Kernel positions: 27, 9, 3 or 1.
    taps: usize,
    /// Frames for each latent frame, and pixels for each latent pixel along a side.
    frames: usize,
    scale: usize,
    /// How often the height was doubled, or is after this one where it doubles the frames.
    doublings: usize,
}

impl DecoderConv {
    /// Values of a channel of one frame at its input, of a picture of `cells` latent pixels or of a strip of it.
    fn plane(&self, cells: u64, strip: Option<(&VaeTile, usize)>) -> u64 {
        let whole = cells as usize * self.scale * self.scale;
        strip.map_or(whole, |(tile, rows)| tile.part_of(whole, self.doublings, rows)) as u64
    }
}

/// The decoder's convolutions in order (`WanDecoder3d` of diffusers 0.42.1).
fn decoder_convs(config: &VaeConfig) -> Vec<DecoderConv> {
    let base = config.decoder_base_dim.unwrap_or(config.base_dim);
    let levels = config.dim_mult.len();
    let mut dims = vec![base * config.dim_mult[levels - 1]];
    dims.extend(config.dim_mult.iter().rev().map(|&m| base * m));
    let temporal: Vec<bool> = config.temperal_downsample.iter().rev().copied().collect();
    let (mut frames, mut scale) = (1, 1);
    let mut convs = Vec::new();
    let mut add = |inputs, outputs, taps, frames, scale, doublings| {
        convs.push(DecoderConv { inputs, outputs, taps, frames, scale, doublings });
    };
    add(config.z_dim, dims[0], 27, 1, 1, 0);
    for _ in 0..4 {
        add(dims[0], dims[0], 27, 1, 1, 0);
    }
    for level in 0..levels {
        // The upsampling before a level has halved the channels.
        let inputs = if level > 0 { dims[level] / 2 } else { dims[level] };
        let outputs = dims[level + 1];
        add(inputs, outputs, 27, frames, scale, level);
        for _ in 0..2 * config.num_res_blocks + 1 {
            add(outputs, outputs, 27, frames, scale, level);
        }
        if level + 1 < levels {
            if temporal.get(level).copied().unwrap_or(false) {
                add(outputs, 2 * outputs, 3, frames, scale, level + 1);
                frames *= 2;
            }
            scale *= 2;
            add(outputs, outputs / 2, 9, frames, scale, level + 1);
        }
    }
    add(dims[levels], config.out_channels, 27, frames, scale, levels - 1);
    convs
}

/// Operations of the VAE decoder for one latent frame (4 pixel frames) of `height x width` pixels.
/// Convolutions only; norms and the middle attention are below a percent at real sizes.
pub fn decode_flops(config: &VaeConfig, height: usize, width: usize) -> f64 {
    let cells = (height / 8 * (width / 8)) as f64;
    decoder_convs(config)
        .iter()
        .map(|c| {
            let places = (c.frames * c.scale * c.scale) as f64 * cells;
            2.0 * (c.inputs * c.outputs * c.taps) as f64 * places
        })
        .sum()
}

/// Bytes that decoding one latent frame at a time takes, in so many strips of the picture: the causal
/// caches (two frames of the input of each convolution that looks back in time), a few of the widest
/// activations, and the weights as the processor multiplies with them. `latents` are those that a segment adds,
/// which go through the strips together as far as their pictures are not too many.
pub fn decode_bytes(config: &VaeConfig, size: [usize; 2], strips: usize, latents: usize) -> u64 {
    if strips == 1 {
        let (state, working) = decode_values(config, size, None);
        return 4 * (decode_weights(config) + state + working);
    }
    // What is remembered of all strips stands, and one of them is worked on.
    let (_, parts) = values_of_strips(config, size, strips);
    let working = parts.iter().map(|(_, working)| working).max();
    decoded_bytes(config, size, strips, latents)
        + 4 * (working.unwrap_or(&0) + together_values(config, size, latents))
}

/// Bytes that decoding on the processor holds while its pictures are written, see [`decode_bytes`]: its
/// weights, what it remembers, and the pictures that it hands over together.
pub fn decoded_bytes(config: &VaeConfig, size: [usize; 2], strips: usize, latents: usize) -> u64 {
    let (remembered, latents) = match strips {
        1 => (decode_values(config, size, None).0, 1),
        _ => {
            let (whole, parts) = values_of_strips(config, size, strips);
            let state: u64 = parts.iter().map(|(state, _)| state).sum();
            (whole + state, together(config, size, latents))
        }
    };
    4 * (decode_weights(config) + remembered + (latents * 4 * 3 * size[0] * size[1]) as u64)
}

/// Values of the decoder's weights as the processor multiplies with them: those of 3 x 3 in space are four
/// times as many as stored, since they are turned for squares of 4 x 4 pixels.
fn decode_weights(config: &VaeConfig) -> u64 {
    let values = decoder_convs(config).into_iter().map(|c| {
        let grown = if c.taps % 9 == 0 { 4 } else { 1 };
        (grown * c.taps * c.inputs * c.outputs) as u64
    });
    values.sum()
}

/// Values that decoding remembers, and those that stand at once besides: of a whole picture of
/// `[height, width]`, or of a strip of it from the first doubling on.
fn decode_values(
    config: &VaeConfig,
    [height, width]: [usize; 2],
    strip: Option<(&VaeTile, usize)>,
) -> (u64, u64) {
    let cells = (height / 8 * (width / 8)) as u64;
    let convs = decoder_convs(config);
    let convs = || convs.iter().filter(|c| strip.is_none() || c.doublings > 0);
    let caches: u64 = convs()
        .filter(|c| matches!(c.taps, 27 | 3))
        .map(|c| 2 * c.plane(cells, strip) * c.inputs as u64)
        .sum();
    let widest =
        convs().map(|c| c.plane(cells, strip) * (c.frames * c.inputs.max(c.outputs)) as u64).max();
    (caches, 3 * widest.unwrap_or(0))
}

/// Values that decoding in strips remembers of the whole picture, and [`decode_values`] of each strip.
fn values_of_strips(config: &VaeConfig, size: [usize; 2], strips: usize) -> (u64, Vec<(u64, u64)>) {
    let rows = size[0] / 8;
    let cells = (rows * (size[1] / 8)) as u64;
    let before = decoder_convs(config);
    let before = before.iter().filter(|c| c.doublings == 0 && c.taps == 27);
    let whole = before.map(|c| 2 * cells * c.inputs as u64).sum();
    let tiles = VaeTiles::new(config, rows, strips);
    let of = |tile| decode_values(config, size, Some((tile, rows)));
    (whole, tiles.tiles().iter().map(of).collect())
}

/// How many of so many latent frames go through all strips together.
fn together(config: &VaeConfig, [height, width]: [usize; 2], latents: usize) -> usize {
    VaeDecoder::frames_together(config, [height / 8, width / 8]).min(latents)
}

/// Values that wait for their strips: of the frames that go through all of them together.
fn together_values(config: &VaeConfig, size: [usize; 2], latents: usize) -> u64 {
    let base = config.decoder_base_dim.unwrap_or(config.base_dim);
    let channels = base * config.dim_mult.last().copied().unwrap_or(1);
    (together(config, size, latents) * channels * (size[0] / 8) * (size[1] / 8)) as u64
}

/// Tokens of a prompt at most, and what it is padded to.
const TEXT_TOKENS: u64 = 512;

/// Tokens of an image in models that are not told how many they see: CLIP's, of 16 x 16 patches and one for all.
const IMAGE_TOKENS: u64 = 257;

/// Bytes of the keys and values of all blocks, of a prompt and a negative one at their longest, with an image in models
/// that take one, of so many bytes a value.
fn contexts_bytes(config: &TransformerConfig, value: u64) -> u64 {
    let dim = (config.num_attention_heads * config.attention_head_dim) as u64;
    let seen = config.pos_embed_seq_len.map_or(IMAGE_TOKENS, |tokens| tokens as u64);
    let tokens = TEXT_TOKENS + config.image_dim.map_or(0, |_| seen);
    2 * 2 * tokens * dim * config.num_layers as u64 * value
}

/// Bytes that forward passes of the processor take beside the weights, in `f32`: six of `[tokens, dim]` that
/// stand at once, a slice of the feed-forward's hidden layer, and for all blocks the keys and values of
/// a prompt and a negative one. With no tokens about what stays between two passes.
pub fn forward_bytes(config: &TransformerConfig, tokens: usize) -> u64 {
    let dim = (config.num_attention_heads * config.attention_head_dim) as u64;
    4 * 6 * tokens as u64 * dim + contexts_bytes(config, 4) + (64 << 20)
}

/// Bytes of activations that stand at once on a GPU in a forward pass in `element`. At the widest point of
/// a block there are the hidden state (f32), query, key, value and what attention gives, and for each
/// token of a sample its angles; before the first block the time's projection is computed with in f32.
pub fn gpu_forward_bytes(config: &TransformerConfig, batch: Batch, element: Element) -> u64 {
    let value = element.bytes() as u64;
    let dim = (config.num_attention_heads * config.attention_head_dim) as u64;
    let angles = 4 * config.attention_head_dim as u64;
    let time = 4 * 6 * dim * dim;
    let slices = 2 * (64 << 20);
    let tokens = batch.all_tokens() as u64 * (4 + 4 * value) * dim + batch.tokens as u64 * angles;
    (tokens + slices).max(time) + contexts_bytes(config, value)
}

/// Bytes of the latents that are on a GPU while a segment is denoised, all of them `f32`: the window, what the network is
/// shown of it, both velocities, what the solver remembers, and what EasyCache does.
pub fn gpu_latent_bytes(config: &TransformerConfig, batch: Batch) -> u64 {
    let [height, width] = [config.patch_size[1], config.patch_size[2]];
    let (shown, moved) = (config.in_channels as u64, config.out_channels as u64);
    // The extra channels of image-to-video models are there twice.
    let channels = 2 * shown - moved + LATENT_COPIES * moved;
    4 * channels * (batch.tokens * height * width) as u64
}

/// Beside what the network is shown: the window, two velocities, three predictions and the start of UniPC's step before,
/// and EasyCache's last two inputs, its output and its residuals.
const LATENT_COPIES: u64 = 12;

/// What a layer is in a graph: kernels, the copies between them, those to and from kept keys, and graphs of their own
/// where its weights are brought each time; and what is taken to be needed for each. The latter is a guess, made without
/// a card: what graphs really take on one is among its notes, which `longreel bench` shows.
const LAYER_NODES: u64 = 30 + 10 + 10;
const GRAPH_NODE: u64 = 8 << 10;

/// Bytes that the graphs of repeated passes are taken to need on a GPU, by the guess of [`GRAPH_NODE`]. Their activations
/// are those of any pass, and while one is replayed the angles of its grid are there twice: they are an input.
pub fn gpu_graph_bytes(config: &TransformerConfig, batch: Batch) -> u64 {
    let angles = batch.tokens as u64 * 4 * config.attention_head_dim as u64;
    MOST_GRAPHS as u64 * config.num_layers as u64 * LAYER_NODES * GRAPH_NODE + angles
}

/// Bytes that decoding one latent frame at a time takes on a GPU in `element`, in so many strips of the picture,
/// without weights; see [`decode_bytes`]. What is remembered of the other strips is the host's.
pub fn gpu_decode_bytes(
    config: &VaeConfig,
    size: [usize; 2],
    strips: usize,
    element: Element,
) -> u64 {
    let value = element.bytes() as u64;
    if strips == 1 {
        let (state, working) = decode_values(config, size, None);
        return value * (state + working);
    }
    let (whole, parts) = values_of_strips(config, size, strips);
    let strip = parts.iter().map(|(state, working)| state + working).max();
    // Strips differ in height, what one leaves is not always of use to the next one, and a library for convolutions
    // is given the first frames together with those before them.
    let strip = strip.unwrap_or(0) / 10 * 11;
    value * (whole + strip + together_values(config, size, usize::MAX))
}

/// Bytes that the decoder remembers on a GPU between segments.
pub fn gpu_state_bytes(
    config: &VaeConfig,
    size: [usize; 2],
    strips: usize,
    element: Element,
) -> u64 {
    let values = match strips {
        1 => decode_values(config, size, None).0,
        _ => values_of_strips(config, size, strips).0,
    };
    element.bytes() as u64 * values
}

/// Bytes that the host keeps for a GPU that decodes in strips: what is remembered of them, and the pictures
/// that are put together.
pub fn parked_bytes(config: &VaeConfig, size: [usize; 2], strips: usize, element: Element) -> u64 {
    if strips == 1 {
        return 0;
    }
    let (_, parts) = values_of_strips(config, size, strips);
    let state: u64 = parts.iter().map(|(state, _)| state).sum();
    element.bytes() as u64 * state + VaeDecoder::TOGETHER_BYTES as u64
}

/// What this machine reaches in the linear layer that decides the time, in operations a second. The
/// first call measures it, which takes about a hundredth of a second.
pub fn probe_flops_per_second(products: Products) -> f64 {
    static MEASURED: [OnceLock<f64>; 2] = [const { OnceLock::new() }; 2];
    // Those of 8 bits are rounded, and computed as f32.
    let of_pairs = products.are_pairs();
    let products = if of_pairs { Products::Bf16 } else { Products::F32 };
    *MEASURED[usize::from(of_pairs)].get_or_init(|| measure_flops_per_second(products))
}

fn measure_flops_per_second(products: Products) -> f64 {
    const ENOUGH: Duration = Duration::from_millis(4);
    const MOST_ROUNDS: usize = 10;
    let (rows, dim) = (512, 768);
    let value = |i: usize| ((i * 2_654_435_761) % 1000) as f32 / 1000.0 - 0.5;
    let weight: Vec<f32> = (0..dim * dim).map(value).collect();
    let dtype = if products == Products::Bf16 { DType::BF16 } else { DType::F32 };
    let weight = Weight::narrowed(&[dim, dim], &weight, dtype);
    let layer = Linear::new(weight, None).with_products(products);
    let x = Tensor::from_vec(&[rows, dim], (0..rows * dim).map(value).collect());
    let mut best = f64::INFINITY;
    let begun = Instant::now();
    // Two rounds at least, the first of which prepares the layer, and more where they are short.
    for round in 0..MOST_ROUNDS {
        let started = Instant::now();
        let y = ops::linear(&x, &layer, Activation::None);
        std::hint::black_box(y.data()[0]);
        best = best.min(started.elapsed().as_secs_f64());
        if round > 0 && begun.elapsed() > ENOUGH {
            break;
        }
    }
    2.0 * (rows * dim * dim) as f64 / best
}

/// What a device reaches in a large matrix product, in operations a second: in `products`, and where they are not of
/// 8 bits, on a GPU in what it computes in.
///
/// # Errors
/// What went wrong on it.
pub fn flops_per_second_of(device: &Device, products: Products) -> Result<f64, GpuError> {
    let Some(gpu) = device.gpu() else { return Ok(probe_flops_per_second(products)) };
    let side = 8192;
    let value = |i: usize| ((i * 2_654_435_761) % 1000) as f32 / 1000.0 - 0.5;
    let weight: Vec<f32> = (0..side * side).map(value).collect();
    let layer = match products {
        Products::Fp8 => {
            let weight = Weight::e4m3(&[side, side], &weight);
            Linear::new(weight, None).with_products(products)
        }
        _ => Linear::new(Weight::narrowed(&[side, side], &weight, DType::BF16), None),
    };
    let x = Tensor::from_vec(&[side, side], weight);
    let x = ops::narrowed(x.on(device)?.into_owned());
    // The first one brings the weight and compiles the kernel.
    drop(ops::linear(&x, &layer, Activation::None));
    gpu.finish()?;
    let (rounds, started) = (8, Instant::now());
    for _ in 0..rounds {
        drop(ops::linear(&x, &layer, Activation::None));
    }
    gpu.finish()?;
    Ok(2.0 * (rounds * side * side) as f64 * side as f64 / started.elapsed().as_secs_f64())
}
