//! The search for a model's parts, in subfolders that say what they hold or in files told apart by their tensors.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::files::{Group, groups, read_optional};
use super::official;
use super::part::Part;
use crate::WeightsError;
use crate::config::{ClipVisionConfig, TextConfig, TransformerConfig, VaeConfig};
use crate::container::{Container, Extent};
use crate::names::{self, Component, Found};
use crate::network::{Network, Shapes, compare};

/// What was found so far.
#[derive(Default)]
pub(super) struct Search {
    pub pipeline: Option<String>,
    pub skyreels: Option<bool>,
    pub model_type: Option<String>,
    pub generator: bool,
    pub transformer: Option<Part<TransformerConfig>>,
    pub vae: Option<Part<VaeConfig>>,
    pub text_encoder: Option<Part<TextConfig>>,
    pub image_encoder: Option<Part<ClipVisionConfig>>,
    pub spiece: Option<Extent>,
    pub problems: Vec<WeightsError>,
    pub notes: Vec<String>,
}

impl Search {
    /// The subfolders of a Diffusers folder.
    pub fn diffusers(&mut self, root: &Path) -> Result<(), WeightsError> {
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
    pub fn files(&mut self, path: &Path, folder: &Path, is_file: bool) -> Result<(), WeightsError> {
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
        // What lies beside a named file that holds no transformer is not what is wrong with it.
        if !complete && (named.is_none() || self.transformer.is_some()) {
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
