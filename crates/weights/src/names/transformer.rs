//! The transformer's names.
//!
//! Left: `wan/modules/model.py` of Wan 2.1 and `skyreels_v2_infer/modules/transformer.py` of SkyReels-V2,
//! which differ in the frame rate only; ComfyUI and GGUF files keep these names. Right: Diffusers. Compare
//! `convert_wan_transformer_to_diffusers` in Diffusers' `loaders/single_file_utils.py`.

use super::pattern::rename;
use super::{Mapped, Style};

/// Original name, canonical name. The numbers of the norms are those of their calls in one and of their
/// place in the block in the other, so 2 and 3 change places.
pub(crate) const TRANSFORMER: [(&str, &str); 35] = [
    ("patch_embedding", "patch_embedding"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("fps_embedding", "fps_embedding"),
    ("fps_projection.0", "fps_projection.net.0.proj"),
    ("fps_projection.2", "fps_projection.net.2"),
    ("img_emb.proj.0", "condition_embedder.image_embedder.norm1"),
    ("img_emb.proj.1", "condition_embedder.image_embedder.ff.net.0.proj"),
    ("img_emb.proj.3", "condition_embedder.image_embedder.ff.net.2"),
    ("img_emb.proj.4", "condition_embedder.image_embedder.norm2"),
    ("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"),
    ("blocks.{}.modulation", "blocks.{}.scale_shift_table"),
    ("blocks.{}.self_attn.q", "blocks.{}.attn1.to_q"),
    ("blocks.{}.self_attn.k", "blocks.{}.attn1.to_k"),
    ("blocks.{}.self_attn.v", "blocks.{}.attn1.to_v"),
    ("blocks.{}.self_attn.o", "blocks.{}.attn1.to_out.0"),
    ("blocks.{}.self_attn.norm_q", "blocks.{}.attn1.norm_q"),
    ("blocks.{}.self_attn.norm_k", "blocks.{}.attn1.norm_k"),
    ("blocks.{}.cross_attn.q", "blocks.{}.attn2.to_q"),
    ("blocks.{}.cross_attn.k", "blocks.{}.attn2.to_k"),
    ("blocks.{}.cross_attn.v", "blocks.{}.attn2.to_v"),
    ("blocks.{}.cross_attn.o", "blocks.{}.attn2.to_out.0"),
    ("blocks.{}.cross_attn.norm_q", "blocks.{}.attn2.norm_q"),
    ("blocks.{}.cross_attn.norm_k", "blocks.{}.attn2.norm_k"),
    ("blocks.{}.cross_attn.k_img", "blocks.{}.attn2.add_k_proj"),
    ("blocks.{}.cross_attn.v_img", "blocks.{}.attn2.add_v_proj"),
    ("blocks.{}.cross_attn.norm_k_img", "blocks.{}.attn2.norm_added_k"),
    ("blocks.{}.norm3", "blocks.{}.norm2"),
    ("blocks.{}.ffn.0", "blocks.{}.ffn.net.0.proj"),
    ("blocks.{}.ffn.2", "blocks.{}.ffn.net.2"),
    ("head.head", "proj_out"),
    ("head.modulation", "scale_shift_table"),
];

pub(super) fn map(style: Style, name: &str) -> Mapped {
    if style == Style::Canonical {
        return Mapped::To(name.to_owned());
    }
    Mapped::To(rename(&TRANSFORMER, name).unwrap_or_else(|| name.to_owned()))
}
