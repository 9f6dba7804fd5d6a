//! One transformer block: self-attention, cross-attention, feed-forward.
//!
//! Reference: `SkyReelsV2TransformerBlock` / `WanTransformerBlock` of diffusers.

use std::borrow::Cow;
use std::ops::Range;

use longreel_kernels::ranks::RankError;
use longreel_kernels::{
    Activation, Attention, Bias, Linear, LinearInput, Mask, Modulation, PerFrame, Products,
    RopeTable, Sample, Sparse, Tensor, Vector, ops,
};
use longreel_weights::TensorSource;

use super::cache::Before;
use super::context::{BlockContext, KeyValue};
use super::strip::Exchange;
use crate::ModelError;
use crate::layers::{Affine, block_linear, prompt_linear};

/// Query, key, value and output of one attention, with its norms over all heads together.
#[derive(Debug, Clone)]
struct Projections {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    norm_query: Vector,
    norm_key: Vector,
}

impl Projections {
    /// `given` is what makes keys and values.
    fn load(
        source: &mut TensorSource,
        name: &str,
        dim: usize,
        given: fn(&mut TensorSource, &str, usize, usize) -> Result<Linear, ModelError>,
    ) -> Result<Self, ModelError> {
        Ok(Self {
            query: block_linear(source, &format!("{name}.to_q"), dim, dim)?,
            key: given(source, &format!("{name}.to_k"), dim, dim)?,
            value: given(source, &format!("{name}.to_v"), dim, dim)?,
            out: block_linear(source, &format!("{name}.to_out.0"), dim, dim)?,
            norm_query: source.take_f32(&format!("{name}.norm_q.weight"), &[dim])?.into(),
            norm_key: source.take_f32(&format!("{name}.norm_k.weight"), &[dim])?.into(),
        })
    }
}

/// Keys and values of image tokens, in models that take an image.
#[derive(Debug, Clone)]
struct ImageProjections {
    key: Linear,
    value: Linear,
    norm_key: Vector,
}

/// Sizes shared by all blocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockShape {
    pub dim: usize,
    pub ffn_dim: usize,
    pub heads: usize,
    pub eps: f32,
    pub cross_attn_norm: bool,
    pub image_keys: bool,
    /// Of layers and attention.
    pub products: Products,
}

impl BlockShape {
    /// Of one of `ranks` equal parts of the heads.
    fn attention(&self, mask: Mask, ranks: usize) -> Attention<'static> {
        let scale = 1.0 / ((self.dim / self.heads) as f32).sqrt();
        Attention {
            heads: self.heads / ranks,
            scale,
            mask,
            bias: Bias::None,
            products: self.products,
        }
    }
}

/// What all blocks of one forward share.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    /// `[rows, 6 * dim]`: one row for all tokens, or one for each latent frame of each sample.
    pub time_proj: &'a Tensor,
    /// Of this rank's.
    pub tokens_per_frame: usize,
    /// Of one sample's tokens.
    pub rope: RopeTable<'a>,
    pub mask: Mask,
    /// Which keys self-attention leaves out.
    pub sparse: Option<Sparse<'a>>,
    /// With the other ranks.
    pub exchange: Exchange<'a>,
}

/// The tokens that are asked about, where they are not all: the last frames of each sample. The others are
/// only seen.
pub(super) struct Asked<'a> {
    /// Of these tokens.
    pub shared: Shared<'a>,
    /// Where they are among all, sample by sample.
    pub rows: Vec<Range<usize>>,
}

impl Asked<'_> {
    /// Their rows of a tensor of all tokens.
    pub fn of(&self, all: &Tensor) -> Tensor {
        Tensor::concat_rows(&self.rows.iter().map(|rows| (all, rows.clone())).collect::<Vec<_>>())
    }
}

/// The modulation of self-attention.
struct Attending<'a> {
    /// Of all tokens.
    all: Modulation<'a>,
    /// Of those that are asked about.
    asking: Modulation<'a>,
    /// Of the same.
    gate: PerFrame<'a>,
}

/// The weights of one block.
#[derive(Debug, Clone)]
pub(super) struct Block {
    shape: BlockShape,
    /// `[6, dim]`, flat.
    table: Vector,
    self_attention: Projections,
    cross_attention: Projections,
    image: Option<ImageProjections>,
    norm_cross: Option<Affine>,
    up: Linear,
    down: Linear,
}

impl Block {
    pub fn load(
        source: &mut TensorSource,
        index: usize,
        shape: BlockShape,
    ) -> Result<Self, ModelError> {
        let BlockShape { dim, ffn_dim, .. } = shape;
        let name = format!("blocks.{index}");
        let image = shape.image_keys.then(|| {
            Ok::<_, ModelError>(ImageProjections {
                key: prompt_linear(source, &format!("{name}.attn2.add_k_proj"), dim, dim)?,
                value: prompt_linear(source, &format!("{name}.attn2.add_v_proj"), dim, dim)?,
                norm_key: source
                    .take_f32(&format!("{name}.attn2.norm_added_k.weight"), &[dim])?
                    .into(),
            })
        });
        Ok(Self {
            shape,
            image: image.transpose()?,
            table: source.take_f32(&format!("{name}.scale_shift_table"), &[1, 6, dim])?.into(),
            self_attention: Projections::load(source, &format!("{name}.attn1"), dim, block_linear)?,
            // Keys and values of text and image are made once a prompt: there is nothing to gain from fewer bits
            // of what they are made of.
            cross_attention: Projections::load(
                source,
                &format!("{name}.attn2"),
                dim,
                prompt_linear,
            )?,
            norm_cross: shape
                .cross_attn_norm
                .then(|| Affine::load(source, &format!("{name}.norm2"), dim))
                .transpose()?,
            up: block_linear(source, &format!("{name}.ffn.net.0.proj"), dim, ffn_dim)?,
            down: block_linear(source, &format!("{name}.ffn.net.2"), ffn_dim, dim)?,
        })
    }

    /// Keys and values of the conditioning, which no latent and no timestep changes: of `[text tokens (+ 1 for the
    /// padding), dim]`, the last row of which stands for `padding` ones, and of `[image tokens, dim]`.
    pub fn context(&self, text: &Tensor, image: Option<&Tensor>, padding: usize) -> BlockContext {
        let cross = &self.cross_attention;
        let text = self.key_values(text, &cross.key, &cross.value, &cross.norm_key);
        let of_image = |(own, image): (&ImageProjections, _)| {
            self.key_values(image, &own.key, &own.value, &own.norm_key)
        };
        let image = self.image.as_ref().zip(image).map(of_image);
        BlockContext { text, image, padding }
    }

    fn key_values(&self, given: &Tensor, key: &Linear, value: &Linear, norm: &Vector) -> KeyValue {
        let mut keys = ops::linear(given, key, Activation::None);
        ops::rms_norm_rope(&mut keys, Some(norm), self.shape.eps, None);
        KeyValue { keys, values: ops::linear(given, value, Activation::None) }
    }

    /// `hidden` `[samples * tokens, dim]` is updated in place, with a context for each sample. At the widest
    /// point five activations of its size are alive: itself, query, key, value and the attention's
    /// result. `before` has the keys and values of the tokens before these: of each sample, or nothing.
    /// Where not all tokens are `asked` about, only those are left in `hidden`.
    pub fn forward(
        &self,
        hidden: &mut Tensor,
        shared: &Shared<'_>,
        asked: Option<&Asked<'_>>,
        contexts: &[&BlockContext],
        before: &mut [Before<'_>],
    ) -> Result<(), RankError> {
        let all = ops::split_modulation::<6>(shared.time_proj, &self.table);
        let rows = asked.map_or_else(
            || all.each_ref().map(Cow::Borrowed),
            |asked| ops::split_modulation(asked.shared.time_proj, &self.table).map(Cow::Owned),
        );
        let per_frame = |values| PerFrame { values, tokens_per_frame: shared.tokens_per_frame };
        let frame = |i: usize| per_frame(&rows[i]);
        let asking = Modulation { shift: frame(0), scale: frame(1) };
        let all = Modulation { shift: per_frame(&all[0]), scale: per_frame(&all[1]) };
        let attending = Attending { all, asking, gate: frame(2) };
        self.self_attention(hidden, shared, asked, contexts.len(), attending, before)?;
        self.cross_attention(hidden, contexts);
        let normed = self.normed(hidden, Modulation { shift: frame(3), scale: frame(4) });
        let activation = Activation::GeluTanh;
        let gate = Some(frame(5));
        ops::feed_forward_residual(hidden, &normed, &self.up, &self.down, activation, gate);
        Ok(())
    }

    /// What layers multiply of the hidden state.
    fn normed(&self, hidden: &Tensor, modulation: Modulation<'_>) -> LinearInput {
        let BlockShape { eps, products, .. } = self.shape;
        ops::layer_norm_input(hidden, None, eps, Some(modulation), products)
    }

    fn self_attention(
        &self,
        hidden: &mut Tensor,
        shared: &Shared<'_>,
        asked: Option<&Asked<'_>>,
        samples: usize,
        modulation: Attending<'_>,
        before: &mut [Before<'_>],
    ) -> Result<(), RankError> {
        let p = &self.self_attention;
        let eps = self.shape.eps;
        let normed = self.normed(hidden, modulation.all);
        let (mut query, mut key, value) = match asked {
            None => {
                let layers = [&p.query, &p.key, &p.value];
                let [query, key, value] = ops::linear_each(&normed, layers);
                (query, key, value)
            }
            Some(asked) => {
                let [key, value] = ops::linear_each(&normed, [&p.key, &p.value]);
                *hidden = asked.of(hidden);
                // A row's norm and codes depend on no other row.
                let normed = self.normed(hidden, modulation.asking);
                let [query] = ops::linear_each(&normed, [&p.query]);
                (query, key, value)
            }
        };
        drop(normed);
        let asking = asked.map_or(shared, |asked| &asked.shared);
        let heads = self.shape.heads;
        ops::rms_norm_rope(&mut query, Some(&p.norm_query), eps, Some((asking.rope, heads)));
        ops::rms_norm_rope(&mut key, Some(&p.norm_key), eps, Some((shared.rope, heads)));
        let query = asking.exchange.to_heads(query)?;
        let exchange = &shared.exchange;
        let (key, value) = (exchange.to_heads(key)?, exchange.to_heads(value)?);
        let how = self.shape.attention(shared.mask, exchange.ranks.count());
        let seen = attend(&query, [key, value], samples, how, shared.sparse.as_ref(), before);
        drop(query);
        let seen = asking.exchange.to_strip(seen)?;
        ops::linear_residual(hidden, &seen, &p.out, Some(modulation.gate));
        Ok(())
    }

    fn cross_attention(&self, hidden: &mut Tensor, contexts: &[&BlockContext]) {
        let p = &self.cross_attention;
        let BlockShape { eps, products, .. } = self.shape;
        let mut query = match &self.norm_cross {
            Some(norm) => {
                let normed = ops::layer_norm_input(hidden, norm.parts(), eps, None, products);
                let [query] = ops::linear_each(&normed, [&p.query]);
                query
            }
            None => ops::linear(hidden, &p.query, Activation::None),
        };
        ops::rms_norm_rope(&mut query, Some(&p.norm_query), eps, None);
        let how = self.shape.attention(Mask::None, 1);
        let contexts = || contexts.iter().copied();
        // For the bias see `Context`.
        let texts = contexts().map(|BlockContext { text, padding, .. }| {
            text.seen(Attention { bias: padding_bias(*padding), ..how })
        });
        let mut seen = ops::attention_of_samples(&query, &texts.collect::<Vec<_>>());
        let images = contexts().filter_map(|context| context.image.as_ref());
        let images: Vec<_> = images.map(|image| image.seen(how)).collect();
        if !images.is_empty() {
            let image = ops::attention_of_samples(&query, &images);
            ops::gate_residual(&mut seen, &image, None);
        }
        drop(query);
        ops::linear_residual(hidden, &seen, &p.out, None);
    }
}

/// What is added to the score of the key that stands for so many equal ones.
fn padding_bias(padding: usize) -> Bias<'static> {
    match padding {
        0 | 1 => Bias::None,
        padding => Bias::LastKey((padding as f64).ln() as f32),
    }
}

/// What the queries of each sample see of its own keys and values, and of those before them.
fn attend(
    query: &Tensor,
    [key, value]: [Tensor; 2],
    samples: usize,
    how: Attention<'static>,
    sparse: Option<&Sparse<'_>>,
    before: &mut [Before<'_>],
) -> Tensor {
    let attention = |samples: &[Sample<'_>]| match sparse {
        None => ops::attention_of_samples(query, samples),
        Some(sparse) => ops::sparse_attention_of_samples(query, samples, sparse),
    };
    if before.is_empty() {
        let tokens = key.dim(0) / samples;
        let rows = (0..samples).map(|sample| sample * tokens..(sample + 1) * tokens);
        let all: Vec<_> = rows.map(|keys| Sample { k: &key, v: &value, keys, how }).collect();
        return attention(&all);
    }
    let all = Before::all(before, key, value);
    let all: Vec<_> = all.iter().map(|[keys, values]| Sample::of(keys, values, how)).collect();
    attention(&all)
}
