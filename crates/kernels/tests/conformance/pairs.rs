//! Products of two bf16, where a processor has them: those of the rounded values, summed as `f32`.

use longreel_kernels::ops::{attention, linear, linear_residual};
use longreel_kernels::{
    Activation, Attention, Bias, DType, Isa, Linear, Mask, Products, Tensor, Weight,
};

use crate::attention::{SHAPES as ATTENTION_SHAPES, WINDOWS, reference};
use crate::linear::{SHAPES, product};
use crate::{Expected, Numbers, assert_close, assert_same_on_any_threads, on_every_isa};

fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&v| half::bf16::from_f32(v).to_f32()).collect()
}

fn rounded_tensor(numbers: &mut Numbers, shape: &[usize]) -> Tensor {
    Tensor::from_vec(shape, rounded(numbers.tensor(shape).data()))
}

#[test]
fn layers_of_pairs_multiply_what_is_rounded() {
    on_every_isa(|isa| {
        for (i, [rows, n, k]) in SHAPES.into_iter().enumerate() {
            let mut numbers = Numbers::new(i as u64);
            let (x, w, bias) = (numbers.tensor(&[rows, k]), numbers.vec(n * k), numbers.vec(n));
            // Weights that are bf16 already are used where they lie, others are rounded on the way.
            for weight in
                [Weight::from_f32(&[n, k], &w), Weight::narrowed(&[n, k], &w, DType::BF16)]
            {
                let name = format!("{isa} pairs {rows}x{n}x{k} of {}", weight.dtype().name());
                let layer = Linear::new(weight, Some(bias.clone()));
                let singles = linear(&x, &layer, Activation::None);
                let layer = layer.with_products(Products::Bf16);
                let found = linear(&x, &layer, Activation::None);
                if !Isa::current().has_pairs() {
                    assert_eq!(found.data(), singles.data(), "{name}: no other products here");
                    continue;
                }
                let expected = product(&rounded(x.data()), &rounded(&w), Some(&bias), n, k);
                assert_close(&name, found.data(), &expected);
                assert!(k < 5 || found != singles, "{name}: nothing was rounded");

                let mut residual = numbers.tensor(&[rows, n]);
                let before = residual.clone();
                linear_residual(&mut residual, &x, &layer, None);
                let added = expected.iter().zip(before.data()).map(|(e, &before)| Expected {
                    value: e.value + f64::from(before),
                    tolerance: e.tolerance + 1e-6,
                });
                let added: Vec<_> = added.collect();
                assert_close(&name, residual.data(), &added);
            }
        }
    });
}

#[test]
fn rows_of_pairs_do_not_depend_on_how_many_there_are() {
    on_every_isa(|isa| {
        if !Isa::current().has_pairs() {
            return;
        }
        // Deeper than one block, and one block; more values than are kept packed.
        for (n, k) in [(40, 2500), (530, 2000)] {
            let mut numbers = Numbers::new(7);
            let (x, w) = (numbers.tensor(&[70, k]), numbers.vec(n * k));
            let layer = Linear::new(Weight::narrowed(&[n, k], &w, DType::BF16), None);
            let layer = layer.with_products(Products::Bf16);
            let all = linear(&x, &layer, Activation::None);
            for rows in [0..1, 3..20, 40..70] {
                let some = linear(&x.slice0(rows.clone()), &layer, Activation::None);
                assert_eq!(some, all.slice0(rows.clone()), "{isa}, rows {rows:?} of {n}x{k}");
            }
        }
    });
}

#[test]
fn attention_of_pairs_equals_the_reference_on_rounded_values() {
    on_every_isa(|isa| {
        let plain = ATTENTION_SHAPES.map(|[queries, keys, heads, hd, vhd, block]| {
            let mask = match block {
                0 => Mask::None,
                n => Mask::BlockCausal { tokens_per_block: n },
            };
            ([queries, keys, heads, hd, vhd], mask)
        });
        let windows = WINDOWS.map(|[queries, keys, block, before, sink]| {
            let mask = Mask::BlockWindow { tokens_per_block: block, before, sink };
            ([queries, keys, 2, 24, 24], mask)
        });
        for (i, (sizes, mask)) in plain.into_iter().chain(windows).enumerate() {
            let [queries, keys, heads, hd, vhd] = sizes;
            let mut numbers = Numbers::new(i as u64);
            let mut q = rounded_tensor(&mut numbers, &[queries, heads * hd]);
            // By a power of two, which is exact.
            q.data_mut().iter_mut().for_each(|v| *v *= 4.0);
            let k = rounded_tensor(&mut numbers, &[keys, heads * hd]);
            let v = rounded_tensor(&mut numbers, &[keys, heads * vhd]);
            for bias in [Bias::None, Bias::LastKey(3.5)] {
                let how = Attention { heads, scale: 0.25, mask, bias, products: Products::Bf16 };
                let found = attention(&q, &k, &v, &how);
                let name = format!("{isa} pairs {sizes:?} {mask:?}");
                let singles = Attention { products: Products::F32, ..how };
                if !Isa::current().has_pairs() {
                    assert_eq!(found, attention(&q, &k, &v, &singles), "{name}");
                    continue;
                }
                let mut expected = reference(&q, &k, &v, &how);
                // The weights are rounded too, each by at most a part in 512.
                for (index, e) in expected.iter_mut().enumerate() {
                    let column = v.data().iter().skip(index % (heads * vhd)).step_by(heads * vhd);
                    let largest = column.fold(0.0, |most, v| v.abs().max(most));
                    e.tolerance += f64::from(largest) / 512.0;
                }
                assert_close(&name, found.data(), &expected);
            }
        }
    });
}

#[test]
fn pairs_do_not_depend_on_threads() {
    let mut numbers = Numbers::new(3);
    let (x, w) = (numbers.tensor(&[300, 700]), numbers.vec(390 * 700));
    let layer = Linear::new(Weight::from_f32(&[390, 700], &w), None);
    let layer = layer.with_products(Products::Bf16);
    assert_same_on_any_threads("a layer", || linear(&x, &layer, Activation::None));
    let [q, k, v] = [(); 3].map(|()| numbers.tensor(&[330, 96]));
    let mask = Mask::BlockCausal { tokens_per_block: 110 };
    let how = Attention { heads: 3, scale: 0.2, mask, bias: Bias::None, products: Products::Bf16 };
    assert_same_on_any_threads("attention", || attention(&q, &k, &v, &how));
}
