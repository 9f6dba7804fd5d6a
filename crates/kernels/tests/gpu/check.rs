//! What a device is asked before it makes a film.

use std::path::Path;
use std::sync::Arc;

use longreel_kernels::gpu::{Arg, Driver, Element, Gpu, GpuError, Launch};
use longreel_shim::{Shim, Watch, Watched};

/// Leaves out the work of one kernel, as a device whose compiler gets it wrong.
struct WithoutKernel(&'static str);

impl Watch for WithoutKernel {
    fn launch(&self, shim: &Shim, launch: &Launch, args: &[Arg]) -> Result<(), GpuError> {
        if launch.kernel == self.0 { Ok(()) } else { shim.launch(launch, args) }
    }
}

#[test]
fn a_device_that_gets_codes_wrong_where_they_are_made_is_refused() {
    let Some(shim) = shim() else { return };
    let without = Arc::new(WithoutKernel("layer_norm_codes_f32_bf16"));
    let gpu = Gpu::new(Box::new(Watched::new(shim, without)), Element::Bf16);
    let error = gpu.check_8_bit_products().expect_err("wrong results").to_string();
    assert!(error.contains("a norm and a feed-forward in 8 bits"), "{error}");
}

/// Leaves out the work of one module's kernels, as a device whose compiler gets them wrong.
struct Without(&'static str);

impl Watch for Without {
    fn launch(&self, shim: &Shim, launch: &Launch, args: &[Arg]) -> Result<(), GpuError> {
        if launch.module == self.0 { Ok(()) } else { shim.launch(launch, args) }
    }
}

fn shim() -> Option<Shim> {
    Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")))
}

#[test]
fn a_device_that_computes_rightly_passes_its_check() {
    for element in crate::ELEMENTS {
        let (Some(plain), Some(with_products)) = (shim(), shim()) else { return };
        for shim in [plain, with_products.with_products()] {
            let gpu = Gpu::new(Box::new(shim), element);
            gpu.check_arithmetic().expect("the same results");
            gpu.check_8_bit_products().expect("the same results");
        }
    }
}

#[test]
fn a_device_that_gets_an_operation_wrong_is_refused_by_its_name() {
    for (module, named) in [
        ("gemm", "product"),
        ("fp8", "product in 8 bits"),
        ("attention", "attention of heads of 64"),
        ("sparse", "sparse attention of heads of 64"),
        ("conv", "convolution"),
        ("norm", "norms"),
        ("dequantize", "q8_0"),
    ] {
        let Some(shim) = shim() else { return };
        let driver = Watched::new(shim, Arc::new(Without(module)));
        let gpu = Gpu::new(Box::new(driver), Element::Bf16);
        let checked = match module {
            "fp8" => gpu.check_8_bit_products(),
            _ => gpu.check_arithmetic(),
        };
        let error = checked.expect_err("wrong results").to_string();
        assert!(error.to_lowercase().contains(named), "{module}: {error}");
    }
}

/// Leaves nothing out, as a device whose choice is wrong though what it computes of it is right.
struct Unchoosing;

impl Watch for Unchoosing {
    fn launch(&self, shim: &Shim, launch: &Launch, args: &[Arg]) -> Result<(), GpuError> {
        let mut args = args.to_vec();
        if launch.kernel == "keep_blocks" {
            // No block is alike enough for its mean to stand for it.
            *args.last_mut().expect("the least likeness") = Arg::Float(2.0);
        }
        shim.launch(launch, &args)
    }
}

#[test]
fn a_device_that_keeps_other_keys_is_refused() {
    let Some(shim) = shim() else { return };
    let gpu = Gpu::new(Box::new(Watched::new(shim, Arc::new(Unchoosing))), Element::Bf16);
    let error = gpu.check_arithmetic().expect_err("another choice").to_string();
    assert!(error.contains("sparse attention of heads of 64"), "{error}");
}
