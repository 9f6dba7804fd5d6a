//! Files that hold what a command line is too short for: a story, or a list of prompts.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::outcome::bad_input;
use crate::values::{FILMS_MAX, Span};

/// The largest story or prompt file that is read.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A film in parts, each with its own prompt.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Story {
    /// The seed of the film.
    pub seed: Option<u64>,
    /// What the unconditional pass is told, in every part.
    pub negative_prompt: Option<String>,
    /// In the order of the film.
    #[serde(rename = "part")]
    pub parts: Vec<Part>,
}

/// A stretch of film under one prompt.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The prompt as typed.
    pub prompt: String,
    /// How long the part is; only the last part may leave it out, when the film's length is given
    /// elsewhere.
    pub duration: Option<Span>,
    /// A seed for this part, instead of the film's.
    pub seed: Option<u64>,
}

impl Story {
    /// Reads and checks a TOML story.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        Self::parse(&text).with_context(|| format!("the story {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let story: Self = toml::from_str(text).map_err(|e| bad_input(toml_problem(&e)))?;
        if story.parts.is_empty() {
            return Err(bad_input("it has no [[part]]; a part is a prompt and a duration"));
        }
        let last = story.parts.len() - 1;
        for (i, part) in story.parts.iter().enumerate() {
            let n = i + 1;
            if part.prompt.trim().is_empty() {
                return Err(bad_input(format!("the prompt of part {n} is empty")));
            }
            match part.duration {
                None if i != last => {
                    return Err(bad_input(format!(
                        "part {n} has no duration; only the last may leave it out"
                    )));
                }
                Some(duration) if duration.frames(1000) == 0 => {
                    return Err(bad_input(format!("the duration of part {n} is zero")));
                }
                _ => {}
            }
        }
        Ok(story)
    }

    /// The first pixel frame of each part, and of what comes after the last when its length is
    /// known.
    pub fn starts(&self, fps: u32) -> (Vec<u64>, Option<u64>) {
        // Seconds are summed before they become frames, so that rounding does not add up.
        let (mut seconds, mut frames) = (0.0, 0u64);
        let at =
            |seconds: f64, frames: u64| frames.saturating_add(Span::Seconds(seconds).frames(fps));
        let mut starts = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            starts.push(at(seconds, frames));
            match part.duration {
                Some(Span::Seconds(s)) => seconds += s,
                Some(Span::Frames(f)) => frames = frames.saturating_add(f),
                None => return (starts, None),
            }
        }
        (starts, Some(at(seconds, frames)))
    }
}

/// What is wrong with TOML, with the line where it is, unless that is longer than people write.
pub fn toml_problem(error: &toml::de::Error) -> String {
    let whole = error.to_string();
    if whole.len() < 1000 { whole } else { error.message().to_owned() }
}

/// Reads one prompt a line; empty lines and lines that begin with `#` are left out.
pub fn read_prompts(path: &Path) -> Result<Vec<String>> {
    let text = read_text(path)?;
    let prompts: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_string)
        .collect();
    if prompts.is_empty() {
        return Err(bad_input(format!("{}: there is no prompt in it", path.display())));
    }
    if prompts.len() as u64 > FILMS_MAX {
        return Err(bad_input(format!(
            "{}: more than {FILMS_MAX} prompts; make them in several runs",
            path.display()
        )));
    }
    Ok(prompts)
}

/// Reads a text file that a person wrote: UTF-8, with or without a byte order mark, of bounded size.
pub fn read_text(path: &Path) -> Result<String> {
    use std::io::Read;
    let fail = |what: String| bad_input(format!("{}: {what}", path.display()));
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|e| fail(format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(fail(format!("is larger than {} MiB", FILE_BYTES_MAX >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|_| fail("is not UTF-8 text".to_string()))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_begin_where_the_ones_before_them_end() {
        let story = Story::parse(
            "seed = 3\n[[part]]\nprompt = 'a dog'\nduration = 2.1\n\
             [[part]]\nprompt = 'a cat'\nduration = '1.9s'\nseed = 9\n\
             [[part]]\nprompt = 'a bird'\nduration = '24f'\n",
        )
        .expect("valid");
        assert_eq!(story.seed, Some(3));
        assert_eq!(story.parts[1].seed, Some(9));
        assert_eq!(story.starts(24), (vec![0, 50, 96], Some(120)));
    }

    #[test]
    fn a_last_part_without_duration_leaves_the_length_open() {
        let story = Story::parse("[[part]]\nprompt='a'\nduration=4\n[[part]]\nprompt='b'\n")
            .expect("valid");
        assert_eq!(story.starts(24), (vec![0, 96], None));
    }

    #[test]
    fn a_story_that_cannot_be_filmed_is_refused_with_the_part() {
        for (text, part_of_message) in [
            ("", "missing field `part`"),
            ("part = []", "no [[part]]"),
            ("[[part]]\nprompt=' '\nduration=1\n", "prompt of part 1 is empty"),
            ("[[part]]\nprompt='a'\n[[part]]\nprompt='b'\n", "part 1 has no duration"),
            ("[[part]]\nprompt='a'\nduration=0\n", "duration of part 1 is zero"),
            ("[[part]]\nprompt='a'\nduration=-1\n", "no length of time"),
            ("[[part]]\nprompt='a'\nlength=1\n", "unknown field `length`"),
            ("[[part]]\nprompt='a'\nduration=true\n", "a time such as"),
            (&format!("part = {}", "[".repeat(100_000)), "recursion"),
        ] {
            let message = match Story::parse(text) {
                Ok(story) => panic!("{text:?} was taken as {story:?}"),
                Err(e) => format!("{e:#}"),
            };
            assert!(message.contains(part_of_message), "{text:.100}: {message:.1000}");
            assert!(message.len() < 2000, "{} bytes", message.len());
        }
    }
}
