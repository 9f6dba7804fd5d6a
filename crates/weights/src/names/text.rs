//! The text encoder's names.
//!
//! Right: transformers' `UMT5EncoderModel`. Left, first table: `wan/modules/t5.py`. Left, second table:
//! llama.cpp's (`gguf-py/gguf/constants.py`), which GGUF files of T5 have.

use super::pattern::rename;
use super::{Mapped, Style};

const ORIGINAL: [(&str, &str); 12] = [
    ("token_embedding", "shared"),
    ("norm", "encoder.final_layer_norm"),
    ("blocks.{}.norm1", "encoder.block.{}.layer.0.layer_norm"),
    ("blocks.{}.attn.q", "encoder.block.{}.layer.0.SelfAttention.q"),
    ("blocks.{}.attn.k", "encoder.block.{}.layer.0.SelfAttention.k"),
    ("blocks.{}.attn.v", "encoder.block.{}.layer.0.SelfAttention.v"),
    ("blocks.{}.attn.o", "encoder.block.{}.layer.0.SelfAttention.o"),
    (
        "blocks.{}.pos_embedding.embedding",
        "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias",
    ),
    ("blocks.{}.norm2", "encoder.block.{}.layer.1.layer_norm"),
    ("blocks.{}.ffn.gate.0", "encoder.block.{}.layer.1.DenseReluDense.wi_0"),
    ("blocks.{}.ffn.fc1", "encoder.block.{}.layer.1.DenseReluDense.wi_1"),
    ("blocks.{}.ffn.fc2", "encoder.block.{}.layer.1.DenseReluDense.wo"),
];

pub(super) const LLAMA_CPP: [(&str, &str); 12] = [
    ("token_embd", "shared"),
    ("enc.output_norm", "encoder.final_layer_norm"),
    ("enc.blk.{}.attn_norm", "encoder.block.{}.layer.0.layer_norm"),
    ("enc.blk.{}.attn_q", "encoder.block.{}.layer.0.SelfAttention.q"),
    ("enc.blk.{}.attn_k", "encoder.block.{}.layer.0.SelfAttention.k"),
    ("enc.blk.{}.attn_v", "encoder.block.{}.layer.0.SelfAttention.v"),
    ("enc.blk.{}.attn_o", "encoder.block.{}.layer.0.SelfAttention.o"),
    ("enc.blk.{}.attn_rel_b", "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias"),
    ("enc.blk.{}.ffn_norm", "encoder.block.{}.layer.1.layer_norm"),
    ("enc.blk.{}.ffn_gate", "encoder.block.{}.layer.1.DenseReluDense.wi_0"),
    ("enc.blk.{}.ffn_up", "encoder.block.{}.layer.1.DenseReluDense.wi_1"),
    ("enc.blk.{}.ffn_down", "encoder.block.{}.layer.1.DenseReluDense.wo"),
];

pub(super) fn map(style: Style, name: &str) -> Mapped {
    // Whole models carry the decoder, and older files the embedding a second time under the names of
    // those who share it.
    let decoder = ["decoder.", "dec.", "lm_head."].iter().any(|p| name.starts_with(p));
    if decoder || name == "logit_scale" {
        return Mapped::Drop;
    }
    if name == "encoder.embed_tokens.weight" {
        return Mapped::CopyOf("shared.weight");
    }
    let renamed = match style {
        Style::Canonical => None,
        Style::Original => rename(&ORIGINAL, name),
        Style::LlamaCpp => rename(&LLAMA_CPP, name),
    };
    Mapped::To(renamed.unwrap_or_else(|| name.to_owned()))
}
