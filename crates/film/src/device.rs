//! Which device makes a film, and how its memory is shared out.

use std::fmt;
use std::str::FromStr;

use longreel_kernels::gpu::{Element, Gpu, WeightPlan};
use longreel_kernels::{Device, GpuError, cuda};
use longreel_models::ModelError;
use longreel_weights::{TransformerConfig, VaeConfig, WeightDtype};
use serde::{Deserialize, Serialize};

use crate::error::FilmError;
use crate::estimate::{GPU_CONTEXTS, gpu_decode_bytes, gpu_forward_bytes};
use crate::plan::{ModelFacts, human_bytes};

/// Which device is to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first NVIDIA GPU, where there is one that can be used, and the processor otherwise.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU, by the driver's number.
    Cuda(u32),
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => return Ok(Self::Cuda(0)),
            _ => {}
        }
        let ordinal = text.strip_prefix("cuda:").and_then(|n| n.parse().ok());
        ordinal.map(Self::Cuda).ok_or_else(|| format!("{text:?} is not auto, cpu, cuda or cuda:N"))
    }
}

impl Serialize for DeviceChoice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceChoice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A device that was opened, and what there is to say about the choice.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The device.
    pub device: Device,
    /// Why a GPU that is there is not used.
    pub warning: Option<String>,
}

impl DeviceChoice {
    /// Opens the device. On a GPU weights asked for as `f32` are computed with as that, and others in
    /// bf16.
    ///
    /// # Errors
    /// When a GPU was asked for that cannot be used.
    pub fn open(self, dtype: Option<WeightDtype>) -> Result<Opened, FilmError> {
        let compute = match dtype {
            Some(WeightDtype::F32) => Element::F32,
            _ => Element::Bf16,
        };
        let gpu = |ordinal| Ok::<_, GpuError>(Device::Gpu(Gpu::new(cuda::open(ordinal)?, compute)));
        let cpu = |warning| Opened { device: Device::Cpu, warning };
        match self {
            Self::Cpu => Ok(cpu(None)),
            Self::Cuda(ordinal) => match gpu(ordinal) {
                Ok(device) => Ok(Opened { device, warning: None }),
                Err(error) => Err(FilmError::Device { choice: self, error }),
            },
            Self::Auto if cuda::probe().cards.is_empty() => Ok(cpu(None)),
            Self::Auto => Ok(match gpu(0) {
                Ok(device) => Opened { device, warning: None },
                Err(error) => cpu(Some(format!(
                    "the GPU is not used, and the processor is: {error}; `longreel doctor` says more"
                ))),
            }),
        }
    }
}

/// What the networks that make segments need of a GPU, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    /// All weights, as they lie there.
    pub weights: u64,
    /// The largest of them.
    pub largest: u64,
    /// Everything else at its highest.
    pub activations: u64,
}

/// Left to the driver, the libraries' workspaces and what lies between pieces.
const HEADROOM: u64 = 768 << 20;

impl Need {
    /// Of the transformer and the VAE, for windows of `tokens` and frames of `height x width`.
    pub fn of(model: &ModelFacts, tokens: usize, height: usize, width: usize) -> Self {
        let transformer = &model.transformer;
        let (dim, ffn) = (
            (transformer.num_attention_heads * transformer.attention_head_dim) as u64,
            transformer.ffn_dim as u64,
        );
        // Singles lie there as bf16; blocks and 8-bit floats as they are in the file.
        let values = transformer_values(transformer);
        let bytes = model.transformer_bytes.min(2 * values);
        let largest = dim * ffn.max(6 * dim);
        let per_value = bytes as f64 / values as f64;
        Self {
            weights: bytes + model.other_bytes,
            largest: (largest as f64 * per_value.max(0.5)) as u64 + 4096,
            activations: gpu_forward_bytes(transformer, tokens)
                .max(gpu_decode_bytes(&model.vae, height, width)),
        }
    }

    /// How the weights share what `free` bytes leave; `None` when that is too little for any film of
    /// this size.
    pub fn shares(&self, free: u64) -> Option<WeightPlan> {
        let budget = free.checked_sub(self.activations + HEADROOM)?;
        WeightPlan::new(self.weights as usize, self.largest as usize, budget as usize)
    }

    /// The least memory that it can work in.
    pub fn least(&self) -> u64 {
        let places = WeightPlan::PLACES as u64 * self.largest;
        self.activations + HEADROOM + places.min(self.weights)
    }
}

/// Values in a transformer's matrices.
fn transformer_values(config: &TransformerConfig) -> u64 {
    let dim = (config.num_attention_heads * config.attention_head_dim) as u64;
    let (ffn, layers) = (config.ffn_dim as u64, config.num_layers as u64);
    let image = if config.added_kv_proj_dim.is_some() { 2 } else { 0 };
    let block = (8 + image) * dim * dim + 2 * dim * ffn;
    layers * block
        + 6 * dim * dim
        + dim * (config.freq_dim + config.text_dim) as u64
        + 2 * dim * dim
}

/// Shares a GPU out among the networks of a film's segments.
///
/// # Errors
/// When it has too little memory for films of this size.
pub(crate) fn share(
    device: &Device,
    model: &ModelFacts,
    tokens: usize,
    [width, height]: [usize; 2],
) -> Result<(), FilmError> {
    let Some(gpu) = device.gpu() else { return Ok(()) };
    let need = Need::of(model, tokens, height, width);
    let (free, _) = gpu.driver().memory().map_err(ModelError::from)?;
    let (held, weights) = gpu.bytes();
    let free = free as u64 + (held + weights) as u64;
    let shares = need.shares(free).ok_or_else(|| FilmError::GpuMemory {
        needed: human_bytes(need.least()),
        free: human_bytes(free),
    })?;
    gpu.plan_weights(shares);
    Ok(())
}

/// Shares what a GPU has left out for a text encoder of so many bytes.
///
/// # Errors
/// When the GPU does not answer.
pub(crate) fn share_with_text(device: &Device, bytes: u64, largest: u64) -> Result<(), FilmError> {
    let Some(gpu) = device.gpu() else { return Ok(()) };
    let (free, _) = gpu.driver().memory().map_err(ModelError::from)?;
    let budget = (free as u64).saturating_sub(HEADROOM + GPU_CONTEXTS);
    let shares = WeightPlan::new(bytes as usize, largest as usize, budget as usize);
    let mut shares = shares.unwrap_or(WeightPlan::ALL);
    // Those that are there stay.
    shares.resident = shares.resident.saturating_add(gpu.bytes().1);
    gpu.plan_weights(shares);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_written_as_it_is_read() {
        for text in ["auto", "cpu", "cuda:0", "cuda:3"] {
            let choice: DeviceChoice = text.parse().expect(text);
            assert_eq!(choice.to_string(), text);
            let json = serde_json::to_string(&choice).expect("JSON");
            assert_eq!(serde_json::from_str::<DeviceChoice>(&json).expect(&json), choice);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }
}
