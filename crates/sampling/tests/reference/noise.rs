use longreel_sampling::{NoiseKey, Purpose, fill_normal};

use crate::{count, fixture, floats, list};

/// Golden values of an independent Philox and Box-Muller in Python. They must never change: a film
/// is only the same film again while they do not.
#[test]
fn noise_is_what_the_definition_says_bit_for_bit() {
    for case in list(&fixture("noise")["cases"]) {
        let key = NoiseKey {
            seed: case["seed"].as_str().unwrap().parse().unwrap(),
            segment: count(&case["segment"]) as u32,
            latent_frame: count(&case["latent_frame"]) as u32,
            purpose: match count(&case["purpose"]) {
                1 => Purpose::Initial,
                2 => Purpose::Condition,
                _ => Purpose::Renoise,
            },
            row: count(&case["row"]) as u32,
        };
        let theirs = floats(&case["values"]);
        let mut ours = vec![0.0; theirs.len()];
        fill_normal(&key, count(&case["first"]) as u64, &mut ours);
        assert_eq!(ours, theirs, "{key:?}");
    }
}
