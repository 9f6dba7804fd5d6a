//! What a checkpoint was trained to do, from what its files say.

use std::path::Path;

use crate::config::TransformerConfig;
use crate::kind::{Family, ModelKind};

/// Everything that may tell.
pub(super) struct Evidence<'a> {
    pub config: &'a TransformerConfig,
    /// `_class_name` of `model_index.json`.
    pub pipeline: Option<&'a str>,
    /// `model_type` of an official configuration.
    pub model_type: Option<&'a str>,
    pub family: Family,
    /// Whether the weights are those of a distillation's generator.
    pub generator: bool,
    /// The path the model was opened by, as the last resort.
    pub path: &'a Path,
}

/// What is found of a kind.
pub(super) struct Told {
    pub kind: ModelKind,
    pub causal_few_step: bool,
    /// Where it could be otherwise.
    pub note: Option<String>,
}

/// What the evidence tells.
pub(super) fn told(evidence: &Evidence<'_>) -> Told {
    let (kind, note) = kind(evidence);
    let named = named_causal(evidence.path);
    if kind != ModelKind::TextToVideo
        || evidence.family != Family::Wan
        || !(evidence.generator || named)
    {
        return Told { kind, causal_few_step: false, note };
    }
    let why = if named { "by its name" } else { "as the generator of a distillation" };
    let note = format!(
        "{why} this model is taken for a causal few-step one (of CausVid's and Self Forcing's kind), \
         which makes its film block by block in four steps. To say otherwise, put \
         {{\"kind\": \"text_to_video\"}} into a longreel.json beside it"
    );
    Told { kind: ModelKind::DiffusionForcing, causal_few_step: true, note: Some(note) }
}

/// The kind, and a note when only the path's name told it.
fn kind(evidence: &Evidence<'_>) -> (ModelKind, Option<String>) {
    let config = evidence.config;
    if let Some(pipeline) = evidence.pipeline {
        if pipeline.contains("DiffusionForcing") {
            return (ModelKind::DiffusionForcing, None);
        }
        if !pipeline.contains("ImageToVideo") && config.in_channels == config.out_channels {
            return (ModelKind::TextToVideo, None);
        }
    }
    if config.in_channels > config.out_channels || config.image_dim.is_some() {
        let both = config.pos_embed_seq_len.is_some() || evidence.model_type == Some("flf2v");
        let kind = if both { ModelKind::FirstLastFrame } else { ModelKind::ImageToVideo };
        return (kind, None);
    }
    // Only diffusion-forcing models were trained with the frame rate.
    if config.inject_sample_info {
        return (ModelKind::DiffusionForcing, None);
    }
    if evidence.family == Family::Wan {
        return (ModelKind::TextToVideo, None);
    }
    // The 14B models of both kinds have the same tensors and the same configuration.
    let kind = if named_forcing(evidence.path) {
        ModelKind::DiffusionForcing
    } else {
        ModelKind::TextToVideo
    };
    let note = format!(
        "nothing in the files tells whether this SkyReels-V2 model is a diffusion-forcing (DF) or a \
         text-to-video (T2V) one; by its name it is taken for {kind}. To say otherwise, put \
         {{\"kind\": \"diffusion_forcing\"}} into a longreel.json beside it"
    );
    (kind, Some(note))
}

/// The family of a transformer whose files do not say it.
pub(super) fn family_by_name(config: &TransformerConfig, path: &Path) -> Family {
    let named = words(path).iter().any(|word| word.starts_with("skyreel"));
    if config.is_skyreels() || named { Family::SkyReels } else { Family::Wan }
}

fn named_forcing(path: &Path) -> bool {
    words(path).iter().any(|word| word == "df" || word == "forcing")
}

/// Whether a path names one of the causal few-step models: in its last part, since the official code
/// keeps the model that it began with in a folder of its own, or in a cache's name for it.
fn named_causal(path: &Path) -> bool {
    let parent = path.parent();
    let cached = parent.filter(|parent| parent.ends_with("snapshots")).and_then(Path::parent);
    let name = cached.unwrap_or(path).file_name().unwrap_or_default();
    let words = words_of(&name.to_string_lossy());
    words.iter().any(|word| word == "causvid" || word == "selfforcing")
        || words.windows(2).any(|pair| pair == ["self", "forcing"])
}

/// The words of the last parts of a path, in lower case. Four parts reach from a snapshot of a Hugging
/// Face cache to the model's name.
fn words(path: &Path) -> Vec<String> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let parts = path.iter().rev().take(4).chain(real.iter().rev().take(4));
    parts.flat_map(|part| words_of(&part.to_string_lossy())).collect()
}

fn words_of(part: &str) -> Vec<String> {
    let part = part.to_lowercase();
    part.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned).collect()
}
