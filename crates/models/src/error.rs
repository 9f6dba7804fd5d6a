//! Why a network cannot be built or run.

use longreel_kernels::GpuError;
use longreel_kernels::ranks::RankError;
use longreel_weights::WeightsError;

/// What went wrong in a network: at load (a config or a tensor does not fit) or in a call (an input
/// does not fit). Messages name the value, the rule it breaks and the way out.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A tensor is missing, has the wrong shape, or is left over.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A device that could not go on.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// Devices that could not go on together.
    #[error(transparent)]
    Ranks(RankError),
    /// A value in a network's `config.json` that no published model has and this program cannot run.
    #[error("the {network}'s config has {field} = {value}, but {rule}")]
    Config {
        /// Which network.
        network: &'static str,
        /// The key in `config.json`.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What it must hold.
        rule: String,
    },
    /// An argument of a call does not fit the network.
    #[error("{what} is {value}, but {rule}")]
    Input {
        /// Which argument.
        what: &'static str,
        /// What it holds.
        value: String,
        /// What it must hold.
        rule: String,
    },
    /// A file is no upscaler that can be used.
    #[error("the upscaler {file}: {problem}")]
    Upscaler {
        /// The file.
        file: String,
        /// What is wrong with it, and what can be used.
        problem: String,
    },
    /// A tokenizer file is not one, or cannot encode.
    #[error("the tokenizer {file} cannot be used: {reason}")]
    Tokenizer {
        /// File name, without its folder.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a device could not do is told as such, whether it was alone or not.
impl From<RankError> for ModelError {
    fn from(error: RankError) -> Self {
        match error {
            RankError::Gpu(error) => Self::Gpu(error),
            error => Self::Ranks(error),
        }
    }
}

/// Shorthand for [`ModelError::Input`].
pub(crate) fn input(
    what: &'static str,
    value: impl std::fmt::Debug,
    rule: impl Into<String>,
) -> ModelError {
    ModelError::Input { what, value: format!("{value:?}"), rule: rule.into() }
}

/// Shorthand for [`ModelError::Config`].
pub(crate) fn config(
    network: &'static str,
    field: &'static str,
    value: impl std::fmt::Debug,
    rule: impl Into<String>,
) -> ModelError {
    ModelError::Config { network, field, value: format!("{value:?}"), rule: rule.into() }
}
