//! What each layout calls a tensor, and its canonical name.
//!
//! Canonical are the names of the Diffusers and transformers folders. The other layouts are recognised by
//! one telling tensor and renamed by one table for each family; prefixes that ComfyUI puts before all
//! names are taken off, and its fp8 scales are joined to their weights.

mod clip;
mod pattern;
mod text;
mod transformer;
mod vae;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use crate::WeightsError;
use crate::container::{Container, Extent, StoredTensor};
pub(crate) use pattern::{match_underscored, rename};
pub(crate) use transformer::TRANSFORMER;

/// The networks of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Component {
    Transformer,
    Vae,
    TextEncoder,
    ImageEncoder,
}

impl Component {
    pub const ALL: [Self; 4] =
        [Self::Transformer, Self::Vae, Self::TextEncoder, Self::ImageEncoder];

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::Vae => "VAE",
            Self::TextEncoder => "text encoder",
            Self::ImageEncoder => "image encoder",
        }
    }

    /// The subfolder of a Diffusers folder.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::Vae => "vae",
            Self::TextEncoder => "text_encoder",
            Self::ImageEncoder => "image_encoder",
        }
    }

    /// Prefixes that files with more than one network, and some of ComfyUI's, put before all names.
    fn prefixes(self) -> &'static [&'static str] {
        match self {
            Self::Transformer => {
                &[
                    "",
                    "model.diffusion_model.",
                    "diffusion_model.",
                    "transformer.",
                    // CausVid's and Self Forcing's wrapper around the network, also as FSDP saves it.
                    "model.",
                    "model._fsdp_wrapped_module.",
                ]
            }
            Self::Vae => &["", "first_stage_model.", "vae."],
            Self::TextEncoder => &[
                "",
                "text_encoders.umt5xxl.transformer.",
                "text_encoders.umt5xxl.",
                "cond_stage_model.umt5xxl.transformer.",
                "text_encoder.",
            ],
            Self::ImageEncoder => {
                &["", "clip_vision.", "conditioner.embedders.0.", "image_encoder."]
            }
        }
    }

    /// One tensor that every network of this component has, by naming style.
    fn markers(self) -> &'static [(&'static str, Style)] {
        match self {
            Self::Transformer => &[
                ("blocks.0.attn1.to_q.weight", Style::Canonical),
                ("blocks.0.self_attn.q.weight", Style::Original),
            ],
            Self::Vae => &[
                ("decoder.mid_block.resnets.0.norm1.gamma", Style::Canonical),
                ("decoder.middle.0.residual.0.gamma", Style::Original),
            ],
            Self::TextEncoder => &[
                ("encoder.block.0.layer.0.SelfAttention.q.weight", Style::Canonical),
                ("blocks.0.attn.q.weight", Style::Original),
                ("enc.blk.0.attn_q.weight", Style::LlamaCpp),
            ],
            Self::ImageEncoder => &[
                ("vision_model.encoder.layers.0.self_attn.q_proj.weight", Style::Canonical),
                ("encoder.layers.0.self_attn.q_proj.weight", Style::Canonical),
                ("visual.transformer.0.attn.to_qkv.weight", Style::Original),
            ],
        }
    }
}

/// Who named the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Diffusers and transformers.
    Canonical,
    /// The official code of Wan and SkyReels-V2; also ComfyUI's and GGUF's transformers.
    Original,
    /// llama.cpp's short names.
    LlamaCpp,
}

/// What becomes of a tensor.
pub(crate) enum Mapped {
    To(String),
    /// Equal runs of rows, one for each name.
    Split(Vec<String>),
    /// A copy of the tensor of that name, used only where that one is not there.
    CopyOf(&'static str),
    /// Known, and of no use to a video model.
    Drop,
}

/// A tensor under its canonical name.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub name: String,
    pub stored: StoredTensor,
    /// What fp8 values are multiplied by.
    pub scale: Option<StoredTensor>,
    /// The file it lies in.
    pub file: std::sync::Arc<Path>,
}

impl Named {
    /// Its name, with the one in the file where they differ.
    pub fn both_names(&self) -> String {
        if self.name == self.stored.name {
            self.name.clone()
        } else {
            format!("{} ({} in the file)", self.name, self.stored.name)
        }
    }
}

/// One network found in files, under canonical names.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub tensors: Vec<Named>,
    /// A SentencePiece model that ComfyUI keeps inside text encoders.
    pub spiece: Option<Extent>,
}

/// The components that the files hold, told by their tensors.
pub(crate) fn components_of(containers: &[Container]) -> Vec<Component> {
    Component::ALL.into_iter().filter(|c| marker(*c, containers).is_some()).collect()
}

/// The tensors of files whose networks all have prefixes that bear none of them.
pub(crate) fn strangers(containers: &[Container]) -> Vec<String> {
    let prefixes: Vec<&str> = Component::ALL
        .into_iter()
        .filter_map(|component| Some(marker(component, containers)?.0))
        .collect();
    containers
        .iter()
        .flat_map(|c| &c.tensors)
        .filter(|t| !prefixes.iter().any(|prefix| t.name.starts_with(prefix)))
        .map(|t| t.name.clone())
        .collect()
}

fn marker(component: Component, containers: &[Container]) -> Option<(&'static str, Style)> {
    for prefix in component.prefixes() {
        for (name, style) in component.markers() {
            let full = format!("{prefix}{name}");
            if containers.iter().any(|c| c.tensors.iter().any(|t| t.name == full)) {
                return Some((prefix, *style));
            }
        }
    }
    None
}

/// The tensors of `component` in the files, under canonical names. Tensors of unknown names keep them, so
/// that they are named as surplus.
pub(crate) fn canonical(
    component: Component,
    containers: &[Container],
) -> Result<Option<Found>, WeightsError> {
    let Some((prefix, style)) = marker(component, containers) else { return Ok(None) };
    let mut named: BTreeMap<String, Named> = BTreeMap::new();
    let mut scales: HashMap<String, StoredTensor> = HashMap::new();
    let mut spiece = None;
    let mut copies: Vec<Named> = Vec::new();
    let blocks = vae::ResidualBlocks::of(containers, prefix);
    for container in containers {
        let file: std::sync::Arc<Path> = container.path.as_path().into();
        for tensor in &container.tensors {
            let Some(name) = tensor.name.strip_prefix(prefix) else { continue };
            if name == "spiece_model" {
                spiece = Some(tensor.bytes.clone());
                continue;
            }
            // ComfyUI's marks of scaled fp8; the scales of activations are for hardware fp8 only.
            let unneeded = [".scale_input", ".input_scale", ".comfy_quant"];
            if name == "scaled_fp8" || unneeded.iter().any(|suffix| name.ends_with(suffix)) {
                continue;
            }
            let scaled =
                [".scale_weight", ".weight_scale"].iter().find_map(|s| name.strip_suffix(s));
            if let Some(base) = scaled {
                scales.insert(format!("{base}.weight"), tensor.clone());
                continue;
            }
            let parts = match map(component, style, name, &blocks) {
                Mapped::To(name) => vec![(name, tensor.clone())],
                Mapped::Split(names) => split_rows(names, tensor),
                Mapped::CopyOf(name) => {
                    let (name, stored) = (name.to_owned(), tensor.clone());
                    copies.push(Named { name, stored, scale: None, file: file.clone() });
                    continue;
                }
                Mapped::Drop => continue,
            };
            for (canonical, stored) in parts {
                let new =
                    Named { name: canonical.clone(), stored, scale: None, file: file.clone() };
                if let Some(old) = named.insert(canonical, new) {
                    return Err(WeightsError::Twice {
                        tensor: old.both_names(),
                        first: old.file.display().to_string(),
                        second: file.display().to_string(),
                    });
                }
            }
        }
    }
    for copy in copies {
        // The scale of a copy that is not needed is not needed either.
        let stored = copy.stored.name.strip_prefix(prefix).unwrap_or_default().to_owned();
        if named.contains_key(&copy.name) {
            scales.remove(&stored);
        } else {
            named.insert(copy.name.clone(), copy);
        }
    }
    for tensor in named.values_mut() {
        let name = tensor.stored.name.strip_prefix(prefix).unwrap_or(&tensor.stored.name);
        tensor.scale = scales.remove(name);
    }
    if let Some(lonely) = scales.keys().min() {
        return Err(WeightsError::Unsupported {
            path: containers.first().map(|c| c.path.clone()).unwrap_or_default(),
            what: format!("a scale for {lonely}, which is not there,"),
            way_out: "download the file again".into(),
        });
    }
    Ok(Some(Found { tensors: named.into_values().collect(), spiece }))
}

fn map(component: Component, style: Style, name: &str, blocks: &vae::ResidualBlocks) -> Mapped {
    match component {
        Component::Transformer => transformer::map(style, name),
        Component::Vae => vae::map(style, name, blocks),
        Component::TextEncoder => text::map(style, name),
        Component::ImageEncoder => clip::map(style, name),
    }
}

/// What the official code, or llama.cpp in text encoders, calls a tensor of a canonical name.
pub(crate) fn original_name(component: Component, canonical: &str) -> String {
    let table: &[(&str, &str)] = match component {
        Component::Transformer => &TRANSFORMER,
        Component::TextEncoder => &text::LLAMA_CPP,
        Component::Vae | Component::ImageEncoder => &[],
    };
    let turned: Vec<(&str, &str)> = table.iter().map(|(from, to)| (*to, *from)).collect();
    rename(&turned, canonical).unwrap_or_else(|| canonical.to_owned())
}

/// Cuts a tensor along its first axis into equal parts. One that cannot be cut keeps its own name, and is
/// then reported as surplus beside the missing parts.
fn split_rows(names: Vec<String>, tensor: &StoredTensor) -> Vec<(String, StoredTensor)> {
    let count = names.len();
    let rows = tensor.shape.first().copied().unwrap_or(0);
    let bytes = &tensor.bytes;
    let len = bytes.len();
    let even = rows.is_multiple_of(count) && len.is_multiple_of(count) && tensor.strides.is_none();
    if !even || count == 0 {
        return vec![(tensor.name.clone(), tensor.clone())];
    }
    let part = |index: usize| {
        let mut shape = tensor.shape.clone();
        shape[0] = rows / count;
        let bytes = bytes.slice(index * (len / count)..(index + 1) * (len / count))?;
        Some(StoredTensor { shape, bytes, ..tensor.clone() })
    };
    names.into_iter().enumerate().filter_map(|(i, name)| Some((name, part(i)?))).collect()
}
