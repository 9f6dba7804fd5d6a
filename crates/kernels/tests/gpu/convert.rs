use longreel_kernels::gpu::{Element, ops};

use crate::{Numbers, array, device, rounded, values};

#[test]
fn f32_becomes_bf16_as_the_half_crate_does_and_comes_back() {
    let Some(gpu) = device() else { return };
    let special = [0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40, 1.003_906_2];
    for len in [1, 7, 8, 9, 1000, 5003] {
        let mut numbers = Numbers::new(len as u64).vec(len);
        for (v, s) in numbers.iter_mut().zip(special) {
            *v = s;
        }
        let there = array(&gpu, &numbers, Element::F32);
        let narrow = ops::convert(&there, Element::Bf16);
        let wide = ops::convert(&narrow, Element::F32);
        let expected = rounded(&numbers, Element::Bf16);
        assert_eq!(values("narrow", narrow), expected, "{len}");
        assert_eq!(values("wide", wide), expected, "{len}");
    }
}
