//! LoRAs: small changes to a transformer's weights, merged when it is loaded.
//!
//! A low-rank change adds `weight * alpha / rank * up * down` to a matrix, a full one (`diff`) adds itself.
//! The merge is in `f32`; the result is stored in the tensor's own format, or in `bf16` where that is fp8
//! or a GGUF block format. Tensors that no LoRA touches stay views into the file.
//!
//! Reference: `_convert_non_diffusers_wan_lora_to_diffusers` in Diffusers' `loaders/lora_conversion_utils.py`
//! and PEFT. Unlike there, differences of norms and of modulation tables are applied too, as ComfyUI does,
//! and a key that fits nowhere is an error.

mod keys;
mod merge;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::WeightsError;
use crate::container::{self, Container, Format, Meta, StoredTensor};
use crate::error::some_names;
use crate::source::TensorSource;
use keys::{Role, read_key};
pub(crate) use merge::Delta;

/// An opened LoRA. Its tensors stay in the file until they are merged.
#[derive(Debug, Clone)]
pub struct Lora {
    path: PathBuf,
    /// By the canonical name of the tensor that is changed.
    changes: BTreeMap<String, Vec<Change>>,
}

/// One change of one tensor.
#[derive(Debug, Clone)]
enum Change {
    LowRank {
        /// `[rank, inputs]`.
        down: StoredTensor,
        /// `[outputs, rank]`.
        up: StoredTensor,
        /// What the product is multiplied by, before the user's weight.
        factor: f32,
    },
    Full {
        tensor: StoredTensor,
        factor: f32,
    },
}

/// The parts of a low-rank change while the file is read.
#[derive(Default)]
struct Parts {
    down: Option<StoredTensor>,
    up: Option<StoredTensor>,
    bias: Option<StoredTensor>,
    alpha: Option<f32>,
    /// A key of it, for messages.
    key: String,
}

impl Lora {
    /// Opens a LoRA with the names of Diffusers (PEFT), kohya or ComfyUI.
    ///
    /// # Errors
    /// When the file is damaged, has keys of another kind of adapter (LoKr, LoHa, DoRA), or a change is
    /// incomplete; the error names the keys.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        Self::read(path, &container::open(path)?)
    }

    /// `path` is for messages.
    pub(crate) fn read(path: &Path, container: &Container) -> Result<Self, WeightsError> {
        let fail = |problem: String| WeightsError::Lora { path: path.to_owned(), problem };
        let mut parts: BTreeMap<String, Parts> = BTreeMap::new();
        let mut changes: BTreeMap<String, Vec<Change>> = BTreeMap::new();
        let mut unknown = Vec::new();
        for tensor in &container.tensors {
            if !matches!(tensor.format, Format::Known(_)) || tensor.strides.is_some() {
                let format = tensor.format.name();
                return Err(fail(format!("{} is in the format {format}", tensor.name)));
            }
            let Some((module, role)) = read_key(&tensor.name) else {
                unknown.push(&tensor.name);
                continue;
            };
            if let Role::Full(name) = &role {
                let change = Change::Full { tensor: tensor.clone(), factor: 1.0 };
                changes.entry(name.clone()).or_default().push(change);
                continue;
            }
            let entry = parts.entry(module).or_default();
            entry.key.clone_from(&tensor.name);
            let twice = match role {
                Role::Down => entry.down.replace(tensor.clone()).is_some(),
                Role::Up => entry.up.replace(tensor.clone()).is_some(),
                Role::UpBias => entry.bias.replace(tensor.clone()).is_some(),
                Role::Alpha | Role::Full(_) => {
                    let alpha = scalar(tensor).ok_or_else(|| {
                        fail(format!("{} is no single finite number", tensor.name))
                    })?;
                    entry.alpha.replace(alpha).is_some()
                }
            };
            if twice {
                let name = &tensor.name;
                return Err(fail(format!("{name} is there a second time under another name")));
            }
        }
        if !unknown.is_empty() {
            return Err(fail(format!(
                "it has {} keys that are no low-rank change or difference of a transformer's tensors: \
                 {}. LoRAs with Diffusers, kohya or ComfyUI names for Wan and SkyReels-V2 are \
                 supported, LoKr, LoHa and DoRA are not",
                unknown.len(),
                some_names(&unknown, 5)
            )));
        }
        let scaling = Scaling::of(container);
        for (module, parts) in parts {
            let key = parts.key;
            if let (None, None, Some(tensor)) = (&parts.down, &parts.up, &parts.bias) {
                let change = Change::Full { tensor: tensor.clone(), factor: 1.0 };
                changes.entry(format!("{module}.bias")).or_default().push(change);
                continue;
            }
            let (Some(down), Some(up)) = (parts.down, parts.up) else {
                return Err(fail(format!(
                    "{key} has no counterpart (both down and up are needed)"
                )));
            };
            let rank = down.shape.first().copied().unwrap_or(0);
            if rank == 0 || up.shape.get(1) != Some(&rank) {
                return Err(fail(format!(
                    "the ranks of {key} differ: down has shape {:?} and up {:?}",
                    down.shape, up.shape
                )));
            }
            let factor = match parts.alpha {
                Some(alpha) => alpha / rank as f32,
                None => scaling.factor(&module, rank),
            };
            if let Some(tensor) = parts.bias {
                let change = Change::Full { tensor, factor };
                changes.entry(format!("{module}.bias")).or_default().push(change);
            }
            let change = Change::LowRank { down, up, factor };
            changes.entry(format!("{module}.weight")).or_default().push(change);
        }
        if changes.is_empty() {
            return Err(fail("it holds no tensors".into()));
        }
        Ok(Self { path: path.to_owned(), changes })
    }

    /// How many tensors of a transformer it changes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// True when it changes none. An opened LoRA always changes some.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Adds `weight` times the change to the tensors of a transformer. The merge itself happens when a
    /// network takes them. Several LoRAs add up.
    ///
    /// # Errors
    /// When the weight is not finite, a tensor is not there, or a shape does not fit; nothing is changed
    /// then.
    pub fn apply(&self, source: &mut TensorSource, weight: f32) -> Result<(), WeightsError> {
        let fail = |problem: String| WeightsError::Lora { path: self.path.clone(), problem };
        if !weight.is_finite() {
            return Err(fail(format!(
                "its weight is {weight}; it must be a number, usually 0 to 1"
            )));
        }
        let missing: Vec<&String> = self.changes.keys().filter(|name| !source.has(name)).collect();
        if !missing.is_empty() {
            return Err(fail(format!(
                "it changes {} tensors that this model does not have: {}; it was made for another model",
                missing.len(),
                some_names(&missing, 5)
            )));
        }
        let mut deltas = Vec::new();
        for (name, changes) in &self.changes {
            let shape = source.shape(name).unwrap_or_default();
            for change in changes {
                let delta = change.delta(shape, weight).map_err(|found| {
                    fail(format!(
                        "its change of {name} has shape {found:?}, the tensor {shape:?}; it was made for \
                         a model of another size"
                    ))
                })?;
                deltas.push((name, delta));
            }
        }
        for (name, delta) in deltas {
            source.add(name, delta);
        }
        Ok(())
    }
}

impl Change {
    /// The change as the merge takes it. The error is the shape that does not fit.
    fn delta(&self, shape: &[usize], weight: f32) -> Result<Delta, Vec<usize>> {
        let values: usize = shape.iter().product();
        match self {
            Self::Full { tensor, factor } if tensor.values() == values => {
                Ok(Delta::full(tensor.clone(), weight * factor))
            }
            Self::Full { tensor, .. } => Err(tensor.shape.clone()),
            Self::LowRank { down, up, factor } => {
                let rank = down.shape[0];
                let columns = down.values() / rank;
                let rows = up.values() / rank;
                if shape.first() != Some(&rows) || rows.checked_mul(columns) != Some(values) {
                    return Err(vec![rows, columns]);
                }
                Ok(Delta::low_rank(down.clone(), up.clone(), columns, weight * factor))
            }
        }
    }
}

/// The value of a tensor with one value.
fn scalar(tensor: &StoredTensor) -> Option<f32> {
    let value = (tensor.values() == 1).then(|| merge::values(tensor))?.first().copied()?;
    value.is_finite().then_some(value)
}

/// The factor of changes without an alpha of their own: from the settings that Diffusers writes into the
/// file's header, else 1.
struct Scaling {
    alpha: Option<f64>,
    alpha_of: Map<String, Value>,
    /// `alpha / sqrt(rank)` instead of `alpha / rank`.
    stabilised: bool,
}

impl Scaling {
    fn of(container: &Container) -> Self {
        let settings: Map<String, Value> = match container.metadata.get("lora_adapter_metadata") {
            Some(Meta::Text(json)) => serde_json::from_str(json).unwrap_or_default(),
            _ => Map::new(),
        };
        let get = |key: &str| settings.get(&format!("transformer.{key}"));
        Self {
            alpha: get("lora_alpha").and_then(Value::as_f64).filter(|a| a.is_finite()),
            alpha_of: get("alpha_pattern").and_then(Value::as_object).cloned().unwrap_or_default(),
            stabilised: get("use_rslora").and_then(Value::as_bool).unwrap_or(false),
        }
    }

    fn factor(&self, module: &str, rank: usize) -> f32 {
        let own = self.alpha_of.iter().find_map(|(key, alpha)| {
            let at = module.strip_suffix(key.as_str())?;
            (at.is_empty() || at.ends_with('.')).then(|| alpha.as_f64())?
        });
        let rank = rank as f64;
        let divisor = if self.stabilised { rank.sqrt() } else { rank };
        own.or(self.alpha).map_or(1.0, |alpha| (alpha / divisor) as f32)
    }
}
