//! The published models, by name.

use crate::config::{ClipVisionConfig, TransformerConfig};
use crate::kind::{Family, ModelKind};

/// A published model. All have the autoencoder of Wan 2.1 and the encoder of UMT5-XXL; those with an
/// `image_dim` have CLIP ViT-H/14 too.
#[derive(Debug, Clone)]
pub struct PublishedModel {
    /// Name of its official repository, without the owner.
    pub name: &'static str,
    /// Who trained it.
    pub family: Family,
    /// What for.
    pub kind: ModelKind,
    /// Its sizes.
    pub transformer: TransformerConfig,
}

/// The two widths of the family.
#[derive(Clone, Copy)]
enum Size {
    /// 1.3 billion parameters.
    Small,
    /// 14 billion parameters.
    Large,
}

/// Name, kind, size, and whether it has an embedding of the frame rate.
const MODELS: [(&str, Family, ModelKind, Size, bool); 13] = {
    use Family::{SkyReels, Wan};
    use ModelKind::{DiffusionForcing, FirstLastFrame, ImageToVideo, TextToVideo};
    use Size::{Large, Small};
    [
        ("SkyReels-V2-DF-1.3B-540P", SkyReels, DiffusionForcing, Small, true),
        ("SkyReels-V2-DF-14B-540P", SkyReels, DiffusionForcing, Large, false),
        ("SkyReels-V2-DF-14B-720P", SkyReels, DiffusionForcing, Large, false),
        ("SkyReels-V2-T2V-14B-540P", SkyReels, TextToVideo, Large, false),
        ("SkyReels-V2-T2V-14B-720P", SkyReels, TextToVideo, Large, false),
        ("SkyReels-V2-I2V-1.3B-540P", SkyReels, ImageToVideo, Small, false),
        ("SkyReels-V2-I2V-14B-540P", SkyReels, ImageToVideo, Large, false),
        ("SkyReels-V2-I2V-14B-720P", SkyReels, ImageToVideo, Large, false),
        ("Wan2.1-T2V-1.3B", Wan, TextToVideo, Small, false),
        ("Wan2.1-T2V-14B", Wan, TextToVideo, Large, false),
        ("Wan2.1-I2V-14B-480P", Wan, ImageToVideo, Large, false),
        ("Wan2.1-I2V-14B-720P", Wan, ImageToVideo, Large, false),
        ("Wan2.1-FLF2V-14B-720P", Wan, FirstLastFrame, Large, false),
    ]
};

/// Image tokens of CLIP ViT-H/14 for one picture.
const IMAGE_TOKENS: usize = 257;

/// Every published model of the family.
pub fn published_models() -> Vec<PublishedModel> {
    MODELS
        .into_iter()
        .map(|(name, family, kind, size, frame_rate)| {
            let (heads, ffn_dim, layers) = match size {
                Size::Small => (12, 8960, 30),
                Size::Large => (40, 13824, 40),
            };
            let image = kind.takes_image();
            let both = kind == ModelKind::FirstLastFrame;
            let transformer = TransformerConfig {
                class_name: match family {
                    Family::SkyReels => crate::config::SKYREELS.into(),
                    Family::Wan => crate::config::WAN.into(),
                },
                patch_size: [1, 2, 2],
                num_attention_heads: heads,
                attention_head_dim: 128,
                // 16 latents; with an image 4 of the mask and 16 of the image beside them.
                in_channels: if image { 36 } else { 16 },
                out_channels: 16,
                text_dim: 4096,
                freq_dim: 256,
                ffn_dim,
                num_layers: layers,
                cross_attn_norm: true,
                qk_norm: Some("rms_norm_across_heads".into()),
                eps: 1e-6,
                image_dim: image.then_some(1280),
                added_kv_proj_dim: image.then_some(heads * 128),
                rope_max_seq_len: 1024,
                pos_embed_seq_len: both.then_some(2 * IMAGE_TOKENS),
                inject_sample_info: frame_rate,
                num_frame_per_block: 1,
            };
            PublishedModel { name, family, kind, transformer }
        })
        .collect()
}

/// CLIP ViT-H/14 as the family's releases have it.
pub fn published_image_encoder() -> ClipVisionConfig {
    ClipVisionConfig {
        hidden_size: 1280,
        intermediate_size: 5120,
        projection_dim: 1024,
        num_hidden_layers: 32,
        num_attention_heads: 16,
        num_channels: 3,
        image_size: 224,
        patch_size: 14,
        hidden_act: "gelu".into(),
        layer_norm_eps: 1e-5,
    }
}

/// The encoder of UMT5-XXL.
pub fn published_text_encoder() -> crate::TextConfig {
    crate::TextConfig {
        vocab_size: 256_384,
        d_model: 4096,
        d_kv: 64,
        d_ff: 10_240,
        num_layers: 24,
        num_heads: 64,
        relative_attention_num_buckets: 32,
        relative_attention_max_distance: 128,
        layer_norm_epsilon: 1e-6,
        feed_forward_proj: "gated-gelu".into(),
    }
}
