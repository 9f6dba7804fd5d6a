//! Where the quantised networks go, and what goes with them.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use super::choose::{Chosen, choose};
use super::write::{Errors, Head, Tally, write_file};
use super::{Quantized, QuantizedPart, QuantizedTensor, Target, gguf, safetensors};
use crate::WeightsError;
use crate::folder::{Part, Survey, survey};
use crate::names::{Component, Named};
use crate::source::TensorSource;

/// What will be written.
pub(super) struct Plan {
    survey: Survey,
    source: PathBuf,
    target: Target,
    out: PathBuf,
    /// One file of the transformer alone.
    is_file: bool,
    networks: Vec<Network>,
}

struct Network {
    component: Component,
    chosen: Vec<Chosen>,
    tensors: Vec<Named>,
    label: String,
    config: String,
}

impl Plan {
    /// Bytes of the quantised files.
    pub fn bytes(&self) -> u64 {
        self.networks.iter().flat_map(|n| &n.chosen).map(Chosen::bytes).sum()
    }
}

/// Reads the source's headers and refuses what cannot be done.
pub(super) fn plan(
    source: &Path,
    target: Target,
    parts: &[QuantizedPart],
    out: &Path,
) -> Result<Plan, WeightsError> {
    let refuse = |path: &Path, problem: &str, way_out: String| WeightsError::NotAModel {
        path: path.to_owned(),
        problem: problem.to_owned(),
        way_out,
    };
    let ending = out.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let is_model_ending = ["gguf", "safetensors"].contains(&ending);
    let is_file = ending == target.ending();
    if is_model_ending && !is_file {
        let way_out = format!("end it in .{}, or name a folder for a whole model", target.ending());
        return Err(refuse(out, "has the ending of another format", way_out));
    }
    if is_file && parts != [QuantizedPart::Transformer] {
        let way_out = "name a folder, which takes a whole model".to_owned();
        return Err(refuse(out, "can hold the transformer alone", way_out));
    }
    if out.symlink_metadata().is_ok() {
        let way_out = "name another place, or remove it".to_owned();
        return Err(refuse(out, "is there already", way_out));
    }
    let survey = survey(source)?;
    let mut networks = Vec::new();
    for part in parts {
        let component = part.component();
        let absent = || refuse(source, &format!("has no {}", component.name()), "add it".into());
        networks.push(match part {
            QuantizedPart::Transformer => {
                network(component, target, survey.transformer.as_ref().ok_or_else(absent)?)
            }
            QuantizedPart::TextEncoder => {
                network(component, target, survey.text_encoder.as_ref().ok_or_else(absent)?)
            }
        });
    }
    // Of a single file the companions do not matter.
    let mut problems = survey.problems.iter();
    let problem =
        problems.find(|problem| !is_file || !matches!(problem, WeightsError::NotAModel { .. }));
    if let Some(problem) = problem {
        let way_out = "`longreel inspect` lists what is wrong".to_owned();
        return Err(refuse(source, &format!("is not whole: {problem}"), way_out));
    }
    // A copy in which nothing has fewer bits is not what was asked for.
    let unchanged = |network: &&Network| network.chosen.iter().all(|tensor| !tensor.is_quantized);
    if let Some(network) = networks.iter().find(unchanged) {
        let problem = format!(
            "has no matrix in the blocks of its {} that can become {target}: rows have to be multiples of {} values",
            network.component.name(),
            target.shortest_row()
        );
        return Err(refuse(source, &problem, "fp8 takes rows of any length".to_owned()));
    }
    Ok(Plan { survey, source: source.to_owned(), target, out: out.to_owned(), is_file, networks })
}

fn network<C: Serialize>(component: Component, target: Target, part: &Part<C>) -> Network {
    Network {
        component,
        chosen: choose(component, target, &part.tensors),
        tensors: part.tensors.clone(),
        label: part.label.clone(),
        // Plain numbers and texts; writing them cannot fail.
        config: serde_json::to_string_pretty(&part.config).unwrap_or_default(),
    }
}

/// Writes all of it.
pub(super) fn write(
    plan: Plan,
    told: &mut dyn FnMut(&QuantizedTensor),
) -> Result<Quantized, WeightsError> {
    let mut tally = Tally { summary: Quantized::default(), errors: Errors::default(), told };
    if plan.is_file {
        let network = &plan.networks[0];
        if let Some(parent) = plan.out.parent().filter(|p| *p != Path::new("")) {
            fs::create_dir_all(parent).map_err(WeightsError::io("make", parent))?;
        }
        put(&plan, network, &plan.out, &mut tally)?;
        // Tensors do not tell all of the sizes.
        write_text(&plan.out.with_extension("json"), &network.config)?;
    } else {
        // A folder that is half written is taken away by whoever sees the error; it never looks whole.
        fs::create_dir_all(&plan.out).map_err(WeightsError::io("make", &plan.out))?;
        let mut all = || {
            for network in &plan.networks {
                let folder = plan.out.join(network.component.folder());
                fs::create_dir_all(&folder).map_err(WeightsError::io("make", &folder))?;
                let stem = match network.component {
                    Component::Transformer => "diffusion_pytorch_model",
                    _ => "model",
                };
                let file = folder.join(format!("{stem}.{}", plan.target.ending()));
                put(&plan, network, &file, &mut tally)?;
                write_text(&folder.join("config.json"), &network.config)?;
            }
            companions(&plan)
        };
        if let Err(error) = all() {
            let _ = fs::remove_dir_all(&plan.out);
            return Err(error);
        }
    }
    let relative_l2 = tally.errors.relative_l2();
    Ok(Quantized { relative_l2, ..tally.summary })
}

fn put(
    plan: &Plan,
    network: &Network,
    path: &Path,
    tally: &mut Tally<'_>,
) -> Result<(), WeightsError> {
    let head: Head = match plan.target.ending() {
        "gguf" => gguf::head(network.component, plan.target, &network.chosen),
        _ => safetensors::head(&network.chosen),
    };
    let source = TensorSource::from_named(&network.tensors, &network.label);
    let part = network.component.name();
    write_file(path, &head, &network.chosen, source, part, tally)
}

/// The parts that stay as they are, and what says how they belong together.
fn companions(plan: &Plan) -> Result<(), WeightsError> {
    let survey = &plan.survey;
    let quantized = |component| plan.networks.iter().any(|n| n.component == component);
    if let Some(part) = &survey.vae {
        keep(plan, Component::Vae, part)?;
    }
    if let Some(part) = survey.text_encoder.as_ref().filter(|_| !quantized(Component::TextEncoder))
    {
        keep(plan, Component::TextEncoder, part)?;
    }
    if let Some(part) = &survey.image_encoder {
        keep(plan, Component::ImageEncoder, part)?;
    }
    match (&survey.tokenizer, &survey.spiece) {
        (Some(tokenizer), _) => {
            for name in [
                "tokenizer.json",
                "tokenizer_config.json",
                "special_tokens_map.json",
                "spiece.model",
            ] {
                let from = tokenizer.join(name);
                if from.is_file() {
                    link(&from, &plan.out.join("tokenizer").join(name))?;
                }
            }
        }
        // It lies inside the text encoder's file, which may have been written anew.
        (None, Some(spiece)) => {
            let path = plan.out.join("tokenizer").join("spiece.model");
            make_parent(&path)?;
            fs::write(&path, spiece.as_slice()).map_err(WeightsError::io("write", &path))?;
        }
        (None, None) => {}
    }
    if let Some(json) = &survey.scheduler_json {
        write_text(&plan.out.join("scheduler").join("scheduler_config.json"), json)?;
    }
    if let Some(json) = &survey.image_processor_json {
        write_text(&plan.out.join("image_processor").join("preprocessor_config.json"), json)?;
    }
    let root =
        if plan.source.is_file() { plan.source.parent() } else { Some(plan.source.as_path()) };
    let read = |name: &str| fs::read_to_string(root?.join(name)).ok();
    if let Some(index) = read("model_index.json") {
        write_text(&plan.out.join("model_index.json"), &index)?;
    }
    // A new folder has another name, and of some models only the name tells what they are.
    let own = read("longreel.json").and_then(|text| serde_json::from_str(&text).ok());
    let mut own: Map<String, Value> = own.unwrap_or_default();
    own.insert("kind".into(), serde_json::to_value(survey.kind).unwrap_or_default());
    let own = serde_json::to_string_pretty(&own).unwrap_or_default();
    write_text(&plan.out.join("longreel.json"), &own)
}

fn keep<C: Serialize>(
    plan: &Plan,
    component: Component,
    part: &Part<C>,
) -> Result<(), WeightsError> {
    let folder = plan.out.join(component.folder());
    for file in &part.files {
        let name = file.path().file_name().unwrap_or_default();
        link(file.path(), &folder.join(name))?;
    }
    let config = serde_json::to_string_pretty(&part.config).unwrap_or_default();
    write_text(&folder.join("config.json"), &config)
}

/// The same content under another name: a hard link where the disk has them, else a copy.
fn link(from: &Path, to: &Path) -> Result<(), WeightsError> {
    make_parent(to)?;
    let real = from.canonicalize().map_err(WeightsError::io("open", from))?;
    match fs::hard_link(&real, to) {
        Ok(()) => Ok(()),
        Err(_) => fs::copy(&real, to).map(|_| ()).map_err(WeightsError::io("copy", from)),
    }
}

fn write_text(path: &Path, text: &str) -> Result<(), WeightsError> {
    make_parent(path)?;
    fs::write(path, text).map_err(WeightsError::io("write", path))
}

fn make_parent(path: &Path) -> Result<(), WeightsError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(WeightsError::io("make", parent))
}
