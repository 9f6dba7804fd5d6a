//! What was made of a film's pictures, kept in the run's folder: a film that is begun goes on without them.

use std::fs;
use std::path::Path;

use longreel_kernels::Tensor;
use longreel_media::write_atomic;

use crate::condition::Conditions;
use crate::error::FilmError;
use crate::events::{Event, Observer};
use crate::request::{FilmRequest, StartFrom};
use crate::tensor_file::TensorFile;

/// Its name in the run's folder.
const FILE: &str = "conditions.safetensors";

/// Pictures, as the networks are given them.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub conditions: Conditions,
    /// CLIP's view, `[tokens, channels]`, for models that look at it.
    pub image_embeds: Option<Tensor>,
}

impl Kept {
    /// That of a run, when it is there and whole; one that is damaged is told of.
    pub fn read(folder: &Path, observer: &mut dyn Observer) -> Option<Self> {
        let path = folder.join(FILE);
        let bytes = fs::read(&path).ok()?;
        match TensorFile::decode(&bytes) {
            Ok(mut file) => Some(Self {
                conditions: Conditions {
                    prefix: file.take("prefix"),
                    end: file.take("end"),
                    extra_channels: file.take("extra_channels"),
                },
                image_embeds: file.take("image_embeds"),
            }),
            Err(why) => {
                let path = path.display();
                observer.event(Event::Warning {
                    message: format!("{path} is damaged ({why}); the pictures are read again"),
                });
                None
            }
        }
    }

    /// Writes it into a run's folder, durably.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, folder: &Path) -> Result<(), FilmError> {
        let Conditions { prefix, end, extra_channels } = &self.conditions;
        let all = [
            ("prefix", prefix),
            ("end", end),
            ("extra_channels", extra_channels),
            ("image_embeds", &self.image_embeds),
        ];
        let tensors = all.into_iter().filter_map(|(name, tensor)| {
            tensor.as_ref().map(|tensor| (name.to_owned(), tensor.clone()))
        });
        let file = TensorFile { tensors: tensors.collect(), ..TensorFile::default() };
        let path = folder.join(FILE);
        let bytes = file.encode().map_err(FilmError::io("write", &path))?;
        Ok(write_atomic(&path, &bytes)?)
    }
}

/// Refuses to go on with a film whose pictures or video are needed once more and gone. Of pictures what was made of
/// them is `kept`; a video is copied into the film with the first segment, before the first checkpoint.
///
/// # Errors
/// [`FilmError::SourceGone`].
pub(crate) fn check_sources(
    request: &FilmRequest,
    film: &Path,
    kept: bool,
    has_checkpoint: bool,
) -> Result<(), FilmError> {
    let gone = |path: &Path| !path.is_file();
    let first = match &request.start {
        StartFrom::Image(path) => (!kept && gone(path)).then_some(path),
        StartFrom::Video(path) => (!has_checkpoint && gone(path)).then_some(path),
        StartFrom::Prompt => None,
    };
    let last = request.end_image.as_ref().filter(|path| !kept && gone(path));
    match first.or(last) {
        None => Ok(()),
        Some(path) => Err(FilmError::SourceGone { path: path.clone(), film: film.to_owned() }),
    }
}
