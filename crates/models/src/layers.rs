//! Layers taken out of a [`TensorSource`] by their canonical names.

use longreel_kernels::gpu::Use;
use longreel_kernels::{Conv3d, Linear, Vector};
use longreel_weights::TensorSource;

use crate::ModelError;

/// A linear layer with bias: `{name}.weight` `[outputs, inputs]` and `{name}.bias` `[outputs]`.
pub(crate) fn linear(
    source: &mut TensorSource,
    name: &str,
    inputs: usize,
    outputs: usize,
) -> Result<Linear, ModelError> {
    let weight = source.take(&format!("{name}.weight"), &[outputs, inputs])?;
    let bias = source.take_f32(&format!("{name}.bias"), &[outputs])?;
    Ok(Linear::new(weight, Some(bias)))
}

/// As [`linear`], for a large layer of a block that runs in every pass: with the products that the source is for.
pub(crate) fn block_linear(
    source: &mut TensorSource,
    name: &str,
    inputs: usize,
    outputs: usize,
) -> Result<Linear, ModelError> {
    Ok(linear(source, name, inputs, outputs)?.with_products(source.products()))
}

/// As [`linear`], for a layer whose results are kept for all passes of a prompt.
pub(crate) fn prompt_linear(
    source: &mut TensorSource,
    name: &str,
    inputs: usize,
    outputs: usize,
) -> Result<Linear, ModelError> {
    Ok(linear(source, name, inputs, outputs)?.used(Use::Seldom))
}

/// A linear layer without bias: `{name}.weight` `[outputs, inputs]`.
pub(crate) fn linear_without_bias(
    source: &mut TensorSource,
    name: &str,
    inputs: usize,
    outputs: usize,
) -> Result<Linear, ModelError> {
    let weight = source.take(&format!("{name}.weight"), &[outputs, inputs])?;
    Ok(Linear::new(weight, None))
}

/// The weight and bias of an affine norm.
#[derive(Debug, Clone)]
pub(crate) struct Affine {
    pub weight: Vector,
    pub bias: Vector,
}

impl Affine {
    /// `{name}.weight` and `{name}.bias`, both `[dim]`.
    pub fn load(source: &mut TensorSource, name: &str, dim: usize) -> Result<Self, ModelError> {
        Ok(Self {
            weight: source.take_f32(&format!("{name}.weight"), &[dim])?.into(),
            bias: source.take_f32(&format!("{name}.bias"), &[dim])?.into(),
        })
    }

    /// In the form the layer norm takes.
    pub fn parts(&self) -> Option<(&Vector, &Vector)> {
        Some((&self.weight, &self.bias))
    }
}

/// A causal 3-D convolution with bias, stride 1, that keeps height and width.
pub(crate) fn causal_conv(
    source: &mut TensorSource,
    name: &str,
    inputs: usize,
    outputs: usize,
    kernel: [usize; 3],
) -> Result<Conv3d, ModelError> {
    let [t, h, w] = kernel;
    let weight = source.take(&format!("{name}.weight"), &[outputs, inputs, t, h, w])?;
    let bias = source.take_f32(&format!("{name}.bias"), &[outputs])?;
    Ok(Conv3d::new(&weight, Some(bias), [1, 1, 1], [h / 2, h / 2, w / 2, w / 2]))
}
