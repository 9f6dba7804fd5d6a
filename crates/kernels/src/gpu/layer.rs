//! A layer's weight, where the operations of a GPU want it.

use std::sync::{Arc, OnceLock};

use super::ops::{Dense, dequantize};
use super::{Address, Array, Element, Gpu, Handle, Present};
use crate::{DType, Vector, Weight};

/// What a layer has on a GPU.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layer {
    handle: Handle,
    scales: OnceLock<Option<Vector>>,
}

/// A weight to compute with, and its memory where it was made for this use.
#[derive(Debug)]
pub(crate) struct Ready {
    pub weight: Dense,
    _array: Option<Array>,
}

impl Layer {
    /// The weight, seen as `[outputs, inputs]`, as `element`; it stays until the next but one is asked
    /// for.
    pub fn ready(
        &self,
        gpu: &Arc<Gpu>,
        weight: &Weight,
        element: Element,
        [outputs, inputs]: [usize; 2],
    ) -> Ready {
        let dense = |address| Dense { address, element, outputs, inputs };
        // After a failure nothing is started.
        let none = Ready { weight: dense(Address(0)), _array: None };
        let Some(Present { address, dtype }) = self.handle.bring(gpu, weight, element) else {
            return none;
        };
        let as_it_is = weight.is_unscaled()
            && matches!(
                (dtype, element),
                (DType::BF16, Element::Bf16) | (DType::F32, Element::F32)
            );
        if as_it_is {
            return Ready { weight: dense(address), _array: None };
        }
        let scales = self.scales.get_or_init(|| weight.scales().map(|s| s.to_vec().into()));
        let scales = scales.as_ref().map(|scales| scales.on(gpu));
        let array = dequantize(gpu, address, dtype, weight.len(), scales.as_deref(), element);
        Ready { weight: dense(array.address()), _array: Some(array) }
    }
}
