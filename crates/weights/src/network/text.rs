//! The text encoder's tensors. Reference: `UMT5EncoderModel` of transformers.

use super::{ExpectedTensor, List, Shapes};
use crate::WeightsError;
use crate::config::TextConfig;

pub(super) fn expected(config: &TextConfig) -> Vec<ExpectedTensor> {
    let (d_model, d_ff) = (config.d_model, config.d_ff);
    let inner = config.num_heads * config.d_kv;
    let mut list = List::default();
    list.tensor("shared.weight".into(), &[config.vocab_size, d_model]);
    for block in 0..config.num_layers {
        let layer =
            |index: usize, name: &str| format!("encoder.block.{block}.layer.{index}.{name}.weight");
        for projection in ["q", "k", "v"] {
            list.tensor(layer(0, &format!("SelfAttention.{projection}")), &[inner, d_model]);
        }
        list.tensor(layer(0, "SelfAttention.o"), &[d_model, inner]);
        let buckets = config.relative_attention_num_buckets;
        list.tensor(
            layer(0, "SelfAttention.relative_attention_bias"),
            &[buckets, config.num_heads],
        );
        list.tensor(layer(0, "layer_norm"), &[d_model]);
        list.tensor(layer(1, "DenseReluDense.wi_0"), &[d_ff, d_model]);
        list.tensor(layer(1, "DenseReluDense.wi_1"), &[d_ff, d_model]);
        list.tensor(layer(1, "DenseReluDense.wo"), &[d_model, d_ff]);
        list.tensor(layer(1, "layer_norm"), &[d_model]);
    }
    list.tensor("encoder.final_layer_norm.weight".into(), &[d_model]);
    list.0
}

pub(super) fn infer(shapes: &Shapes<'_>) -> Result<TextConfig, WeightsError> {
    let first = "encoder.block.0.layer.0.SelfAttention";
    let bias = format!("{first}.relative_attention_bias.weight");
    let layers = shapes.count("encoder.block.");
    if layers > 1 && !shapes.has(&bias.replace("block.0", "block.1")) {
        return Err(WeightsError::Config {
            component: "text encoder",
            field: "the position bias".into(),
            value: "one for all layers (T5)".into(),
            rule: "only UMT5 is supported, which has one in each layer; use umt5-xxl".into(),
        });
    }
    let heads = shapes.axis(&bias, 1)?;
    let inner = shapes.axis(&format!("{first}.q.weight"), 0)?;
    if heads == 0 || !inner.is_multiple_of(heads) {
        return Err(shapes.ask("num_heads", heads));
    }
    let json = serde_json::json!({
        "vocab_size": shapes.axis("shared.weight", 0)?,
        "d_model": shapes.axis("shared.weight", 1)?,
        "d_kv": inner / heads,
        "d_ff": shapes.axis("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 0)?,
        "num_layers": layers,
        "num_heads": heads,
        "relative_attention_num_buckets": shapes.axis(&bias, 0)?,
    });
    TextConfig::from_json(&json.to_string())
}
