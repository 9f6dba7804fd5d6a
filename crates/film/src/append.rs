//! Files that grow with the film while memory does not: the dumps of latents and frames, and the
//! drift reports. Each is cut back to its length at the last checkpoint when a run is resumed.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// An append-only file whose length is part of a checkpoint.
#[derive(Debug)]
pub struct AppendFile {
    path: PathBuf,
    file: BufWriter<File>,
    len: u64,
}

impl AppendFile {
    /// Opens `path` at length `len`: creates it when `len` is 0, cuts off what lies beyond.
    ///
    /// # Errors
    /// Those of the file system, and `UnexpectedEof` when the file is shorter than `len`.
    pub fn open(path: &Path, len: u64) -> io::Result<Self> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let found = file.metadata()?.len();
        if found < len {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{} has {found} bytes, the checkpoint counts {len}", path.display()),
            ));
        }
        file.set_len(len)?;
        file.seek(SeekFrom::Start(len))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::with_capacity(1 << 16, file), len })
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Appends values as little-endian `f32`.
    pub fn write_f32(&mut self, values: &[f32]) -> io::Result<()> {
        for value in values {
            self.file.write_all(&value.to_le_bytes())?;
        }
        self.len += 4 * values.len() as u64;
        Ok(())
    }

    /// Length with all that was appended, in bytes, as a checkpoint keeps it.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Makes what was appended durable.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }

    /// Ends appending and opens the file for reading from its start.
    pub fn into_reader(mut self) -> io::Result<File> {
        self.file.flush()?;
        drop(self.file);
        File::open(self.path)
    }
}

/// Writes raw `f32` latents, `[T, C, h, w]` in `raw`, as the safetensors tensor
/// `final_latents` `[1, C, T, h, w]`.
///
/// # Errors
/// Those of the file system.
pub fn write_latents(
    raw: &mut File,
    path: &Path,
    [frames, channels, height, width]: [usize; 4],
) -> io::Result<()> {
    let plane = height * width * 4;
    let shape = [1, channels, frames, height, width];
    write_safetensors(path, "final_latents", &shape, |out| {
        let mut buffer = vec![0; plane];
        for channel in 0..channels {
            for frame in 0..frames {
                raw.seek(SeekFrom::Start(((frame * channels + channel) * plane) as u64))?;
                raw.read_exact(&mut buffer)?;
                out.write_all(&buffer)?;
            }
        }
        Ok(())
    })
}

/// Writes raw `f32` frames, `[F, H, W, 3]` in `raw`, as the safetensors tensor `frames` of the same
/// shape.
///
/// # Errors
/// Those of the file system.
pub fn write_frames(raw: &mut File, path: &Path, shape: [usize; 4]) -> io::Result<()> {
    write_safetensors(path, "frames", &shape, |out| {
        raw.seek(SeekFrom::Start(0))?;
        io::copy(raw, out).map(|_| ())
    })
}

/// A safetensors file with one `f32` tensor, written as a stream under a temporary name.
fn write_safetensors(
    path: &Path,
    name: &str,
    shape: &[usize],
    body: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let bytes = 4 * shape.iter().product::<usize>();
    let header = serde_json::json!({
        name: {"dtype": "F32", "shape": shape, "data_offsets": [0, bytes]}
    });
    let mut header = header.to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let temporary = path.with_extension("partial");
    let write = || -> io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 16, File::create(&temporary)?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        body(&mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    let written = write();
    if written.is_err() {
        // The failure is what is told.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reopening_at_a_checkpoint_cuts_what_came_after_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("latents.raw");
        let mut file = AppendFile::open(&path, 0).expect("new");
        file.write_f32(&[1.0, 2.0]).expect("write");
        file.sync().expect("sync");
        let kept = file.len();
        file.write_f32(&[3.0]).expect("write");
        file.sync().expect("sync");
        drop(file);
        let mut file = AppendFile::open(&path, kept).expect("reopen");
        file.write_f32(&[9.0]).expect("write");
        file.sync().expect("sync");
        assert_eq!(file.len(), 12);
        assert!(AppendFile::open(&path, 13).is_err(), "shorter than the checkpoint says");
    }

    #[test]
    fn latents_are_transposed_to_channels_first() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let raw_path = dir.path().join("raw");
        let mut raw = AppendFile::open(&raw_path, 0).expect("new");
        // [T=2, C=3, h=1, w=1]
        raw.write_f32(&[0.0, 1.0, 2.0, 10.0, 11.0, 12.0]).expect("write");
        let path = dir.path().join("latents.safetensors");
        let mut reader = raw.into_reader().expect("reader");
        write_latents(&mut reader, &path, [2, 3, 1, 1]).expect("written");
        let bytes = std::fs::read(path).expect("read");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let tensor = file.tensor("final_latents").expect("named");
        assert_eq!(tensor.shape(), [1, 3, 2, 1, 1]);
        let values: Vec<f32> = tensor
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        assert_eq!(values, [0.0, 10.0, 1.0, 11.0, 2.0, 12.0]);
    }
}
