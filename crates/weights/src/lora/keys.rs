//! What the keys of a LoRA mean.

use crate::names::{TRANSFORMER, match_underscored, rename};

/// What a tensor of a LoRA is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    /// A part of the change of a module's weight.
    Part(Part),
    /// A difference, with the canonical name of the tensor it is of.
    Full(String),
}

/// The tensors of which the change of one weight is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The matrix from the inputs, `A`.
    Down,
    /// The matrix to the outputs, `B`.
    Up,
    /// The core between both, of a convolution.
    Mid,
    /// What is added to the outputs of `B`, and scaled as they are.
    UpBias,
    Alpha,
    /// DoRA's lengths of the weight's rows or columns.
    Magnitude,
    // LoHa: two low-rank matrices that are multiplied value by value. `1` and `2` are those of LyCORIS.
    Hada1Up,
    Hada1Down,
    Hada1Core,
    Hada2Up,
    Hada2Down,
    Hada2Core,
    // LoKr: two matrices of which the Kronecker product is taken, each whole or as a low-rank product.
    Lokr1,
    Lokr1Up,
    Lokr1Down,
    Lokr2,
    Lokr2Up,
    Lokr2Down,
    Lokr2Core,
}

/// Endings of the parts.
const PARTS: [(&str, Part); 26] = [
    ("lora_A.weight", Part::Down),
    ("lora_B.weight", Part::Up),
    ("lora_B.bias", Part::UpBias),
    ("lora_down.weight", Part::Down),
    ("lora_up.weight", Part::Up),
    ("lora_mid.weight", Part::Mid),
    ("lora.down.weight", Part::Down),
    ("lora.up.weight", Part::Up),
    ("alpha", Part::Alpha),
    ("lora.alpha", Part::Alpha),
    ("dora_scale", Part::Magnitude),
    ("lora_magnitude_vector", Part::Magnitude),
    ("lora_magnitude_vector.weight", Part::Magnitude),
    ("hada_w1_a", Part::Hada1Up),
    ("hada_w1_b", Part::Hada1Down),
    ("hada_t1", Part::Hada1Core),
    ("hada_w2_a", Part::Hada2Up),
    ("hada_w2_b", Part::Hada2Down),
    ("hada_t2", Part::Hada2Core),
    ("lokr_w1", Part::Lokr1),
    ("lokr_w1_a", Part::Lokr1Up),
    ("lokr_w1_b", Part::Lokr1Down),
    ("lokr_w2", Part::Lokr2),
    ("lokr_w2_a", Part::Lokr2Up),
    ("lokr_w2_b", Part::Lokr2Down),
    ("lokr_t2", Part::Lokr2Core),
];

/// Endings of differences, and the tensor of the module they are of.
const DIFFERENCES: [(&str, &str); 5] = [
    ("diff", "weight"),
    ("diff_b", "bias"),
    ("diff_m", "scale_shift_table"),
    ("w_norm", "weight"),
    ("b_norm", "bias"),
];

/// What programs put before all names.
const PREFIXES: [&str; 7] = [
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "lora_unet_",
    "lora_transformer_",
    "lycoris_",
];

/// Canonical module and role of a key; `None` when it is none of a transformer's LoRA.
pub(super) fn read_key(key: &str) -> Option<(String, Role)> {
    // The name that PEFT gives an adapter stands between when a program does not leave it out.
    let key = &key.replace(".default.", ".");
    let key = key.strip_suffix(".default").unwrap_or(key);
    if let Some((module, part)) = PARTS
        .iter()
        .find_map(|(ending, part)| Some((key.strip_suffix(ending)?.strip_suffix('.')?, *part)))
    {
        return Some((module_name(module)?, Role::Part(part)));
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
            let expected = Some(("blocks.3.attn1.to_out.0".to_owned(), Role::Part(Part::Down)));
            assert_eq!(read_key(key), expected, "{key}");
        }
        let alpha = read_key("lora_unet_blocks_3_cross_attn_k_img.alpha");
        assert_eq!(alpha, Some(("blocks.3.attn2.add_k_proj".to_owned(), Role::Part(Part::Alpha))));
    }

    #[test]
    fn parts_of_lycoris_are_read_under_every_name() {
        for (key, part) in [
            ("lycoris_blocks_3_self_attn_o.lokr_w2_b", Part::Lokr2Down),
            ("lora_unet_blocks_3_attn1_to_out_0.lokr_w1", Part::Lokr1),
            ("base_model.model.blocks.3.attn1.to_out.0.lokr_w1.default", Part::Lokr1),
            ("diffusion_model.blocks.3.self_attn.o.hada_w1_a", Part::Hada1Up),
            ("transformer.blocks.3.attn1.to_out.0.hada_t2", Part::Hada2Core),
            ("diffusion_model.blocks.3.self_attn.o.dora_scale", Part::Magnitude),
            (
                "transformer.blocks.3.attn1.to_out.0.lora_magnitude_vector.default.weight",
                Part::Magnitude,
            ),
        ] {
            let expected = Some(("blocks.3.attn1.to_out.0".to_owned(), Role::Part(part)));
            assert_eq!(read_key(key), expected, "{key}");
        }
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
        assert_eq!(tensor("lycoris_blocks_1_norm3.w_norm"), "blocks.1.norm2.weight");
        assert_eq!(tensor("lycoris_blocks_1_norm3.b_norm"), "blocks.1.norm2.bias");
        assert_eq!(tensor("blocks.1.modulation.diff"), "blocks.1.scale_shift_table");
    }

    #[test]
    fn other_adapters_and_other_models_are_not_understood() {
        for key in [
            "lora_unet_blocks_0_self_attn_q.oft_blocks",
            "lora_unet_blocks_0_self_attn_q.a1.weight",
            "diffusion_model.blocks.0.self_attn.q.on_input",
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
            "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
            "text_encoder.layers.0.lora_A.weight",
            "blocks.0.self_attn.q.weight",
        ] {
            assert_eq!(read_key(key), None, "{key}");
        }
    }
}
