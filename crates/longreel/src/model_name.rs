//! What stands for a model: a path, a short name, or a repository in a cache.

use std::path::{Path, PathBuf};

use anyhow::Result;
use longreel_hub::{
    Cache, Environment, HubError, Kept, LOCK_FILE, Pins, Reference, RepoId, RepoPath, Revision,
    Site,
};
use longreel_weights::{Family, PublishedModel, inspect, published_models};

use crate::args::{Cli, Command};
use crate::demo;
use crate::outcome::bad_input;

/// A model's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Its folder or file.
    pub path: PathBuf,
    /// Its name, when that is not its place.
    pub label: Option<String>,
    /// What names it in a command that makes a film again; nothing for the demo model.
    pub typed: Option<PathBuf>,
}

/// A repository as it is typed, and which of its files is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The repositories that the name stands for, the preferred one first.
    pub ids: Vec<RepoId>,
    /// The revision, where one is named.
    pub revision: Option<Revision>,
    /// A file inside it, such as one of many GGUF files.
    pub file: Option<RepoPath>,
}

impl Named {
    /// What to type for it.
    pub fn reference(&self) -> String {
        let id = self.ids.first().map(ToString::to_string).unwrap_or_default();
        match &self.revision {
            Some(revision) => format!("{id}@{revision}"),
            None => id,
        }
    }

    /// The preferred repository.
    pub fn id(&self) -> &RepoId {
        &self.ids[0]
    }
}

/// Replaces a repository in the flags of a command by its revision in the cache, so that the films'
/// records and a server's workers mean that very one.
pub fn settle(cli: &mut Cli) -> Result<()> {
    let hub = cli.common.hub.map(Site::from);
    let model = match &mut cli.command {
        Command::Generate(args) => &mut args.model.model,
        Command::Plan(args) => {
            let model = &mut args.film.model.model;
            if let Some(typed) = model
                && published_elsewhere(typed)?.is_some()
            {
                return Ok(());
            }
            model
        }
        Command::Serve(args) => {
            for model in &mut args.with_model {
                if let Some(typed) = locate(Some(model), hub)?.typed {
                    *model = typed;
                }
            }
            &mut args.model.model
        }
        _ => return Ok(()),
    };
    if model.is_some() {
        *model = locate(model.as_deref(), hub)?.typed;
    }
    Ok(())
}

/// Where the model is that was typed; nothing typed is the demo model.
pub fn locate(typed: Option<&Path>, hub: Option<Site>) -> Result<Located> {
    let typed = match typed {
        None => None,
        Some(path) if path == Path::new(demo::NAME) => None,
        Some(path) => Some(path),
    };
    let Some(path) = typed else {
        let label = Some(demo::NAME.to_owned());
        return Ok(Located { path: demo::folder()?, label, typed: None });
    };
    if path.exists() {
        return Ok(Located { path: path.to_owned(), label: None, typed: Some(path.to_owned()) });
    }
    let Some(named) = path.to_str().map(parse).transpose()?.flatten() else {
        return Err(nothing_there(path));
    };
    let kept = find(&named, hub)?.ok_or_else(|| {
        bad_input(format!(
            "model {}: it is no path and not among the models on this machine; fetch it with \
             `longreel models pull {}`",
            path.display(),
            pull_words(&named)
        ))
    })?;
    in_cache(&named, &kept)
}

/// The published model that was typed, where it is not on this machine.
pub fn published_elsewhere(typed: &Path) -> Result<Option<PublishedModel>> {
    if typed.exists() {
        return Ok(None);
    }
    let Some(named) = typed.to_str().map(parse).transpose()?.flatten() else { return Ok(None) };
    if named.file.is_some() || find(&named, None)?.is_some() {
        return Ok(None);
    }
    let is_named = |model: &PublishedModel| {
        repositories(model).iter().any(|id| named.ids.iter().any(|named| named.to_string() == *id))
    };
    Ok(published_models().into_iter().find(is_named))
}

/// A kept model, when it is whole.
fn in_cache(named: &Named, kept: &Kept) -> Result<Located> {
    let inner = named.file.as_ref();
    let path = inner.map_or_else(|| kept.folder.clone(), |file| file.under(&kept.folder));
    let end = inner.map_or(String::new(), |file| format!("/{file}"));
    let incomplete = |problem: &str| {
        let words = pull_words(named);
        bad_input(format!(
            "model {}: {problem}; `longreel models pull {words}` fetches what is missing",
            kept.short_reference()
        ))
    };
    if inner.is_some() && !path.is_file() {
        return Err(incomplete(&format!("{} is not here", end.trim_start_matches('/'))));
    }
    match inspect(&path) {
        // What is missing beside a single file is not in its repository, so pulling it again helps nobody.
        _ if inner.is_some() => {}
        Ok(report) => {
            if let Some(problem) = report.problems.first() {
                return Err(incomplete(problem));
            }
        }
        Err(error) => return Err(incomplete(&error.to_string())),
    }
    Ok(Located {
        path,
        label: Some(format!("{}{end}", kept.short_reference())),
        typed: Some(format!("{}{end}", kept.reference()).into()),
    })
}

fn pull_words(named: &Named) -> String {
    match &named.file {
        Some(file) => {
            format!("{} --file {}", named.reference(), crate::shell::quoted(file.as_str()))
        }
        None => named.reference(),
    }
}

/// A short name, or `OWNER/NAME[@REVISION][/FILE]`; `None` when it is neither in form.
pub fn parse(text: &str) -> Result<Option<Named>> {
    let (name, revision) = match text.split_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (text, None),
    };
    if !name.contains('/') {
        let Some(ids) = of_short_name(name) else { return Ok(None) };
        let revision = revision.map(str::parse).transpose();
        return Ok(Some(Named { ids, revision: revision.map_err(wrong)?, file: None }));
    }
    let mut parts = text.splitn(3, '/');
    let (owner, name, file) = (parts.next(), parts.next(), parts.next());
    let (Some(owner), Some(name)) = (owner, name) else { return Ok(None) };
    // A path that is not there is no repository that is not there.
    let named_file = file.filter(|file| !name.contains('@') || is_model_file(file));
    let reference = match (named_file, file) {
        (Some(file), _) if !is_model_file(file) => return Ok(None),
        (Some(_), _) => format!("{owner}/{name}"),
        (None, _) => text.to_owned(),
    };
    let Ok(Reference { id, revision }) = reference.parse() else { return Ok(None) };
    let file = named_file.map(str::parse).transpose().map_err(wrong)?;
    Ok(Some(Named { ids: vec![id], revision, file }))
}

fn is_model_file(name: &str) -> bool {
    [".gguf", ".safetensors", ".pth", ".pt"].iter().any(|ending| name.ends_with(ending))
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn wrong(error: HubError) -> anyhow::Error {
    bad_input(error.to_string())
}

/// The repositories of a published model: in the Diffusers layout, which has all parts in safetensors, and
/// as it was first published.
fn of_short_name(name: &str) -> Option<Vec<RepoId>> {
    let model = published_models().into_iter().find(|m| m.name.eq_ignore_ascii_case(name))?;
    repositories(&model).iter().map(|id| id.parse().ok()).collect()
}

/// The repositories of a published model, the preferred one first.
pub fn repositories(model: &PublishedModel) -> [String; 2] {
    let owner = match model.family {
        Family::SkyReels => "Skywork",
        Family::Wan => "Wan-AI",
    };
    // This one alone is written otherwise.
    let ending = match model.name {
        "Wan2.1-FLF2V-14B-720P" => "diffusers",
        _ => "Diffusers",
    };
    [format!("{owner}/{}-{ending}", model.name), format!("{owner}/{}", model.name)]
}

/// All short names, in lower case.
pub fn short_names() -> Vec<String> {
    published_models().iter().map(|model| model.name.to_ascii_lowercase()).collect()
}

/// The caches, the preferred site's first.
pub fn caches(hub: Option<Site>) -> [Cache; 2] {
    let environment = Environment::of_process();
    let sites = match hub {
        Some(Site::ModelScope) => [Site::ModelScope, Site::HuggingFace],
        _ => [Site::HuggingFace, Site::ModelScope],
    };
    sites.map(|site| Cache::of_environment(site, &environment))
}

/// The kept model that is meant: at the revision that is typed, else at the pinned one.
pub fn find(named: &Named, hub: Option<Site>) -> Result<Option<Kept>> {
    let pins = Pins::read(Path::new(LOCK_FILE))?;
    let caches = caches(hub);
    for id in &named.ids {
        let pin = pins.of(id).filter(|_| named.revision.is_none());
        let revision = match pin {
            Some(pin) => Some(pin.revision()?),
            None => named.revision.clone(),
        };
        let wanted = |cache: &&Cache| pin.is_none_or(|pin| pin.from == cache.site());
        let found =
            caches.iter().filter(wanted).find_map(|cache| cache.find(id, revision.as_ref()));
        if found.is_some() {
            return Ok(found);
        }
        if let Some(pin) = pin {
            return Err(bad_input(format!(
                "{id}: {LOCK_FILE} pins revision {}, which is not on this machine; fetch it with \
                 `longreel models pull`, or name another as {id}@REVISION",
                pin.revision
            )));
        }
    }
    Ok(None)
}

fn nothing_there(path: &Path) -> anyhow::Error {
    let text = path.display().to_string();
    let near = short_names()
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&name, &text.to_ascii_lowercase()), name))
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    bad_input(match near {
        Some((_, name)) => format!(
            "model {text}: there is no such file or folder; did you mean {name}? Fetch it with \
             `longreel models pull {name}`"
        ),
        None => format!(
            "model {text}: there is no such file or folder, and no published model of this name; \
             `longreel models list` shows what is here, `longreel models search` what can be fetched"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Vec<String> {
        let named = parse(text).expect("sound").expect("a name");
        named.ids.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn short_names_stand_for_the_published_repositories() {
        assert_eq!(
            ids("skyreels-v2-df-1.3b-540p"),
            ["Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers", "Skywork/SkyReels-V2-DF-1.3B-540P"]
        );
        assert_eq!(ids("Wan2.1-FLF2V-14B-720P")[0], "Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers");
        assert_eq!(short_names().len(), 13);
        let named = parse("wan2.1-t2v-14b@v1").expect("sound").expect("a name");
        assert_eq!(named.revision.expect("one").as_str(), "v1");
    }

    #[test]
    fn repositories_revisions_and_files_are_told_from_paths() {
        let named = |text: &str| parse(text).expect("sound");
        let whole = named("city96/Wan2.1-T2V-14B-gguf@abc/wan-Q8_0.gguf").expect("a name");
        assert_eq!(whole.id().to_string(), "city96/Wan2.1-T2V-14B-gguf");
        assert_eq!(whole.revision.expect("one").as_str(), "abc");
        assert_eq!(whole.file.expect("one").as_str(), "wan-Q8_0.gguf");
        let request = named("org/name@refs/pr/1").expect("a name");
        assert_eq!(request.revision.expect("one").as_str(), "refs/pr/1");
        for path in ["/srv/models/x", "models/skyreels/df", "./x", "../x/y", "nothing", "a/b/c.txt"]
        {
            assert_eq!(named(path), None, "{path}");
        }
    }
}
