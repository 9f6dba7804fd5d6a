//! Pictures prepared for CLIP's tower against transformers' `CLIPImageProcessor`.

mod common;

use common::Fixture;
use longreel_models::{ClipPreprocess, ModelError};

/// The processor's own file beside the fixture: 21 pixels instead of 224.
const CONFIG: &str =
    include_str!("../../../parity/fixtures/networks/image_encoder/preprocessor_config.json");

/// Values are of size 2 and go through three roundings on each side.
const TOLERANCE: f32 = 1e-6;

#[test]
fn wide_tall_and_square_pictures_become_the_values_of_the_reference() {
    let fixture = Fixture::open("image_encoder");
    let preprocess = ClipPreprocess::from_json(CONFIG).unwrap();
    for case in ["landscape", "portrait", "square"] {
        let picture = fixture.weight(&format!("{case}.picture")).shape();
        let resized = fixture.weight(&format!("{case}.resized"));
        let (height, width) = (resized.shape()[0], resized.shape()[1]);
        let asked = preprocess.resized(picture[1], picture[0]).unwrap();
        assert_eq!(asked, (width, height), "{case}");
        let ours = preprocess.apply(resized.bytes(), width, height).unwrap();
        let reference = fixture.sample(&format!("{case}.pixel_values"));
        assert_eq!(ours.shape(), reference.shape(), "{case}");
        let worst = (0..ours.len())
            .max_by(|a, b| {
                let error = |i: &usize| (ours.data()[*i] - reference.data()[*i]).abs();
                error(a).total_cmp(&error(b))
            })
            .unwrap();
        let (got, want) = (ours.data()[worst], reference.data()[worst]);
        assert!((got - want).abs() <= TOLERANCE, "{case}: value {worst} is {got}, not {want}");
    }
}

#[test]
fn without_a_file_pictures_are_prepared_as_clip_was_trained() {
    let preprocess = ClipPreprocess::default();
    assert_eq!(preprocess.resized(960, 544).unwrap(), (395, 224));
    assert_eq!(preprocess.resized(544, 960).unwrap(), (224, 395));
    let pixels = preprocess.apply(&vec![255; 395 * 224 * 3], 395, 224).unwrap();
    assert_eq!(pixels.shape(), [3, 224, 224]);
    // White, by the published means and deviations: (1 - 0.48145466) / 0.26862954 and so on.
    for (channel, white) in [1.930_336_3f32, 2.074_883_6, 2.145_896_2].into_iter().enumerate() {
        let value = pixels.data()[channel * 224 * 224 + 7];
        assert!((value - white).abs() < 1e-6, "{channel}: {value}");
    }
    let published = r#"{"crop_size": 224, "size": {"shortest_edge": 224}, "resample": 3}"#;
    assert_eq!(ClipPreprocess::from_json(published).unwrap(), preprocess);
}

#[test]
fn the_middle_is_cut_out_and_smaller_pictures_lie_in_black() {
    let json = r#"{"do_resize": false, "do_normalize": false, "do_rescale": false,
        "crop_size": {"height": 1, "width": 2}}"#;
    let preprocess = ClipPreprocess::from_json(json).unwrap();
    let row: Vec<u8> = (1..=5).flat_map(|v| [v, 10 * v, 20 * v]).collect();
    let cut = preprocess.apply(&row, 5, 1).unwrap();
    assert_eq!(cut.data(), [2.0, 3.0, 20.0, 30.0, 40.0, 60.0]);
    // One pixel of two: the reference pads by the rounded-up half on the left.
    let padded = preprocess.apply(&[7, 8, 9], 1, 1).unwrap();
    assert_eq!(padded.data(), [0.0, 7.0, 0.0, 8.0, 0.0, 9.0]);
}

#[test]
fn pictures_of_another_size_than_asked_for_are_refused() {
    let preprocess = ClipPreprocess::default();
    let refused = |rgb: &[u8], width, height| {
        let error = preprocess.apply(rgb, width, height).unwrap_err();
        assert!(matches!(error, ModelError::Input { .. }), "{error}");
        error.to_string()
    };
    assert!(refused(&[0; 27], 3, 3).contains("224x224"));
    assert!(refused(&[0; 26], 3, 3).contains("26 bytes"));
    assert!(refused(&[], 0, 0).contains("0 bytes"));
    assert!(refused(&[0; 3], usize::MAX, usize::MAX).contains("3 bytes"));
    // Scaled to the shorter side, this strip would have 800 million pixels.
    let error = preprocess.resized(16_384, 1).unwrap_err().to_string();
    assert!(error.contains("16384x1"), "{error}");
    assert!(preprocess.resized(usize::MAX, usize::MAX).is_ok());
}

#[test]
fn configs_that_ask_for_something_else_are_refused_by_field() {
    for (json, field) in [
        (r#"{"resample": 2}"#, "resample"),
        (r#"{"size": {"shortest_edge": 0}}"#, "size"),
        (r#"{"size": {"shortest_edge": 1000000000}}"#, "size"),
        (r#"{"crop_size": {"height": 224, "width": 18446744073709551615}}"#, "crop_size"),
        (r#"{"image_std": [0.2, 0.2, 0.0]}"#, "image_std"),
        (r#"{"image_mean": [0.2]}"#, "preprocessor_config.json"),
        (r#"{"size": {"longest_edge": 3}}"#, "preprocessor_config.json"),
        ("{", "preprocessor_config.json"),
        ("", "preprocessor_config.json"),
    ] {
        let error = ClipPreprocess::from_json(json).unwrap_err();
        assert!(matches!(error, ModelError::Config { .. }), "{json}: {error}");
        assert!(error.to_string().contains(field), "{json}: {error}");
    }
}
