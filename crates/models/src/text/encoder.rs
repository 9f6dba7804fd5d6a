//! The UMT5 encoder (Chung et al. 2023, "UniMax"; `UMT5EncoderModel` of transformers).

use longreel_kernels::ops::{self, Attention, Bias, Mask};
use longreel_kernels::{Activation, Device, GpuError, Linear, Products, Tensor, Vector, Weight};
use longreel_weights::{TensorSource, TextConfig};

use crate::ModelError;
use crate::error::input;
use crate::layers::linear_without_bias;

/// UMT5's encoder of any size: token ids to embeddings.
///
/// It sees the real tokens only. The reference pads every prompt and masks the padding, which gives
/// the same rows at many times the work.
#[derive(Debug)]
pub struct TextEncoder {
    embeddings: Weight,
    blocks: Vec<Block>,
    norm: Vector,
    eps: f32,
    heads: usize,
    buckets: Buckets,
    device: Device,
}

#[derive(Debug)]
struct Block {
    norm: Vector,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    /// `[buckets, heads]`; each layer has its own, unlike in T5.
    position_bias: Vec<f32>,
    feed_forward_norm: Vector,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl TextEncoder {
    /// Takes the encoder's tensors out of `source`.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape, or left over.
    pub fn load(config: &TextConfig, mut source: TensorSource) -> Result<Self, ModelError> {
        let (dim, inner) = (config.d_model, config.num_heads * config.d_kv);
        let embeddings = source.take("shared.weight", &[config.vocab_size, dim])?;
        let blocks = (0..config.num_layers)
            .map(|index| Block::load(&mut source, index, config, inner))
            .collect::<Result<_, _>>()?;
        let norm = Vector::from(source.take_f32("encoder.final_layer_norm.weight", &[dim])?);
        source.finish()?;
        Ok(Self {
            embeddings,
            blocks,
            norm,
            eps: config.layer_norm_epsilon as f32,
            heads: config.num_heads,
            buckets: Buckets {
                count: config.relative_attention_num_buckets,
                max_distance: config.relative_attention_max_distance,
            },
            device: Device::Cpu,
        })
    }

    /// The same network, run by `device`. Weights are brought there when they are first used.
    pub fn on(self, device: &Device) -> Self {
        Self { device: device.clone(), ..self }
    }

    /// Width of an embedding.
    pub fn dim(&self) -> usize {
        self.norm.len()
    }

    /// Embeddings `[tokens, d_model]` of the tokens of one prompt, its end token included.
    ///
    /// # Errors
    /// No token, or one beyond the vocabulary.
    pub fn encode(&self, ids: &[u32]) -> Result<Tensor, ModelError> {
        let vocabulary = self.embeddings.shape()[0];
        if ids.is_empty() {
            return Err(input("the prompt", ids, "it needs at least the end token"));
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            let rule = format!("the text encoder knows {vocabulary} tokens; use its own tokenizer");
            return Err(input("a token", id, rule));
        }
        let buckets = self.buckets.table(ids.len());
        let mut hidden = ops::embedding(&self.embeddings, ids).on(&self.device)?.into_owned();
        for block in &self.blocks {
            block.forward(&mut hidden, self.heads, self.eps, &buckets, &self.device)?;
        }
        ops::rms_norm_rope(&mut hidden, Some(&self.norm), self.eps, None);
        Ok(hidden.into_host()?)
    }
}

impl Block {
    fn load(
        source: &mut TensorSource,
        index: usize,
        config: &TextConfig,
        inner: usize,
    ) -> Result<Self, ModelError> {
        let (dim, wide) = (config.d_model, config.d_ff);
        let attention = format!("encoder.block.{index}.layer.0");
        let feed_forward = format!("encoder.block.{index}.layer.1");
        let mut layer =
            |name: String, inputs, outputs| linear_without_bias(source, &name, inputs, outputs);
        let q = layer(format!("{attention}.SelfAttention.q"), dim, inner)?;
        let k = layer(format!("{attention}.SelfAttention.k"), dim, inner)?;
        let v = layer(format!("{attention}.SelfAttention.v"), dim, inner)?;
        let out = layer(format!("{attention}.SelfAttention.o"), inner, dim)?;
        let gate = layer(format!("{feed_forward}.DenseReluDense.wi_0"), dim, wide)?;
        let up = layer(format!("{feed_forward}.DenseReluDense.wi_1"), dim, wide)?;
        let down = layer(format!("{feed_forward}.DenseReluDense.wo"), wide, dim)?;
        Ok(Self {
            norm: source.take_f32(&format!("{attention}.layer_norm.weight"), &[dim])?.into(),
            q,
            k,
            v,
            out,
            position_bias: source.take_f32(
                &format!("{attention}.SelfAttention.relative_attention_bias.weight"),
                &[config.relative_attention_num_buckets, config.num_heads],
            )?,
            feed_forward_norm: source
                .take_f32(&format!("{feed_forward}.layer_norm.weight"), &[dim])?
                .into(),
            gate,
            up,
            down,
        })
    }

    fn forward(
        &self,
        hidden: &mut Tensor,
        heads: usize,
        eps: f32,
        buckets: &[usize],
        device: &Device,
    ) -> Result<(), GpuError> {
        let mut x = hidden.clone();
        ops::rms_norm_rope(&mut x, Some(&self.norm), eps, None);
        let x = ops::narrowed(x);
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|l| ops::linear(&x, l, Activation::None));
        let tokens = x.dim(0);
        let bias = (0..heads)
            .flat_map(|head| buckets.iter().map(move |&b| self.position_bias[b * heads + head]))
            .collect();
        let bias = Tensor::from_vec(&[heads, tokens, tokens], bias);
        let bias = bias.on(device)?;
        // The scores are not scaled: the initialisation of q takes care of that.
        let how = Attention {
            heads,
            scale: 1.0,
            mask: Mask::None,
            bias: Bias::Scores(&bias),
            products: Products::F32,
        };
        ops::linear_residual(hidden, &ops::attention(&q, &k, &v, &how), &self.out, None);

        let mut x = hidden.clone();
        ops::rms_norm_rope(&mut x, Some(&self.feed_forward_norm), eps, None);
        let x = ops::narrowed(x);
        let mut gated = ops::linear(&x, &self.gate, Activation::GeluTanh);
        ops::mul_inplace(&mut gated, &ops::linear(&x, &self.up, Activation::None));
        ops::linear_residual(hidden, &gated, &self.down, None);
        Ok(())
    }
}

/// How distances between tokens share position biases (T5's rule, in both directions): exact up to a
/// quarter of the buckets, then by logarithm up to the last distance.
#[derive(Debug)]
struct Buckets {
    count: usize,
    max_distance: usize,
}

impl Buckets {
    /// Bucket of each pair, `[queries, keys]`.
    fn table(&self, tokens: usize) -> Vec<usize> {
        let pairs = (0..tokens).flat_map(|query| (0..tokens).map(move |key| (query, key)));
        pairs.map(|(query, key)| self.of(query, key)).collect()
    }

    fn of(&self, query: usize, key: usize) -> usize {
        let half = self.count / 2;
        let exact = half / 2;
        let distance = key.abs_diff(query);
        let bucket = if distance < exact {
            distance
        } else {
            // In f32, as the reference does: a rounding moves a distance to another bucket.
            let ratio = (distance as f32 / exact as f32).ln();
            let full = (self.max_distance as f64 / exact as f64).ln() as f32;
            let further = (ratio / full * (half - exact) as f32) as usize;
            (exact + further).min(half - 1)
        };
        if key > query { half + bucket } else { bucket }
    }
}
