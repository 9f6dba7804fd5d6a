use longreel_kernels::ops::{attention_of_samples, sparse_attention_of_samples};
use longreel_kernels::{Device, PairCounter, Sample, Sparse, Tensor};

use crate::common::sparse::{Case, Reference, cases};
use crate::{Expected, Numbers, assert_close, assert_same_on_any_threads, on_every_isa};

/// Queries, keys and values.
fn tensors(case: &Case, values: &[Vec<f32>; 3]) -> [Tensor; 3] {
    let rows = [case.queries(), case.keys(), case.keys()];
    let sizes = [case.size, case.size, case.value_size];
    std::array::from_fn(|i| Tensor::from_vec(&[rows[i], case.heads * sizes[i]], values[i].clone()))
}

fn attention(case: &Case, operands: &[Tensor; 3]) -> Tensor {
    counted(case, operands, None)
}

fn counted(case: &Case, [q, k, v]: &[Tensor; 3], counter: Option<&PairCounter>) -> Tensor {
    let blocks = case.blocks(&Device::Cpu);
    let sparse = Sparse { blocks: &blocks, mass: case.mass, whole: &case.whole_tokens(), counter };
    sparse_attention_of_samples(q, &[Sample::of(k, v, case.attention())], &sparse)
}

#[test]
fn it_is_softmax_over_the_blocks_that_weigh_most_and_counts_them() {
    let mut left_out = 0;
    for (seed, case) in cases().into_iter().enumerate() {
        let values = case.values(seed as u64);
        let Reference { out, share, chosen } = case.reference(values.each_ref().map(Vec::as_slice));
        left_out += usize::from(share < 0.9);
        let largest = values[2].iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let tolerance = 2e-5 * f64::from(largest);
        let expected: Vec<_> = out.into_iter().map(|value| Expected { value, tolerance }).collect();
        let operands = tensors(&case, &values);
        on_every_isa(|isa| {
            let counter = PairCounter::new(&Device::Cpu).expect("on the host");
            let found = counted(&case, &operands, Some(&counter));
            assert_close(&format!("{isa} {case:?}"), found.data(), &expected);
            assert_eq!(counter.pairs().expect("on the host"), chosen, "{isa} {case:?}");
        });
    }
    assert!(left_out >= 9, "only {left_out} cases leave out a tenth");
}

#[test]
fn with_all_of_the_weights_it_is_attention_in_every_bit() {
    on_every_isa(|isa| {
        for (seed, case) in cases().into_iter().enumerate() {
            let [q, k, v] = tensors(&case, &case.values(seed as u64));
            let all = attention_of_samples(&q, &[Sample::of(&k, &v, case.attention())]);
            let case = Case { mass: 1.0, ..case };
            assert!(attention(&case, &[q, k, v]) == all, "{isa} {case:?}");
        }
    });
}

/// The mean of tokens that have nothing in common stands for none of them.
#[test]
fn tokens_that_are_not_alike_are_all_kept() {
    let case = Case { mass: 0.1, ..Case::of(4, [9, 13], 16) };
    let mut numbers = Numbers::new(3);
    let [q, k, v] = [(); 3].map(|()| numbers.tensor(&[case.keys(), 2 * 16]));
    let all = attention_of_samples(&q, &[Sample::of(&k, &v, case.attention())]);
    let expected = all.data().iter();
    let expected: Vec<_> =
        expected.map(|&v| Expected { value: f64::from(v), tolerance: 2e-6 }).collect();
    assert_close("noise", attention(&case, &[q, k, v]).data(), &expected);
}

/// What lets the keys of finished blocks be kept, see the same of attention without anything left out.
#[test]
fn queries_of_the_last_blocks_equal_those_of_all_bit_for_bit() {
    on_every_isa(|isa| {
        for window in [None, Some([1, 1])] {
            let all = Case { window, ..Case::of(10, [9, 13], 16).causal(2) };
            let operands = tensors(&all, &all.values(5));
            let result = attention(&all.clone().whole(4..6), &operands);
            let block = 2 * all.per_frame();
            for first in 0..5 {
                for end in [first + 1, 5] {
                    // Blocks that the window hides from all of them are gone.
                    let gone = match window {
                        Some([before, sink]) if first > before + sink => sink..first - before,
                        _ => 0..0,
                    };
                    let (frames, hidden) = (2 * (end - gone.len()), 2 * gone.len());
                    let part =
                        Case { frames, first_query_frame: 2 * first - hidden, ..all.clone() };
                    let part = match 2 {
                        block if (first..end).contains(&block) => {
                            part.whole(2 * (block - first)..2 * (block - first + 1))
                        }
                        _ => part,
                    };
                    let own = first * block..end * block;
                    let keys = |x: &Tensor| {
                        let seen = [0..gone.start * block, gone.end * block..own.end];
                        Tensor::concat_rows(&seen.map(|rows| (x, rows)))
                    };
                    let [q, k, v] = &operands;
                    let found = attention(&part, &[q.slice0(own.clone()), keys(k), keys(v)]);
                    assert!(found == result.slice0(own), "{isa} {window:?} {first}..{end}");
                }
            }
        }
    });
}

#[test]
fn samples_equal_each_alone_bit_for_bit() {
    on_every_isa(|isa| {
        let case = Case::of(6, [9, 13], 16).causal(2).whole(2..4);
        let [one, other] = [1, 2].map(|seed| tensors(&case, &case.values(seed)));
        let joined: [Tensor; 3] = std::array::from_fn(|i| Tensor::concat0(&[&one[i], &other[i]]));
        let keys = case.keys();
        let blocks = case.blocks(&Device::Cpu);
        let sparse =
            Sparse { blocks: &blocks, mass: case.mass, whole: &case.whole_tokens(), counter: None };
        let [q, k, v] = &joined;
        let sample =
            |first: usize| Sample { k, v, keys: first..first + keys, how: case.attention() };
        let together = sparse_attention_of_samples(q, &[sample(0), sample(keys)], &sparse);
        assert!(together.slice0(0..keys) == attention(&case, &one), "{isa}");
        assert!(together.slice0(keys..2 * keys) == attention(&case, &other), "{isa}");
    });
}

#[test]
fn it_does_not_depend_on_the_number_of_threads() {
    let case = Case::of(7, [9, 13], 40).causal(2).whole(0..2);
    let operands = tensors(&case, &case.values(8));
    assert_same_on_any_threads("sparse attention", || attention(&case, &operands));
}
