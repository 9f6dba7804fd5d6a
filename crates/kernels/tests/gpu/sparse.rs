use longreel_kernels::gpu::Element;
use longreel_kernels::ops::{self, sparse_attention_of_samples};
use longreel_kernels::{Device, PairCounter, Sample, Sparse, Tensor};

use crate::common::sparse::{Case, Reference, cases};
use crate::{device, rounded};

impl Case {
    /// Compares with the reference of what an element makes of the values; the share of the pairs that is kept.
    fn check(&self, seed: u64, element: Element) -> f64 {
        let Some(gpu) = device() else { return 0.0 };
        let device = Device::Gpu(gpu);
        let values = self.values(seed).map(|values| rounded(&values, element));
        let Reference { out, share, chosen } = self.reference(values.each_ref().map(Vec::as_slice));
        let rows = [self.queries(), self.keys(), self.keys()];
        let sizes = [self.size, self.size, self.value_size];
        let on = |i: usize| {
            let host = Tensor::from_vec(&[rows[i], self.heads * sizes[i]], values[i].clone());
            let there = host.on(&device).expect("room").into_owned();
            if element == Element::Bf16 { ops::narrowed(there) } else { there }
        };
        let (q, k, v) = (on(0), on(1), on(2));
        let how = self.attention();
        let blocks = self.blocks(&device);
        let counter = PairCounter::new(&device).expect("room");
        let whole = &self.whole_tokens();
        let sparse = Sparse { blocks: &blocks, mass: self.mass, whole, counter: Some(&counter) };
        let found = sparse_attention_of_samples(&q, &[Sample::of(&k, &v, how)], &sparse);
        let found = found.into_host().expect("computed");
        let largest = values[2].iter().fold(0.0f32, |most, v| most.max(v.abs()));
        // In bf16 weights are rounded, each by up to 2^-9 of itself, and the result.
        let part = if element == Element::F32 { 1e-5 } else { 5e-3 };
        let tolerance = part * f64::from(largest);
        for (i, (&found, expected)) in found.data().iter().zip(&out).enumerate() {
            let error = (f64::from(found) - expected).abs();
            assert!(
                error <= tolerance,
                "{self:?} {element:?}: value {i} is {found} instead of {expected}"
            );
        }
        assert_eq!(counter.pairs().expect("computed"), chosen, "{self:?} {element:?}");
        share
    }
}

#[test]
fn it_is_softmax_over_the_blocks_that_weigh_most_and_counts_them() {
    // Here the kernels in f32 are slow.
    for (element, step) in [(Element::F32, 3), (Element::Bf16, 1)] {
        let cases: Vec<_> = cases().into_iter().enumerate().step_by(step).collect();
        let share = |(seed, case): &(usize, Case)| case.check(*seed as u64, element);
        let left_out = cases.iter().map(share).filter(|share| *share < 0.9).count();
        assert!(
            2 * left_out > cases.len(),
            "only {left_out} of {} cases leave out a tenth in {element:?}",
            cases.len()
        );
    }
}

/// A batch: the samples' tokens lie one behind the other.
#[test]
fn samples_equal_each_alone() {
    let Some(gpu) = device() else { return };
    let device = Device::Gpu(gpu);
    let case = Case::of(6, [9, 13], 16).causal(2).whole(2..4);
    let rows = case.keys();
    let of = |seed: u64| {
        case.values(seed).map(|values| {
            let host = Tensor::from_vec(&[rows, case.heads * case.size], values);
            ops::narrowed(host.on(&device).expect("room").into_owned())
        })
    };
    let (one, other) = (of(1), of(2));
    let how = case.attention();
    let blocks = case.blocks(&device);
    let sparse =
        Sparse { blocks: &blocks, mass: case.mass, whole: &case.whole_tokens(), counter: None };
    let alone = |[q, k, v]: &[Tensor; 3]| {
        sparse_attention_of_samples(q, &[Sample::of(k, v, how)], &sparse).into_host().expect("it")
    };
    let joined: [Tensor; 3] = std::array::from_fn(|i| Tensor::concat0(&[&one[i], &other[i]]));
    let [q, k, v] = &joined;
    let sample = |first: usize| Sample { k, v, keys: first..first + rows, how };
    let together = sparse_attention_of_samples(q, &[sample(0), sample(rows)], &sparse);
    let together = together.into_host().expect("it");
    assert!(together.slice0(0..rows) == alone(&one));
    assert!(together.slice0(rows..2 * rows) == alone(&other));
}
