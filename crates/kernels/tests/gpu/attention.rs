use longreel_kernels::gpu::{Array, Element, ops};

use crate::{ELEMENTS, Numbers, array, assert_close, device, rounded};

struct Case {
    queries: usize,
    keys: usize,
    heads: usize,
    key_size: usize,
    value_size: usize,
    seen: ops::Seen,
}

enum Added {
    None,
    All,
    LastKey(f32),
}

impl Case {
    fn of(queries: usize, keys: usize, heads: usize, size: usize) -> Self {
        Self { queries, keys, heads, key_size: size, value_size: size, seen: ops::Seen::ALL }
    }

    fn sees(&self, query: usize, key: usize) -> bool {
        let ops::Seen { tokens_per_block, before, sink, first_query } = self.seen;
        if tokens_per_block == 0 {
            return true;
        }
        let (own, other) = ((first_query + query) / tokens_per_block, key / tokens_per_block);
        other <= own && (own - other <= before || other < sink)
    }

    fn check(&self, element: Element, added: &Added) {
        let Some(gpu) = device() else { return };
        let &Self { queries, keys, heads, key_size, value_size, seen } = self;
        let mut numbers = Numbers::new((queries * 7 + keys * 3 + heads + key_size) as u64);
        let q: Vec<f32> = numbers.vec(queries * heads * key_size);
        let k = numbers.vec(keys * heads * key_size);
        let v = numbers.vec(keys * heads * value_size);
        let bias = numbers.vec(heads * queries * keys);
        // Scores of up to a few units, so that weights differ.
        let scale = 4.0 / (key_size as f32).sqrt();
        let bias_array = Array::from_host(&gpu, &bias);
        let how = ops::Attend {
            heads,
            scale,
            seen,
            added: match added {
                Added::None => ops::Scores::None,
                Added::All => ops::Scores::All(&bias_array),
                Added::LastKey(value) => ops::Scores::LastKey(*value),
            },
        };
        let on = |values: &[f32]| array(&gpu, values, element);
        let found = ops::attention(&on(&q), &on(&k), &on(&v), queries, keys, &how);

        let (q, k, v) = (rounded(&q, element), rounded(&k, element), rounded(&v, element));
        let mut expected = vec![0.0; queries * heads * value_size];
        for (query, head) in (0..queries).flat_map(|q| (0..heads).map(move |h| (q, h))) {
            let row = |of: &[f32], i: usize, size: usize| -> Vec<f64> {
                of[(i * heads + head) * size..][..size].iter().map(|&v| f64::from(v)).collect()
            };
            let ours = row(&q, query, key_size);
            let visible: Vec<usize> = (0..keys).filter(|&key| self.sees(query, key)).collect();
            let score = |key: usize| {
                let product: f64 =
                    ours.iter().zip(row(&k, key, key_size)).map(|(a, b)| a * b).sum();
                let more = match added {
                    Added::None => 0.0,
                    Added::All => bias[(head * queries + query) * keys + key],
                    Added::LastKey(value) => {
                        if key + 1 == keys {
                            *value
                        } else {
                            0.0
                        }
                    }
                };
                product * f64::from(scale) + f64::from(more)
            };
            let scores: Vec<f64> = visible.iter().map(|&key| score(key)).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            let out = &mut expected[(query * heads + head) * value_size..][..value_size];
            for (key, weight) in visible.iter().zip(&weights) {
                for (out, v) in out.iter_mut().zip(row(&v, *key, value_size)) {
                    *out += weight / total * v;
                }
            }
        }
        let what = format!(
            "{queries} queries, {keys} keys, {heads} heads of {key_size} and {value_size}, {seen:?}"
        );
        // In bf16 the weights of the values are rounded, each by up to 2^-9 of itself.
        let tolerance = if element == Element::F32 { 3e-6 } else { 2.5e-3 };
        assert_close(&what, found, &expected, tolerance);
    }
}

#[test]
fn heads_of_every_size_equal_the_reference() {
    let cases = [
        Case::of(1, 1, 1, 8),
        Case::of(130, 70, 2, 64),
        Case::of(5, 33, 3, 64),
        Case::of(129, 97, 2, 128),
        Case::of(32, 32, 1, 128),
        Case::of(20, 40, 2, 80),
        Case::of(66, 35, 1, 256),
        Case::of(17, 50, 2, 200),
        Case::of(65, 33, 1, 384),
        Case::of(9, 20, 1, 392),
        Case::of(18, 37, 2, 5),
        Case::of(3, 40, 1, 600),
        Case { value_size: 24, ..Case::of(19, 41, 2, 16) },
        Case { value_size: 128, ..Case::of(19, 41, 2, 64) },
        Case { value_size: 6, ..Case::of(19, 41, 2, 16) },
    ];
    for case in &cases {
        for element in ELEMENTS {
            case.check(element, &Added::None);
        }
    }
}

#[test]
fn a_query_sees_what_its_block_and_window_allow() {
    let window = |tokens_per_block, before, sink, first_query| ops::Seen {
        tokens_per_block,
        before,
        sink,
        first_query,
    };
    let cases = [
        Case { seen: ops::Seen::causal(1), ..Case::of(70, 70, 1, 64) },
        Case { seen: ops::Seen::causal(48), ..Case::of(300, 300, 1, 64) },
        Case { seen: ops::Seen::causal(64), ..Case::of(192, 192, 1, 128) },
        // The window leaves out whole tiles, with and without the first blocks.
        Case { seen: window(10, 1, 0, 0), ..Case::of(330, 330, 1, 64) },
        Case { seen: window(10, 1, 2, 0), ..Case::of(330, 330, 1, 64) },
        Case { seen: window(32, 0, 1, 0), ..Case::of(160, 160, 1, 128) },
        Case { seen: window(7, 3, 1, 0), ..Case::of(90, 90, 1, 256) },
        // Blocks larger than a tile of keys: some tiles are seen as a whole by a part of the queries.
        Case { seen: window(40, 2, 1, 0), ..Case::of(330, 330, 1, 64) },
        // The queries are those of the last keys.
        Case { seen: window(12, 2, 1, 204), ..Case::of(36, 240, 2, 64) },
        Case { seen: window(12, usize::MAX, 0, 204), ..Case::of(36, 240, 1, 64) },
    ];
    for case in &cases {
        for element in ELEMENTS {
            case.check(element, &Added::None);
        }
    }
}

#[test]
fn scores_are_added_to_all_keys_or_to_the_last() {
    let cases = [
        Case::of(70, 65, 2, 64),
        Case { seen: ops::Seen::causal(16), ..Case::of(70, 70, 1, 64) },
        Case::of(12, 20, 2, 5),
    ];
    for case in &cases {
        for element in ELEMENTS {
            case.check(element, &Added::All);
            case.check(element, &Added::LastKey(300f32.ln()));
        }
    }
}
