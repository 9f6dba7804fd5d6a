//! CLIP's vision tower against transformers.

mod common;

use common::{Fixture, On, assert_close, devices};
use longreel_kernels::Tensor;
use longreel_models::{ClipVision, ModelError};
use longreel_weights::TensorSource;

/// The tower of a file that also has the projection, which a model folder leaves out as well.
fn open(fixture: &Fixture) -> ClipVision {
    let mut weights = fixture.weights();
    weights.remove("visual_projection.weight").expect("in the fixture");
    ClipVision::load(&fixture.config(), TensorSource::from_tensors(weights)).expect("load")
}

fn check(name: &str) {
    let fixture = Fixture::open(name);
    for On { name: place, device, tolerance } in devices() {
        let clip = open(&fixture).on(&device);
        for case in &fixture.cases {
            let case = case["name"].as_str().unwrap();
            let ours = clip.encode(&fixture.sample(&format!("{case}.pixel_values"))).expect(case);
            let reference = fixture.sample(&format!("{case}.penultimate"));
            assert_close(&format!("{case} on {place}"), &ours, &reference, tolerance);
        }
    }
}

#[test]
fn hidden_states_before_the_last_block_match_the_reference() {
    check("image_encoder");
}

#[test]
fn quick_gelu_matches_the_reference() {
    check("image_encoder_quick_gelu");
}

#[test]
fn a_picture_of_another_size_is_refused() {
    let fixture = Fixture::open("image_encoder");
    let clip = open(&fixture);
    let error = clip.encode(&Tensor::zeros(&[3, 20, 21])).expect_err("refused");
    assert!(matches!(error, ModelError::Input { .. }), "{error}");
}
