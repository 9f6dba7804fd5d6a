//! What the keys of a LoRA mean.

use crate::names::{TRANSFORMER, match_underscored, rename};

/// What a tensor of a LoRA is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    /// The matrix from the inputs, `A`.
    Down,
    /// The matrix to the outputs, `B`.
    Up,
    /// What is added to the outputs of `B`, and scaled as they are.
    UpBias,
    Alpha,
    /// A difference, with the canonical name of the tensor it is of.
    Full(String),
}

/// Endings of the matrices of low-rank changes.
const LOW_RANK: [(&str, Role); 12] = [
    ("lora_A.weight", Role::Down),
    ("lora_B.weight", Role::Up),
    ("lora_A.default.weight", Role::Down),
    ("lora_B.default.weight", Role::Up),
    ("lora_B.bias", Role::UpBias),
    ("lora_B.default.bias", Role::UpBias),
    ("lora_down.weight", Role::Down),
    ("lora_up.weight", Role::Up),
    ("lora.down.weight", Role::Down),
    ("lora.up.weight", Role::Up),
    ("alpha", Role::Alpha),
    ("lora.alpha", Role::Alpha),
];

/// Endings of differences, and the tensor of the module they are of.
const DIFFERENCES: [(&str, &str); 3] =
    [("diff", "weight"), ("diff_b", "bias"), ("diff_m", "scale_shift_table")];

/// What programs put before all names.
const PREFIXES: [&str; 6] = [
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "lora_unet_",
    "lora_transformer_",
];

/// Canonical module and role of a key; `None` when it is none of a transformer's LoRA.
pub(super) fn read_key(key: &str) -> Option<(String, Role)> {
    if let Some((module, role)) = LOW_RANK.iter().find_map(|(ending, role)| {
        Some((key.strip_suffix(ending)?.strip_suffix('.')?, role.clone()))
    }) {
        return Some((module_name(module)?, role));
    }
    let (module, leaf) = DIFFERENCES
        .iter()
        .find_map(|(ending, leaf)| Some((key.strip_suffix(ending)?.strip_suffix('.')?, *leaf)))?;
    if leaf == "scale_shift_table" {
        let block = strip_prefix(module).0;
        let name = if block == "head" { leaf.into() } else { format!("{block}.{leaf}") };
        return Some((block.to_owned(), Role::Full(name)));
    }
    let module = module_name(module)?;
    // Tables have no `.weight`; their module is the tensor.
    let is_tensor = ["scale_shift_table", "pos_embed"].iter().any(|t| module.ends_with(t));
    let name = if is_tensor { module.clone() } else { format!("{module}.{leaf}") };
    Some((module, Role::Full(name)))
}

/// The name without prefix, and whether its dots are written as underscores.
fn strip_prefix(name: &str) -> (&str, bool) {
    let found = PREFIXES.iter().find_map(|p| Some((name.strip_prefix(p)?, p.ends_with('_'))));
    match found {
        // PEFT's own prefix may stand before another.
        Some((rest, false)) => strip_prefix(rest),
        Some(found) => found,
        None => (name, false),
    }
}

fn module_name(module: &str) -> Option<String> {
    let (name, underscored) = strip_prefix(module);
    if underscored {
        return match_underscored(&TRANSFORMER, name);
    }
    let canonical = rename(&TRANSFORMER, name).unwrap_or_else(|| name.to_owned());
    let parts = ["blocks.", "condition_embedder.", "fps_", "patch_embedding", "proj_out"];
    let known = parts.iter().any(|p| canonical.starts_with(p)) || canonical == "scale_shift_table";
    known.then_some(canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_ways_of_naming_mean_the_same() {
        for key in [
            "transformer.blocks.3.attn1.to_out.0.lora_A.weight",
            "base_model.model.blocks.3.attn1.to_out.0.lora_A.default.weight",
            "diffusion_model.blocks.3.self_attn.o.lora_A.weight",
            "diffusion_model.blocks.3.self_attn.o.lora_down.weight",
            "lora_unet_blocks_3_self_attn_o.lora_down.weight",
            "blocks.3.self_attn.o.lora_down.weight",
        ] {
            let expected = Some(("blocks.3.attn1.to_out.0".to_owned(), Role::Down));
            assert_eq!(read_key(key), expected, "{key}");
        }
        let alpha = read_key("lora_unet_blocks_3_cross_attn_k_img.alpha");
        assert_eq!(alpha, Some(("blocks.3.attn2.add_k_proj".to_owned(), Role::Alpha)));
    }

    #[test]
    fn differences_name_their_tensor() {
        let tensor = |key| match read_key(key) {
            Some((_, Role::Full(name))) => name,
            other => panic!("{key}: {other:?}"),
        };
        assert_eq!(tensor("diffusion_model.blocks.1.norm3.diff"), "blocks.1.norm2.weight");
        assert_eq!(tensor("diffusion_model.head.head.diff_b"), "proj_out.bias");
        assert_eq!(tensor("diffusion_model.blocks.1.diff_m"), "blocks.1.scale_shift_table");
        assert_eq!(tensor("diffusion_model.head.diff_m"), "scale_shift_table");
        assert_eq!(tensor("blocks.1.modulation.diff"), "blocks.1.scale_shift_table");
    }

    #[test]
    fn other_adapters_and_other_models_are_not_understood() {
        for key in [
            "lora_unet_blocks_0_self_attn_q.lokr_w1",
            "lora_unet_blocks_0_self_attn_q.dora_scale",
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
            "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
            "text_encoder.layers.0.lora_A.weight",
            "blocks.0.self_attn.q.weight",
        ] {
            assert_eq!(read_key(key), None, "{key}");
        }
    }
}
