//! The UMT5 encoder against transformers.

mod common;

use common::{Fixture, On, assert_close, devices};
use longreel_models::{ModelError, TextEncoder};

#[test]
fn embeddings_of_the_real_tokens_match_the_reference_whatever_it_padded_to() {
    let fixture = Fixture::open("text_encoder");
    for On { name: place, device, tolerance } in devices() {
        let encoder = TextEncoder::load(&fixture.config(), fixture.source()).expect("load");
        let encoder = encoder.on(&device);
        for case in &fixture.cases {
            let name = case["name"].as_str().unwrap();
            let ours = encoder.encode(&fixture.ids(&format!("{name}.ids"))).expect(name);
            let reference = fixture.sample(&format!("{name}.hidden_states"));
            assert_close(&format!("{name} on {place}"), &ours, &reference, tolerance);
        }
    }
}

#[test]
fn tokens_beyond_the_vocabulary_and_empty_prompts_are_refused() {
    let fixture = Fixture::open("text_encoder");
    let encoder = TextEncoder::load(&fixture.config(), fixture.source()).expect("load");
    for ids in [&[][..], &[3, 4_000_000]] {
        let error = encoder.encode(ids).expect_err("refused");
        assert!(matches!(error, ModelError::Input { .. }), "{error}");
    }
}

#[test]
fn a_missing_tensor_is_named() {
    let fixture = Fixture::open("text_encoder");
    let mut weights = fixture.weights();
    let gone = "encoder.block.1.layer.1.DenseReluDense.wo.weight";
    weights.remove(gone).expect("in the fixture");
    let source = longreel_weights::TensorSource::from_tensors(weights);
    let error = TextEncoder::load(&fixture.config(), source).expect_err("refused");
    assert!(error.to_string().contains(gone), "{error}");
}
