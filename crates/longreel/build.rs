//! Puts the demo model into the program, so that an installed `longreel` makes films by itself.
//!
//! The folder is small (under 25 MB). Without it, in a checkout that lacks it, the program is built
//! all the same and asks for `--model`.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write;
use std::fs;
use std::hash::Hasher;
use std::path::{Path, PathBuf};

/// A folder with more than this has something else in it, such as checkpoints of a training run.
const BYTES_MAX: u64 = 64 << 20;
const ENDINGS: [&str; 5] = ["json", "safetensors", "model", "txt", "jinja"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../demo");
    println!("cargo::rerun-if-changed={}", root.display());
    println!("cargo::rerun-if-changed=build.rs");
    let mut files = Vec::new();
    if root.is_dir() {
        collect(&root, &mut files)?;
    }
    files.sort();
    let mut total = 0;
    let mut digest = DefaultHasher::new();
    let mut list = String::new();
    for path in &files {
        let name = path.strip_prefix(&root)?.components().map(|c| c.as_os_str().to_string_lossy());
        let name = name.collect::<Vec<_>>().join("/");
        let content = fs::read(path)?;
        total += content.len() as u64;
        digest.write(name.as_bytes());
        digest.write(&content);
        let path = path.canonicalize()?;
        writeln!(list, "    ({name:?}, include_bytes!({:?})),", path.display().to_string())?;
    }
    if total > BYTES_MAX {
        return Err(format!("demo/ holds {total} bytes; the program takes {BYTES_MAX}").into());
    }
    let source = format!(
        "/// Name within the demo model's folder, and content.\n\
         static FILES: &[(&str, &[u8])] = &[\n{list}];\n\
         /// Differs between contents.\n\
         const DIGEST: u64 = {:#x};\n",
        digest.finish()
    );
    fs::write(PathBuf::from(std::env::var("OUT_DIR")?).join("demo.rs"), source)?;
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|n| n.to_string_lossy().starts_with('.'));
        if path.is_dir() && !hidden {
            collect(&path, files)?;
        } else if !hidden && path.extension().is_some_and(|e| ENDINGS.iter().any(|&x| e == x)) {
            files.push(path);
        }
    }
    Ok(())
}
