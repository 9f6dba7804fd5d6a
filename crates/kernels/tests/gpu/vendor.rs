//! Attention by a vendor's library: what it is asked for, and what becomes of it when it is wrong.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use longreel_kernels::gpu::{
    Address, Arg, Array, Driver, Element, Gpu, GpuError, Launch, Note, SoftmaxAttention, Stream,
    Vendor, VendorWork, ops,
};
use longreel_shim::{Shim, Watch, Watched};

use crate::{Numbers, array};

/// What a device was asked for.
#[derive(Debug, Default)]
struct Asked {
    attention: Vec<SoftmaxAttention>,
    /// Attentions by our kernel in all blocks that were started.
    ours: Vec<u32>,
    distrusted: Option<String>,
}

/// A library that computes the rows that are looked at, and no others: `factor` times what is right. Our
/// kernel runs where it has a few blocks, and is left out where it would take minutes here.
struct Library {
    factor: f32,
    asked: Mutex<Asked>,
}

const ROWS: usize = 32;

fn numbers(shim: &Shim, from: Address, count: usize) -> Vec<f32> {
    let mut bytes = vec![0; count * 2];
    shim.download(from, &mut bytes).expect("it is there");
    Element::Bf16.singles(&bytes)
}

impl Library {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().expect("no panic")
    }

    fn rows(&self, shim: &Shim, what: &SoftmaxAttention, first: usize) {
        let row = what.heads * what.size;
        let q = numbers(shim, what.q.plus(first * row * 2), ROWS * row);
        let (k, v) =
            (numbers(shim, what.k, what.keys * row), numbers(shim, what.v, what.keys * row));
        let mut out = vec![0.0_f32; ROWS * row];
        for (query, head) in (0..ROWS).flat_map(|q| (0..what.heads).map(move |h| (q, h))) {
            let at = head * what.size;
            let of = |all: &[f32], n: usize| all[n * row + at..][..what.size].to_vec();
            let ours = of(&q, query);
            let weights: Vec<f32> = (0..what.keys)
                .map(|key| {
                    let product: f32 = ours.iter().zip(of(&k, key)).map(|(a, b)| a * b).sum();
                    (product * what.scale).exp()
                })
                .collect();
            let total: f32 = weights.iter().sum();
            for (key, weight) in weights.iter().enumerate() {
                let sums = &mut out[query * row + at..][..what.size];
                sums.iter_mut().zip(of(&v, key)).for_each(|(sum, v)| *sum += weight / total * v);
            }
        }
        let bytes: Vec<u8> = out
            .iter()
            .flat_map(|value| half::bf16::from_f32(self.factor * value).to_le_bytes())
            .collect();
        let to = what.out.plus(first * row * 2);
        shim.upload(Stream::Compute, to, &bytes).expect("it is there");
    }
}

impl Watch for Library {
    fn launch(&self, shim: &Shim, launch: &Launch, args: &[Arg]) -> Result<(), GpuError> {
        if launch.module != "attention" {
            return shim.launch(launch, args);
        }
        let blocks = launch.grid.iter().product();
        self.asked().ours.push(blocks);
        if blocks > 2 { Ok(()) } else { shim.launch(launch, args) }
    }

    fn attention(&self, shim: &Shim, what: &SoftmaxAttention) -> Result<Vendor, GpuError> {
        let mut asked = self.asked();
        if asked.distrusted.is_some() {
            return Ok(Vendor::Refused);
        }
        let shape = |what: &SoftmaxAttention| (what.queries, what.keys, what.heads, what.size);
        let known = asked.attention.iter().any(|other| shape(other) == shape(what));
        asked.attention.push(*what);
        let last = what.queries - ROWS;
        [0, last / 2, last].into_iter().for_each(|first| self.rows(shim, what, first));
        Ok(if known { Vendor::Done } else { Vendor::First })
    }

    fn distrust(&self, _: &Shim, work: VendorWork, why: &str) {
        assert_eq!(work, VendorWork::Attention);
        self.asked().distrusted = Some(why.to_owned());
    }

    fn notes(&self, _: &Shim) -> Vec<Note> {
        let note = |text: &String| Note { text: text.clone(), warning: true };
        self.asked().distrusted.as_ref().map(note).into_iter().collect()
    }
}

/// A device whose library gives `factor` times the right result; `None` without a compiler.
fn device(factor: f32) -> Option<(Arc<Gpu>, Arc<Library>)> {
    let shim = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let library = Arc::new(Library { factor, asked: Mutex::default() });
    let driver = Watched::new(shim, Arc::clone(&library));
    Some((Gpu::new(Box::new(driver), Element::Bf16), library))
}

const HEADS: usize = 2;
const SIZE: usize = 64;

fn attend(gpu: &Arc<Gpu>, queries: usize, keys: usize, seen: ops::Seen) -> Array {
    let mut numbers = Numbers::new(queries as u64);
    let mut on = |rows: usize| array(gpu, &numbers.vec(rows * HEADS * SIZE), Element::Bf16);
    let (q, k, v) = (on(queries), on(keys), on(keys));
    let how = ops::Attend { heads: HEADS, scale: 0.125, seen, added: ops::Scores::None };
    ops::attention(&q, &k, &v, queries, keys, &how)
}

#[test]
fn a_way_that_is_right_is_looked_at_once_and_small_attention_is_not_asked_for() {
    let Some((gpu, library)) = device(1.0) else { return };
    attend(&gpu, 200, 100, ops::Seen::ALL);
    assert!(library.asked().attention.is_empty());
    library.asked().ours.clear();
    for _ in 0..2 {
        attend(&gpu, 40_000, 1_001, ops::Seen::ALL);
    }
    gpu.check().expect("no failure");
    assert!(gpu.warnings().is_empty());
    let asked = library.asked();
    assert_eq!(asked.attention.len(), 2);
    assert_eq!(asked.distrusted, None);
    // Three times some rows, in each of two heads.
    assert_eq!(asked.ours, [HEADS as u32; 3]);
}

#[test]
fn causal_blocks_are_asked_for_one_by_one_with_the_keys_that_they_see() {
    let Some((gpu, library)) = device(1.0) else { return };
    let (block, first) = (4_000, 4_000);
    let seen = ops::Seen { first_query: first, ..ops::Seen::causal(block) };
    attend(&gpu, 2 * block, 3 * block, seen);
    gpu.check().expect("no failure");
    let asked = library.asked();
    let [one, two] = asked.attention[..] else { panic!("{:?}", asked.attention) };
    assert_eq!((one.queries, one.keys), (block, 2 * block));
    assert_eq!((two.queries, two.keys), (block, 3 * block));
    let row = HEADS * SIZE * 2;
    assert_eq!((two.q, two.out), (one.q.plus(block * row), one.out.plus(block * row)));
    assert_eq!((two.k, two.v), (one.k, one.v));
    assert_eq!(asked.distrusted, None);
}

#[test]
fn a_way_that_is_wrong_is_told_of_once_and_our_kernel_computes_instead() {
    let Some((gpu, library)) = device(1.05) else { return };
    for _ in 0..2 {
        attend(&gpu, 40_000, 1_001, ops::Seen::ALL);
    }
    gpu.check().expect("no failure");
    let warnings = gpu.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("40000 queries and 1001 keys in 2 heads of 64"), "{warnings:?}");
    assert!(gpu.warnings().is_empty(), "told once");
    let asked = library.asked();
    assert_eq!(asked.attention.len(), 1);
    // The rows that are compared, then all of it, each time.
    let all = 40_000_u32.div_ceil(128) * HEADS as u32;
    assert_eq!(asked.ours, [2, 2, 2, all, all]);
}
