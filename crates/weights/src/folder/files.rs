//! The tensor files of a folder: which belong together, and which may be opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component as PathPart, Path, PathBuf};

use serde_json::{Map, Value};

use crate::WeightsError;
use crate::container::{self, Container};

/// More entries than that no model folder has.
const ENTRIES_MAX: usize = 20_000;
/// The longest JSON file that is read.
const JSON_MAX: u64 = 64 << 20;
/// Endings of tensor files.
const ENDINGS: [&str; 6] = ["safetensors", "gguf", "pth", "pt", "ckpt", "bin"];

/// Files that hold one set of tensors: one file, or all shards of it.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// What the file is called, without shard numbers and ending.
    pub stem: String,
    pub ending: String,
    pub files: Vec<PathBuf>,
    /// From an index file: which tensor lies in which file.
    weight_map: BTreeMap<String, PathBuf>,
}

impl Group {
    /// One file, or the shards that it is one of.
    pub fn of_file(path: &Path) -> Result<Self, WeightsError> {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let (stem, ending) = split_name(name).unwrap_or((name, ""));
        if shard(stem).is_some()
            && let Some(group) = groups(parent(path))?
                .into_iter()
                .find(|group| group.files.iter().any(|file| file.file_name() == path.file_name()))
        {
            return Ok(group);
        }
        Ok(Self {
            stem: stem.to_owned(),
            ending: ending.to_owned(),
            files: vec![path.to_owned()],
            weight_map: BTreeMap::new(),
        })
    }

    /// For messages.
    pub fn label(&self) -> String {
        match self.files.as_slice() {
            [file] => file.display().to_string(),
            files => format!(
                "{} ({} files)",
                parent(files.first().map_or(Path::new(""), PathBuf::as_path))
                    .join(format!("{}*.{}", self.stem, self.ending))
                    .display(),
                files.len()
            ),
        }
    }

    /// The folder that the files lie in.
    pub fn folder(&self) -> &Path {
        self.files.first().map_or(Path::new("."), |file| parent(file))
    }

    /// Opens all files and checks that they hold what the index says.
    pub fn open(&self) -> Result<Vec<Container>, WeightsError> {
        let containers: Vec<Container> =
            self.files.iter().map(|path| container::open(path)).collect::<Result<_, _>>()?;
        let held: BTreeMap<&str, &Path> = containers
            .iter()
            .flat_map(|c| c.tensors.iter().map(|t| (t.name.as_str(), c.path.as_path())))
            .collect();
        for (tensor, path) in &self.weight_map {
            if held.get(tensor.as_str()) != Some(&path.as_path()) {
                let problem = format!("the tensor {tensor:?} is not there, as the index says");
                return Err(WeightsError::damaged(path, "sharded", problem));
            }
        }
        Ok(containers)
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// The tensor files of a folder, shards put together, sorted by name. A folder that is not there has
/// none.
pub(super) fn groups(folder: &Path) -> Result<Vec<Group>, WeightsError> {
    let names = file_names(folder)?;
    let mut groups = Vec::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for name in &names {
        if let Some(stem) = index_stem(name) {
            let group = indexed(folder, name, &stem)?;
            taken.extend(
                group.files.iter().filter_map(|f| Some(f.file_name()?.to_str()?.to_owned())),
            );
            groups.push(group);
        }
    }
    let mut shards: BTreeMap<(String, String, usize), Vec<(usize, PathBuf)>> = BTreeMap::new();
    for name in names.iter().filter(|name| !taken.contains(*name)) {
        let Some((stem, ending)) = split_name(name) else { continue };
        if ending == "bin" && !stem.contains("pytorch_model") {
            // Optimisers and schedulers of training programs.
            continue;
        }
        let path = inside(folder, name)?;
        match shard(stem) {
            Some((base, number, count)) => {
                let key = (base.to_owned(), ending.to_owned(), count);
                shards.entry(key).or_default().push((number, path));
            }
            None => groups.push(Group {
                stem: stem.to_owned(),
                ending: ending.to_owned(),
                files: vec![path],
                weight_map: BTreeMap::new(),
            }),
        }
    }
    for ((stem, ending, count), mut files) in shards {
        files.sort();
        if let Some(missing) = (1..=count).find(|n| !files.iter().any(|(number, _)| number == n)) {
            return Err(WeightsError::NotAModel {
                path: folder.to_owned(),
                problem: format!("holds only {} of the {count} parts of {stem}", files.len()),
                way_out: format!("download {stem}-{missing:05}-of-{count:05}.{ending} too"),
            });
        }
        let files = files.into_iter().map(|(_, path)| path).collect();
        groups.push(Group { stem, ending, files, weight_map: BTreeMap::new() });
    }
    groups.sort_by(|a, b| a.files.cmp(&b.files));
    Ok(groups)
}

fn file_names(folder: &Path) -> Result<Vec<String>, WeightsError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(WeightsError::io("list", folder)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(WeightsError::io("list", folder))?;
        if names.len() >= ENTRIES_MAX {
            return Err(WeightsError::NotAModel {
                path: folder.to_owned(),
                problem: format!("has more than {ENTRIES_MAX} entries"),
                way_out: "name the model's own folder".into(),
            });
        }
        if let Ok(name) = entry.file_name().into_string()
            && folder.join(&name).is_file()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// `model.safetensors.index.json` and, with a variant, `model.safetensors.index.fp16.json`.
fn index_stem(name: &str) -> Option<String> {
    let (stem, rest) = name.strip_suffix(".json")?.split_once(".index")?;
    let variant = match rest {
        "" => "",
        _ => rest.strip_prefix('.').filter(|v| !v.is_empty())?,
    };
    let (stem, ending) = stem.rsplit_once('.')?;
    let dot = if variant.is_empty() { "" } else { "." };
    ENDINGS.contains(&ending).then(|| format!("{stem}{dot}{variant}.{ending}"))
}

/// The `weight_map` of an index: which tensor lies in which file. The names of the files are not checked yet.
pub(crate) fn parse_index(
    path: &Path,
    text: &str,
) -> Result<BTreeMap<String, String>, WeightsError> {
    let damaged = |problem: String| WeightsError::damaged(path, "index", problem);
    let json: Map<String, Value> =
        serde_json::from_str(text).map_err(|e| damaged(format!("it is no JSON object: {e}")))?;
    let map = json
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| damaged("it has no weight_map".into()))?;
    if map.is_empty() {
        return Err(damaged("its weight_map names no tensor".into()));
    }
    map.iter()
        .map(|(tensor, file)| match file.as_str() {
            Some(file) => Ok((tensor.clone(), file.to_owned())),
            None => Err(damaged(format!("the tensor {tensor:?} is in no file"))),
        })
        .collect()
}

/// True for the name of a file in the folder itself.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let one = matches!((parts.next(), parts.next()), (Some(PathPart::Normal(_)), None));
    one && !name.contains(['/', '\\', '\0'])
}

fn indexed(folder: &Path, name: &str, stem: &str) -> Result<Group, WeightsError> {
    let path = inside(folder, name)?;
    let mut weight_map = BTreeMap::new();
    let mut known: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (tensor, file) in parse_index(&path, &read_text(&path)?)? {
        let path = match known.get(&file) {
            Some(path) => path.clone(),
            None => {
                let path = inside(folder, &file)?;
                known.insert(file, path.clone());
                path
            }
        };
        weight_map.insert(tensor, path);
    }
    let (stem, ending) = stem.rsplit_once('.').unwrap_or((stem, ""));
    Ok(Group {
        stem: stem.to_owned(),
        ending: ending.to_owned(),
        files: known.into_values().collect(),
        weight_map,
    })
}

/// The path of a file in a folder, when it is really in there: its name has no folder in it, and where it
/// is a link, it stays in the folder, or in the blobs of the same model in a Hugging Face cache, or in those
/// that the models of the cache share.
pub(super) fn inside(folder: &Path, name: &str) -> Result<PathBuf, WeightsError> {
    let outside = |what: &str| WeightsError::NotAModel {
        path: folder.to_owned(),
        problem: format!("names {what} {:?}", name.chars().take(200).collect::<String>()),
        way_out: "only files in the folder itself are opened; copy the file there".into(),
    };
    if !is_plain_name(name) {
        return Err(outside("a file outside of it:"));
    }
    let path = folder.join(name);
    let real = path.canonicalize().map_err(WeightsError::io("open", &path))?;
    let home = folder.canonicalize().map_err(WeightsError::io("open", folder))?;
    let snapshots =
        home.ancestors().take(4).find(|a| a.file_name().is_some_and(|n| n == "snapshots"));
    let model = snapshots.and_then(Path::parent);
    let named = |path: &Path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("models--"))
    };
    let cache = model.filter(|model| named(model)).and_then(Path::parent);
    let mut blobs = model.into_iter().chain(cache).map(|folder| folder.join("blobs"));
    if real.starts_with(&home) || blobs.any(|blobs| real.starts_with(blobs)) {
        Ok(path)
    } else {
        Err(outside("a link out of it:"))
    }
}

/// Reads a JSON file of a folder.
pub(super) fn read_text(path: &Path) -> Result<String, WeightsError> {
    let length = fs::metadata(path).map_err(WeightsError::io("read", path))?.len();
    if length > JSON_MAX {
        let problem = format!("it has {length} bytes, more than {JSON_MAX}");
        return Err(WeightsError::damaged(path, "JSON", problem));
    }
    fs::read_to_string(path).map_err(WeightsError::io("read", path))
}

/// Reads a JSON file of a folder when it is there.
pub(super) fn read_optional(folder: &Path, name: &str) -> Result<Option<String>, WeightsError> {
    if !folder.join(name).is_file() {
        return Ok(None);
    }
    read_text(&inside(folder, name)?).map(Some)
}

fn split_name(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.').filter(|(_, ending)| ENDINGS.contains(ending))
}

/// `name-00002-of-00012` as name, 2, 12.
fn shard(stem: &str) -> Option<(&str, usize, usize)> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (base, number) = rest.rsplit_once('-')?;
    let parse = |text: &str| (3..=6).contains(&text.len()).then(|| text.parse::<usize>().ok())?;
    let (number, count) = (parse(number)?, parse(count)?);
    (1..=count).contains(&number).then_some((base, number, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    #[test]
    fn shards_are_put_together_and_a_missing_one_is_named() {
        let all = folder(&[
            ("model-00001-of-00002.safetensors", ""),
            ("model-00002-of-00002.safetensors", ""),
            ("vae.pth", ""),
            ("optimizer.bin", ""),
            ("notes.txt", ""),
        ]);
        let found = groups(all.path()).unwrap();
        let stems: Vec<_> = found.iter().map(|g| (g.stem.as_str(), g.files.len())).collect();
        assert_eq!(stems, [("model", 2), ("vae", 1)]);
        let part = folder(&[("model-00002-of-00002.safetensors", "")]);
        let message = groups(part.path()).unwrap_err().to_string();
        assert!(message.contains("model-00001-of-00002.safetensors"), "{message}");
    }

    #[test]
    fn an_index_that_names_files_elsewhere_is_refused() {
        for name in ["../../etc/passwd", "/etc/passwd", "..", "a/b.safetensors", "a\\b", ""] {
            let index = serde_json::json!({"weight_map": {"x": name}}).to_string();
            let folder = folder(&[("model.safetensors.index.json", &index)]);
            let message = groups(folder.path()).unwrap_err().to_string();
            assert!(message.contains("only files in the folder"), "{name}: {message}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_out_of_the_folder_is_refused_and_a_cache_of_links_is_read() {
        let outer = tempfile::tempdir().unwrap();
        let snapshot = outer.path().join("models--x/snapshots/abc/vae");
        let blobs = outer.path().join("models--x/blobs");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join("1234"), "").unwrap();
        fs::write(outer.path().join("secret.safetensors"), "").unwrap();
        std::os::unix::fs::symlink("../../../blobs/1234", snapshot.join("a.safetensors")).unwrap();
        assert_eq!(groups(&snapshot).unwrap().len(), 1);
        // huggingface_hub 2 puts what models share into blobs of the whole cache.
        let shared = outer.path().join("blobs/ab");
        fs::create_dir_all(&shared).unwrap();
        fs::rename(blobs.join("1234"), shared.join("abcd")).unwrap();
        std::os::unix::fs::symlink("../../blobs/ab/abcd", blobs.join("1234")).unwrap();
        assert_eq!(groups(&snapshot).unwrap().len(), 1);
        let secret = outer.path().join("secret.safetensors");
        std::os::unix::fs::symlink(secret, snapshot.join("b.safetensors")).unwrap();
        let message = groups(&snapshot).unwrap_err().to_string();
        assert!(message.contains("a link out of it"), "{message}");
    }

    #[test]
    fn variants_of_an_index_are_understood() {
        assert_eq!(index_stem("model.safetensors.index.json").unwrap(), "model.safetensors");
        assert_eq!(index_stem("m.safetensors.index.fp16.json").unwrap(), "m.fp16.safetensors");
        assert_eq!(index_stem("config.json"), None);
    }
}
