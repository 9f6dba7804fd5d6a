//! A layer's weight, where the operations of a GPU want it.

use std::sync::{Arc, OnceLock};

use super::ops::{Dense, DenseCodes, dequantize};
use super::{Address, Array, Element, Gpu, Handle, Present, Use};
use crate::{DType, Vector, Weight};

/// What a layer has on a GPU.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layer {
    handle: Handle,
    scales: OnceLock<Option<Vector>>,
    factors: OnceLock<Vector>,
}

/// A weight to compute with, and its memory where it was made for this use.
#[derive(Debug)]
pub(crate) struct Ready {
    pub weight: Dense,
    _array: Option<Array>,
}

/// A weight to compute with in 8 bits.
#[derive(Debug)]
pub(crate) struct ReadyCodes {
    address: Address,
    factors: Arc<Array>,
    inputs: usize,
}

impl ReadyCodes {
    pub fn weight(&self) -> DenseCodes<'_> {
        DenseCodes { address: self.address, factors: &self.factors, inputs: self.inputs }
    }
}

impl Layer {
    /// Of a weight with this use.
    pub fn of(used: Use) -> Self {
        Self { handle: Handle::of(used), ..Self::default() }
    }

    /// A weight of e4m3, seen as `[outputs, inputs]`, as it is, with a factor for each row; it stays as one of
    /// [`ready`](Self::ready) does.
    pub fn ready_codes(
        &self,
        gpu: &Arc<Gpu>,
        weight: &Weight,
        [outputs, inputs]: [usize; 2],
    ) -> ReadyCodes {
        assert_eq!(weight.dtype(), DType::F8E4M3, "Layer::ready_codes");
        // The element is that of the other products, of which this is none.
        let present = self.handle.bring(gpu, weight, Element::Bf16);
        let factors = self.factors.get_or_init(|| {
            let scales = weight.scales().unwrap_or(&[1.0]);
            let each = outputs / scales.len();
            let factors = scales.iter().flat_map(|&scale| std::iter::repeat_n(scale, each));
            factors.collect::<Vec<_>>().into()
        });
        let address = present.map_or(Address(0), |present| present.address);
        ReadyCodes { address, factors: factors.on(gpu), inputs }
    }

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
