//! Runs the program and looks at what it leaves.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use safetensors::SafeTensors;
use tempfile::TempDir;

/// The tiny diffusion-forcing model, 48x32 and so on; see `parity/`.
pub fn model() -> String {
    fixtures().join("models/df").display().to_string()
}

/// Copies a folder with all that is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("writable");
    for entry in std::fs::read_dir(from).expect("readable") {
        let path = entry.expect("readable").path();
        let to = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy_folder(&path, &to),
            false => drop(std::fs::copy(&path, to).expect("writable")),
        }
    }
}

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures")
}

/// A folder to run in.
pub struct Place {
    folder: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("writable");
        path
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn names(&self) -> BTreeSet<String> {
        std::fs::read_dir(self.folder.path())
            .expect("readable")
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// The program in this folder, without settings from outside.
    pub fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longreel"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LONGREEL_") {
                command.env_remove(name);
            }
        }
        command
            .args(words)
            .current_dir(self.folder.path())
            .env("XDG_CONFIG_HOME", self.folder.path().join("no-settings"))
            .stdin(Stdio::null());
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Ran {
        Ran::of(self.command(words).output().expect("the program starts"))
    }

    pub fn start<S: AsRef<OsStr>>(&self, words: &[S]) -> Child {
        self.command(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts")
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Ran {
    /// `None` after a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Stdout as events.
    #[track_caller]
    pub fn events(&self) -> Vec<serde_json::Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }
}

/// Words for a small film of `segments` segments on the tiny model, 48x32.
pub fn film_words(segments: u64, more: &[&str]) -> Vec<String> {
    // The first segment has 5 latent frames, each later one 5 - 2 new ones.
    let frames = 17 + (segments - 1) * 12;
    let model = model();
    let frames = frames.to_string();
    let fixed = [
        "generate",
        "A red circle moves.",
        "--model",
        &model,
        "--size",
        "48x32",
        "--num-frames",
        &frames,
        "--base-num-frames",
        "17",
        "--overlap-history",
        "5",
        "--steps",
        "4",
        "--addnoise-condition",
        "20",
        "--seed",
        "7",
        "-o",
        "film.mp4",
    ];
    fixed.iter().chain(more).map(|word| (*word).to_string()).collect()
}

/// The values of a tensor of f32 in a safetensors file.
pub fn tensor(bytes: &[u8], name: &str) -> (Vec<usize>, Vec<f32>) {
    let file = SafeTensors::deserialize(bytes).expect("a safetensors file");
    let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let values = view
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")))
        .collect();
    (view.shape().to_vec(), values)
}

/// What ffprobe says of a film: width, height, frames that decode. `None`, with a reason printed,
/// when there is no ffprobe.
pub fn probe(path: &Path) -> Option<(u64, u64, u64)> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-select_streams", "v", "-of", "json"])
        .args(["-show_entries", "stream=width,height,nb_read_frames"])
        .arg(path)
        .output();
    let output = match output {
        Ok(output) => output,
        Err(e) => {
            println!("skipped: ffprobe cannot be run ({e}), so {} is not played", path.display());
            return None;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}: {said}", path.display());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let stream = &json["streams"][0];
    let frames = stream["nb_read_frames"].as_str().and_then(|n| n.parse().ok());
    Some((
        stream["width"].as_u64().expect("a width"),
        stream["height"].as_u64().expect("a height"),
        frames.expect("frames"),
    ))
}
