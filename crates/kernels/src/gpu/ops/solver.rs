//! How latents move: guidance, noise and the steps of the solvers. Latents are `f32`, from value `at` of an array on.

use super::{each, kernel, long};
use crate::gpu::{Address, Arg, Array, Element};
use crate::ops::{UniPcStep, UniPcUpdate};

/// A run of an array's values.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Where they lie.
    pub array: &'a Array,
    /// The first one.
    pub at: usize,
    /// Their number.
    pub len: usize,
}

impl Run<'_> {
    fn pointer(self) -> Arg {
        let Self { array, at, len } = self;
        assert!(at + len <= array.len(), "{len} values from {at} of {}", array.len());
        match array.address() {
            // Nothing is started any more.
            Address(0) => Arg::Pointer(Address(0)),
            address => Arg::Pointer(address.plus(at * array.element().bytes())),
        }
    }

    fn check_latents(self, what: &str, other: Self) {
        let is_one = self.array.element() == Element::F32 && self.len == other.len;
        assert!(is_one, "{what}: {} of {:?} and {}", self.len, self.array.element(), other.len);
    }
}

/// [`crate::ops::guide`].
pub fn guide(x: Run<'_>, y: Run<'_>, scale: f32) {
    combine(x, y, kernel!("guide", y.array.element()), &[scale]);
}

/// [`crate::ops::mix_noise`].
pub fn mix(x: Run<'_>, y: Run<'_>, [keep, add]: [f32; 2]) {
    combine(x, y, kernel!("mix", y.array.element()), &[keep, add]);
}

/// [`crate::ops::euler_step`].
pub fn go(x: Run<'_>, y: Run<'_>, way: f32) {
    combine(x, y, kernel!("go", y.array.element()), &[way]);
}

fn combine(x: Run<'_>, y: Run<'_>, kernel: &'static str, factors: &[f32]) {
    x.check_latents(kernel, y);
    let mut args = vec![x.pointer(), y.pointer(), long(x.len)];
    args.extend(factors.iter().map(|&factor| Arg::Float(factor)));
    x.array.gpu().launch(each("solver", kernel, x.len), &args);
}

/// [`crate::ops::unipc_step`].
pub fn unipc_step(
    step: &UniPcStep,
    velocity: Run<'_>,
    sample: Run<'_>,
    history: &[&Array],
    prediction: &mut Array,
    last: &mut Array,
) {
    sample.check_latents("unipc_step", velocity);
    let mut args = vec![sample.pointer(), velocity.pointer()];
    for array in [&*prediction, &*last].into_iter().chain(history.iter().copied()) {
        let own = Run { array, at: 0, len: sample.len };
        own.check_latents("unipc_step", velocity);
        args.push(own.pointer());
    }
    args.resize(7, Arg::Pointer(Address(0)));
    args.extend([long(sample.len), Arg::Float(step.sigma), Arg::Int(step.in_place.into())]);
    args.extend(scalars(Some(&step.predictor)));
    args.extend(scalars(step.corrector.as_ref()));
    let kernel = kernel!("unipc_step", velocity.array.element());
    sample.array.gpu().launch(each("solver", kernel, sample.len), &args);
}

fn scalars(update: Option<&UniPcUpdate>) -> [Arg; 9] {
    let none =
        UniPcUpdate { order: 0, keep: 0.0, data: 0.0, weight: 0.0, rho: [0.0; 3], r: [1.0; 2] };
    let UniPcUpdate { order, keep, data, weight, rho: [a, b, c], r: [d, e] } =
        *update.unwrap_or(&none);
    let [keep, data, weight, a, b, c, d, e] = [keep, data, weight, a, b, c, d, e].map(Arg::Float);
    [Arg::Int(order as i32), keep, data, weight, a, b, c, d, e]
}
