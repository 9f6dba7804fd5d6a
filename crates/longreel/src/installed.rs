//! The models that a service could have beside those that it was started with: those in the caches, and
//! the published ones.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use longreel_film::{DeviceChoice, GpuFacts, available_memory_bytes};
use longreel_hub::Kept;
use longreel_server::{Catalogue, Films, Listed, Memory};
use longreel_weights::{inspect, published_models};

use crate::enhancer::EnhancerArgs;
use crate::films::TypedFilms;
use crate::generate_args::ModelArgs;
use crate::model_name::{caches, repositories};
use crate::models::has_our_name;
use crate::run;

/// Bytes of UMT5-XXL's encoder in bf16, which all published models read prompts with.
const TEXT_ENCODER_BYTES: u64 = 2 * 5_680_910_336;

/// Models as `longreel models` keeps them.
pub struct Installed {
    /// How each is used.
    pub model: ModelArgs,
    /// Where they are computed.
    pub device: DeviceChoice,
    /// The settings file.
    pub config: Option<PathBuf>,
    /// What makes prompts longer.
    pub enhancer: EnhancerArgs,
    /// Whether a GPU makes the films.
    on_gpu: bool,
    /// Memory before any model was loaded.
    memory_bytes: Option<u64>,
    /// What was found to be whole, by folder. What a commit names does not change.
    known: Mutex<HashMap<PathBuf, Listed>>,
}

impl Installed {
    /// Those of this machine. `model` says how they are used but for its name and what fits one alone.
    pub fn new(
        model: ModelArgs,
        device: DeviceChoice,
        config: Option<PathBuf>,
        enhancer: EnhancerArgs,
    ) -> Self {
        let on_gpu = GpuFacts::of(&device).is_some();
        let (memory_bytes, known) = (available_memory_bytes(), Mutex::default());
        Self { model, device, config, enhancer, on_gpu, memory_bytes, known }
    }

    /// Of weights of so many bytes, which alone decide nothing on a GPU: what has no room there is brought for
    /// each pass.
    fn memory(&self, needed: Option<u64>) -> Memory {
        let available = self.memory_bytes.filter(|_| !self.on_gpu);
        Memory { needed, available, on_gpu: self.on_gpu }
    }

    /// How a model of that name is used beside the first one.
    pub fn args(&self, name: PathBuf) -> ModelArgs {
        // Weights of another model's shape.
        ModelArgs { model: Some(name), lora: Vec::new(), ..self.model.clone() }
    }

    /// Opens a model; loads nothing.
    pub fn films(&self, model: &ModelArgs) -> Result<Arc<dyn Films>> {
        let engine = run::options(model, self.device.clone())?;
        let films = TypedFilms::open(model, &engine, self.config.as_deref(), &self.enhancer)?;
        Ok(Arc::new(films))
    }

    /// What is to be said of a kept model; `None` when it is of another family.
    fn look(&self, kept: &Kept) -> Option<Listed> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listed) = known().get(&kept.folder) {
            return Some(listed.clone());
        }
        let listed = |kind, needed, problem| Listed {
            name: kept.short_reference(),
            kind,
            revision: Some(kept.revision.to_string()),
            is_installed: true,
            memory: self.memory(needed),
            problem,
            pull: None,
        };
        match inspect(&kept.folder) {
            Ok(report) => {
                let problem = report.problems.first().cloned();
                let mut listed =
                    listed(report.kind.to_string(), Some(report.memory_bytes), problem);
                if listed.problem.is_none() {
                    if self.on_gpu
                        && let Ok(films) = self.films(&self.args(kept.reference().into()))
                    {
                        listed.memory = films.memory();
                    }
                    known().insert(kept.folder.clone(), listed.clone());
                }
                Some(listed)
            }
            Err(error) if has_our_name(kept) => {
                Some(listed(String::new(), None, Some(error.to_string())))
            }
            Err(_) => None,
        }
        // Where it lies is nothing for clients, and what is missing can be fetched.
        .map(|listed| match listed.problem {
            Some(problem) => {
                let place = kept.folder.display().to_string();
                let problem = problem.replace(&format!("{place}/"), "").replace(&place, "it");
                let pull = Some(format!("longreel models pull {}", kept.reference()));
                Listed { problem: Some(problem), pull, ..listed }
            }
            None => listed,
        })
    }

    fn kept() -> impl Iterator<Item = Kept> {
        caches(None).into_iter().flat_map(|cache| cache.all())
    }
}

impl Catalogue for Installed {
    fn list(&self) -> Vec<Listed> {
        let kept: Vec<Kept> = Self::kept().collect();
        let mut all: Vec<Listed> = kept.iter().filter_map(|kept| self.look(kept)).collect();
        all.dedup_by(|a, b| a.name == b.name);
        for model in published_models() {
            let names = repositories(&model);
            if kept.iter().any(|kept| names.contains(&kept.id.to_string())) {
                continue;
            }
            let name = model.name.to_ascii_lowercase();
            let needed = model.transformer.bf16_bytes().max(TEXT_ENCODER_BYTES);
            all.push(Listed {
                kind: model.kind.to_string(),
                revision: None,
                is_installed: false,
                memory: self.memory(Some(needed)),
                problem: None,
                pull: Some(format!("longreel models pull {name}")),
                name,
            });
        }
        all
    }

    fn open(&self, name: &str) -> Result<Option<Arc<dyn Films>>, String> {
        // Only what is in a cache: a name from a client never becomes a path.
        let Some(kept) = Self::kept().find(|kept| kept.short_reference() == name) else {
            return Ok(None);
        };
        if let Some(Listed { problem: Some(problem), pull, .. }) = self.look(&kept) {
            let pull = pull.unwrap_or_default();
            return Err(format!("{name}: {problem}; `{pull}` fetches what is missing"));
        }
        self.films(&self.args(kept.reference().into())).map(Some).map_err(|error| {
            tracing::warn!(name, error = format!("{error:#}"), "a model cannot be used");
            format!("{name} cannot be used; the server's log says why")
        })
    }
}
