//! What was made of a film's pictures, kept in the run's folder: a film that is begun goes on without them.

use std::fs;
use std::path::Path;

use longreel_kernels::Tensor;
use longreel_media::write_atomic;

use crate::condition::Conditions;
use crate::error::FilmError;
use crate::events::{Event, Observer};
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
