//! A name for what a model's files hold.

use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::WeightsError;
use crate::container::MappedFile;
use crate::folder::Part;

/// Files up to this size are read whole.
const WHOLE_MAX: usize = 32 << 20;
/// Of larger ones, their two ends (headers and directories lie there)...
const END: usize = 1 << 20;
/// ...and that many samples between, of that many bytes.
const SAMPLES: usize = 64;
const SAMPLE: usize = 4096;

/// A name for what a file holds, 64 hexadecimal digits: another one when it changed. Of a file above 32 MiB its ends
/// and samples between are looked at.
///
/// # Errors
/// When it cannot be read.
pub fn file_revision(path: &Path) -> Result<String, WeightsError> {
    let mut revision = Revision::default();
    revision.file(&MappedFile::open(path)?);
    Ok(revision.finish())
}

/// Collects what identifies a model. Every field is preceded by its length, so that no two models give
/// the same sequence of bytes.
#[derive(Default)]
pub(crate) struct Revision(Sha256);

impl Revision {
    pub fn part<C: Serialize>(&mut self, label: &str, part: &Part<C>) {
        // A configuration is plain numbers and texts; writing it cannot fail.
        self.text(label, &serde_json::to_string(&part.config).unwrap_or_default());
        for file in &part.files {
            self.file(file);
        }
    }

    pub fn text(&mut self, label: &str, text: &str) {
        self.field(label.as_bytes());
        self.field(text.as_bytes());
    }

    pub fn file(&mut self, file: &MappedFile) {
        let bytes = file.as_slice();
        if bytes.len() <= WHOLE_MAX {
            return self.field(bytes);
        }
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.field(&bytes[..END]);
        self.field(&bytes[bytes.len() - END..]);
        let step = (bytes.len() - 2 * END) / SAMPLES;
        file.read_sparsely(|| {
            for index in 0..SAMPLES {
                let at = END + index * step;
                self.field(&bytes[at..at + SAMPLE]);
            }
        });
    }

    fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    pub fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
