//! Every operation against a plain f64 reference, on every instruction set this CPU has and on a GPU: the shim, or
//! with `LONGREEL_TEST_DEVICE=cuda` a card. What a GPU has beside it (bf16, libraries, graphs) is tested in `gpu`.
//!
//! Tolerances: a sum of `k` products in f32, in several partial sums, is off by a few roundings of
//! its largest partial sum; we allow `1e-6` (16 units in the last place) of the sum of the products'
//! magnitudes. Elementary functions are good to a few units in the last place of their result, plus
//! what the rounding of the argument makes of it.

mod attention;
#[path = "../common/mod.rs"]
mod common;
mod conv;
mod linear;
mod norm;
mod pairs;
mod pointwise;
mod solver;
mod sparse;

use std::sync::Mutex;

pub(crate) use common::{FORMATS, Numbers, wide};
use longreel_kernels::gpu::Element;
use longreel_kernels::{Device, Isa, Tensor};

/// A value and how far from it one may be.
#[derive(Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) value: f64,
    pub(crate) tolerance: f64,
}

/// Compares, and reports the worst value.
pub(crate) fn assert_close(what: &str, found: &[f32], expected: &[Expected]) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    let excess = |i: usize| {
        let error = (f64::from(found[i]) - expected[i].value).abs();
        if error.is_nan() { f64::INFINITY } else { error / expected[i].tolerance }
    };
    let Some(worst) = (0..found.len()).max_by(|&a, &b| excess(a).total_cmp(&excess(b))) else {
        return;
    };
    assert!(
        excess(worst) <= 1.0,
        "{what}: worst at {worst}: {} instead of {} (allowed {:e})",
        found[worst],
        expected[worst].value,
        expected[worst].tolerance
    );
}

/// The choice of instruction set holds for the whole process, so tests that make it take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Runs `body` with each instruction set in turn.
pub(crate) fn on_every_isa(body: impl Fn(&str)) {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let best = Isa::available().last().expect("the plain set is always there");
    for isa in Isa::available() {
        assert!(isa.choose());
        body(&format!("{isa:?}"));
    }
    assert!(best.choose());
}

/// What an operation is computed by: the processor with one of its instruction sets, or a GPU.
pub(crate) struct Place {
    name: String,
    device: Device,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Place {
    /// The same values, where it finds them.
    pub(crate) fn on(&self, x: &Tensor) -> Tensor {
        x.on(&self.device).expect("room").into_owned()
    }

    pub(crate) fn is_gpu(&self) -> bool {
        self.device.gpu().is_some()
    }

    /// Whether it is emulated, some hundred times as slow as a card or the processor.
    pub(crate) fn is_slow(&self) -> bool {
        self.is_gpu() && !common::on_card()
    }
}

/// What was computed, on the host.
pub(crate) fn host(found: Tensor) -> Tensor {
    found.into_host().expect("computed")
}

/// Runs `body` on the processor with each instruction set in turn, and on a GPU that computes in f32.
pub(crate) fn on_every_device(body: impl Fn(&Place)) {
    on_every_isa(|isa| body(&Place { name: isa.into(), device: Device::Cpu }));
    if let Some(gpu) = common::gpu(Element::F32) {
        body(&Place { name: "GPU".into(), device: Device::Gpu(gpu) });
    }
}

/// Runs `body` with one thread and with several and compares bit by bit.
pub(crate) fn assert_same_on_any_threads(what: &str, body: impl Fn() -> Tensor + Sync) {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("pool");
        pool.install(&body)
    };
    let one = run(1);
    for threads in [2, 3, 7] {
        let several = run(threads);
        let differs =
            one.data().iter().zip(several.data()).position(|(a, b)| a.to_bits() != b.to_bits());
        assert_eq!(differs, None, "{what}: {threads} threads differ from one at this index");
    }
}

/// Nearest-neighbour doubling of height and width, what `upsampled_conv` folds into its weights:
/// `[T, H, W, C]` to `[T, 2H, 2W, C]`.
fn upsample_nearest_2x(x: &Tensor) -> Tensor {
    let (t, h, w, c) = (x.dim(0), x.dim(1), x.dim(2), x.dim(3));
    let lines = (0..t * 2 * h).map(|line| line / 2 * w);
    let pixels = lines.flat_map(|line| (0..2 * w).map(move |column| (line + column / 2) * c));
    let values = pixels.flat_map(|at| x.data()[at..at + c].iter().copied()).collect();
    Tensor::from_vec(&[t, 2 * h, 2 * w, c], values)
}
