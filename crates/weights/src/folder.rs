//! A model: its networks, its tokenizer, its scheduler, wherever its files lie.

pub(crate) mod files;
mod kind;
pub(crate) mod official;
pub(crate) mod part;
mod search;
mod survey;

use std::path::{Path, PathBuf};

use crate::WeightsError;
use crate::config::{ClipVisionConfig, TextConfig, TransformerConfig, VaeConfig};
use crate::container::Extent;
use crate::dtype::WeightDtype;
use crate::kind::{Family, ModelKind};
use crate::revision::Revision;
use crate::source::TensorSource;
pub(crate) use part::Part;
pub use survey::Layout;
pub(crate) use survey::{Survey, survey};

/// A model whose headers were read and found complete; no weight is loaded yet.
///
/// Opening compares the names and shapes of all tensors with what the configurations ask for, so that a
/// wrong or incomplete download is refused in milliseconds.
#[derive(Debug)]
pub struct ModelFolder {
    layout: Layout,
    family: Family,
    kind: ModelKind,
    causal_few_step: bool,
    transformer: Part<TransformerConfig>,
    vae: Part<VaeConfig>,
    text_encoder: Part<TextConfig>,
    image_encoder: Option<Part<ClipVisionConfig>>,
    tokenizer: Option<PathBuf>,
    spiece: Option<Extent>,
    scheduler_json: String,
    image_processor_json: Option<String>,
    revision: String,
    notes: Vec<String>,
    dtype: Option<WeightDtype>,
}

impl ModelFolder {
    /// Opens a Diffusers folder, an official folder, a folder of ComfyUI or GGUF files, or one
    /// transformer file whose companions lie beside it.
    ///
    /// # Errors
    /// When a part is missing, damaged, incomplete, or of another family; the error names file, tensor
    /// and value.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        let survey = survey(path)?;
        if let Some(problem) = survey.problems.into_iter().next() {
            return Err(problem);
        }
        let missing = || WeightsError::NotAModel {
            path: path.to_owned(),
            problem: "is incomplete".into(),
            way_out: "download the missing files".into(),
        };
        let transformer = survey.transformer.ok_or_else(missing)?;
        let vae = survey.vae.ok_or_else(missing)?;
        let text_encoder = survey.text_encoder.ok_or_else(missing)?;
        let image_encoder = survey.image_encoder;
        let scheduler_json =
            survey.scheduler_json.unwrap_or_else(|| default_scheduler(survey.family, survey.kind));
        let mut revision = Revision::default();
        revision.part("transformer", &transformer);
        revision.part("vae", &vae);
        revision.part("text_encoder", &text_encoder);
        if let Some(part) = &image_encoder {
            revision.part("image_encoder", part);
        }
        revision.text("scheduler", &scheduler_json);
        Ok(Self {
            layout: survey.layout,
            family: survey.family,
            kind: survey.kind,
            causal_few_step: survey.causal_few_step,
            transformer,
            vae,
            text_encoder,
            image_encoder,
            tokenizer: survey.tokenizer,
            spiece: survey.spiece,
            scheduler_json,
            image_processor_json: survey.image_processor_json,
            revision: revision.finish(),
            notes: survey.notes,
            dtype: None,
        })
    }

    /// The same model with its transformer and encoders of text and images converted to `dtype` when
    /// they are loaded, instead of computed with as they are in the files; as `Fp8` the matrices of the
    /// transformer's blocks alone. The autoencoder stays as it is: it is small, and what it loses is seen at once.
    #[must_use]
    pub fn in_dtype(self, dtype: WeightDtype) -> Self {
        Self { dtype: Some(dtype), ..self }
    }

    /// How the files are laid out.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Who trained it.
    pub fn family(&self) -> Family {
        self.family
    }

    /// What it was trained to do.
    pub fn kind(&self) -> ModelKind {
        self.kind
    }

    /// True for a diffusion-forcing model that is distilled to make its blocks one after another in a
    /// few steps each, as CausVid and Self Forcing are.
    pub fn is_causal_few_step(&self) -> bool {
        self.causal_few_step
    }

    /// A name for the content: 64 hexadecimal digits that change when sizes, names, shapes or weights do,
    /// and not when the folder is moved. Computed from all bytes of small files and from samples of large
    /// ones.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// What a person should know about how the files were understood.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The transformer's sizes.
    pub fn transformer_config(&self) -> &TransformerConfig {
        &self.transformer.config
    }

    /// The autoencoder's sizes.
    pub fn vae_config(&self) -> &VaeConfig {
        &self.vae.config
    }

    /// The text encoder's sizes.
    pub fn text_config(&self) -> &TextConfig {
        &self.text_encoder.config
    }

    /// The image encoder's sizes, for models that have one.
    pub fn image_config(&self) -> Option<&ClipVisionConfig> {
        self.image_encoder.as_ref().map(|part| &part.config)
    }

    /// The transformer, ready to be built.
    ///
    /// # Errors
    /// None at present; reserved for sources that are opened late.
    pub fn transformer(&self) -> Result<(TransformerConfig, TensorSource), WeightsError> {
        Ok(self.source(&self.transformer))
    }

    /// The autoencoder, ready to be built.
    ///
    /// # Errors
    /// None at present; reserved for sources that are opened late.
    pub fn vae(&self) -> Result<(VaeConfig, TensorSource), WeightsError> {
        Ok(source(&self.vae))
    }

    /// The text encoder, ready to be built.
    ///
    /// # Errors
    /// None at present; reserved for sources that are opened late.
    pub fn text_encoder(&self) -> Result<(TextConfig, TensorSource), WeightsError> {
        Ok(self.source(&self.text_encoder))
    }

    /// The image encoder, ready to be built; `None` for models that look at no image.
    ///
    /// # Errors
    /// None at present; reserved for sources that are opened late.
    pub fn image_encoder(&self) -> Result<Option<(ClipVisionConfig, TensorSource)>, WeightsError> {
        Ok(self.image_encoder.as_ref().map(|part| self.source(part)))
    }

    /// The folder that holds `tokenizer.json` or `spiece.model`.
    ///
    /// # Errors
    /// When there is none, because the tokenizer is inside the text encoder's file (see
    /// [`embedded_spiece`](Self::embedded_spiece)).
    pub fn tokenizer(&self) -> Result<&Path, WeightsError> {
        self.tokenizer.as_deref().ok_or_else(|| WeightsError::NotAModel {
            path: self.text_encoder.label.clone().into(),
            problem: "has no tokenizer folder beside it".into(),
            way_out: "use the tokenizer inside the text encoder's file".into(),
        })
    }

    /// A SentencePiece model inside the text encoder's file, as ComfyUI keeps it there. Only of interest
    /// when there is no [`tokenizer`](Self::tokenizer).
    pub fn embedded_spiece(&self) -> Option<&[u8]> {
        self.spiece.as_ref().map(Extent::as_slice)
    }

    /// `scheduler_config.json`; what the family's releases have where the folder has none.
    pub fn scheduler_json(&self) -> Option<&str> {
        Some(&self.scheduler_json)
    }

    /// `preprocessor_config.json` of the image processor, when the folder has one.
    pub fn image_processor_json(&self) -> Option<&str> {
        self.image_processor_json.as_deref()
    }

    /// Bytes of the transformer's tensors, in the files or in the format they are converted to.
    pub fn transformer_bytes(&self) -> u64 {
        self.bytes(&self.transformer)
    }

    /// Bytes of those of the transformer's tensors that are converted, and lie in memory instead of the files.
    pub fn transformer_bytes_converted(&self) -> u64 {
        self.dtype.map_or(0, |dtype| self.transformer.bytes_in(dtype).1)
    }

    /// Bytes of the transformer's tensors in the files.
    pub fn transformer_bytes_stored(&self) -> u64 {
        self.transformer.bytes()
    }

    /// Bytes of the autoencoder's tensors in the files.
    pub fn vae_bytes(&self) -> u64 {
        self.vae.bytes()
    }

    /// Bytes of the text encoder's tensors, in the files or in the format they are converted to.
    pub fn text_encoder_bytes(&self) -> u64 {
        self.bytes(&self.text_encoder)
    }

    /// Bytes of the image encoder's tensors, likewise; 0 when there is none.
    pub fn image_encoder_bytes(&self) -> u64 {
        self.image_encoder.as_ref().map_or(0, |part| self.bytes(part))
    }

    /// Parameters of all networks together.
    pub fn parameters(&self) -> u64 {
        self.transformer.parameters()
            + self.vae.parameters()
            + self.text_encoder.parameters()
            + self.image_encoder.as_ref().map_or(0, Part::parameters)
    }

    fn source<C: Clone>(&self, part: &Part<C>) -> (C, TensorSource) {
        let (config, source) = source(part);
        match self.dtype {
            Some(dtype) => (config, source.in_dtype(dtype)),
            None => (config, source),
        }
    }

    fn bytes<C>(&self, part: &Part<C>) -> u64 {
        self.dtype.map_or_else(|| part.bytes(), |dtype| part.bytes_in(dtype).0)
    }
}

fn source<C: Clone>(part: &Part<C>) -> (C, TensorSource) {
    (part.config.clone(), TensorSource::from_named(&part.tensors, &part.label))
}

/// UniPC as the family's pipelines configure it, with the shift that its scripts pass for the kind:
/// `generate_video_df.py` and `generate_video.py` of SkyReels-V2, `generate.py` of Wan 2.1.
pub(crate) fn default_scheduler(family: Family, kind: ModelKind) -> String {
    let flow_shift = match (family, kind) {
        (Family::SkyReels, ModelKind::ImageToVideo) => 5.0,
        (Family::SkyReels, _) => 8.0,
        (Family::Wan, ModelKind::FirstLastFrame) => 16.0,
        (Family::Wan, _) => 5.0,
    };
    serde_json::json!({
        "_class_name": "UniPCMultistepScheduler",
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": true,
        "flow_shift": flow_shift,
        "solver_order": 2,
        "solver_type": "bh2",
        "lower_order_final": true,
        "final_sigmas_type": "zero",
    })
    .to_string()
}
