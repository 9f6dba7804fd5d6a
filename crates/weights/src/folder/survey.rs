//! Looks through a folder for the parts of a model.
//!
//! Parts are told by their tensors, so one search serves official folders, ComfyUI's files and GGUF alike;
//! only a Diffusers folder says by its subfolders what is what. The search collects what is wrong instead
//! of stopping at it: opening a model reports the first problem, inspecting it reports all.

use std::path::{Path, PathBuf};

use longreel_kernels::DType;
use serde_json::{Map, Value};

use super::files::{Group, groups, read_optional, read_text};
use super::kind::{Evidence, family_by_name, told};
use super::official;
use crate::WeightsError;
use crate::config::{ClipVisionConfig, SKYREELS, TextConfig, TransformerConfig, VaeConfig};
use crate::container::{Container, Extent, Format, MappedFile};
use crate::dtype::WeightDtype;
use crate::kind::{Family, ModelKind};
use crate::names::{self, Component, Found, Named};
use crate::network::{Network, Shapes, compare};
use crate::quantize::choose::is_matrix;

/// One network of a model: its sizes and where its tensors lie.
#[derive(Debug, Clone)]
pub(crate) struct Part<C> {
    pub config: C,
    pub tensors: Vec<Named>,
    pub files: Vec<MappedFile>,
    pub label: String,
}

impl<C> Part<C> {
    /// Bytes of all tensors in the files.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.stored.bytes.len() as u64).sum()
    }

    /// Bytes of all tensors in the format that `dtype` makes of them, and of those of them that have to be
    /// converted for it.
    pub fn bytes_in(&self, dtype: WeightDtype) -> (u64, u64) {
        let wanted = DType::from(dtype);
        let bytes = |named: &Named| {
            let (values, stored) = (named.stored.values() as u64, named.stored.bytes.len() as u64);
            let kept = dtype == WeightDtype::Fp8 && !is_matrix(Component::Transformer, &named.name);
            if kept || named.stored.format == Format::Known(wanted) {
                return (stored, 0);
            }
            // With the factors of the rows.
            let rows = named.stored.shape.first().copied().unwrap_or(1) as u64;
            let factors = if dtype == WeightDtype::Fp8 { 4 * rows } else { 0 };
            let bytes = values * wanted.block_bytes() as u64 + factors;
            (bytes, bytes)
        };
        let sum = |(all, made): (u64, u64), (bytes, new): (u64, u64)| (all + bytes, made + new);
        self.tensors.iter().map(bytes).fold((0, 0), sum)
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(|t| t.stored.values() as u64).sum()
    }
}

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

#[derive(Default)]
struct Search {
    pipeline: Option<String>,
    skyreels: Option<bool>,
    model_type: Option<String>,
    generator: bool,
    transformer: Option<Part<TransformerConfig>>,
    vae: Option<Part<VaeConfig>>,
    text_encoder: Option<Part<TextConfig>>,
    image_encoder: Option<Part<ClipVisionConfig>>,
    spiece: Option<Extent>,
    problems: Vec<WeightsError>,
    notes: Vec<String>,
}

impl Search {
    fn diffusers(&mut self, root: &Path) -> Result<(), WeightsError> {
        if let Some(json) = read_optional(root, "model_index.json")? {
            let map: Map<String, Value> =
                serde_json::from_str(&json).map_err(|e| WeightsError::json("model index", &e))?;
            check_pipeline(&map)?;
            self.pipeline = map.get("_class_name").and_then(Value::as_str).map(str::to_owned);
            self.skyreels = self.pipeline.as_ref().map(|name| name.starts_with("SkyReelsV2"));
        }
        self.transformer = self.subfolder(root);
        self.vae = self.subfolder(root);
        self.text_encoder = self.subfolder(root);
        self.image_encoder = self.subfolder(root);
        Ok(())
    }

    /// One part of a Diffusers folder.
    fn subfolder<C: Network>(&mut self, root: &Path) -> Option<Part<C>> {
        let folder = root.join(C::COMPONENT.folder());
        let result = read_subfolder::<C>(&folder);
        match result {
            Ok(Some((part, spiece, problems))) => {
                self.problems.extend(problems);
                self.spiece = self.spiece.take().or(spiece);
                Some(part)
            }
            Ok(None) => None,
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    /// Files told apart by what is in them.
    fn files(&mut self, path: &Path, folder: &Path, is_file: bool) -> Result<(), WeightsError> {
        let mut opened: Vec<(Group, Vec<Container>)> = Vec::new();
        let mut unreadable = Vec::new();
        let named = is_file.then(|| Group::of_file(path)).transpose()?;
        if let Some(group) = &named {
            opened.push((group.clone(), group.open()?));
        }
        for place in places(folder, is_file) {
            let found = match groups(&place) {
                Ok(found) => found,
                // Beside the model that was asked for, other folders need not be in order.
                Err(problem) if place == folder && !is_file => return Err(problem),
                Err(problem) => {
                    unreadable.push(problem);
                    continue;
                }
            };
            for group in found {
                if named.as_ref().is_some_and(|n| n.files.iter().any(|f| group.files.contains(f))) {
                    continue;
                }
                match group.open() {
                    Ok(containers) => opened.push((group, containers)),
                    Err(problem) => unreadable.push(problem),
                }
            }
        }
        self.transformer = self.pick(&opened, named.as_ref(), folder)?;
        self.vae = self.pick(&opened, None, folder)?;
        self.text_encoder = self.pick(&opened, None, folder)?;
        self.image_encoder = self.pick(&opened, None, folder)?;
        let takes_clip = self.transformer.as_ref().is_some_and(|t| t.config.image_dim.is_some());
        let complete = self.transformer.is_some()
            && self.vae.is_some()
            && self.text_encoder.is_some()
            && (self.image_encoder.is_some() || !takes_clip);
        if !complete {
            self.problems.extend(unreadable);
        }
        Ok(())
    }

    /// The best of the files that hold a part: one whose tensors are complete, and of those the largest.
    fn pick<C: Network>(
        &mut self,
        opened: &[(Group, Vec<Container>)],
        named: Option<&Group>,
        folder: &Path,
    ) -> Result<Option<Part<C>>, WeightsError> {
        let component = C::COMPONENT;
        let mut candidates = Vec::new();
        for (group, containers) in opened {
            if !names::components_of(containers).contains(&component)
                || named.is_some_and(|n| n.files != group.files)
            {
                continue;
            }
            let mut result = self.part::<C>(group, containers);
            if component == Component::Transformer
                && let Ok((_, _, problems)) = &mut result
            {
                problems.extend(names_of_no_part(containers, &group.label()));
            }
            candidates.push((group, result));
        }
        if component == Component::Transformer && candidates.len() > 1 {
            let labels: Vec<String> = candidates.iter().map(|(group, _)| group.label()).collect();
            return Err(WeightsError::NotAModel {
                path: folder.to_owned(),
                problem: format!(
                    "holds {} transformers: {}",
                    labels.len(),
                    crate::error::some_names(&labels, 5)
                ),
                way_out: "name the file of the one you mean".into(),
            });
        }
        let several = candidates.len() > 1;
        candidates.sort_by_key(|(_, result)| match result {
            Ok((part, _, problems)) => {
                (usize::from(!problems.is_empty()), std::cmp::Reverse(part.bytes()))
            }
            Err(_) => (2, std::cmp::Reverse(0)),
        });
        match candidates.into_iter().next() {
            None => Ok(None),
            Some((_, Err(problem))) => {
                self.problems.push(problem);
                Ok(None)
            }
            Some((group, Ok((part, spiece, problems)))) => {
                if several {
                    let name = component.name();
                    self.notes.push(format!("of several {name}s, {} is used", group.label()));
                }
                self.problems.extend(problems);
                self.spiece = self.spiece.take().or(spiece);
                Ok(Some(part))
            }
        }
    }

    /// One part in files of their own.
    fn part<C: Network>(
        &mut self,
        group: &Group,
        containers: &[Container],
    ) -> Result<Outcome<C>, WeightsError> {
        let Some(found) = names::canonical(C::COMPONENT, containers)? else {
            return Err(none_here::<C>(group.folder()));
        };
        if C::COMPONENT == Component::Transformer {
            self.generator = containers.iter().any(Container::is_generator);
        }
        let config = self.config_beside::<C>(group, &found)?;
        Ok(outcome(config, found, containers, group.label()))
    }

    /// The configuration beside a file: `<file's stem>.json`, for a transformer also `config.json`.
    fn config_beside<C: Network>(
        &mut self,
        group: &Group,
        found: &Found,
    ) -> Result<C, WeightsError> {
        let shapes = Shapes::of(C::COMPONENT, &found.tensors);
        let mut json = read_optional(group.folder(), &format!("{}.json", group.stem))?;
        if json.is_none() && C::COMPONENT == Component::Transformer {
            json = read_optional(group.folder(), "config.json")?;
        }
        let Some(json) = json else { return C::infer(&shapes) };
        let map: Map<String, Value> =
            serde_json::from_str(&json).map_err(|e| WeightsError::json(C::COMPONENT.name(), &e))?;
        if C::COMPONENT == Component::Transformer && official::is_official(&map) {
            let official = official::parse(&map, &shapes)?;
            self.skyreels = Some(official.skyreels);
            self.model_type = official.model_type;
            let json = serde_json::to_string(&official.config).unwrap_or_default();
            return C::parse(&json);
        }
        C::parse(&json)
    }

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

/// A part, the tokenizer inside it, and what does not fit.
type Outcome<C> = (Part<C>, Option<Extent>, Vec<WeightsError>);

fn outcome<C: Network>(
    config: C,
    found: Found,
    containers: &[Container],
    label: String,
) -> Outcome<C> {
    let problems = compare(&config.expected(), &found.tensors, &label);
    let files = containers.iter().map(|c| c.file.clone()).collect();
    (Part { config, tensors: found.tensors, files, label }, found.spiece, problems)
}

/// Tensors of a checkpoint with several networks that are in none of them.
fn names_of_no_part(containers: &[Container], label: &str) -> Option<WeightsError> {
    let names = names::strangers(containers);
    (!names.is_empty()).then(|| WeightsError::Unused {
        count: names.len(),
        names: crate::error::some_names(&names, 5),
        origin: label.to_owned(),
    })
}

fn none_here<C: Network>(folder: &Path) -> WeightsError {
    WeightsError::NotAModel {
        path: folder.to_owned(),
        problem: format!("holds no tensors of a {}", C::COMPONENT.name()),
        way_out: "download its safetensors files too".into(),
    }
}

fn read_subfolder<C: Network>(folder: &Path) -> Result<Option<Outcome<C>>, WeightsError> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let mut candidates = groups(folder)?;
    candidates.sort_by_key(rank);
    let Some(best) = candidates.first() else { return Err(none_here::<C>(folder)) };
    if let Some(second) = candidates.get(1).filter(|second| rank(second) == rank(best)) {
        return Err(WeightsError::NotAModel {
            path: folder.to_owned(),
            problem: format!("holds both {} and {}", best.label(), second.label()),
            way_out: "remove one of them".into(),
        });
    }
    let containers = best.open()?;
    let Some(found) = names::canonical(C::COMPONENT, &containers)? else {
        return Err(none_here::<C>(folder));
    };
    let config = match read_optional(folder, "config.json")? {
        Some(json) => C::parse(&json)?,
        None => C::infer(&Shapes::of(C::COMPONENT, &found.tensors))?,
    };
    Ok(Some(outcome(config, found, &containers, best.label())))
}

/// Order of preference in a Diffusers subfolder: plain names before variants (`model.fp16`), and
/// formats without a pickle first.
fn rank(group: &Group) -> (u8, u8) {
    let name = match group.stem.as_str() {
        "diffusion_pytorch_model" | "model" | "pytorch_model" => 0,
        stem if stem.contains("model.") => 1,
        _ => 2,
    };
    let format = match group.ending.as_str() {
        "safetensors" => 0,
        "gguf" => 1,
        _ => 2,
    };
    (format, name)
}

/// Refuses pipelines of other models with more parts than ours.
fn check_pipeline(map: &Map<String, Value>) -> Result<(), WeightsError> {
    let second = map.get("transformer_2").and_then(|v| v.get(0)).is_some_and(|v| !v.is_null());
    let expands = map.get("expand_timesteps").and_then(Value::as_bool) == Some(true);
    if second || expands {
        let field = if second { "transformer_2" } else { "expand_timesteps" };
        return Err(WeightsError::Config {
            component: "model index",
            field: field.into(),
            value: map.get(field).map(Value::to_string).unwrap_or_default(),
            rule: "only SkyReels-V2 and Wan 2.1 are supported, not Wan 2.2".into(),
        });
    }
    Ok(())
}

/// Where files of one model lie: in the folder, and in ComfyUI's folders under or beside it.
fn places(folder: &Path, is_file: bool) -> Vec<PathBuf> {
    let mut places = vec![folder.to_owned()];
    let inner = ["diffusion_models", "unet", "vae", "text_encoders", "clip", "clip_vision"];
    places.extend(inner.iter().map(|name| folder.join(name)));
    let name = folder.file_name().and_then(|n| n.to_str());
    if is_file && name.is_some_and(|name| inner.contains(&name)) {
        places.extend(inner.iter().skip(2).map(|name| folder.join("..").join(name)));
    }
    places.retain(|place| place.is_dir());
    places
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
