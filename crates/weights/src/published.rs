//! The published models, by name.

use longreel_kernels::DType;

use crate::config::{ClipVisionConfig, TransformerConfig};
use crate::container::Format;
use crate::dtype::WeightDtype;
use crate::folder::default_scheduler;
use crate::folder::part::{InFile, sum_in};
use crate::kind::{Family, ModelKind};
use crate::network::ExpectedTensor;
use crate::{VaeConfig, WeightsError};

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

/// Bytes of a published model's networks, as [`ModelFolder`](crate::ModelFolder) tells them of one whose files are here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedBytes {
    /// Of the transformer's tensors, in the format they are converted to if they are.
    pub transformer: u64,
    /// Of those of them that are converted.
    pub transformer_converted: u64,
    /// Of the transformer's tensors in the files.
    pub transformer_stored: u64,
    /// Of the text encoder's tensors.
    pub text_encoder: u64,
    /// Of the autoencoder's and the image encoder's.
    pub other: u64,
}

impl PublishedModel {
    /// The autoencoder's sizes.
    ///
    /// # Errors
    /// None: all have the sizes that stand where a configuration says nothing.
    pub fn vae(&self) -> Result<VaeConfig, WeightsError> {
        VaeConfig::from_json("{}")
    }

    /// `scheduler_config.json` as the family's releases have it.
    pub fn scheduler_json(&self) -> String {
        default_scheduler(self.family, self.kind)
    }

    /// Bytes of its networks, converted to `dtype` when they are loaded or as they are in files of bf16, the
    /// autoencoder's in f32.
    ///
    /// # Errors
    /// As [`vae`](Self::vae).
    pub fn bytes(&self, dtype: Option<WeightDtype>) -> Result<PublishedBytes, WeightsError> {
        let of = |tensors: &[ExpectedTensor]| in_memory(tensors, dtype);
        let (stored, transformer, transformer_converted) = of(&self.transformer.expected_tensors());
        let (_, text_encoder, _) = of(&published_text_encoder().expected_tensors());
        let (_, image_encoder, _) = match self.kind.takes_image() {
            true => of(&published_image_encoder().expected_tensors()),
            false => (0, 0, 0),
        };
        let vae = values_of(&self.vae()?.expected_tensors()) * 4;
        Ok(PublishedBytes {
            transformer,
            transformer_converted,
            transformer_stored: stored,
            text_encoder,
            other: vae + image_encoder,
        })
    }
}

fn values(shape: &[usize]) -> u64 {
    shape.iter().map(|&n| n as u64).product()
}

fn values_of(tensors: &[ExpectedTensor]) -> u64 {
    tensors.iter().map(|(_, shape)| values(shape)).sum()
}

/// Bytes in files of bf16, of what is made of them, and of that of it which is converted.
fn in_memory(tensors: &[ExpectedTensor], dtype: Option<WeightDtype>) -> (u64, u64, u64) {
    let stored = 2 * values_of(tensors);
    let Some(dtype) = dtype else { return (stored, stored, 0) };
    let format = Format::Known(DType::BF16);
    let in_file = |(name, shape)| InFile { name, shape, format: &format, bytes: 2 * values(shape) };
    let pairs = tensors.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
    let (bytes, converted) = sum_in(dtype, pairs.map(in_file));
    (stored, bytes, converted)
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
