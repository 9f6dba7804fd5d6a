//! The `config.json` of the official releases, which names the transformer's sizes otherwise.

use serde_json::{Map, Value};

use crate::WeightsError;
use crate::config::{Fields, SKYREELS, TransformerConfig, WAN, WIDTH_MAX};
use crate::network::Shapes;

const COMPONENT: &str = "transformer";

/// What an official `config.json` says.
pub(crate) struct Official {
    pub config: TransformerConfig,
    /// Whether it is of SkyReels-V2, whose files alone have the key `inject_sample_info`.
    pub skyreels: bool,
    /// `t2v`, `i2v` or `flf2v`.
    pub model_type: Option<String>,
}

/// True when the keys are those of `WanModel` and not of Diffusers.
pub(crate) fn is_official(map: &Map<String, Value>) -> bool {
    map.contains_key("dim") && map.contains_key("num_heads")
}

/// Reads an official configuration. What it leaves to the code (the image's widths) is taken from the
/// tensors.
pub(crate) fn parse(
    map: &Map<String, Value>,
    shapes: &Shapes<'_>,
) -> Result<Official, WeightsError> {
    let fields = Fields::new(COMPONENT, map);
    let model_type = fields.text("model_type")?.map(str::to_owned);
    if !matches!(model_type.as_deref(), None | Some("t2v" | "i2v" | "flf2v")) {
        return Err(fields.refuse_key("model_type", "only t2v, i2v and flf2v are supported"));
    }
    let skyreels = map.contains_key("inject_sample_info");
    let dim = fields.count("dim", 2048, 1..=WIDTH_MAX)?;
    let heads = fields.count("num_heads", 16, 1..=1024)?;
    if !dim.is_multiple_of(heads) {
        return Err(fields.refuse_key("dim", format!("it must be a multiple of {heads} heads")));
    }
    if !fields.flag("qk_norm", true)? {
        let rule = "models without norms of query and key are not supported";
        return Err(fields.refuse_key("qk_norm", rule));
    }
    // What Diffusers writes for the same.
    let json = serde_json::json!({
        "_class_name": if skyreels { SKYREELS } else { WAN },
        "patch_size": map.get("patch_size").cloned().unwrap_or_else(|| [1, 2, 2].into()),
        "num_attention_heads": heads,
        "attention_head_dim": dim / heads,
        "in_channels": fields.count("in_dim", 16, 1..=4096)?,
        "out_channels": fields.count("out_dim", 16, 1..=4096)?,
        "text_dim": fields.count("text_dim", 4096, 1..=WIDTH_MAX)?,
        "freq_dim": fields.count("freq_dim", 256, 2..=WIDTH_MAX)?,
        "ffn_dim": fields.count("ffn_dim", 8192, 1..=WIDTH_MAX)?,
        "num_layers": fields.count("num_layers", 32, 1..=crate::config::LAYERS_MAX)?,
        "cross_attn_norm": fields.flag("cross_attn_norm", true)?,
        "qk_norm": "rms_norm_across_heads",
        "eps": fields.epsilon("eps", 1e-6)?,
        "image_dim": shapes.image_dim(),
        "added_kv_proj_dim": shapes.image_dim().map(|_| dim),
        "pos_embed_seq_len": shapes.image_positions(),
        "inject_sample_info": fields.flag("inject_sample_info", false)?,
    });
    // Of the text, whose length the command decides; of attention windows, which no release sets.
    fields.ignore(&["patch_size", "text_len", "window_size"]);
    fields.finish()?;
    let config = TransformerConfig::from_json(&json.to_string())?;
    Ok(Official { config, skyreels, model_type })
}
