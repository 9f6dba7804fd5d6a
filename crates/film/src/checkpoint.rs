//! The state between two segments, on disk.
//!
//! A checkpoint is a [`TensorFile`]. It is written under a temporary
//! name, made durable, and renamed, so that a name that exists is a whole file unless the disk
//! itself lost something; the digest finds that too, and then the checkpoint before it is used. The
//! last [`KEPT`] are kept.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use longreel_kernels::Tensor;
use serde::{Deserialize, Serialize};

use crate::drift::DriftState;
use crate::tensor_file::TensorFile;

/// How many checkpoints a run keeps.
pub const KEPT: usize = 2;
const SUFFIX: &str = "checkpoint";

/// The small values of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The segment to make next; everything before it is in the film.
    pub next_segment: usize,
    /// Frames in the film.
    pub frames: u64,
    /// Frames in the dump, when there is one.
    pub dumped_frames: u64,
    /// Latent frames in the film.
    pub latents: usize,
    /// Where the film file stood.
    pub writer: serde_json::Value,
    /// Lengths of the growing files beside the film, by name.
    pub lengths: HashMap<String, u64>,
    /// The drift meter's memory.
    pub drift: DriftState,
    /// Seconds of work so far, of all processes.
    pub seconds: f64,
    /// Rows saved by a step cache so far.
    pub reused_steps: usize,
}

/// A checkpoint: small values and tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The small values.
    pub progress: Progress,
    /// `recent_latents` `[T, C, h, w]`, `recent_pixels` `[F, H, W, 3]`, by name.
    pub tensors: Vec<(String, Tensor)>,
    /// The film's last frame, `[H, W, 3]`.
    pub last_frame: Option<Vec<u8>>,
}

/// A checkpoint on the disk that does not count yet.
#[must_use = "a run goes on from published checkpoints only"]
#[derive(Debug)]
pub struct Written {
    temporary: PathBuf,
    path: PathBuf,
}

impl Written {
    /// Gives it its name, durably, and removes those beyond [`KEPT`]. Returns its path. All that it
    /// counts on has to be durable before.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn publish(self) -> io::Result<PathBuf> {
        let Self { temporary, path } = self;
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::rename(&temporary, &path)?;
        File::open(folder)?.sync_all()?;
        let all = list(folder)?;
        for old in &all[..all.len().saturating_sub(KEPT)] {
            fs::remove_file(old)?;
        }
        Ok(path)
    }
}

/// Name of [`Checkpoint::last_frame`] in the file.
const LAST_FRAME: &str = "last_frame";

impl Checkpoint {
    /// Takes a tensor out by name.
    pub fn take(&mut self, name: &str) -> Option<Tensor> {
        let index = self.tensors.iter().position(|(n, _)| n == name)?;
        Some(self.tensors.swap_remove(index).1)
    }

    /// Writes the checkpoint into `folder`, durably. It counts once it is published.
    ///
    /// # Errors
    /// Those of the file system; the checkpoints before stay as they are.
    pub fn write(&self, folder: &Path) -> io::Result<Written> {
        let frame = self.last_frame.iter().map(|frame| (LAST_FRAME.to_owned(), frame.clone()));
        let progress = serde_json::to_string(&self.progress)?;
        let content = TensorFile {
            tensors: self.tensors.clone(),
            bytes: frame.collect(),
            texts: HashMap::from([("progress".to_owned(), progress)]),
        };
        let bytes = content.encode()?;
        let name = format!("{:08}.{SUFFIX}", self.progress.next_segment);
        let temporary = folder.join(format!("{name}.partial"));
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        Ok(Written { path: folder.join(name), temporary })
    }

    /// Reads the checkpoint at `path`; what is wrong with it otherwise.
    pub fn load(path: &Path) -> Result<Self, String> {
        let bytes = fs::read(path).map_err(|e| e.to_string())?;
        let TensorFile { tensors, bytes, texts } = TensorFile::decode(&bytes)?;
        let progress = texts.get("progress").ok_or("it has no progress entry")?;
        let progress = serde_json::from_str(progress).map_err(|e| e.to_string())?;
        let last_frame =
            bytes.into_iter().find(|(name, _)| name == LAST_FRAME).map(|(_, frame)| frame);
        Ok(Self { progress, tensors, last_frame })
    }
}

/// The checkpoints of `folder`, oldest first.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == SUFFIX))
        .collect();
    paths.sort();
    Ok(paths)
}

/// The newest checkpoint of `folder` that is whole, and a message for each newer one that is not.
/// `None` when there is none: the run starts from its beginning.
///
/// # Errors
/// When the folder cannot be read.
pub fn newest(folder: &Path) -> io::Result<(Option<Checkpoint>, Vec<String>)> {
    let mut damaged = Vec::new();
    for path in list(folder)?.iter().rev() {
        match Checkpoint::load(path) {
            Ok(checkpoint) => return Ok((Some(checkpoint), damaged)),
            Err(why) => damaged.push(format!(
                "checkpoint {} is damaged ({why}); going back to the one before it",
                path.display()
            )),
        }
    }
    Ok((None, damaged))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(segment: usize) -> Checkpoint {
        Checkpoint {
            progress: Progress {
                next_segment: segment,
                frames: 97,
                dumped_frames: 0,
                latents: 25,
                writer: serde_json::json!({"bytes": 1234}),
                lengths: HashMap::from([("drift".to_owned(), 7)]),
                drift: DriftState::default(),
                seconds: 1.5,
                reused_steps: 0,
            },
            tensors: vec![(
                "history".to_owned(),
                Tensor::from_vec(&[2, 3], vec![0.1, -0.0, 1e-38, f32::MAX, 5.5, segment as f32]),
            )],
            last_frame: Some(vec![0, 7, 255, segment as u8]),
        }
    }

    #[test]
    fn a_checkpoint_comes_back_bit_for_bit_and_only_the_last_two_are_kept() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for segment in 1..=4 {
            checkpoint(segment).write(dir.path()).and_then(Written::publish).expect("saved");
        }
        let (found, damaged) = newest(dir.path()).expect("readable");
        assert_eq!(found, Some(checkpoint(4)));
        assert!(damaged.is_empty());
        assert_eq!(list(dir.path()).expect("readable").len(), KEPT);
    }

    #[test]
    fn any_flipped_byte_or_cut_sends_the_run_back_to_the_checkpoint_before() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        checkpoint(1).write(dir.path()).and_then(Written::publish).expect("saved");
        checkpoint(2).write(dir.path()).and_then(Written::publish).expect("saved");
        let path = list(dir.path()).expect("readable").pop().expect("two");
        let whole = fs::read(&path).expect("readable");
        for position in (0..whole.len()).step_by(13) {
            let mut bytes = whole.clone();
            bytes[position] ^= 0x40;
            fs::write(&path, &bytes).expect("written");
            let (found, damaged) = newest(dir.path()).expect("readable");
            assert_eq!(found, Some(checkpoint(1)), "byte {position} flipped");
            assert_eq!(damaged.len(), 1);
        }
        for length in [0, 5, 31, 33, whole.len() - 1] {
            fs::write(&path, &whole[..length]).expect("written");
            assert_eq!(newest(dir.path()).expect("readable").0, Some(checkpoint(1)));
        }
    }

    #[test]
    fn a_run_without_any_checkpoint_starts_from_its_beginning() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::write(dir.path().join("00000001.checkpoint.partial"), b"half").expect("written");
        assert_eq!(newest(dir.path()).expect("readable").0, None);
    }
}
