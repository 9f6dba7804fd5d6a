use longreel_kernels::gpu::{Element, ops};
use longreel_kernels::{Tensor, ops as host};

use crate::{ELEMENTS, Numbers, array, assert_close, device, rounded, wide};

#[test]
fn patches_are_those_of_the_host_and_come_back() {
    let Some(gpu) = device() else { return };
    for (shape, patch) in
        [([3, 5, 4, 6], [2, 3]), ([1, 1, 1, 1], [1, 1]), ([2, 16, 12, 20], [2, 2])]
    {
        let [frames, channels, height, width] = shape;
        let grid = [frames, height / patch[0], width / patch[1]];
        let values = Numbers::new(6).vec(shape.iter().product());
        for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(a, b)| (ELEMENTS[a], ELEMENTS[b]))
        {
            let x = rounded(&values, from);
            let there = array(&gpu, &x, from);
            let patches = ops::patchify(&there, shape, patch, to);
            let expected = host::patchify(&Tensor::from_vec(&shape, x.clone()), patch);
            assert_close("patchify", patches, &wide(expected.data()), 0.0);
            // The same values as rows of another order.
            let dim = channels * patch[0] * patch[1];
            let rows = Tensor::from_vec(&[x.len() / dim, dim], x);
            let expected = host::unpatchify(&rows, grid, patch, channels);
            let back = ops::unpatchify(&there, grid, patch, channels, to);
            assert_close("unpatchify", back, &wide(expected.data()), 0.0);
        }
    }
}

#[test]
fn a_signal_is_split_with_its_table_added() {
    let Some(gpu) = device() else { return };
    for (rows, dim) in [(1, 1), (3, 37), (2, 1536)] {
        let mut numbers = Numbers::new(9);
        let (wide_signal, signal) = (numbers.vec(rows * 6 * dim), numbers.vec(rows * dim));
        let (six, two) = (numbers.vec(6 * dim), numbers.vec(2 * dim));
        for element in ELEMENTS {
            let wide_signal = rounded(&wide_signal, element);
            let signal = rounded(&signal, element);
            let table = array(&gpu, &six, Element::F32);
            let parts =
                ops::split_modulation::<6>(&array(&gpu, &wide_signal, element), rows, &table);
            for (part, found) in parts.into_iter().enumerate() {
                let expected: Vec<f64> = (0..rows * dim)
                    .map(|i| {
                        let at = part * dim + i % dim;
                        f64::from(wide_signal[i / dim * 6 * dim + at]) + f64::from(six[at])
                    })
                    .collect();
                assert_close("split_modulation of 6", found, &expected, 1e-7);
            }
            let table = array(&gpu, &two, Element::F32);
            let parts = ops::split_modulation::<2>(&array(&gpu, &signal, element), rows, &table);
            for (part, found) in parts.into_iter().enumerate() {
                let expected: Vec<f64> = (0..rows * dim)
                    .map(|i| f64::from(signal[i]) + f64::from(two[part * dim + i % dim]))
                    .collect();
                assert_close("split_modulation of 2", found, &expected, 1e-7);
            }
        }
    }
}

#[test]
fn a_row_is_added_to_all_and_frames_are_interleaved() {
    let Some(gpu) = device() else { return };
    let mut numbers = Numbers::new(11);
    let (rows, dim) = (5, 77);
    let (x, row) = (numbers.vec(rows * dim), numbers.vec(dim));
    let all = ELEMENTS.iter().flat_map(|&a| ELEMENTS.map(|b| (a, b)));
    for (a, b) in all {
        let (x, row) = (rounded(&x, a), rounded(&row, b));
        let mut found = array(&gpu, &x, a);
        ops::add_row(&mut found, &array(&gpu, &row, b));
        let expected: Vec<f64> =
            x.iter().enumerate().map(|(i, &v)| f64::from(v) + f64::from(row[i % dim])).collect();
        assert_close("add_row", found, &expected, 1e-7);
    }
    let (first, even, odd) = (numbers.vec(dim), numbers.vec(3 * dim), numbers.vec(3 * dim));
    let [f, e, o] = [&first, &even, &odd].map(|v| array(&gpu, v, Element::F32));
    let tensor = |values: &[f32]| Tensor::from_vec(&[values.len() / dim, dim], values.to_vec());
    let (even, odd) = (tensor(&even), tensor(&odd));
    let expected = host::interleave0(Some(&tensor(&first)), &even, &odd);
    let found = ops::interleave(Some(&f), &e, &o, dim).to_host().expect("done");
    assert_eq!(found, expected.data());
    let expected = host::interleave0(None, &even, &odd);
    assert_eq!(ops::interleave(None, &e, &o, dim).to_host().expect("done"), expected.data());
}

#[test]
fn columns_are_those_of_the_host_and_are_joined_again() {
    let Some(gpu) = device() else { return };
    for (rows, widths) in [(1, vec![1]), (7, vec![3, 40, 1]), (129, vec![64, 64, 96]), (0, vec![4])]
    {
        let width: usize = widths.iter().sum();
        let x = Numbers::new(12).vec(rows * width);
        for element in ELEMENTS {
            let x = rounded(&x, element);
            let there = array(&gpu, &x, element);
            let whole = Tensor::from_vec(&[rows, width], x.clone());
            let (mut parts, mut host_parts, mut at) = (Vec::new(), Vec::new(), 0);
            for width_i in &widths {
                let range = at..at + width_i;
                let part = ops::columns(&there, [rows, width], range.clone());
                let expected: Vec<f32> = (0..rows)
                    .flat_map(|row| x[row * width..][range.clone()].iter().copied())
                    .collect();
                assert_eq!(part.to_host().expect("done"), expected, "columns {range:?}");
                let host = host::columns(&whole, range);
                assert_eq!(host.data(), expected);
                parts.push(part);
                host_parts.push(host);
                at += width_i;
            }
            let joined = ops::join_columns(&parts.iter().collect::<Vec<_>>(), rows);
            assert_eq!(joined.to_host().expect("done"), x, "{rows} rows of {widths:?}");
            assert_eq!(host::join_columns(&host_parts), whole);
        }
    }
}
