//! Why a checkpoint cannot be used.

use std::path::{Path, PathBuf};

use longreel_kernels::WeightError;

/// What is wrong with a checkpoint, or with what was asked of it. Every message names the file, the
/// tensor or key, the value, and the way out.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The operating system refused.
    #[error("cannot {action} {}: {cause}; check that it is there and may be read", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// There is no model, or a part of it is not there.
    #[error("{} {problem}; {way_out}", path.display())]
    NotAModel {
        /// The folder or file that was looked at.
        path: PathBuf,
        /// What is not there.
        problem: String,
        /// What to do.
        way_out: String,
    },
    /// A configuration is no JSON object.
    #[error("the {component}'s configuration is not a JSON object: {reason}; download it again")]
    Json {
        /// Whose configuration.
        component: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// A value in a configuration cannot be used.
    #[error("the {component}'s configuration has {field} = {value}, but {rule}")]
    Config {
        /// Whose configuration.
        component: &'static str,
        /// The key in `config.json`.
        field: String,
        /// What it holds.
        value: String,
        /// What it must hold.
        rule: String,
    },
    /// A container's bytes contradict its format: truncated, damaged, or made to do harm.
    #[error("{} is not a sound {format} file: {problem}; download it again", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Which format it should have.
        format: &'static str,
        /// What is wrong, with the values.
        problem: String,
    },
    /// A sound file that this program does not read.
    #[error("{}: {what} is not supported; {way_out}", path.display())]
    Unsupported {
        /// Which file.
        path: PathBuf,
        /// What it has.
        what: String,
        /// What to do.
        way_out: String,
    },
    /// A tensor that the network needs is not there.
    #[error(
        "the tensor {tensor} of shape {shape:?} is missing in {origin}; download the file again, or take \
         one that holds all of the model"
    )]
    Missing {
        /// Its canonical name, and the name in the file where that differs.
        tensor: String,
        /// The shape it should have.
        shape: Vec<usize>,
        /// The files that were searched.
        origin: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error(
        "the tensor {tensor} in {origin} has shape {found:?}, but the configuration asks for \
         {expected:?}; the file and the configuration belong to different models"
    )]
    Shape {
        /// Its name.
        tensor: String,
        /// The file it is in.
        origin: String,
        /// The shape the configuration gives.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// Tensors are left over that no part of the network took.
    #[error(
        "{count} tensors of {origin} belong to no part of this network: {names}; the file and the \
         configuration belong to different models"
    )]
    Unused {
        /// How many.
        count: usize,
        /// The first of them, for people.
        names: String,
        /// The files they are in.
        origin: String,
    },
    /// Two tensors of a checkpoint have one name.
    #[error(
        "the tensor {tensor} is there twice: in {first} and in {second}; remove one of the files"
    )]
    Twice {
        /// Its canonical name.
        tensor: String,
        /// One place.
        first: String,
        /// The other.
        second: String,
    },
    /// A value that is no number, or infinite.
    #[error(
        "the tensor {tensor} in {origin} has the value {value} at index {index}; the checkpoint is \
         damaged or was trained to it, use another"
    )]
    NotFinite {
        /// Its name.
        tensor: String,
        /// The file it is in.
        origin: String,
        /// Position in the flattened tensor.
        index: usize,
        /// What stands there.
        value: f32,
    },
    /// Bytes and shape of a tensor do not fit each other.
    #[error("the tensor {tensor} in {origin}: {cause}; download the file again")]
    Bytes {
        /// Its name.
        tensor: String,
        /// The file it is in.
        origin: String,
        /// Both sizes.
        cause: WeightError,
    },
    /// A LoRA does not fit the model, or is none.
    #[error("the LoRA {} cannot be merged: {problem}", path.display())]
    Lora {
        /// Its file.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
}

impl WeightsError {
    /// For `map_err` on an I/O result.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io { action, path, cause }
    }

    pub(crate) fn damaged(path: &Path, format: &'static str, problem: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), format, problem: cut(problem.into()) }
    }

    /// A configuration that is no JSON object.
    pub(crate) fn json(component: &'static str, error: &serde_json::Error) -> Self {
        Self::Json { component, reason: cut(error.to_string()) }
    }
}

/// Longest text from a file that a message repeats.
const SHOWN_MAX: usize = 600;

/// Shortens what came from a file, which may be megabytes.
fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(SHOWN_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The first `shown` of some names, and how many more there are.
pub(crate) fn some_names<S: AsRef<str>>(names: &[S], shown: usize) -> String {
    let mut text = names.iter().take(shown).map(|n| n.as_ref()).collect::<Vec<_>>().join(", ");
    if names.len() > shown {
        text.push_str(&format!(" and {} more", names.len() - shown));
    }
    text
}
