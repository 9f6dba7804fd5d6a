//! What a folder holds, for people and programs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::WeightsError;
use crate::folder::{Layout, Part, Survey, survey};
use crate::kind::{Family, ModelKind};
use crate::published::published_models;

/// What a model folder holds.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How the files are laid out.
    pub layout: Layout,
    /// Who trained it.
    pub family: Family,
    /// What for.
    pub kind: ModelKind,
    /// Published models of the same kind and sizes.
    pub same_sizes_as: Vec<String>,
    /// Its networks.
    pub components: Vec<ComponentReport>,
    /// Where the tokenizer is, when there is one.
    pub tokenizer: Option<String>,
    /// Parameters of all networks together.
    pub parameters: u64,
    /// Bytes of memory that the weights take when a film is made: transformer and autoencoder, or the text
    /// encoder, which is done before them, where that is larger.
    pub memory_bytes: u64,
    /// What a person should know.
    pub notes: Vec<String>,
    /// What is missing, surplus or wrong. The model works when this is empty.
    pub problems: Vec<String>,
}

/// One network of a model.
#[derive(Debug, Clone, Serialize)]
pub struct ComponentReport {
    /// `transformer`, `VAE`, `text encoder` or `image encoder`.
    pub name: String,
    /// Its files.
    pub files: Vec<String>,
    /// Parameters.
    pub parameters: u64,
    /// Bytes in the files.
    pub bytes: u64,
    /// Parameters by number format.
    pub dtypes: BTreeMap<String, u64>,
}

/// Looks into a model folder or file without loading a weight. Unlike opening, it goes on past what is
/// missing and lists it.
///
/// # Errors
/// When there is no transformer of the family at all.
pub fn inspect(path: impl AsRef<Path>) -> Result<Report, WeightsError> {
    let survey = survey(path.as_ref())?;
    let components: Vec<ComponentReport> = [
        survey.transformer.as_ref().map(|part| component("transformer", part)),
        survey.vae.as_ref().map(|part| component("VAE", part)),
        survey.text_encoder.as_ref().map(|part| component("text encoder", part)),
        survey.image_encoder.as_ref().map(|part| component("image encoder", part)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let bytes = |name: &str| components.iter().find(|c| c.name == name).map_or(0, |c| c.bytes);
    let tokenizer = match (&survey.tokenizer, &survey.spiece) {
        (Some(folder), _) => Some(folder.display().to_string()),
        (None, Some(_)) => Some("inside the text encoder's file".into()),
        (None, None) => None,
    };
    Ok(Report {
        layout: survey.layout,
        family: survey.family,
        kind: survey.kind,
        same_sizes_as: same_sizes(&survey),
        tokenizer,
        parameters: components.iter().map(|c| c.parameters).sum(),
        memory_bytes: (bytes("transformer") + bytes("VAE")).max(bytes("text encoder")),
        notes: survey.notes,
        problems: survey.problems.iter().map(ToString::to_string).collect(),
        components,
    })
}

fn component<C>(name: &str, part: &Part<C>) -> ComponentReport {
    let mut dtypes = BTreeMap::new();
    for tensor in &part.tensors {
        *dtypes.entry(tensor.stored.format.name().to_owned()).or_default() +=
            tensor.stored.values() as u64;
    }
    ComponentReport {
        name: name.to_owned(),
        files: part.files.iter().map(|f| f.path().display().to_string()).collect(),
        parameters: part.parameters(),
        bytes: part.bytes(),
        dtypes,
    }
}

fn same_sizes(survey: &Survey) -> Vec<String> {
    let Some(transformer) = &survey.transformer else { return vec![] };
    let mine = transformer.config.expected_tensors();
    published_models()
        .into_iter()
        .filter(|model| model.kind == survey.kind && model.family == survey.family)
        .filter(|model| model.transformer.expected_tensors() == mine)
        .map(|model| model.name.to_owned())
        .collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kind        {}, {}", self.family, self.kind)?;
        writeln!(f, "layout      {}", self.layout)?;
        if !self.same_sizes_as.is_empty() {
            writeln!(f, "sizes of    {}", self.same_sizes_as.join(", "))?;
        }
        for part in &self.components {
            let formats: Vec<String> = part
                .dtypes
                .iter()
                .map(|(name, count)| match part.parameters {
                    total if total == *count => name.clone(),
                    total => format!("{name} {:.1} %", 100.0 * *count as f64 / total.max(1) as f64),
                })
                .collect();
            writeln!(
                f,
                "{:<14}{:>9} parameters {:>10}  {}",
                part.name,
                count(part.parameters),
                size(part.bytes),
                formats.join(", ")
            )?;
            for file in part.files.iter().take(3) {
                writeln!(f, "                {file}")?;
            }
            if part.files.len() > 3 {
                writeln!(f, "                and {} more files", part.files.len() - 3)?;
            }
        }
        writeln!(f, "tokenizer   {}", self.tokenizer.as_deref().unwrap_or("missing"))?;
        writeln!(f, "memory      {} for the weights", size(self.memory_bytes))?;
        for note in &self.notes {
            writeln!(f, "note        {note}")?;
        }
        match self.problems.as_slice() {
            [] => write!(f, "complete    every tensor is there, none is left over"),
            problems => {
                writeln!(f, "problems    {}", problems.len())?;
                for problem in problems.iter().take(20) {
                    writeln!(f, "- {problem}")?;
                }
                if problems.len() > 20 {
                    writeln!(f, "- and {} more", problems.len() - 20)?;
                }
                Ok(())
            }
        }
    }
}

fn count(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.1} K", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.2} B", n as f64 / 1e9),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0),
    }
}
