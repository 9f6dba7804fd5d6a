use std::cell::OnceCell;

use longreel_kernels::Tensor;
use longreel_kernels::ops::{
    UniPcStep, UniPcUpdate, all_finite, change, euler_step, guide, mix_noise, unipc_step, widened,
};

use crate::{Expected, Numbers, Place, assert_close, host, on_every_device};

/// Frames of the window, and values of each: nothing that a vector divides.
const FRAMES: usize = 5;
const FRAME: usize = 3 * 37;

/// The bits of the first device.
#[derive(Default)]
struct First(OnceCell<Vec<u32>>);

impl First {
    /// Compares with the reference, and with the first device's bits.
    fn assert_same(&self, what: &str, found: &Tensor, expected: &[f64]) {
        let allowed = |&value: &f64| Expected { value, tolerance: 4e-6 * (1.0 + value.abs()) };
        let expected: Vec<_> = expected.iter().map(allowed).collect();
        assert_close(what, found.data(), &expected);
        let bits: Vec<_> = found.data().iter().map(|v| v.to_bits()).collect();
        assert_eq!(self.0.get_or_init(|| bits.clone()), &bits, "{what}: other bits");
    }
}

fn wide(tensor: &Tensor) -> Vec<f64> {
    tensor.data().iter().map(|&v| f64::from(v)).collect()
}

#[test]
fn guidance_and_noise_and_euler_move_the_frames_they_are_given_with_the_same_bits_everywhere() {
    let mut numbers = Numbers::new(31);
    let [x, y] = [(); 2].map(|()| numbers.tensor(&[FRAMES, FRAME]));
    let (values, others) = (wide(&x), wide(&y));
    let reference = |name, x: f64, y: f64| match name {
        "guide" => y + 6.5 * (x - y),
        "mix_noise" => 0.25 * x + 0.7 * y,
        _ => x - 0.125 * y,
    };
    for name in ["guide", "mix_noise", "euler_step"] {
        let first = First::default();
        // Other frames of the one than of the other; all others stay as they are.
        let expected: Vec<_> = (0..FRAMES * FRAME)
            .map(|i| match i / FRAME {
                1 | 2 => reference(name, values[i], others[i + FRAME]),
                _ => values[i],
            })
            .collect();
        on_every_device(|place| {
            let (mut found, other) = (place.on(&x), place.on(&y));
            // What lies on the host is brought.
            for other in [&other, &y] {
                let (mut moved, other) = (found.clone(), other.frames(2..4));
                let mut own = moved.frames_mut(1..3);
                match name {
                    "guide" => guide(&mut own, &other, 6.5),
                    "mix_noise" => mix_noise(&mut own, &other, [0.25, 0.7]),
                    _ => euler_step(&mut own, &other, -0.125),
                }
                first.assert_same(&format!("{place} {name}"), &host(moved), &expected);
            }
            found = widened(found);
            assert_eq!(host(found), x, "{place}: latents are singles as they are");
        });
    }
}

fn update(order: usize) -> UniPcUpdate {
    let (rho, r) = ([0.4, 0.3, 0.7], [-0.9, -2.1]);
    UniPcUpdate { order, keep: 0.8, data: -0.3, weight: -0.25, rho, r }
}

/// The formula of the paper, in f64: the terms of earlier predictions, and `newest` where it takes part.
fn moved(update: &UniPcUpdate, x: f64, m: &[f64], newest: Option<f64>) -> f64 {
    let [keep, data, weight] = [update.keep, update.data, update.weight].map(f64::from);
    let mut terms: Vec<_> =
        (1..update.order).map(|k| (m[k] - m[0]) / f64::from(update.r[k - 1])).collect();
    terms.extend(newest.map(|newest| newest - m[0]));
    let sum: f64 = terms.iter().zip(update.rho).map(|(term, rho)| f64::from(rho) * term).sum();
    keep * x - data * m[0] - weight * sum
}

#[test]
fn steps_of_unipc_of_every_order_equal_the_reference_with_the_same_bits_everywhere() {
    let mut numbers = Numbers::new(32);
    let [x, velocity] = [(); 2].map(|()| numbers.tensor(&[FRAMES, FRAME]));
    let [last, a, b, c] = [(); 4].map(|()| numbers.tensor(&[2, FRAME]));
    let sigma = 0.6;
    for predictor in 1..=3 {
        for (corrector, in_place) in
            [(None, false), (None, true), (Some(1), false), (Some(2), true), (Some(3), true)]
        {
            let what =
                format!("order {predictor}, corrected by {corrector:?}, in place {in_place}");
            let step = UniPcStep {
                sigma,
                corrector: corrector.map(update),
                predictor: update(predictor),
                in_place,
            };
            let needed = corrector.unwrap_or(0).max(predictor - 1);
            let history: Vec<_> = [&a, &b, &c].into_iter().take(needed).collect();
            let own = FRAME..3 * FRAME;
            let (samples, velocities, lasts) = (wide(&x), wide(&velocity), wide(&last));
            let of_history: Vec<_> = history.iter().map(|m| wide(m)).collect();
            let [mut expected, mut left, mut predicted] = [samples.clone(), vec![], vec![]];
            for (n, i) in own.enumerate() {
                let newest = samples[i] - f64::from(sigma) * velocities[i + FRAME];
                let m: Vec<_> = of_history.iter().map(|m| m[n]).collect();
                let start = step
                    .corrector
                    .as_ref()
                    .map_or(samples[i], |corrector| moved(corrector, lasts[n], &m, Some(newest)));
                let now: Vec<_> = [newest].into_iter().chain(m).collect();
                expected[i] = moved(&step.predictor, start, &now, None);
                left.push(if in_place && corrector.is_none() { expected[i] } else { start });
                predicted.push(newest);
            }
            let firsts: [First; 3] = Default::default();
            on_every_device(|place: &Place| {
                let (mut sample, velocity) = (place.on(&x), place.on(&velocity));
                let history: Vec<_> = history.iter().map(|m| place.on(m)).collect();
                let (mut last, mut prediction) = (place.on(&last), place.on(&last));
                unipc_step(
                    &step,
                    &velocity.frames(2..4),
                    &mut sample.frames_mut(1..3),
                    &history,
                    &mut prediction,
                    &mut last,
                );
                let found = [sample, last, prediction].map(host);
                let expected = [&expected, &left, &predicted];
                for ((first, found), expected) in firsts.iter().zip(&found).zip(expected) {
                    first.assert_same(&format!("{place} {what}"), found, expected);
                }
            });
        }
    }
}

#[test]
fn one_value_that_is_no_number_or_infinite_is_found_wherever_it_is() {
    let sound = Numbers::new(33).tensor(&[FRAMES, 4096]);
    on_every_device(|place| {
        assert_eq!(all_finite(&place.on(&sound)), Ok(true), "{place}");
        for (at, bad) in [(0, f32::NAN), (9_999, f32::INFINITY), (20_479, f32::NEG_INFINITY)] {
            let mut x = sound.clone();
            x.data_mut()[at] = bad;
            assert_eq!(all_finite(&place.on(&x)), Ok(false), "{place}: {bad} at {at}");
        }
        let before = place.on(&Tensor::from_vec(&[4], vec![2.0, -2.0, 4.0, 0.0]));
        let now = place.on(&Tensor::from_vec(&[4], vec![1.0, -2.0, 7.0, 0.0]));
        assert_eq!(change(&now, &before), Ok([1.0, 2.0]), "{place}");
    });
}
