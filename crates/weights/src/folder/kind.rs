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
    /// The path the model was opened by, as the last resort.
    pub path: &'a Path,
}

/// The kind, and a note when only the path's name told it.
pub(super) fn kind(evidence: &Evidence<'_>) -> (ModelKind, Option<String>) {
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

/// The words of the last parts of a path, in lower case. Four parts reach from a snapshot of a Hugging
/// Face cache to the model's name.
fn words(path: &Path) -> Vec<String> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let parts = path.iter().rev().take(4).chain(real.iter().rev().take(4));
    parts
        .flat_map(|part| {
            let part = part.to_string_lossy().to_lowercase();
            part.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}
