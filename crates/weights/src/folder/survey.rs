//! Looks through a folder for the parts of a model.
//!
//! Parts are told by their tensors, so one search serves official folders, ComfyUI's files and GGUF alike;
//! only a Diffusers folder says by its subfolders what is what. The search collects what is wrong instead
//! of stopping at it: opening a model reports the first problem, inspecting it reports all.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::files::{read_optional, read_text};
use super::kind::{Evidence, family_by_name, told};
use super::part::Part;
use super::search::Search;
use crate::WeightsError;
use crate::config::{ClipVisionConfig, SKYREELS, TextConfig, TransformerConfig, VaeConfig};
use crate::container::Extent;
use crate::kind::{Family, ModelKind};
use crate::names::Component;

/// How a model is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// A subfolder for each part, with its `config.json`.
    Diffusers,
    /// Files told apart by their tensors: official releases, ComfyUI, GGUF.
    Files,
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Diffusers => "Diffusers folder",
            Self::Files => "single files (official, ComfyUI or GGUF)",
        })
    }
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Survey {
    pub layout: Layout,
    pub family: Family,
    pub kind: ModelKind,
    pub causal_few_step: bool,
    pub transformer: Option<Part<TransformerConfig>>,
    pub vae: Option<Part<VaeConfig>>,
    pub text_encoder: Option<Part<TextConfig>>,
    pub image_encoder: Option<Part<ClipVisionConfig>>,
    /// The folder with `tokenizer.json` or `spiece.model`.
    pub tokenizer: Option<PathBuf>,
    pub spiece: Option<Extent>,
    pub scheduler_json: Option<String>,
    pub image_processor_json: Option<String>,
    pub problems: Vec<WeightsError>,
    /// What a person should know and nothing is wrong with.
    pub notes: Vec<String>,
}

/// Looks through a model folder, or around a model file.
pub(crate) fn survey(path: &Path) -> Result<Survey, WeightsError> {
    let is_file = match path.metadata() {
        Ok(metadata) => metadata.is_file(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(WeightsError::NotAModel {
                path: path.to_owned(),
                problem: "does not exist".into(),
                way_out: "name a model folder or a transformer file".into(),
            });
        }
        Err(error) => return Err(WeightsError::io("open", path)(error)),
    };
    let mut search = Search::default();
    let folder = if is_file { path.parent().unwrap_or(Path::new(".")) } else { path };
    let folder = if folder == Path::new("") { Path::new(".") } else { folder };
    let diffusers =
        !is_file && (path.join("model_index.json").is_file() || path.join("transformer").is_dir());
    if diffusers {
        search.diffusers(path)?
    } else {
        search.files(path, folder, is_file)?
    }
    search.finish(path, folder, if diffusers { Layout::Diffusers } else { Layout::Files })
}

impl Search {
    /// What the parts that were found make together.
    fn finish(
        mut self,
        path: &Path,
        folder: &Path,
        layout: Layout,
    ) -> Result<Survey, WeightsError> {
        let Some(transformer) = &mut self.transformer else {
            return Err(self.problems.into_iter().next().unwrap_or_else(|| {
                WeightsError::NotAModel {
                    path: path.to_owned(),
                    problem: "holds no transformer of SkyReels-V2 or Wan 2.1".into(),
                    way_out:
                        "name a Diffusers folder, an official folder, or a transformer file of \
                              ComfyUI or GGUF"
                            .into(),
                }
            }));
        };
        let family = match self.skyreels {
            Some(true) => Family::SkyReels,
            Some(false) => Family::Wan,
            None => family_by_name(&transformer.config, path),
        };
        if layout == Layout::Files && family == Family::SkyReels {
            SKYREELS.clone_into(&mut transformer.config.class_name);
        }
        let told = told(&Evidence {
            config: &transformer.config,
            pipeline: self.pipeline.as_deref(),
            model_type: self.model_type.as_deref(),
            family,
            generator: self.generator,
            path,
        });
        let wished = wished_kind(folder)?;
        self.notes.extend(told.note.filter(|_| wished.is_none()));
        let (kind, causal_few_step) = wished.unwrap_or((told.kind, told.causal_few_step));
        if causal_few_step && transformer.config.num_frame_per_block == 1 {
            transformer.config.num_frame_per_block = CAUSAL_BLOCK;
        }
        let takes_clip = transformer.config.image_dim.is_some();
        let missing = |component: Component, hint: &str| WeightsError::NotAModel {
            path: folder.to_owned(),
            problem: format!("has no {}", component.name()),
            way_out: match layout {
                Layout::Diffusers => format!("download the subfolder {} too", component.folder()),
                Layout::Files => format!("put {hint} beside the transformer"),
            },
        };
        let absent = [
            (self.vae.is_none(), Component::Vae, "Wan2.1_VAE.pth or wan_2.1_vae.safetensors"),
            (
                self.text_encoder.is_none(),
                Component::TextEncoder,
                "models_t5_umt5-xxl-enc-bf16.pth or umt5_xxl in safetensors or GGUF",
            ),
            (
                takes_clip && self.image_encoder.is_none(),
                Component::ImageEncoder,
                "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth or clip_vision_h.safetensors",
            ),
        ];
        for (_, component, hint) in absent.into_iter().filter(|(is_absent, ..)| *is_absent) {
            self.problems.push(missing(component, hint));
        }
        let tokenizer = tokenizer(folder);
        if tokenizer.is_none() && self.spiece.is_none() {
            self.problems.push(WeightsError::NotAModel {
                path: folder.to_owned(),
                problem: "has no tokenizer".into(),
                way_out:
                    "put tokenizer.json or spiece.model of google/umt5-xxl into its subfolder \
                          tokenizer"
                        .into(),
            });
        }
        Ok(Survey {
            layout,
            family,
            kind,
            causal_few_step,
            // A text-to-video model's folder may hold one for others; it is not loaded.
            image_encoder: self.image_encoder.filter(|_| takes_clip),
            transformer: self.transformer,
            vae: self.vae,
            text_encoder: self.text_encoder,
            tokenizer,
            spiece: self.spiece,
            scheduler_json: read_optional(&folder.join("scheduler"), "scheduler_config.json")?,
            image_processor_json: read_optional(
                &folder.join("image_processor"),
                "preprocessor_config.json",
            )?,
            problems: self.problems,
            notes: self.notes,
        })
    }
}

/// The folder of the text tokenizer.
fn tokenizer(folder: &Path) -> Option<PathBuf> {
    let places = ["tokenizer", "google/umt5-xxl", "umt5-xxl", "text_encoder", ""];
    let mut places = places.iter().map(|name| folder.join(name));
    places.find(|p| p.join("tokenizer.json").is_file() || p.join("spiece.model").is_file())
}

/// Latent frames of a block in causal few-step models: CausVid's, Self Forcing's and their successors'.
const CAUSAL_BLOCK: usize = 3;

/// The kind that the model's `longreel.json` states, and whether it is causal and of few steps.
fn wished_kind(folder: &Path) -> Result<Option<(ModelKind, bool)>, WeightsError> {
    let path = folder.join("longreel.json");
    if !path.is_file() {
        return Ok(None);
    }
    let bad = |value: String, rule: &str| WeightsError::Config {
        component: "model",
        field: "kind".into(),
        value,
        rule: rule.into(),
    };
    let json: Map<String, Value> =
        serde_json::from_str(&read_text(&path)?).map_err(|e| WeightsError::json("model", &e))?;
    let Some(value) = json.get("kind") else { return Ok(None) };
    if value == "causal_few_step" {
        return Ok(Some((ModelKind::DiffusionForcing, true)));
    }
    let kind = serde_json::from_value(value.clone());
    kind.map(|kind| Some((kind, false))).map_err(|_| {
        let rule = "it must be diffusion_forcing, causal_few_step, text_to_video, image_to_video \
                    or first_last_frame";
        bad(value.to_string(), rule)
    })
}
