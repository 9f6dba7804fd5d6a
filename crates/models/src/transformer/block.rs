//! One transformer block: self-attention, cross-attention, feed-forward.
//!
//! Reference: `SkyReelsV2TransformerBlock` / `WanTransformerBlock` of diffusers.

use longreel_kernels::ranks::RankError;
use longreel_kernels::{
    Activation, Attention, Bias, Linear, Mask, Modulation, PerFrame, RopeTable, Tensor, Vector, ops,
};
use longreel_weights::TensorSource;

use super::cache::Before;
use super::context::{BlockContext, KeyValue};
use super::strip::Exchange;
use crate::ModelError;
use crate::layers::{Affine, linear};

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
    fn load(source: &mut TensorSource, name: &str, dim: usize) -> Result<Self, ModelError> {
        Ok(Self {
            query: linear(source, &format!("{name}.to_q"), dim, dim)?,
            key: linear(source, &format!("{name}.to_k"), dim, dim)?,
            value: linear(source, &format!("{name}.to_v"), dim, dim)?,
            out: linear(source, &format!("{name}.to_out.0"), dim, dim)?,
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
}

impl BlockShape {
    /// Of one of `ranks` equal parts of the heads.
    fn attention(&self, mask: Mask, ranks: usize) -> Attention<'static> {
        let scale = 1.0 / ((self.dim / self.heads) as f32).sqrt();
        Attention { heads: self.heads / ranks, scale, mask, bias: Bias::None }
    }
}

/// What all blocks of one forward share.
pub(super) struct Shared<'a> {
    /// `[rows, 6 * dim]`.
    pub time_proj: &'a Tensor,
    /// Of this rank's.
    pub tokens_per_frame: usize,
    pub rope: &'a RopeTable,
    pub mask: Mask,
    /// How many padded text positions the last text key stands for.
    pub padding: usize,
    /// With the other ranks.
    pub exchange: Exchange<'a>,
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
                key: linear(source, &format!("{name}.attn2.add_k_proj"), dim, dim)?,
                value: linear(source, &format!("{name}.attn2.add_v_proj"), dim, dim)?,
                norm_key: source
                    .take_f32(&format!("{name}.attn2.norm_added_k.weight"), &[dim])?
                    .into(),
            })
        });
        Ok(Self {
            shape,
            image: image.transpose()?,
            table: source.take_f32(&format!("{name}.scale_shift_table"), &[1, 6, dim])?.into(),
            self_attention: Projections::load(source, &format!("{name}.attn1"), dim)?,
            cross_attention: Projections::load(source, &format!("{name}.attn2"), dim)?,
            norm_cross: shape
                .cross_attn_norm
                .then(|| Affine::load(source, &format!("{name}.norm2"), dim))
                .transpose()?,
            up: linear(source, &format!("{name}.ffn.net.0.proj"), dim, ffn_dim)?,
            down: linear(source, &format!("{name}.ffn.net.2"), ffn_dim, dim)?,
        })
    }

    /// Keys and values of the conditioning, which no latent and no timestep changes.
    pub fn context(&self, text: &Tensor, image: Option<&Tensor>) -> BlockContext {
        let cross = &self.cross_attention;
        let text = self.key_value(text, &cross.key, &cross.value, &cross.norm_key);
        let image = image
            .zip(self.image.as_ref())
            .map(|(image, p)| self.key_value(image, &p.key, &p.value, &p.norm_key));
        BlockContext { text, image }
    }

    fn key_value(&self, x: &Tensor, key: &Linear, value: &Linear, norm: &Vector) -> KeyValue {
        let mut keys = ops::linear(x, key, Activation::None);
        ops::rms_norm_rope(&mut keys, Some(norm), self.shape.eps, None);
        KeyValue { keys, values: ops::linear(x, value, Activation::None) }
    }

    /// `hidden` `[tokens, dim]` is updated in place. At the widest point five activations of its size
    /// are alive: itself, query, key, value and the attention's result. `before` has the keys and
    /// values of the tokens before these.
    pub fn forward(
        &self,
        hidden: &mut Tensor,
        shared: &Shared<'_>,
        context: &BlockContext,
        before: Option<Before<'_>>,
    ) -> Result<(), RankError> {
        let rows = ops::split_modulation::<6>(shared.time_proj, &self.table);
        let frame =
            |i: usize| PerFrame { values: &rows[i], tokens_per_frame: shared.tokens_per_frame };
        self.self_attention(hidden, shared, [frame(0), frame(1), frame(2)], before)?;
        self.cross_attention(hidden, context, shared.padding);
        let modulation = Modulation { shift: frame(3), scale: frame(4) };
        let normed = ops::layer_norm(hidden, None, self.shape.eps, Some(modulation));
        let activation = Activation::GeluTanh;
        let gate = Some(frame(5));
        ops::feed_forward_residual(hidden, &normed, &self.up, &self.down, activation, gate);
        Ok(())
    }

    fn self_attention(
        &self,
        hidden: &mut Tensor,
        shared: &Shared<'_>,
        [shift, scale, gate]: [PerFrame<'_>; 3],
        before: Option<Before<'_>>,
    ) -> Result<(), RankError> {
        let p = &self.self_attention;
        let eps = self.shape.eps;
        let modulation = Modulation { shift, scale };
        let normed = ops::layer_norm(hidden, None, eps, Some(modulation));
        let mut query = ops::linear(&normed, &p.query, Activation::None);
        let mut key = ops::linear(&normed, &p.key, Activation::None);
        let value = ops::linear(&normed, &p.value, Activation::None);
        drop(normed);
        let rope = Some((shared.rope, self.shape.heads));
        ops::rms_norm_rope(&mut query, Some(&p.norm_query), eps, rope);
        ops::rms_norm_rope(&mut key, Some(&p.norm_key), eps, rope);
        let exchange = &shared.exchange;
        let query = exchange.to_heads(query)?;
        let (key, value) = (exchange.to_heads(key)?, exchange.to_heads(value)?);
        let how = self.shape.attention(shared.mask, exchange.ranks.count());
        let (key, value) = match before {
            None => (key, value),
            Some(before) => before.all(key, value),
        };
        let seen = ops::attention(&query, &key, &value, &how);
        drop((query, key, value));
        let seen = exchange.to_strip(seen)?;
        ops::linear_residual(hidden, &seen, &p.out, Some(gate));
        Ok(())
    }

    fn cross_attention(&self, hidden: &mut Tensor, context: &BlockContext, padding: usize) {
        let p = &self.cross_attention;
        let eps = self.shape.eps;
        let mut query = match &self.norm_cross {
            Some(norm) => {
                let normed = ops::layer_norm(hidden, norm.parts(), eps, None);
                ops::linear(&normed, &p.query, Activation::None)
            }
            None => ops::linear(hidden, &p.query, Activation::None),
        };
        ops::rms_norm_rope(&mut query, Some(&p.norm_query), eps, None);
        let how = self.shape.attention(Mask::None, 1);
        let text = &context.text;
        // See `Context`.
        let bias =
            if padding > 1 { Bias::LastKey((padding as f64).ln() as f32) } else { Bias::None };
        let mut seen = ops::attention(&query, &text.keys, &text.values, &Attention { bias, ..how });
        if let Some(image) = &context.image {
            let image = ops::attention(&query, &image.keys, &image.values, &how);
            ops::gate_residual(&mut seen, &image, None);
        }
        drop(query);
        ops::linear_residual(hidden, &seen, &p.out, None);
    }
}
