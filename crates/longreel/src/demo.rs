//! The demo model, which is inside the program.
//!
//! Models are memory-mapped, so it has to be a folder somewhere: the `demo/` of the source tree when
//! the program was built there and has not been moved, else a copy in the user's cache, written once.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

include!(concat!(env!("OUT_DIR"), "/demo.rs"));

/// The name that stands for the demo model wherever a model's path is asked for.
pub const NAME: &str = "demo";

/// Why there is no demo model.
#[derive(Debug, thiserror::Error)]
pub enum NoDemo {
    /// The program has none.
    #[error("this program was built without the demo model; name a model with --model")]
    NotBuiltIn,
    /// It could not be written to where it is used from.
    #[error(
        "cannot put the demo model into {}: {cause}; set XDG_CACHE_HOME to a folder that can be written to, \
         or name another model with --model", .folder.display()
    )]
    NotWritten {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// A folder that holds the demo model.
///
/// # Errors
/// See [`NoDemo`].
pub fn folder() -> Result<PathBuf, NoDemo> {
    if FILES.is_empty() {
        return Err(NoDemo::NotBuiltIn);
    }
    if let Some(found) = beside_program().filter(|folder| holds(folder, FILES)) {
        return Ok(found);
    }
    let folder = cache().join(format!("demo-{DIGEST:016x}"));
    if let Err(cause) = unpack(&folder, FILES) {
        return Err(NoDemo::NotWritten { folder, cause });
    }
    Ok(folder)
}

/// `demo/` in a folder above the program: `target/release/longreel` is in the source tree.
fn beside_program() -> Option<PathBuf> {
    let program = env::current_exe().ok()?.canonicalize().ok()?;
    program.ancestors().skip(1).take(5).map(|a| a.join(NAME)).find(|f| f.is_dir())
}

fn cache() -> PathBuf {
    let variable = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    variable("XDG_CACHE_HOME")
        .or_else(|| variable("LOCALAPPDATA"))
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(env::temp_dir)
        .join("longreel")
}

/// True when every file is in `folder` with this content. Reading 25 MB costs a hundredth of a
/// second, and a damaged or half-written copy never gets to the loader.
fn holds(folder: &Path, files: &[(&str, &[u8])]) -> bool {
    files.iter().all(|(name, content)| has(&folder.join(name), content))
}

fn has(path: &Path, content: &[u8]) -> bool {
    fs::metadata(path).is_ok_and(|m| m.len() == content.len() as u64)
        && fs::read(path).is_ok_and(|found| found == content)
}

/// Writes what is missing or differs. Each file appears whole, so that two programs may do this at
/// once.
fn unpack(folder: &Path, files: &[(&str, &[u8])]) -> io::Result<()> {
    for (name, content) in files {
        let path = folder.join(name);
        if has(&path, content) {
            continue;
        }
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent)?;
        let beside = path.with_extension(format!("{}.new", std::process::id()));
        let written = fs::write(&beside, content).and_then(|()| fs::rename(&beside, &path));
        if let Err(error) = written {
            // The first error is the one worth telling.
            let _ = fs::remove_file(&beside);
            return Err(error);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[(&str, &[u8])] = &[("model_index.json", b"{}"), ("vae/config.json", b"[1]")];

    #[test]
    fn unpacking_repairs_what_is_damaged_and_leaves_the_rest() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("demo-1");
        unpack(&folder, SAMPLE).expect("writable");
        assert!(holds(&folder, SAMPLE));
        fs::write(folder.join("vae/config.json"), b"[2]").expect("writable");
        assert!(!holds(&folder, SAMPLE), "a changed file of equal length went unseen");
        let before = fs::metadata(folder.join("model_index.json")).and_then(|m| m.modified());
        unpack(&folder, SAMPLE).expect("writable");
        assert!(holds(&folder, SAMPLE));
        let after = fs::metadata(folder.join("model_index.json")).and_then(|m| m.modified());
        assert_eq!(before.expect("a time"), after.expect("a time"), "a whole file was rewritten");
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 2, "a leftover");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(unpack(&file.path().join("demo"), SAMPLE).is_err());
    }
}
