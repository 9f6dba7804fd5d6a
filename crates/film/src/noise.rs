//! Where a segment's noise comes from: the seed, or a file for comparison with another program.

use std::fs::File;
use std::path::{Path, PathBuf};

use longreel_kernels::Tensor;
use longreel_sampling::{NoiseKey, Purpose, fill_normal};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

use crate::error::FilmError;
use crate::plan::FilmPlan;
use crate::source::{Source, SourceDigest};

/// The noise of a film.
#[derive(Debug)]
pub enum NoiseSource {
    /// Counter-based, keyed by (seed, segment, latent frame, purpose, row).
    Seeded,
    /// Given: `segment_{s}` f32 `[1, C, T, h, w]`, and, where the condition is noised and the seed's noise is
    /// not meant, `condition_noise_{s}` f32 `[rows, 1, C, prefix, h, w]`.
    File(NoiseFile),
}

impl NoiseSource {
    /// The noise of `file`, or without one the seed's.
    ///
    /// # Errors
    /// Those of [`NoiseFile::open`].
    pub fn of(file: Option<&Path>) -> Result<Self, FilmError> {
        Ok(match file {
            Some(path) => Self::File(NoiseFile::open(path)?),
            None => Self::Seeded,
        })
    }

    /// Finds out whether a noise file has the initial noise of every segment of `plan`, with `channels`
    /// channels, and condition noise that fits where it has any. Gives what of the file the film uses.
    ///
    /// That reads it once before a segment is made, and each segment reads its own part again: what is wrong
    /// with the last segment's is to be known before the first is made, and noise that stayed in memory until then would
    /// grow with the film.
    ///
    /// # Errors
    /// The first that is missing, has another shape or a value that is not finite; an endless film.
    pub fn check(&self, plan: &FilmPlan, channels: usize) -> Result<Option<Source>, FilmError> {
        let Self::File(file) = self else { return Ok(None) };
        let request = plan.request();
        let (h, w) = (request.height / 8, request.width / 8);
        let segments = plan.segments().ok_or_else(|| {
            file.problem("it ends, and an endless film does not; use --num-frames".into())
        })?;
        let mut used = SourceDigest::default();
        for index in 0..segments {
            let Some(segment) = plan.segments.segment(index) else { break };
            let shape = [1, channels, segment.film_latents(), h, w];
            used.add(file.check(&format!("segment_{index}"), &shape)?);
            let name = condition_name(index);
            if request.addnoise_condition > 0.0 && segment.prefix_latents > 0 && file.has(&name) {
                let rows = plan.timetable(&segment)?.rows().len();
                used.add(file.check(&name, &[rows, 1, channels, segment.prefix_latents, h, w])?);
            }
        }
        Ok(Some(used.finish(&file.path)))
    }

    /// The initial noise of segment `segment`, `[T, C, h, w]` for `shape` `[T, C, h, w]`.
    ///
    /// # Errors
    /// When a noise file lacks the tensor or has it in another shape.
    pub fn initial(
        &self,
        seed: u64,
        segment: usize,
        shape: [usize; 4],
    ) -> Result<Tensor, FilmError> {
        match self {
            Self::Seeded => {
                let mut noise = Tensor::zeros(&shape);
                let frame_len = shape[1..].iter().product();
                for (frame, values) in noise.data_mut().chunks_exact_mut(frame_len).enumerate() {
                    fill_normal(&key(seed, segment, frame, Purpose::Initial, 0), 0, values);
                }
                Ok(noise)
            }
            Self::File(file) => file.initial(segment, shape),
        }
    }

    /// The noise that is mixed into prefix frame `frame` in row `row`, written to `out`, one latent
    /// frame `[C, h, w]`.
    ///
    /// # Errors
    /// When a noise file lacks the tensor or has it in another shape.
    pub fn condition(
        &self,
        at: ConditionNoise,
        [channels, height, width]: [usize; 3],
        out: &mut [f32],
    ) -> Result<(), FilmError> {
        match self {
            Self::Seeded => {
                let key = key(at.seed, at.segment, at.frame, Purpose::Condition, at.row);
                fill_normal(&key, 0, out);
                Ok(())
            }
            Self::File(file) if file.has(&condition_name(at.segment)) => {
                file.condition(at, [channels, height, width], out)
            }
            Self::File(_) => Self::Seeded.condition(at, [channels, height, width], out),
        }
    }

    /// Fresh noise for a solver that renoises, for window frame `frame` in row `row`.
    pub fn renoise(&self, seed: u64, segment: usize, frame: usize, row: usize, out: &mut [f32]) {
        fill_normal(&key(seed, segment, frame, Purpose::Renoise, row), 0, out);
    }
}

/// Which condition noise is meant.
#[derive(Debug, Clone, Copy)]
pub struct ConditionNoise {
    /// The segment's seed.
    pub seed: u64,
    /// From 0.
    pub segment: usize,
    /// Row of the timetable, from 0.
    pub row: usize,
    /// Window frame, from 0.
    pub frame: usize,
    /// Prefix frames of the window.
    pub prefix: usize,
}

fn condition_name(segment: usize) -> String {
    format!("condition_noise_{segment}")
}

fn key(seed: u64, segment: usize, frame: usize, purpose: Purpose, row: usize) -> NoiseKey {
    NoiseKey { seed, segment: segment as u32, latent_frame: frame as u32, purpose, row: row as u32 }
}

/// A memory-mapped safetensors file of noise.
#[derive(Debug)]
pub struct NoiseFile {
    path: PathBuf,
    map: Mmap,
}

impl NoiseFile {
    /// Maps `path` and checks its header.
    ///
    /// # Errors
    /// When it cannot be read or is not a safetensors file.
    pub fn open(path: &Path) -> Result<Self, FilmError> {
        let unreadable = |cause: std::io::Error| FilmError::Noise {
            path: path.to_owned(),
            problem: format!("it cannot be read: {cause}"),
        };
        // Asked before opening, which would wait for ever on a pipe.
        if !path.metadata().map_err(unreadable)?.is_file() {
            return Err(FilmError::Noise {
                path: path.to_owned(),
                problem: "it is a folder, a pipe or a device; name a safetensors file".into(),
            });
        }
        let file = File::open(path).map_err(unreadable)?;
        // SAFETY: the map is only read. A file that another process truncates meanwhile would end
        // this process with SIGBUS, which every memory-mapped checkpoint risks alike.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        let noise = Self { path: path.to_owned(), map };
        SafeTensors::deserialize(&noise.map)
            .map_err(|e| noise.problem(format!("it is not a safetensors file ({e})")))?;
        Ok(noise)
    }

    fn problem(&self, problem: String) -> FilmError {
        FilmError::Noise { path: self.path.clone(), problem }
    }

    fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.map).is_ok_and(|file| file.tensor(name).is_ok())
    }

    /// The bytes of a tensor that is there, fits, and holds numbers.
    fn check(&self, name: &str, shape: &[usize]) -> Result<&[u8], FilmError> {
        let bytes = self.tensor(name, shape)?;
        let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        match values.enumerate().find(|(_, value)| !value.is_finite()) {
            None => Ok(bytes),
            Some((index, value)) => Err(self.problem(format!(
                "{name} has the value {value} at index {index}; noise is made of finite numbers"
            ))),
        }
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<&[u8], FilmError> {
        let file = SafeTensors::deserialize(&self.map)
            .map_err(|e| self.problem(format!("it is not a safetensors file ({e})")))?;
        let view = file
            .tensor(name)
            .map_err(|_| self.problem(format!("it lacks {name}, f32 {shape:?}")))?;
        let fits = view.dtype() == Dtype::F32
            && view.shape().len() == shape.len()
            && view.shape().iter().zip(shape).enumerate().all(|(axis, (&found, &wanted))| {
                // The row axis of the condition noise may be longer than what is asked for.
                found == wanted || (axis == 0 && shape.len() == 6 && found > wanted)
            });
        if !fits {
            return Err(self.problem(format!(
                "{name} is {:?} {:?}; this film needs F32 {shape:?}",
                view.dtype(),
                view.shape()
            )));
        }
        Ok(view.data())
    }

    fn initial(&self, segment: usize, shape: [usize; 4]) -> Result<Tensor, FilmError> {
        let [t, c, h, w] = shape;
        let bytes = self.tensor(&format!("segment_{segment}"), &[1, c, t, h, w])?;
        let mut noise = Tensor::zeros(&shape);
        for (frame, out) in noise.data_mut().chunks_exact_mut(c * h * w).enumerate() {
            copy_frame(bytes, frame, t, h * w, out);
        }
        Ok(noise)
    }

    fn condition(
        &self,
        at: ConditionNoise,
        [c, h, w]: [usize; 3],
        out: &mut [f32],
    ) -> Result<(), FilmError> {
        let name = condition_name(at.segment);
        let bytes = self.tensor(&name, &[at.row + 1, 1, c, at.prefix, h, w])?;
        let row_bytes = c * at.prefix * h * w * 4;
        let row = &bytes[at.row * row_bytes..(at.row + 1) * row_bytes];
        copy_frame(row, at.frame, at.prefix, h * w, out);
        Ok(())
    }
}

/// Copies frame `frame` of little-endian `[C, frames, plane]` to `out` `[C, plane]`.
fn copy_frame(bytes: &[u8], frame: usize, frames: usize, plane: usize, out: &mut [f32]) {
    for (channel, out) in out.chunks_exact_mut(plane).enumerate() {
        let start = (channel * frames + frame) * plane * 4;
        for (o, b) in out.iter_mut().zip(bytes[start..start + plane * 4].chunks_exact(4)) {
            *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_gathered_from_channels_first_storage() {
        // [C=2, frames=3, plane=2]
        let bytes: Vec<u8> = (0..12u8).flat_map(|v| f32::from(v).to_le_bytes()).collect();
        let mut out = [0.0; 4];
        copy_frame(&bytes, 1, 3, 2, &mut out);
        assert_eq!(out, [2.0, 3.0, 8.0, 9.0]);
    }

    #[test]
    fn noise_depends_on_seed_segment_frame_and_purpose_and_not_on_the_window_length() {
        let short = NoiseSource::Seeded.initial(7, 1, [2, 16, 3, 5]).expect("seeded");
        let long = NoiseSource::Seeded.initial(7, 1, [4, 16, 3, 5]).expect("seeded");
        assert_eq!(short.data(), &long.data()[..short.len()]);
        let other = NoiseSource::Seeded.initial(7, 2, [2, 16, 3, 5]).expect("seeded");
        assert_ne!(short, other);
        let mut condition = vec![0.0; 16 * 15];
        let at = ConditionNoise { seed: 7, segment: 1, row: 0, frame: 0, prefix: 2 };
        NoiseSource::Seeded.condition(at, [16, 3, 5], &mut condition).expect("seeded");
        assert_ne!(condition, short.data()[..condition.len()]);
    }
}
