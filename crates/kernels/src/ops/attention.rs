//! Softmax attention.

use rayon::prelude::*;

use crate::Tensor;

/// Which keys a query may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// All.
    None,
    /// Keys of its own and earlier blocks of `tokens_per_block` tokens.
    BlockCausal {
        /// Tokens in one causal block.
        tokens_per_block: usize,
    },
}

/// How attention is computed.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Number of heads; the dim of q, k and v is `heads * head_dim`.
    pub heads: usize,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Which keys a query may see.
    pub mask: Mask,
    /// Added to the scaled scores: `[heads, queries, keys]` (UMT5's relative positions).
    pub bias: Option<&'a Tensor>,
}

/// Softmax attention. `q` `[queries, heads * head_dim]`, `k` and `v` `[keys, heads * head_dim]`,
/// result `[queries, heads * head_dim]`. The value's head size may differ from the key's.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, how: &Attention<'_>) -> Tensor {
    let (queries, keys, heads) = (q.dim(0), k.dim(0), how.heads);
    let (dim, vdim) = (q.dim(1), v.dim(1));
    let (hd, vhd) = (dim / heads, vdim / heads);
    let mut out = Tensor::zeros(&[queries, vdim]);
    out.data_mut().par_chunks_mut(vdim).enumerate().for_each(|(i, out)| {
        let visible = match how.mask {
            Mask::None => keys,
            Mask::BlockCausal { tokens_per_block } => {
                ((i / tokens_per_block + 1) * tokens_per_block).min(keys)
            }
        };
        for h in 0..heads {
            let q = &q.data()[i * dim + h * hd..][..hd];
            let mut scores: Vec<f32> = (0..visible)
                .map(|j| {
                    let k = &k.data()[j * dim + h * hd..][..hd];
                    let dot: f32 = q.iter().zip(k).map(|(a, b)| a * b).sum();
                    let bias = how.bias.map_or(0.0, |b| b.data()[(h * queries + i) * keys + j]);
                    dot * how.scale + bias
                })
                .collect();
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for s in &mut scores {
                *s = (*s - max).exp();
                sum += *s;
            }
            let out = &mut out[h * vhd..(h + 1) * vhd];
            for (j, s) in scores.iter().enumerate() {
                let v = &v.data()[j * vdim + h * vhd..][..vhd];
                out.iter_mut().zip(v).for_each(|(o, v)| *o += s / sum * v);
            }
        }
    });
    out
}
