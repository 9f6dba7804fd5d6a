use longreel_kernels::ops::{attention, attention_of_samples};
use longreel_kernels::{Attention, Bias, Mask, Products, Sample, Tensor};

use crate::{
    Expected, Numbers, Place, assert_close, assert_same_on_any_threads, host, on_every_device,
};

/// Attention at a place, and what comes of it on the host.
fn at(place: &Place, [q, k, v]: [&Tensor; 3], how: &Attention<'_>) -> Tensor {
    let scores = match how.bias {
        Bias::Scores(bias) => Some(place.on(bias)),
        _ => None,
    };
    let bias = scores.as_ref().map_or(how.bias, Bias::Scores);
    let [q, k, v] = [q, k, v].map(|x| place.on(x));
    host(attention(&q, &k, &v, &Attention { bias, ..*how }))
}

pub(crate) fn reference(q: &Tensor, k: &Tensor, v: &Tensor, how: &Attention<'_>) -> Vec<Expected> {
    let (queries, keys, heads) = (q.dim(0), k.dim(0), how.heads);
    let (hd, vhd) = (q.dim(1) / heads, v.dim(1) / heads);
    let mut out = Vec::new();
    for i in 0..queries {
        for h in 0..heads {
            // Fewer queries than keys are those of the last keys.
            let sees = |j: usize| match how.mask {
                Mask::None => true,
                Mask::BlockCausal { tokens_per_block: n } => j / n <= (i + keys - queries) / n,
                Mask::BlockWindow { tokens_per_block: n, before, sink } => {
                    let (own, block) = ((i + keys - queries) / n, j / n);
                    block <= own && (block + before >= own || block < sink)
                }
            };
            let q = &q.data()[i * heads * hd + h * hd..][..hd];
            let (mut scores, mut size) = (Vec::new(), 0.0f64);
            for j in 0..keys {
                if !sees(j) {
                    scores.push(f64::NEG_INFINITY);
                    continue;
                }
                let k = &k.data()[j * heads * hd + h * hd..][..hd];
                let terms = q.iter().zip(k).map(|(&a, &b)| f64::from(a) * f64::from(b));
                let (dot, sum) = terms.fold((0.0, 0.0), |(s, m), t: f64| (s + t, m + t.abs()));
                let bias = match how.bias {
                    Bias::Scores(b) => b.data()[(h * queries + i) * keys + j],
                    Bias::LastKey(added) if j + 1 == keys => added,
                    _ => 0.0,
                };
                scores.push(dot * f64::from(how.scale) + f64::from(bias));
                size = size.max(sum * f64::from(how.scale) + f64::from(bias.abs()));
            }
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..vhd {
                let (mut value, mut magnitude) = (0.0, 0.0);
                for (j, weight) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
                    let v = f64::from(v.data()[j * heads * vhd + h * vhd + d]);
                    value += weight / total * v;
                    magnitude += weight / total * v.abs();
                }
                // A score is off by 1e-6 of its size, which changes its weight by as much.
                out.push(Expected { value, tolerance: 1e-6 * (2.0 + size) * magnitude });
            }
        }
    }
    out
}

/// Queries, keys, heads, head size of keys and of values, tokens per causal block (0: no mask).
pub(crate) const SHAPES: [[usize; 6]; 13] = [
    [1, 1, 1, 16, 16, 0],
    [7, 5, 2, 20, 20, 0],
    [13, 257, 3, 16, 16, 0],
    [50, 64, 1, 33, 17, 0],
    [129, 300, 2, 64, 64, 0],
    [40, 513, 2, 128, 128, 0],
    [30, 40, 1, 256, 256, 0],
    [9, 9, 2, 5, 3, 0],
    [96, 96, 2, 20, 20, 8],
    [90, 90, 1, 32, 32, 7],
    [600, 600, 1, 24, 24, 150],
    [650, 700, 1, 8, 8, 300],
    [270, 430, 1, 8, 8, 1],
];

#[test]
fn attention_equals_the_reference_at_awkward_shapes() {
    on_every_device(|place| {
        for (i, [queries, keys, heads, hd, vhd, block]) in SHAPES.into_iter().enumerate() {
            let mut numbers = Numbers::new(i as u64);
            let mut q = numbers.tensor(&[queries, heads * hd]);
            let k = numbers.tensor(&[keys, heads * hd]);
            let v = numbers.tensor(&[keys, heads * vhd]);
            // Sharp scores move the running maximum about.
            q.data_mut().iter_mut().for_each(|v| *v *= 6.0);
            let mask = match block {
                0 => Mask::None,
                n => Mask::BlockCausal { tokens_per_block: n },
            };
            let bias = numbers.tensor(&[heads, queries, keys]);
            for bias in [Bias::None, Bias::Scores(&bias), Bias::LastKey(3.5)] {
                let how = Attention {
                    heads,
                    scale: 1.0 / (hd as f32).sqrt(),
                    mask,
                    bias,
                    products: Products::F32,
                };
                let name = format!("{place} attention {queries}x{keys} {heads}x{hd} {block}");
                let found = at(place, [&q, &k, &v], &how);
                assert_eq!(found.shape(), [queries, heads * vhd]);
                assert_close(&name, found.data(), &reference(&q, &k, &v, &how));
            }
        }
    });
}

/// Queries, keys, tokens per block, blocks seen before the own one, sink blocks.
pub(crate) const WINDOWS: [[usize; 5]; 9] = [
    [9, 9, 1, 0, 0],
    [9, 9, 2, 1, 1],
    [100, 100, 7, 3, 2],
    [30, 100, 7, 3, 2],
    [1, 97, 8, 2, 0],
    [450, 450, 150, 1, 0],
    [300, 900, 300, 1, 1],
    [350, 700, 35, 4, 12],
    [540, 810, 270, 0, 1],
];

#[test]
fn windows_equal_the_reference_at_awkward_shapes() {
    on_every_device(|place| {
        for (i, [queries, keys, block, before, sink]) in WINDOWS.into_iter().enumerate() {
            let mut numbers = Numbers::new(i as u64);
            let (heads, hd) = (2, 24);
            let mut q = numbers.tensor(&[queries, heads * hd]);
            let [k, v] = [(); 2].map(|()| numbers.tensor(&[keys, heads * hd]));
            q.data_mut().iter_mut().for_each(|v| *v *= 6.0);
            let mask = Mask::BlockWindow { tokens_per_block: block, before, sink };
            let bias = numbers.tensor(&[heads, queries, keys]);
            for bias in [Bias::None, Bias::Scores(&bias)] {
                let how = Attention { heads, scale: 0.2, mask, bias, products: Products::F32 };
                let name = format!("{place} {queries}x{keys} {mask:?}");
                let found = at(place, [&q, &k, &v], &how);
                assert_close(&name, found.data(), &reference(&q, &k, &v, &how));
            }
        }
    });
}

/// What lets the keys of finished blocks be kept: the queries behind them give the same bits as in one
/// piece, and on the processor so do they without the blocks that a window hides from them. A GPU sums by tiles of keys
/// counted from the first that is there.
#[test]
fn queries_of_the_last_blocks_equal_those_of_all_bit_for_bit() {
    on_every_device(|place| {
        for (block, blocks) in [(7, 9), (105, 4), (300, 3)] {
            let mut numbers = Numbers::new(block as u64);
            let (heads, hd) = (2, 24);
            let all = block * blocks;
            let [q, k, v] = [(); 3].map(|()| numbers.tensor(&[all, heads * hd]));
            let of = |mask| Attention {
                heads,
                scale: 0.2,
                mask,
                bias: Bias::None,
                products: Products::F32,
            };
            let causal = of(Mask::BlockCausal { tokens_per_block: block });
            let (before, sink) = (1, 1);
            let window = of(Mask::BlockWindow { tokens_per_block: block, before, sink });
            for how in [&causal, &window] {
                let whole = at(place, [&q, &k, &v], how);
                for first in 0..blocks {
                    // Later blocks are not there yet.
                    for end in [first + 1, blocks] {
                        let own = first * block..end * block;
                        let hidden = match first.saturating_sub(before) {
                            near if near > sink && how.mask == window.mask && !place.is_gpu() => {
                                sink..near
                            }
                            _ => 0..0,
                        };
                        let keys = |x: &Tensor| {
                            let seen = [0..hidden.start * block, hidden.end * block..own.end];
                            Tensor::concat_rows(&seen.map(|rows| (x, rows)))
                        };
                        let operands = [&q.slice0(own.clone()), &keys(&k), &keys(&v)];
                        let part = at(place, operands, how);
                        let name = format!("{place} {:?} {first}..{end}", how.mask);
                        assert!(part == whole.slice0(own), "{name}");
                    }
                }
            }
        }
    });
}

/// A batch: each sample sees rows of its own among all keys, or keys of its own.
#[test]
fn samples_equal_each_alone_bit_for_bit() {
    on_every_device(|place| {
        for (queries, heads, size) in [(1, 1, 8), (50, 2, 24), (700, 3, 16)] {
            let mut numbers = Numbers::new(queries as u64);
            let dim = heads * size;
            let q = place.on(&numbers.tensor(&[3 * queries, dim]));
            let [k, v] = [(); 2].map(|()| place.on(&numbers.tensor(&[2 * queries, dim])));
            let [other_k, other_v] =
                [(); 2].map(|()| place.on(&numbers.tensor(&[queries + 9, dim])));
            let bias = place.on(&numbers.tensor(&[heads, queries, queries]));
            let of =
                |mask, bias| Attention { heads, scale: 0.3, mask, bias, products: Products::F32 };
            let causal = Mask::BlockCausal { tokens_per_block: 20 };
            let samples = [
                Sample { k: &k, v: &v, keys: 0..queries, how: of(causal, Bias::None) },
                Sample {
                    k: &k,
                    v: &v,
                    keys: queries..2 * queries,
                    how: of(Mask::None, Bias::Scores(&bias)),
                },
                Sample::of(&other_k, &other_v, of(Mask::None, Bias::LastKey(2.5))),
            ];
            let together = host(attention_of_samples(&q, &samples));
            for (index, Sample { k, v, keys, how }) in samples.iter().enumerate() {
                let own = index * queries..(index + 1) * queries;
                let (k, v) = (k.slice0(keys.clone()), v.slice0(keys.clone()));
                let alone = host(attention(&q.slice0(own.clone()), &k, &v, how));
                let name = format!("{place} {queries} {heads}x{size}, {index}");
                assert!(together.slice0(own) == alone, "{name}");
            }
        }
    });
}

#[test]
fn attention_does_not_depend_on_the_number_of_threads() {
    let mut numbers = Numbers::new(0);
    let [q, k, v] = [300, 500, 500].map(|n| numbers.tensor(&[n, 3 * 40]));
    let window = Mask::BlockWindow { tokens_per_block: 77, before: 1, sink: 1 };
    for mask in [Mask::None, Mask::BlockCausal { tokens_per_block: 77 }, window] {
        let how =
            Attention { heads: 3, scale: 0.2, mask, bias: Bias::None, products: Products::F32 };
        assert_same_on_any_threads("attention", || attention(&q, &k, &v, &how));
    }
}

#[test]
fn a_nan_in_the_keys_reaches_the_result() {
    on_every_device(|place| {
        let mut numbers = Numbers::new(0);
        let [q, mut k, v] = [20, 300, 300].map(|n| numbers.tensor(&[n, 16]));
        k.data_mut()[290 * 16] = f32::NAN;
        let how = Attention {
            heads: 1,
            scale: 0.2,
            mask: Mask::None,
            bias: Bias::None,
            products: Products::F32,
        };
        let y = at(place, [&q, &k, &v], &how);
        assert!(y.data().iter().all(|v| v.is_nan()), "{place}");
    });
}
