//! The noise is standard normal, random access, and independent between keys.

use longreel_sampling::{NoiseKey, fill_normal};

const COUNT: usize = 1 << 20;

fn draw(key: NoiseKey, count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    fill_normal(&key, 0, &mut values);
    values
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    values.sum::<f64>() / COUNT as f64
}

/// With n = 2^20 values the standard errors are 1/sqrt(n) = 0.001 for the mean, sqrt(2/n) = 0.0014
/// for the variance, sqrt(15/n) = 0.0038 and sqrt(96/n) = 0.0096 for the third and fourth moments;
/// the bounds are five of them.
#[test]
fn moments_are_those_of_the_standard_normal() {
    for seed in [0, 1, 42, u64::MAX] {
        let values = draw(NoiseKey::initial(seed, 3, 17), COUNT);
        let moment = |power: i32| mean(values.iter().map(|&x| f64::from(x).powi(power)));
        for (power, expected, bound) in
            [(1, 0.0, 0.005), (2, 1.0, 0.007), (3, 0.0, 0.019), (4, 3.0, 0.048)]
        {
            let got = moment(power);
            assert!(
                (got - expected).abs() < bound,
                "seed {seed}: moment {power} is {got}, not {expected}"
            );
        }
    }
}

/// The share of values below each bound; standard error at most 0.0005.
#[test]
fn tails_have_the_right_weight() {
    let values = draw(NoiseKey::initial(7, 0, 0), COUNT);
    for (bound, expected) in
        [(-3.0, 0.001_35), (-1.0, 0.158_655), (0.0, 0.5), (0.5, 0.691_462), (2.0, 0.977_25)]
    {
        let share = mean(values.iter().map(|&x| f64::from(u8::from(x < bound))));
        assert!(
            (share - expected).abs() < 0.0025,
            "share below {bound} is {share}, not {expected}"
        );
    }
}

/// Correlation of independent normals has standard error 0.001.
#[test]
fn keys_that_differ_in_one_field_are_uncorrelated() {
    let base = NoiseKey::condition(42, 2, 5, 9);
    let first = draw(base, COUNT);
    let others = [
        NoiseKey { seed: 43, ..base },
        NoiseKey { seed: 42 | 1 << 63, ..base },
        NoiseKey { segment: 3, ..base },
        NoiseKey { latent_frame: 6, ..base },
        NoiseKey { row: 10, ..base },
        NoiseKey::renoise(42, 2, 5, 9),
        // Fields must not be interchangeable.
        NoiseKey { segment: 5, latent_frame: 2, ..base },
    ];
    for key in others {
        let second = draw(key, COUNT);
        let products = first.iter().zip(&second).map(|(&a, &b)| f64::from(a) * f64::from(b));
        let correlation = mean(products);
        assert!(correlation.abs() < 0.005, "{key:?}: correlation {correlation}");
        let equal = first.iter().zip(&second).filter(|(a, b)| a == b).count();
        assert!(equal < 20, "{key:?}: {equal} equal values");
    }
    for lag in [1, 2, 3, 4, 8] {
        let products = first.iter().zip(&first[lag..]).map(|(&a, &b)| f64::from(a) * f64::from(b));
        let correlation = mean(products);
        assert!(correlation.abs() < 0.005, "lag {lag}: correlation {correlation}");
    }
}

#[test]
fn any_split_of_a_frame_gives_the_same_values() {
    let key = NoiseKey::initial(5, 1, 2);
    let whole = draw(key, 1003);
    for part in [1, 2, 3, 5, 7, 64, 1000] {
        let mut pieces = vec![0.0; whole.len()];
        for (i, piece) in pieces.chunks_mut(part).enumerate() {
            fill_normal(&key, (i * part) as u64, piece);
        }
        assert_eq!(pieces, whole, "pieces of {part}");
    }
    fill_normal(&key, 3, &mut []);
}

#[test]
fn threads_do_not_change_the_values() {
    let key = NoiseKey::initial(5, 1, 2);
    let whole = draw(key, 4000);
    let mut parts = vec![0.0; whole.len()];
    std::thread::scope(|scope| {
        for (i, part) in parts.chunks_mut(617).enumerate() {
            scope.spawn(move || fill_normal(&key, (i * 617) as u64, part));
        }
    });
    assert_eq!(parts, whole);
}
