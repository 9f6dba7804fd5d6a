//! A transformer's weights on a GPU: how many bytes have which use.

use longreel_kernels::gpu::WeightGroup;
use longreel_weights::TransformerConfig;

use crate::plan::ModelFacts;

/// Values in a transformer's matrices, by where they are and how often they are used. Biases, norms, the embedding of
/// patches and the head are less than a hundredth of them.
struct Values {
    /// Of the embeddings of the time, and of the frame rate where there is one: in each pass, before the blocks.
    around: u64,
    /// Of the blocks, in each pass.
    blocks: u64,
    /// Of what text and image come through before the blocks: once for each prompt.
    prompt_around: u64,
    /// Of what makes the blocks' keys and values of text and image, which are kept for all passes of a prompt.
    prompt_blocks: u64,
}

impl Values {
    fn of(config: &TransformerConfig) -> Self {
        let dim = config.dim() as u64;
        let [ffn, layers] = [config.ffn_dim, config.num_layers].map(|count| count as u64);
        let [time, text] = [config.freq_dim, config.text_dim].map(|count| count as u64);
        let frame_rate = if config.inject_sample_info { 7 } else { 0 };
        let image = config.image_dim.map_or(0, |image| image as u64);
        let image_keys = if config.added_kv_proj_dim.is_some() { 2 } else { 0 };
        Self {
            around: (7 + frame_rate) * dim * dim + dim * time,
            blocks: layers * (6 * dim * dim + 2 * dim * ffn),
            prompt_around: dim * dim + dim * text + image * (image + dim),
            prompt_blocks: layers * (2 + image_keys) * dim * dim,
        }
    }

    fn of_blocks(&self) -> u64 {
        self.blocks + self.prompt_blocks
    }

    fn around_blocks(&self) -> u64 {
        self.around + self.prompt_around
    }

    fn all(&self) -> u64 {
        self.of_blocks() + self.around_blocks()
    }
}

/// Values in the matrices of a transformer's blocks.
pub(crate) fn block_values(config: &TransformerConfig) -> u64 {
    Values::of(config).of_blocks()
}

/// Values in a transformer's matrices.
pub(crate) fn transformer_values(config: &TransformerConfig) -> u64 {
    Values::of(config).all()
}

/// A transformer's weights as they lie on a GPU, by their use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TransformerWeights {
    /// Of each pass, before the blocks.
    pub(crate) around: WeightGroup,
    /// Of each pass, in the blocks.
    pub(crate) blocks: WeightGroup,
    /// Of each prompt.
    pub(crate) prompt: WeightGroup,
    /// Bytes of a value in the blocks.
    pub(crate) bytes_per_value: f64,
}

impl TransformerWeights {
    /// Of a model on a GPU.
    pub fn of(model: &ModelFacts) -> Self {
        let config = &model.transformer;
        let (values, element) = (Values::of(config), model.element().bytes() as u64);
        let all = values.all();
        // Singles come to be there as bf16, where that is computed with; blocks and 8-bit floats as they are in the
        // file, and so do layers around the transformer's blocks, which are given singles.
        let added = if model.transformer_bytes > 2 * all { 2 * values.around_blocks() } else { 0 };
        let bytes = model.transformer_bytes.min(element * all + added);
        // Fewer bits than 16 are the blocks' alone.
        let around = if model.transformer_bytes > 3 * all { 4.0 } else { 2.0 };
        let of_blocks = bytes as f64 - around * values.around_blocks() as f64;
        let bytes_per_value = of_blocks.max(0.0) / values.of_blocks().max(1) as f64;
        let of = |values: u64, each: f64| (values as f64 * each) as usize;
        let dim = config.dim() as u64;
        let [text, image] =
            [config.text_dim, config.image_dim.unwrap_or(0)].map(|count| count as u64);
        let group = |bytes, largest| WeightGroup { bytes, largest: largest + MORE };
        let around_bytes = of(values.around, around);
        let prompt_bytes =
            of(values.prompt_around, around) + of(values.prompt_blocks, bytes_per_value);
        let of_prompt = of(dim * dim, bytes_per_value);
        Self {
            around: group(around_bytes, of(6 * dim * dim, around)),
            blocks: group(
                (bytes as usize).saturating_sub(around_bytes + prompt_bytes),
                of(dim * dim.max(config.ffn_dim as u64), bytes_per_value.max(0.5)),
            ),
            prompt: group(
                prompt_bytes,
                of_prompt.max(of((dim * dim.max(text)).max(image * image.max(dim)), around)),
            ),
            bytes_per_value,
        }
    }

    /// Bytes of those of each pass.
    pub fn pass_bytes(&self) -> u64 {
        (self.around.bytes + self.blocks.bytes) as u64
    }
}

/// What a place has beside the values of its weight.
const MORE: usize = 4096;
