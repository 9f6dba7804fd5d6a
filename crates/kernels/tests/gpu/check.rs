//! What a device is asked before it makes a film.

use std::path::Path;

use longreel_kernels::gpu::{Address, Arg, Driver, Element, Gpu, GpuError, Launch, MatMul, Stream};
use longreel_shim::Shim;

/// A device that leaves out one kernel's work, as one whose compiler gets it wrong.
#[derive(Debug)]
struct Without(Shim, &'static str);

impl Driver for Without {
    fn name(&self) -> String {
        self.0.name()
    }

    fn alloc(&self, bytes: usize) -> Result<Address, GpuError> {
        self.0.alloc(bytes)
    }

    fn free(&self, address: Address) {
        self.0.free(address);
    }

    fn memory(&self) -> Result<(usize, usize), GpuError> {
        self.0.memory()
    }

    fn upload(&self, stream: Stream, to: Address, bytes: &[u8]) -> Result<(), GpuError> {
        self.0.upload(stream, to, bytes)
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), GpuError> {
        self.0.download(from, bytes)
    }

    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<(), GpuError> {
        self.0.copy(to, from, bytes)
    }

    fn zero(&self, to: Address, bytes: usize) -> Result<(), GpuError> {
        self.0.zero(to, bytes)
    }

    fn launch(&self, launch: &Launch, args: &[Arg]) -> Result<(), GpuError> {
        if launch.module == self.1 { Ok(()) } else { self.0.launch(launch, args) }
    }

    fn matmul(&self, what: &MatMul) -> Result<bool, GpuError> {
        self.0.matmul(what)
    }

    fn follow(&self, stream: Stream) -> Result<(), GpuError> {
        self.0.follow(stream)
    }

    fn wait(&self) -> Result<(), GpuError> {
        self.0.wait()
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
            Gpu::new(Box::new(shim), element).check_arithmetic().expect("the same results");
        }
    }
}

#[test]
fn a_device_that_gets_an_operation_wrong_is_refused_by_its_name() {
    for (module, named) in [
        ("gemm", "product"),
        ("attention", "attention of heads of 64"),
        ("conv", "convolution"),
        ("norm", "norms"),
        ("dequantize", "q8_0"),
    ] {
        let Some(shim) = shim() else { return };
        let gpu = Gpu::new(Box::new(Without(shim, module)), Element::Bf16);
        let error = gpu.check_arithmetic().expect_err("wrong results").to_string();
        assert!(error.to_lowercase().contains(named), "{module}: {error}");
    }
}
