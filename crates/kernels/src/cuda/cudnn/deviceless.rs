//! Plans without a card.

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendDescriptorType_t as Sort,
};

use super::descriptor::{Descriptor, Refused, Value};
use super::plan::{Target, plan};
use super::{WORKSPACE_BYTES, graph, unusable, usable};
use crate::cuda::Places;
use crate::cuda::api::Cudnn as Library;
use crate::gpu::{FrameConvolution, GpuError, SoftmaxAttention};

/// Plans for a card that need not be there: whether the library has a way for what we ask, and which.
/// The driver's library is needed all the same, since cuDNN is linked with it.
pub struct Deviceless {
    library: &'static Library,
    target: Target,
}

impl Deviceless {
    /// For the card that `properties` describe, in the JSON that cuDNN writes for
    /// `CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION`.
    ///
    /// # Errors
    /// When the library is not there, too old or without what it needs, or does not know such a card.
    pub fn open(places: &Places, properties: &str) -> Result<Self, GpuError> {
        let library = usable(places, None)?;
        let text = [properties.as_bytes(), &[0]].concat();
        let card = || {
            Descriptor::new(library, Sort::CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR)?
                .with(Name::CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, Value::Text(&text))?
                .finished()
        };
        let target = Target::Described(card().map_err(unusable)?);
        Ok(Self { library, target })
    }

    /// The library's version, such as `9.13.1`.
    pub fn version(&self) -> String {
        self.library.version()
    }

    /// The number of the engine that would compute an attention of these sizes (no address is looked at), and
    /// the bytes that it would take beside the tensors.
    ///
    /// # Errors
    /// What cuDNN says against it.
    pub fn attention(&self, what: &SoftmaxAttention) -> Result<(i64, usize), String> {
        self.way(graph::attention(self.library, &self.target, what)?)
    }

    /// The same of a convolution of a frame.
    ///
    /// # Errors
    /// What cuDNN says against it.
    pub fn convolution(&self, what: &FrameConvolution) -> Result<(i64, usize), String> {
        self.way(graph::convolution(self.library, &self.target, what)?)
    }

    fn way(&self, graph: Descriptor) -> Result<(i64, usize), Refused> {
        let plan = plan(self.library, &self.target, graph, WORKSPACE_BYTES)?;
        Ok((plan.engine, plan.workspace))
    }
}
