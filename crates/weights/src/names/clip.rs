//! The image encoder's names.
//!
//! Right: transformers' `CLIPVisionModel`. Left: `wan/modules/clip.py` (`XLMRobertaCLIP`), whose text half
//! video models do not use, and which keeps query, key and value in one matrix.

use super::pattern::{match_start, rename};
use super::{Mapped, Style};

const VISION: [(&str, &str); 10] = [
    ("visual.cls_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.patch_embedding", "vision_model.embeddings.patch_embedding"),
    ("visual.pos_embedding", "vision_model.embeddings.position_embedding.weight"),
    // The reference misspells it.
    ("visual.pre_norm", "vision_model.pre_layrnorm"),
    ("visual.post_norm", "vision_model.post_layernorm"),
    ("visual.transformer.{}.norm1", "vision_model.encoder.layers.{}.layer_norm1"),
    ("visual.transformer.{}.attn.proj", "vision_model.encoder.layers.{}.self_attn.out_proj"),
    ("visual.transformer.{}.norm2", "vision_model.encoder.layers.{}.layer_norm2"),
    ("visual.transformer.{}.mlp.0", "vision_model.encoder.layers.{}.mlp.fc1"),
    ("visual.transformer.{}.mlp.2", "vision_model.encoder.layers.{}.mlp.fc2"),
];

pub(super) fn map(style: Style, name: &str) -> Mapped {
    // The text half, the projections into the space that both halves share, and a table of 0, 1, 2, ...
    let unused = ["textual.", "text_model.", "text_projection.", "visual_projection."];
    if unused.iter().any(|prefix| name.starts_with(prefix))
        || matches!(name, "log_scale" | "logit_scale" | "visual.head")
        || name.ends_with(".position_ids")
    {
        return Mapped::Drop;
    }
    if style == Style::Canonical {
        // The vision model alone, as some versions of transformers save it.
        let bare = ["embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm."];
        let prefix = if bare.iter().any(|p| name.starts_with(p)) { "vision_model." } else { "" };
        return Mapped::To(format!("{prefix}{name}"));
    }
    if let Some((numbers, leaf)) = match_start("visual.transformer.{}.attn.to_qkv.", name) {
        let layer = numbers[0];
        let part = |p| format!("vision_model.encoder.layers.{layer}.self_attn.{p}_proj.{leaf}");
        return Mapped::Split(["q", "k", "v"].into_iter().map(part).collect());
    }
    Mapped::To(rename(&VISION, name).unwrap_or_else(|| name.to_owned()))
}
