//! The autoencoder against diffusers, and the promises of its streams.

mod common;

use common::{Fixture, On, assert_close, assert_same_bits, devices, noise};
use longreel_kernels::{Device, Tensor};
use longreel_models::{ModelError, Vae, VaeDecoderState, VaeEncoderState};

const NO_LIMIT: usize = usize::MAX;
/// Distance from the reference that is allowed to the processor. Its convolutions multiply a quarter of the
/// reference's terms and round about three times as much for it (`kernels/src/ops/conv/winograd.rs`); the
/// worst here is 6e-6.
const SQUARES_TOLERANCE: f64 = 1e-5;

fn open(name: &str) -> (Fixture, Vae) {
    let fixture = Fixture::open(name);
    let vae = Vae::load(&fixture.config(), fixture.source()).expect(name);
    (fixture, vae)
}

#[test]
fn decoded_pictures_equal_the_reference() {
    for On { name: place, device, tolerance } in devices() {
        let tolerance = if device == Device::Cpu { SQUARES_TOLERANCE } else { tolerance };
        for name in ["vae", "vae_two_blocks"] {
            let (fixture, vae) = open(name);
            let mut vae = vae.on(&device);
            let cases = fixture.cases_with("kind", "decode");
            assert!(cases.len() > 1);
            for (index, case) in cases.iter().enumerate() {
                // Whole pictures, and two strips of them.
                vae.decoder.set_strips(1 + index % 2);
                let latents = fixture.latents(&format!("{case}.latents"));
                let mut state = VaeDecoderState::new();
                let pictures = vae.decoder.decode(&latents, &mut state, NO_LIMIT).unwrap();
                let reference = fixture.pictures(&format!("{case}.pictures"));
                let what = format!("{name}/{case} on {place}");
                assert_close(&what, &pictures, &reference, tolerance);
            }
        }
    }
}

#[test]
fn encoded_latents_equal_the_reference() {
    for On { name: place, device, tolerance } in devices() {
        let tolerance = if device == Device::Cpu { SQUARES_TOLERANCE } else { tolerance };
        for name in ["vae", "vae_two_blocks"] {
            let (fixture, vae) = open(name);
            let vae = vae.on(&device);
            let cases = fixture.cases_with("kind", "encode");
            assert!(!cases.is_empty());
            for case in cases {
                let pictures = fixture.pictures(&format!("{case}.pictures"));
                let mut state = VaeEncoderState::new();
                let latents = vae.encoder.encode(&pictures, &mut state, NO_LIMIT).unwrap();
                let reference = fixture.latents(&format!("{case}.latents"));
                let what = format!("{name}/{case} on {place}");
                assert_close(&what, &latents, &reference, tolerance);
            }
        }
    }
}

fn decode_in(vae: &Vae, latents: &Tensor, parts: &[usize], budget: usize) -> Tensor {
    let mut state = VaeDecoderState::new();
    let mut start = 0;
    let pictures: Vec<Tensor> = parts
        .iter()
        .map(|&len| {
            let part = latents.slice0(start..start + len);
            start += len;
            vae.decoder.decode(&part, &mut state, budget).unwrap()
        })
        .collect();
    assert_eq!(start, latents.dim(0));
    Tensor::concat0(&pictures.iter().collect::<Vec<_>>())
}

#[test]
fn parts_decoded_apart_equal_the_whole_in_every_bit() {
    for (name, size) in [("vae", [5, 3]), ("vae_two_blocks", [2, 3])] {
        let (_, vae) = open(name);
        let latents = noise(7, &[9, 16, size[0], size[1]]);
        let whole = decode_in(&vae, &latents, &[9], NO_LIMIT);
        assert_eq!(whole.shape(), [33, 8 * size[0], 8 * size[1], 3]);
        for parts in [&[1, 8][..], &[1; 9], &[2, 3, 4], &[5, 4], &[8, 1]] {
            let apart = decode_in(&vae, &latents, parts, NO_LIMIT);
            assert_same_bits(&format!("{name} in {parts:?}"), &apart, &whole);
        }
        for budget in [0, 100_000, 1_000_000] {
            let small = decode_in(&vae, &latents, &[4, 5], budget);
            assert_same_bits(&format!("{name} in {budget} bytes"), &small, &whole);
        }
    }
}

#[test]
fn parts_encoded_apart_equal_the_whole_in_every_bit() {
    for name in ["vae", "vae_two_blocks"] {
        let (_, vae) = open(name);
        let pictures = noise(8, &[17, 16, 24, 3]);
        let encode = |parts: &[usize], budget: usize| {
            let mut state = VaeEncoderState::new();
            let mut start = 0;
            let latents: Vec<Tensor> = parts
                .iter()
                .map(|&len| {
                    let part = pictures.slice0(start..start + len);
                    start += len;
                    vae.encoder.encode(&part, &mut state, budget).unwrap()
                })
                .collect();
            Tensor::concat0(&latents.iter().collect::<Vec<_>>())
        };
        let whole = encode(&[17], NO_LIMIT);
        assert_eq!(whole.shape(), [5, 16, 2, 3]);
        for parts in [&[1, 16][..], &[1, 4, 4, 4, 4], &[5, 12], &[9, 4, 4]] {
            assert_same_bits(&format!("{name} in {parts:?}"), &encode(parts, NO_LIMIT), &whole);
        }
        for budget in [0, 60_000, 400_000] {
            assert_same_bits(&format!("{name} in {budget}"), &encode(&[9, 8], budget), &whole);
        }
    }
}

#[test]
fn a_picture_decoded_in_strips_is_the_whole_one_in_every_bit() {
    for name in ["vae", "vae_two_blocks"] {
        let (_, mut vae) = open(name);
        // Rows that no number of strips divides, strips of one row, and more strips than rows.
        for [height, width] in [[2, 3], [7, 2], [23, 2]] {
            let latents = noise(14, &[5, 16, height, width]);
            vae.decoder.set_strips(1);
            let whole = decode_in(&vae, &latents, &[5], NO_LIMIT);
            for strips in [2, 3, 5, 99] {
                vae.decoder.set_strips(strips);
                for parts in [&[5][..], &[1, 1, 3], &[2, 3]] {
                    let what = format!("{name}, {height} rows in {strips} strips, {parts:?}");
                    assert_same_bits(&what, &decode_in(&vae, &latents, parts, NO_LIMIT), &whole);
                }
            }
        }
    }
}

#[test]
fn a_state_of_strips_is_rebuilt_from_latents_in_every_bit() {
    let (_, mut vae) = open("vae");
    vae.decoder.set_strips(3);
    let need = vae.decoder.receptive_latents();
    let latents = noise(15, &[need + 3, 16, 4, 2]);
    let mut state = VaeDecoderState::new();
    vae.decoder.decode(&latents.slice0(0..need + 2), &mut state, NO_LIMIT).unwrap();
    let past = latents.slice0(2..need + 2);
    let mut rebuilt = vae.decoder.rebuild_state(&past, false, NO_LIMIT).unwrap();
    assert_eq!(state.to_tensors().unwrap(), rebuilt.to_tensors().unwrap());
    assert_eq!(state.bytes(), rebuilt.bytes());
    let next = latents.slice0(need + 2..need + 3);
    let expected = vae.decoder.decode(&next, &mut state, NO_LIMIT).unwrap();
    assert_same_bits("next", &vae.decoder.decode(&next, &mut rebuilt, 0).unwrap(), &expected);
}

#[test]
fn a_saved_decoder_state_goes_on_in_every_bit() {
    let (_, vae) = open("vae");
    let latents = noise(9, &[6, 16, 2, 3]);
    let whole = decode_in(&vae, &latents, &[6], NO_LIMIT);
    for cut in 0..6 {
        let mut state = VaeDecoderState::new();
        if cut > 0 {
            vae.decoder.decode(&latents.slice0(0..cut), &mut state, NO_LIMIT).unwrap();
        }
        let saved = state.to_tensors().unwrap();
        assert_eq!(saved.is_empty(), cut == 0);
        let mut state = vae.decoder.state_from_tensors(saved).unwrap();
        let rest = vae.decoder.decode(&latents.slice0(cut..6), &mut state, NO_LIMIT).unwrap();
        let begin = if cut == 0 { 0 } else { 4 * cut - 3 };
        assert_same_bits(&format!("cut at {cut}"), &rest, &whole.slice0(begin..21));
    }
}

#[test]
fn a_rebuilt_decoder_state_equals_the_stream_in_every_bit() {
    let (_, vae) = open("vae");
    let need = vae.decoder.receptive_latents();
    let total = need + 6;
    let latents = noise(10, &[total, 16, 1, 2]);
    for cut in [0, 1, 3, need, need + 4] {
        let mut state = VaeDecoderState::new();
        if cut > 0 {
            vae.decoder.decode(&latents.slice0(0..cut), &mut state, NO_LIMIT).unwrap();
        }
        let past = latents.slice0(0..cut);
        let rebuilt = vae.decoder.rebuild_state(&past, true, NO_LIMIT).unwrap();
        let tensors = state.to_tensors().unwrap().into_iter().zip(rebuilt.to_tensors().unwrap());
        assert_eq!(state.to_tensors().unwrap().len(), rebuilt.to_tensors().unwrap().len());
        for ((name, a), (other, b)) in tensors {
            assert_eq!(name, other);
            assert_same_bits(&format!("{name} at {cut}"), &a, &b);
        }
    }
    let late = latents.slice0(4..4 + need);
    let mut rebuilt = vae.decoder.rebuild_state(&late, false, 0).unwrap();
    let next = latents.slice0(4 + need..total);
    let ours = vae.decoder.decode(&next, &mut rebuilt, NO_LIMIT).unwrap();
    let whole = decode_in(&vae, &latents, &[total], NO_LIMIT);
    let frames = whole.dim(0);
    assert_same_bits("without the start", &ours, &whole.slice0(frames - 8..frames));
    let few = latents.slice0(0..need - 1);
    assert!(vae.decoder.rebuild_state(&few, false, 0).unwrap_err().to_string().contains("last"));
}

/// The bound must be needed: one latent frame fewer than half of it changes the state.
#[test]
fn the_receptive_field_is_not_much_larger_than_needed() {
    let (_, vae) = open("vae");
    let need = vae.decoder.receptive_latents();
    let mut latents = noise(11, &[need, 16, 1, 1]);
    let state = |latents: &Tensor| {
        let state = vae.decoder.rebuild_state(latents, false, NO_LIMIT).unwrap();
        state.to_tensors().unwrap()
    };
    let before = state(&latents);
    latents.data_mut()[2 * 16..3 * 16].iter_mut().for_each(|v| *v += 1.0);
    assert_ne!(before, state(&latents), "the third of {need} latents does not count");
}

#[test]
fn damaged_states_are_refused() {
    let (_, vae) = open("vae");
    let mut state = VaeDecoderState::new();
    vae.decoder.decode(&noise(1, &[2, 16, 2, 3]), &mut state, NO_LIMIT).unwrap();
    let good = state.to_tensors().unwrap();
    type Change<'a> = &'a dyn Fn(&mut Vec<(String, Tensor)>);
    let refuse = |change: Change<'_>| {
        let mut tensors = good.clone();
        change(&mut tensors);
        vae.decoder.state_from_tensors(tensors).unwrap_err().to_string()
    };
    assert!(refuse(&|t| t.truncate(3)).contains("missing"));
    assert!(refuse(&|t| t[0].0 = "decoder.nothing".into()).contains("no such layer"));
    assert!(refuse(&|t| t[0].1 = Tensor::zeros(&[3, 2, 3, 16])).contains("1 to 2"));
    assert!(refuse(&|t| t[0].1 = Tensor::zeros(&[2, 3, 3, 16])).contains("other layers"));
    assert!(refuse(&|t| t[2].1 = Tensor::zeros(&[5])).contains("[frames, H, W, C]"));
    let mut state = vae.decoder.state_from_tensors(good.clone()).unwrap();
    let other = vae.decoder.decode(&noise(2, &[1, 16, 3, 3]), &mut state, NO_LIMIT).unwrap_err();
    assert!(other.to_string().contains("[2, 3]"), "{other}");
}

#[test]
fn counts_and_sizes_that_do_not_fit_are_named() {
    let (_, vae) = open("vae");
    let encode = |shape: &[usize], state: &mut VaeEncoderState| {
        vae.encoder.encode(&noise(1, shape), state, NO_LIMIT).map_err(|e| e.to_string())
    };
    let mut new = VaeEncoderState::new();
    assert!(encode(&[4, 16, 16, 3], &mut new).unwrap_err().contains("1 + 4k"));
    assert!(encode(&[5, 16, 20, 3], &mut new).unwrap_err().contains("multiples of 8"));
    assert!(encode(&[5, 16, 16, 4], &mut new).unwrap_err().contains("[F, H, W, 3]"));
    encode(&[1, 16, 16, 3], &mut new).unwrap();
    assert!(encode(&[1, 16, 16, 3], &mut new).unwrap_err().contains("4k"));
    assert!(encode(&[4, 16, 32, 3], &mut new).unwrap_err().contains("[16, 16]"));
    let wrong = vae.decoder.decode(&noise(1, &[1, 4, 2, 2]), &mut VaeDecoderState::new(), 0);
    assert!(matches!(wrong, Err(ModelError::Input { .. })));
}
