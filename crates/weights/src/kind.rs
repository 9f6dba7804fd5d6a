//! What a checkpoint was trained to do.

use std::fmt;

/// What a checkpoint was trained to do. It decides which conditions a film may start from and how
/// timesteps are given to the transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// Diffusion forcing: a timestep for each latent frame, films of any length, any condition.
    DiffusionForcing,
    /// Text to video: one timestep for all frames.
    TextToVideo,
    /// A first image to video, through extra input channels and (in most) CLIP.
    ImageToVideo,
    /// First and last image to video, through extra input channels and CLIP on both.
    FirstLastFrame,
}

impl ModelKind {
    /// True when a first image is part of the network's input.
    pub fn takes_image(self) -> bool {
        matches!(self, Self::ImageToVideo | Self::FirstLastFrame)
    }
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DiffusionForcing => "diffusion forcing (DF)",
            Self::TextToVideo => "text to video (T2V)",
            Self::ImageToVideo => "image to video (I2V)",
            Self::FirstLastFrame => "first and last frame to video (FLF2V)",
        })
    }
}

/// Who trained a checkpoint. Both have the same architecture; they differ in defaults and in how timesteps
/// are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// SkyReels-V2.
    SkyReels,
    /// Wan 2.1.
    Wan,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SkyReels => "SkyReels-V2",
            Self::Wan => "Wan 2.1",
        })
    }
}
