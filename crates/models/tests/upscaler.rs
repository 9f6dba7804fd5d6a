//! The learned upscaler against torch, and files that are none.

mod common;

use std::path::PathBuf;

use longreel_kernels::Tensor;
use longreel_models::Upscaler;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures/upscaler").join(name)
}

#[test]
fn pictures_are_enlarged_as_by_torch_from_both_kinds_of_files() {
    for (file, name, factor) in [("x2.pth", "x2", 2), ("x4.safetensors", "x4", 4)] {
        let upscaler = Upscaler::open(&fixture(file)).expect("an upscaler");
        assert_eq!(upscaler.factor(), factor);
        let expected = common::safetensors(&fixture(&format!("{name}.expected.safetensors")));
        let tensor = |name: &str| {
            let weight = &expected[name];
            Tensor::from_vec(weight.shape(), weight.to_f32().to_vec())
        };
        let enlarged = upscaler.forward(&tensor("picture"));
        common::assert_close(file, &enlarged, &tensor("enlarged"), common::TOLERANCE);
    }
}

#[test]
fn a_picture_in_strips_is_the_same_as_in_one_piece() {
    let upscaler = Upscaler::open(&fixture("x2.pth")).expect("an upscaler");
    // So wide that a strip has few lines.
    let (height, width) = (40, 60_000);
    let values = (0..height * width * 3).map(|n| (n * 2_654_435_761 % 1000) as f32 / 1000.0);
    let picture = Tensor::from_vec(&[1, height, width, 3], values.collect());
    let whole = upscaler.forward(&picture);
    // A part in the middle, narrow enough for one piece, beyond what its edges reach.
    let (from, to, halo) = (20_000, 20_064, 8);
    let mut part = Vec::new();
    for line in picture.data().chunks_exact(width * 3) {
        part.extend_from_slice(&line[from * 3..to * 3]);
    }
    let part = upscaler.forward(&Tensor::from_vec(&[1, height, to - from, 3], part));
    for (y, line) in whole.data().chunks_exact(width * 2 * 3).enumerate() {
        let inside = (from + halo) * 2 * 3..(to - halo) * 2 * 3;
        let own = &part.data()[y * (to - from) * 6..][halo * 6..(to - from - halo) * 6];
        let worst = line[inside].iter().zip(own).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "line {y}: {worst}");
    }
}

#[test]
fn other_files_are_refused_with_what_can_be_used() {
    let demo = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../demo/vae/diffusion_pytorch_model.safetensors");
    let message = Upscaler::open(&demo).expect_err("a VAE").to_string();
    assert!(message.contains("body.0.weight") && message.contains("SRVGGNetCompact"), "{message}");
    assert!(Upscaler::open(&fixture("none.pth")).is_err());
}
