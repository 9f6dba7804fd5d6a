//! A card with a screen, whose driver ends kernels that take long: attention comes in slices of queries.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use longreel_kernels::gpu::{Arg, Driver, Element, Gpu, GpuError, Launch, ops};
use longreel_kernels::ops::{self as layer, sparse_attention_of_samples};
use longreel_kernels::{Device, PairCounter, Sample, Sparse, Tensor};
use longreel_shim::{Shim, Watch, Watched};

use crate::common::sparse::Case;
use crate::{ELEMENTS, Numbers, array, values};

/// What a kernel may have to do, and how many were started that attend.
struct Screen {
    flops: f64,
    started: AtomicUsize,
}

impl Watch for Screen {
    fn launch(&self, shim: &Shim, launch: &Launch, args: &[Arg]) -> Result<(), GpuError> {
        if launch.kernel.contains("attention") {
            self.started.fetch_add(1, Ordering::Relaxed);
        }
        shim.launch(launch, args)
    }

    fn most_flops(&self, _: &Shim) -> f64 {
        self.flops
    }
}

/// A device for which `body` gives the same values as for one without a screen, in how many kernels.
fn started(flops: f64, body: impl Fn(&Arc<Gpu>) -> Vec<f32>) -> Option<usize> {
    let on = |flops| {
        let shim = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
        let screen = Arc::new(Screen { flops, started: AtomicUsize::new(0) });
        let driver = Watched::new(shim.with_arrays_apart(), Arc::clone(&screen));
        let made = body(&Gpu::new(Box::new(driver), Element::Bf16));
        Some((made, screen.started.load(Ordering::Relaxed)))
    };
    let ((all, one), (slices, several)) = (on(f64::INFINITY)?, on(flops)?);
    assert!(!all.is_empty() && all == slices, "slices are not the whole");
    assert_eq!(one, 1, "kernels without a screen");
    Some(several)
}

#[test]
fn slices_of_queries_are_the_whole_to_the_bit() {
    let (queries, keys, heads, size) = (300, 340, 2, 64);
    let causal = ops::Seen { first_query: 40, before: 2, sink: 1, ..ops::Seen::causal(20) };
    let causal = [ops::Seen::ALL, causal];
    for (element, seen) in ELEMENTS.into_iter().flat_map(|e| causal.map(|seen| (e, seen))) {
        for last in [None, Some(9.0)] {
            let body = |gpu: &Arc<Gpu>| {
                let mut numbers = Numbers::new(11);
                let mut on = |rows: usize| array(gpu, &numbers.vec(rows * heads * size), element);
                let (q, k, v) = (on(queries), on(keys), on(keys));
                let added = last.map_or(ops::Scores::None, ops::Scores::LastKey);
                let how = ops::Attend { heads, scale: 0.2, seen, added };
                values("attention", ops::attention(&q, &k, &v, queries, keys, &how))
            };
            // Of one and a half tiles of queries: two tiles, and the rest. Those in f32 are counted 16 times.
            let times = if element == Element::F32 { 16.0 } else { 1.0 };
            let flops = times * 190.0 * 4.0 * (keys * heads * size) as f64;
            let Some(several) = started(flops, body) else { return };
            assert_eq!(several, 2, "{element:?}, {seen:?}");
        }
    }
}

/// A value for each score stands by queries, and goes with all of them.
#[test]
fn attention_with_a_value_for_each_score_stays_whole() {
    let (queries, keys, heads, size) = (300, 40, 2, 64);
    let body = |gpu: &Arc<Gpu>| {
        let mut numbers = Numbers::new(12);
        let bias = array(gpu, &numbers.vec(heads * queries * keys), Element::F32);
        let mut on = |rows: usize| array(gpu, &numbers.vec(rows * heads * size), Element::Bf16);
        let (q, k, v) = (on(queries), on(keys), on(keys));
        let added = ops::Scores::All(&bias);
        let how = ops::Attend { heads, scale: 0.2, seen: ops::Seen::ALL, added };
        values("attention", ops::attention(&q, &k, &v, queries, keys, &how))
    };
    let several = started(1.0, body);
    assert!(several.is_none_or(|several| several == 1), "{several:?}");
}

#[test]
fn slices_of_sparse_attention_are_the_whole_and_count_what_it_counts() {
    // Five blocks of queries.
    let case = Case::of(5, [10, 12], 64);
    let body = |gpu: &Arc<Gpu>| {
        let device = Device::Gpu(gpu.clone());
        let [q, k, v] = case.values(13).map(|values| {
            let rows = [case.keys(), case.heads * case.size];
            layer::narrowed(Tensor::from_vec(&rows, values).on(&device).expect("room").into_owned())
        });
        let how = case.attention();
        let (blocks, counter) = (case.blocks(&device), PairCounter::new(&device).expect("room"));
        let sparse =
            Sparse { blocks: &blocks, mass: case.mass, whole: &[], counter: Some(&counter) };
        let out = sparse_attention_of_samples(&q, &[Sample::of(&k, &v, how)], &sparse);
        let mut found = out.into_host().expect("computed").into_vec();
        let pairs = counter.pairs().expect("computed");
        found.extend([pairs.kept as f32, pairs.seen as f32]);
        found
    };
    let flops = 300.0 * 4.0 * (case.keys() * case.heads * case.size) as f64;
    let Some(several) = started(flops, body) else { return };
    assert_eq!(several, 3, "slices of two blocks");
}
