//! Attention over more values than 32 bits count.

use longreel_kernels::gpu::{Element, ops};

use super::{MANY, TOLERANCE, close, dot, get, large, put, unset, wide};
use crate::Numbers;

/// Attention of each block of `block` tokens with itself, for tokens that end where the arrays do.
fn attention(heads: usize, size: usize, block: usize, checked: usize) {
    let Some(gpu) = large() else { return };
    let row = heads * size;
    let tokens = MANY.div_ceil(row * block) * block;
    let part = || unset(&gpu, Element::Bf16, tokens * row);
    let (Some(q), Some(k), Some(v)) = (part(), part(), part()) else { return };
    let mut numbers = Numbers::new(size as u64);
    let [ours, keys, values] = [(); 3].map(|()| numbers.vec(block * row));
    for (to, values) in [(&q, &ours), (&k, &keys), (&v, &values)] {
        put(to, (tokens - block) * row, values);
    }
    let seen = ops::Seen { tokens_per_block: block, before: 0, ..ops::Seen::ALL };
    let scale = 4.0 / (size as f32).sqrt();
    let how = ops::Attend { heads, scale, seen, added: ops::Scores::None };
    let out = ops::attention(&q, &k, &v, tokens, tokens, &how);
    let (ours, keys, values) = (wide(&ours), wide(&keys), wide(&values));
    // The head and the columns of the block that runs.
    let head =
        |of: &[f64], token: usize| of[token * row + checked / size * size..][..size].to_vec();
    let query = head(&ours, block - 1);
    let weights: Vec<f64> =
        (0..block).map(|key| (dot(&query, &head(&keys, key)) * f64::from(scale)).exp()).collect();
    let total: f64 = weights.iter().sum();
    let expected: Vec<f64> = (checked % size..size)
        .map(|column| {
            let parts = weights.iter().enumerate();
            parts.map(|(key, weight)| weight * head(&values, key)[column]).sum::<f64>() / total
        })
        .collect();
    let at = (tokens - 1) * row + checked;
    let found = get(&out, at..(tokens - 1) * row + checked / size * size + size);
    close("attention", &found, &expected, TOLERANCE);
}

#[test]
fn attention_on_the_tensor_cores_reaches_the_last_tokens() {
    // The first block has the last queries of the first head.
    attention(40, 128, 100, 0);
}

#[test]
fn attention_in_f32_reaches_the_last_tokens() {
    // The last block has the last queries, and the columns beyond the first two times 512.
    attention(1, 1028, 20, 1024);
}

#[test]
fn scores_of_the_last_head_are_added_where_there_are_many() {
    let Some(gpu) = large() else { return };
    let (heads, size, block) = (64, 16, 64);
    let tokens = 5888;
    let row = heads * size;
    let Some(bias) = unset(&gpu, Element::F32, heads * tokens * tokens) else { return };
    let mut numbers = Numbers::new(3);
    let (first, added) = (numbers.vec(block * row), numbers.vec(block));
    let Some(v) = unset(&gpu, Element::Bf16, tokens * row) else { return };
    let Some(q) = unset(&gpu, Element::Bf16, tokens * row) else { return };
    put(&v, 0, &first);
    put(&q, 0, &vec![0.0; block * row]);
    // Of the first query, which the last block has with the last head.
    put(&bias, (heads - 1) * tokens * tokens, &added);
    let seen = ops::Seen { tokens_per_block: block, before: 0, ..ops::Seen::ALL };
    let how = ops::Attend { heads, scale: 1.0, seen, added: ops::Scores::All(&bias) };
    let out = ops::attention(&q, &q, &v, tokens, tokens, &how);
    let first = wide(&first);
    let total: f64 = added.iter().map(|&v| f64::from(v).exp()).sum();
    let column = |c: usize| {
        let values = first.iter().skip((heads - 1) * size + c).step_by(row);
        added.iter().zip(values).map(|(&a, v)| f64::from(a).exp() * v).sum::<f64>() / total
    };
    let expected: Vec<f64> = (0..size).map(column).collect();
    close("attention", &get(&out, (heads - 1) * size..row), &expected, TOLERANCE);
}
