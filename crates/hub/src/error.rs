//! Why a model could not be fetched, kept or found.

use std::path::{Path, PathBuf};

use crate::id::Site;

/// Every message names the repository or file, the value, and the way out.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// It is no name of a repository, revision or file.
    #[error("{what} {value:?}: {rule}")]
    Name {
        /// What was to be named.
        what: &'static str,
        /// What was given, cut.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
    /// A variable of the environment cannot be used.
    #[error("{variable} is {value:?}: {rule}")]
    Setting {
        /// Its name.
        variable: String,
        /// Its value, without passwords.
        value: String,
        /// What it must be.
        rule: String,
    },
    /// The environment forbids to ask the network.
    #[error(
        "{variable} forbids to ask {site}; unset it to fetch what is missing, or use what \
         `longreel models list` shows"
    )]
    Offline {
        /// The variable that says so.
        variable: &'static str,
        /// What was to be asked.
        site: Site,
    },
    /// The repository is there and may not be read.
    #[error("{repository} {problem}; {way_out}")]
    Denied {
        /// Owner and name.
        repository: String,
        /// What the site answers.
        problem: String,
        /// What to do.
        way_out: String,
    },
    /// There is no such repository, revision or file.
    #[error("{site} has no {what}; {way_out}")]
    NotFound {
        /// Where it was looked for.
        site: Site,
        /// What was looked for.
        what: String,
        /// What to do.
        way_out: String,
    },
    /// There was no answer, or none that could be used, also after all tries.
    #[error("{host} {problem}{}; {way_out}", times(*tries))]
    Unreachable {
        /// Who was asked.
        host: String,
        /// What happened at last.
        problem: String,
        /// How often it was tried.
        tries: u32,
        /// What to do.
        way_out: String,
    },
    /// An answer that is not as the site's interface has it.
    #[error("{host} answers {problem}; {way_out}")]
    Answer {
        /// Who was asked.
        host: String,
        /// What is wrong with the answer.
        problem: String,
        /// What to do.
        way_out: String,
    },
    /// What came is not what the site's list says.
    #[error(
        "{file} is damaged: its {kind} is {found}, and {site} says {expected}; it was fetched {tries} \
         times and nothing of it is kept. Another --endpoint or network may help"
    )]
    Damaged {
        /// The file in the repository.
        file: String,
        /// The kind of hash.
        kind: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
        /// Whose list it is.
        site: Site,
        /// How often it was fetched.
        tries: u32,
    },
    /// The disk is too small.
    #[error(
        "{} has {} free and {} are needed; remove something (`longreel models list`, `longreel models \
         remove`), or name another disk with {variable}",
        folder.display(), bytes(*free_bytes), bytes(*needed_bytes)
    )]
    Space {
        /// The cache.
        folder: PathBuf,
        /// What is free.
        free_bytes: u64,
        /// What is to come.
        needed_bytes: u64,
        /// The variable that names another.
        variable: &'static str,
    },
    /// A repository in which nothing, or no one thing, is what a film needs.
    #[error("{repository} {problem}; {way_out}")]
    Choice {
        /// Owner and name.
        repository: String,
        /// Why nothing was chosen.
        problem: String,
        /// What to do.
        way_out: String,
    },
    /// A lock file that says nothing usable.
    #[error("{}: {problem}; {way_out}", path.display())]
    Pins {
        /// Its place.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do.
        way_out: String,
    },
    /// Another part of the same work failed first.
    #[error("stopped, since another file failed")]
    Stopped,
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

fn times(tries: u32) -> String {
    if tries == 1 { String::new() } else { format!(" (tried {tries} times)") }
}

impl HubError {
    /// For `map_err` on an I/O result.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// True when the person can put it right by asking for something else.
    pub fn is_bad_input(&self) -> bool {
        matches!(
            self,
            Self::Name { .. }
                | Self::Setting { .. }
                | Self::Offline { .. }
                | Self::Denied { .. }
                | Self::NotFound { .. }
                | Self::Space { .. }
                | Self::Choice { .. }
                | Self::Pins { .. }
        )
    }
}

/// Longest text from elsewhere that a message repeats.
const SHOWN_MAX: usize = 300;

/// Text from elsewhere on one line, cut.
pub(crate) fn shown(text: &str) -> String {
    let mut line: String =
        text.chars().take(SHOWN_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        line.push('…');
    }
    line
}

/// A size for people.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}
