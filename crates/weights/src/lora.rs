//! LoRAs: small changes to a transformer's weights, merged when it is loaded.
//!
//! A low-rank change adds `weight * alpha / rank * up * down` to a matrix, LoHa and LoKr a product of other
//! forms ([`product`]), and a full one (`diff`) itself. DoRA (Liu et al. 2024) brings the sum to given lengths of its rows or
//! columns, and its weight is how far the matrix goes that way, so that 0 changes nothing, as in ComfyUI.
//! The merge is in `f32`; the result is stored in the tensor's own format, or in `bf16` where that is fp8
//! or a GGUF block format. Tensors that no LoRA touches stay views into the file.
//!
//! Reference: `_convert_non_diffusers_wan_lora_to_diffusers` in Diffusers' `loaders/lora_conversion_utils.py`,
//! PEFT, and LyCORIS' `functional` and `modules`. Unlike in Diffusers, differences of norms and of modulation tables are
//! applied too, as ComfyUI does, and a key that fits nowhere is an error.

mod keys;
mod merge;
mod product;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::WeightsError;
use crate::container::{self, Container, Format, Meta, StoredTensor};
use crate::error::some_names;
use crate::revision::Revision;
use crate::source::TensorSource;
use keys::{Part, Role, read_key};
pub(crate) use merge::Delta;
use merge::{Axis, Kind};
use product::{Parts, Product};

/// Bytes of the settings beside an adapter, at most.
const SETTINGS_BYTES_MAX: u64 = 1 << 20;

/// An opened LoRA. Its tensors stay in the file until they are merged.
#[derive(Debug, Clone)]
pub struct Lora {
    path: PathBuf,
    /// Of what it holds.
    revision: String,
    /// By the canonical name of the tensor that is changed.
    changes: BTreeMap<String, Vec<Change>>,
}

/// One change of one tensor.
#[derive(Debug, Clone)]
enum Change {
    Product {
        product: Box<Product>,
        /// What the product is multiplied by, before the user's weight.
        factor: f32,
        /// DoRA's.
        magnitude: Option<StoredTensor>,
    },
    Full {
        tensor: StoredTensor,
        factor: f32,
    },
}

impl Lora {
    /// Opens a LoRA, LoKr, LoHa or DoRA with the names of Diffusers, PEFT, kohya, LyCORIS or ComfyUI. Where PEFT's
    /// `adapter_config.json` lies beside, its alphas count.
    ///
    /// # Errors
    /// When the file is damaged, has keys of another kind of adapter, or a change is
    /// incomplete; the error names the keys.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        Self::read(path, &container::open(path)?)
    }

    /// `path` is for messages, and for what lies beside.
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
            match read_key(&tensor.name) {
                None => unknown.push(&tensor.name),
                Some((_, Role::Full(name))) => {
                    let change = Change::Full { tensor: tensor.clone(), factor: 1.0 };
                    changes.entry(name).or_default().push(change);
                }
                Some((module, Role::Part(part))) => {
                    if !parts.entry(module).or_default().add(part, tensor) {
                        let name = &tensor.name;
                        return Err(fail(format!(
                            "{name} is there a second time under another name"
                        )));
                    }
                }
            }
        }
        if !unknown.is_empty() {
            return Err(fail(format!(
                "it has {} keys that are no change of a transformer's tensors: {}. LoRA, LoKr, LoHa and \
                 DoRA for Wan and SkyReels-V2 with the names of Diffusers, PEFT, kohya, LyCORIS or ComfyUI \
                 are supported; other adapters (OFT, GLoRA, IA3) are not",
                unknown.len(),
                some_names(&unknown, 5)
            )));
        }
        let settings = Settings::of(path, container);
        for (module, mut parts) in parts {
            let bias = parts.take(Part::UpBias);
            if let (true, Some(tensor)) = (parts.is_empty(), &bias) {
                let change = Change::Full { tensor: tensor.clone(), factor: 1.0 };
                changes.entry(format!("{module}.bias")).or_default().push(change);
                continue;
            }
            let magnitude = parts.take(Part::Magnitude);
            let alpha = parts.take(Part::Alpha).map(|tensor| {
                scalar(&tensor)
                    .ok_or_else(|| fail(format!("{} is no single finite number", tensor.name)))
            });
            let alpha = alpha.transpose()?;
            let (product, rank) = parts.product().map_err(fail)?;
            let factor = match (alpha, rank) {
                (Some(alpha), Some(rank)) => alpha / rank as f32,
                // Of two whole matrices an alpha says nothing; LyCORIS writes the one that gives 1.
                (Some(_), None) => 1.0,
                (None, rank) => settings.factor(&module, rank),
            };
            if let Some(tensor) = bias {
                let change = Change::Full { tensor, factor };
                changes.entry(format!("{module}.bias")).or_default().push(change);
            }
            let change = Change::Product { product: Box::new(product), factor, magnitude };
            changes.entry(format!("{module}.weight")).or_default().push(change);
        }
        if changes.is_empty() {
            return Err(fail("it holds no tensors".into()));
        }
        let mut revision = Revision::default();
        revision.text("settings", &Value::from(settings.all).to_string());
        revision.file(&container.file);
        Ok(Self { path: path.to_owned(), revision: revision.finish(), changes })
    }

    /// A name for what it holds, 64 hexadecimal digits: another one when anything of it changed.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The tensors it changes, and for each the size that the first of its changes is for.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        self.changes.iter().filter_map(|(name, changes)| {
            let size = match changes.first()? {
                Change::Product { product, .. } => product.size().to_vec(),
                Change::Full { tensor, .. } => tensor.shape.clone(),
            };
            Some((name.clone(), size))
        })
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
        let (product, factor, magnitude) = match self {
            Self::Full { tensor, factor } if tensor.values() == values => {
                let (tensor, factor) = (tensor.clone(), weight * factor);
                return Ok(Delta(Kind::Full { tensor, factor }));
            }
            Self::Full { tensor, .. } => return Err(tensor.shape.clone()),
            Self::Product { product, factor, magnitude } => (product, *factor, magnitude),
        };
        let [rows, columns] = product.size();
        if shape.first() != Some(&rows) || rows.checked_mul(columns) != Some(values) {
            return Err(vec![rows, columns]);
        }
        let product = product.clone();
        Ok(Delta(match magnitude {
            None => Kind::Product { product, columns, factor: weight * factor },
            Some(magnitude) => {
                let axis = axis(magnitude, shape).ok_or_else(|| magnitude.shape.clone())?;
                let magnitude = magnitude.clone();
                Kind::Decomposed { product, columns, factor, magnitude, axis, weight }
            }
        }))
    }
}

/// Of what DoRA's magnitudes are the lengths, for a tensor of shape `[outputs, inputs, places...]`; `None` when they
/// do not fit it. LyCORIS has `[outputs, 1...]` or `[1, inputs, 1...]`, PEFT one for each output in any shape.
fn axis(magnitude: &StoredTensor, shape: &[usize]) -> Option<Axis> {
    let [outputs, inputs] = [*shape.first()?, *shape.get(1)?];
    let [first, second] = [0, 1].map(|axis| magnitude.shape.get(axis).copied());
    let is_of_peft = magnitude.name.contains("lora_magnitude_vector");
    if magnitude.values() == outputs && (first == Some(outputs) || is_of_peft) {
        return Some(Axis::Outputs);
    }
    let is_of_inputs = magnitude.values() == inputs && first == Some(1) && second == Some(inputs);
    is_of_inputs.then(|| Axis::Inputs { kernel: shape[2..].iter().product() })
}

/// The value of a tensor with one value.
fn scalar(tensor: &StoredTensor) -> Option<f32> {
    let value = (tensor.values() == 1).then(|| merge::values(tensor))?.first().copied()?;
    value.is_finite().then_some(value)
}

/// The settings that go with changes without an alpha of their own: what Diffusers writes into the file's
/// header, or PEFT beside the file.
struct Settings {
    all: Map<String, Value>,
    /// Before each key.
    prefix: &'static str,
}

impl Settings {
    fn of(path: &Path, container: &Container) -> Self {
        if let Some(Meta::Text(json)) = container.metadata.get("lora_adapter_metadata") {
            let all = serde_json::from_str(json).unwrap_or_default();
            return Self { all, prefix: "transformer." };
        }
        let is_of_peft = path.file_name().is_some_and(|name| name == "adapter_model.safetensors");
        let beside = path.with_file_name("adapter_config.json");
        let mut json = String::new();
        // Not opened where it is a pipe, which would wait for ever.
        if is_of_peft
            && beside.is_file()
            && let Ok(file) = File::open(beside)
        {
            // What cannot be read says nothing.
            let _ = file.take(SETTINGS_BYTES_MAX).read_to_string(&mut json);
        }
        Self { all: serde_json::from_str(&json).unwrap_or_default(), prefix: "" }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.all.get(&format!("{}{key}", self.prefix))
    }

    /// A number that patterns of module names may give one of its own.
    fn number(&self, module: &str, key: &str, pattern: &str) -> Option<f64> {
        let of_modules = self.get(pattern).and_then(Value::as_object);
        let own = of_modules.into_iter().flatten().find_map(|(key, value)| {
            let at = module.strip_suffix(key.as_str())?;
            (at.is_empty() || at.ends_with('.')).then(|| value.as_f64())?
        });
        own.or_else(|| self.get(key)?.as_f64()).filter(|value| value.is_finite())
    }

    /// `alpha / rank`, else 1. LoRA's key is not that of the others.
    fn factor(&self, module: &str, rank: Option<usize>) -> f32 {
        let alpha = ["lora_alpha", "alpha"];
        let alpha = alpha.iter().find_map(|key| self.number(module, key, "alpha_pattern"));
        let rank =
            rank.map(|rank| rank as f64).or_else(|| self.number(module, "r", "rank_pattern"));
        let (Some(alpha), Some(rank)) = (alpha, rank.filter(|rank| *rank > 0.0)) else {
            return 1.0;
        };
        let is_stabilised = self.get("use_rslora").and_then(Value::as_bool).unwrap_or(false);
        (alpha / if is_stabilised { rank.sqrt() } else { rank }) as f32
    }
}
