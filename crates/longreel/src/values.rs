//! The small languages of the flags' values: sizes, times, seeds, LoRAs. Each is a type with a
//! parser whose error says what to write instead.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// The most films one command makes; beyond it a typing mistake is likelier than a wish.
pub const FILMS_MAX: u64 = 100_000;

/// The longest side of a picture that is made, in pixels.
const SIDE_MAX: u64 = 8192;

/// A picture size in pixels, written `WIDTHxHEIGHT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Pixels from left to right.
    pub width: usize,
    /// Pixels from top to bottom.
    pub height: usize,
}

/// How much larger a film is than the model makes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Upscale {
    /// The shorter side, in pixels.
    Lines(usize),
    /// So many times as wide and high.
    Times(f64),
    /// Width and height, in pixels.
    To([usize; 2]),
}

impl Upscale {
    /// The film's size, both sides even, for frames of `size`.
    pub fn of(self, size: [usize; 2]) -> [usize; 2] {
        let times = |times: f64| size.map(|side| (side as f64 * times / 2.0).round() as usize * 2);
        match self {
            Self::Lines(lines) => times(lines as f64 / size[0].min(size[1]).max(1) as f64),
            Self::Times(factor) => times(factor),
            Self::To(size) => size,
        }
    }
}

impl FromStr for Upscale {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.trim().to_ascii_lowercase();
        let rule = "is lines such as 1080p, a factor such as 2x, or WIDTHxHEIGHT";
        let number = |text: &str| text.parse::<usize>().ok().filter(|&n| (2..=16_384).contains(&n));
        let parsed = match (lower.strip_suffix('p'), lower.strip_suffix('x'), lower.split_once('x'))
        {
            (Some(lines), ..) => number(lines).map(Self::Lines),
            (_, Some(factor), _) => {
                let factor = factor.parse().ok().filter(|factor| (1.0..=16.0).contains(factor));
                factor.map(Self::Times)
            }
            (.., Some((width, height))) => {
                number(width).zip(number(height)).map(|(width, height)| Self::To([width, height]))
            }
            _ => None,
        };
        parsed.ok_or_else(|| rule.to_owned())
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a size is WIDTHxHEIGHT in pixels, such as 960x544".to_string();
        let (width, height) = text.split_once(['x', 'X', '×', '*']).ok_or_else(wrong)?;
        let side = |s: &str| s.trim().parse::<usize>().map_err(|_| wrong());
        Ok(Self { width: side(width)?, height: side(height)? })
    }
}

/// A stretch of film time, in seconds or in frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Span {
    /// Seconds of film.
    Seconds(f64),
    /// Pixel frames.
    Frames(u64),
}

impl Span {
    /// The number of pixel frames at `fps` frames a second, to the nearest.
    pub fn frames(self, fps: u32) -> u64 {
        match self {
            // A span is finite and not negative by construction; `as` saturates at the top.
            Self::Seconds(seconds) => (seconds * f64::from(fps)).round() as u64,
            Self::Frames(frames) => frames,
        }
    }

    fn seconds(value: f64) -> Result<Self, String> {
        if value.is_finite() && value >= 0.0 {
            Ok(Self::Seconds(value))
        } else {
            Err(format!("{value} is no length of time; it is 0 or more"))
        }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "a time is written 4s, 2.5s, 1m30s, 1h, or 96f for frames; \
             a number alone is seconds"
                .to_string()
        };
        let text = text.trim();
        if let Some(frames) = text.strip_suffix('f') {
            return frames.parse().map(Self::Frames).map_err(|_| wrong());
        }
        if let Ok(seconds) = text.parse::<f64>() {
            return Self::seconds(seconds);
        }
        let (mut total, mut rest, mut unit_before) = (0.0, text, f64::INFINITY);
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
            let unit = match rest.as_bytes()[end] {
                b'h' => 3600.0,
                b'm' => 60.0,
                b's' => 1.0,
                _ => return Err(wrong()),
            };
            if unit >= unit_before {
                return Err(wrong());
            }
            unit_before = unit;
            total += number * unit;
            rest = &rest[end + 1..];
        }
        if text.is_empty() { Err(wrong()) } else { Self::seconds(total) }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a time such as 4, 2.5, \"1m30s\" or \"96f\"")]
        enum Written {
            Number(f64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(seconds) => Self::seconds(seconds),
            Written::Text(text) => text.parse(),
        }
        .map_err(serde::de::Error::custom)
    }
}

/// A prompt and the film time from which it holds, written `TIME:PROMPT`, or `TIME@SEED:PROMPT` to
/// change the seed with it.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptAt {
    /// From the film's start.
    pub at: Span,
    /// A seed of its own.
    pub seed: Option<u64>,
    /// The prompt as typed.
    pub prompt: String,
}

impl FromStr for PromptAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (at, prompt) = text
            .split_once(':')
            .ok_or_else(|| "a timed prompt is TIME:PROMPT, such as 4s:\"a dog\"".to_string())?;
        if prompt.trim().is_empty() {
            return Err(format!("the prompt at {at} is empty"));
        }
        let (at, seed) = match at.split_once('@') {
            Some((at, seed)) => {
                let seed = seed.parse().map_err(|_| format!("{seed} is no seed"))?;
                (at, Some(seed))
            }
            None => (at, None),
        };
        Ok(Self { at: at.parse()?, seed, prompt: prompt.trim().to_string() })
    }
}

/// Seeds, written as a list of numbers and ranges, both ends included: `1..4`, `1,5,9`, `7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds(pub Vec<u64>);

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "seeds are written 1..4 (1, 2, 3 and 4) or 1,5,9".to_string();
        let number = |s: &str| s.trim().parse::<u64>().map_err(|_| wrong());
        let mut seeds = Vec::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once("..") {
                Some((first, last)) => {
                    (number(first)?, number(last.strip_prefix('=').unwrap_or(last))?)
                }
                None => (number(part)?, number(part)?),
            };
            if last < first {
                return Err(format!("the range {part} is empty; write {last}..{first}"));
            }
            if last - first >= FILMS_MAX - seeds.len() as u64 {
                return Err(format!("more than {FILMS_MAX} seeds; make them in several runs"));
            }
            seeds.extend(first..=last);
        }
        Ok(Self(seeds))
    }
}

/// A LoRA file and how strongly it counts, written `FILE[:WEIGHT]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// A safetensors file.
    pub path: PathBuf,
    /// 1.0 is the strength it was trained at.
    pub weight: f32,
}

impl FromStr for Lora {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Only a number after the last colon is a weight, so that `C:\style.safetensors` and names
        // with colons stay whole.
        let (path, weight) = match text.rsplit_once(':') {
            Some((path, number)) if !path.is_empty() => match number.parse::<f32>() {
                Ok(weight) if weight.is_finite() => (path, weight),
                Ok(weight) => {
                    return Err(format!("{weight} is no weight; write a number like 0.8"));
                }
                Err(_) => (text, 1.0),
            },
            _ => (text, 1.0),
        };
        if path.is_empty() {
            return Err("a LoRA is FILE or FILE:WEIGHT".to_string());
        }
        Ok(Self { path: PathBuf::from(path), weight })
    }
}

/// Falling timesteps of a few-step checkpoint, written `1000,750,500,250`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timesteps(pub Vec<u32>);

impl FromStr for Timesteps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let steps: Vec<u32> = text
            .split(',')
            .map(|part| part.trim().parse::<u32>())
            .collect::<Result<_, _>>()
            .map_err(|_| "timesteps are whole numbers, such as 1000,750,500,250".to_string())?;
        if steps.iter().any(|&t| t == 0 || t > 1000) || !steps.is_sorted_by(|a, b| a > b) {
            return Err("timesteps fall from at most 1000 to at least 1, such as \
                        1000,750,500,250"
                .to_string());
        }
        Ok(Self(steps))
    }
}

/// The two valid values around `value` in the series `first, first + step, …`: below and above, the
/// same twice when `value` is one of them.
pub fn neighbours(value: u64, first: u64, step: u64) -> (u64, u64) {
    if value <= first {
        return (first, first);
    }
    let below = first + (value - first) / step * step;
    (below, if below == value { below } else { below.saturating_add(step) })
}

/// Whether a frame count is 4n + 1; if not, what to write instead of it.
pub fn check_frames(flag: &str, frames: u64) -> Result<(), String> {
    match neighbours(frames, 1, 4) {
        (below, _) if below == frames => Ok(()),
        (below, above) if below == above => {
            Err(format!("{flag} {frames}: must be 4n+1; use {below}"))
        }
        (below, above) => Err(format!("{flag} {frames}: must be 4n+1; use {below} or {above}")),
    }
}

/// Whether both sides are multiples of 16 up to the largest; if not, what to write instead.
pub fn check_size(flag: &str, size: Size) -> Result<(), String> {
    for (name, side) in [("width", size.width), ("height", size.height)] {
        let (below, above) = neighbours((side as u64).min(SIDE_MAX), 16, 16);
        let wrong = match (below, above) {
            _ if below == side as u64 => continue,
            _ if side as u64 > SIDE_MAX => format!("must be at most {SIDE_MAX}; use {below}"),
            _ if below == above => format!("must be a multiple of 16; use {below}"),
            _ => format!("must be a multiple of 16; use {below} or {above}"),
        };
        let Size { width, height } = size;
        return Err(format!("{flag} {width}x{height}: {name} {wrong}"));
    }
    Ok(())
}

/// The nearest count of the form 4n + 1 to `frames`, upwards when two are equally near.
pub fn nearest_frames(frames: u64) -> u64 {
    let (below, above) = neighbours(frames, 1, 4);
    if frames - below.min(frames) < above - frames.min(above) { below } else { above }
}

/// `film.mp4` as the `index`th (from 1) of `count`: `film-01.mp4`. Unchanged when there is one.
pub fn numbered(path: &Path, index: usize, count: usize) -> PathBuf {
    if count < 2 {
        return path.to_path_buf();
    }
    let digits = count.to_string().len();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut name = format!("{stem}-{index:0digits$}");
    if let Some(extension) = path.extension() {
        name.push('.');
        name.push_str(&extension.to_string_lossy());
    }
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_seconds_minutes_hours_and_frames() {
        for (text, frames) in [
            ("4s", 96),
            ("4", 96),
            ("2.5s", 60),
            ("1m", 1440),
            ("1m30s", 2160),
            ("1h0m1s", 86_424),
            ("97f", 97),
            ("0s", 0),
        ] {
            assert_eq!(text.parse::<Span>().map(|s| s.frames(24)), Ok(frames), "{text}");
        }
        for text in ["", "s", "4x", "-1", "-4s", "1s1m", "1m1m", "nan", "inf", "f", "1.5f", "4é"] {
            assert!(text.parse::<Span>().is_err(), "{text} was taken");
        }
    }

    #[test]
    fn a_timed_prompt_keeps_the_colons_of_its_text() {
        let parsed: PromptAt = "1m30s: a clock: 12:30 ".parse().expect("valid");
        assert_eq!(parsed.at, Span::Seconds(90.0));
        assert_eq!(parsed.prompt, "a clock: 12:30");
        assert_eq!(parsed.seed, None);
        assert_eq!("96f@7:a dog".parse::<PromptAt>().map(|p| p.seed), Ok(Some(7)));
        assert!("96f@x:a dog".parse::<PromptAt>().is_err());
        assert!("4s:".parse::<PromptAt>().is_err());
        assert!("a dog".parse::<PromptAt>().is_err());
    }

    #[test]
    fn seeds_are_ranges_and_lists_with_both_ends() {
        assert_eq!("1..4".parse(), Ok(Seeds(vec![1, 2, 3, 4])));
        assert_eq!("1..=2,9".parse(), Ok(Seeds(vec![1, 2, 9])));
        assert_eq!("7".parse(), Ok(Seeds(vec![7])));
        for text in ["", "4..1", "1..", "a", "-1", "0..18446744073709551615", "1,,2"] {
            assert!(text.parse::<Seeds>().is_err(), "{text} was taken");
        }
    }

    #[test]
    fn only_a_number_after_the_last_colon_is_a_lora_weight() {
        let lora = |text: &str| text.parse::<Lora>().map(|l| (l.path, l.weight));
        assert_eq!(lora("a.safetensors"), Ok(("a.safetensors".into(), 1.0)));
        assert_eq!(lora("a.safetensors:0.5"), Ok(("a.safetensors".into(), 0.5)));
        assert_eq!(lora("C:\\a.safetensors"), Ok(("C:\\a.safetensors".into(), 1.0)));
        assert_eq!(lora("C:\\a.safetensors:-1"), Ok(("C:\\a.safetensors".into(), -1.0)));
        assert!(lora("a:nan").is_err());
        assert!(lora("").is_err());
    }

    #[test]
    fn frame_counts_between_two_valid_ones_name_both() {
        assert_eq!(check_frames("--num-frames", 97), Ok(()));
        assert_eq!(
            check_frames("--num-frames", 96),
            Err("--num-frames 96: must be 4n+1; use 93 or 97".into())
        );
        assert_eq!(
            check_frames("--num-frames", 0),
            Err("--num-frames 0: must be 4n+1; use 1".into())
        );
        assert!(check_frames("--num-frames", u64::MAX).is_err());
    }

    #[test]
    fn a_side_that_16_does_not_divide_is_named_with_both_neighbours() {
        let check = |width, height| check_size("--size", Size { width, height });
        assert_eq!(check(848, 480), Ok(()));
        assert_eq!(
            check(850, 480),
            Err("--size 850x480: width must be a multiple of 16; use 848 or 864".into())
        );
        assert_eq!(
            check(848, 7),
            Err("--size 848x7: height must be a multiple of 16; use 16".into())
        );
        for side in [8208, 850_000, usize::MAX] {
            let error = check(side, 16).expect_err("too large");
            assert!(error.ends_with("width must be at most 8192; use 8192"), "{error}");
        }
    }

    #[test]
    fn seconds_round_to_the_nearest_valid_frame_count() {
        for (frames, nearest) in [(0, 1), (1, 1), (2, 1), (3, 5), (4, 5), (96, 97), (98, 97)] {
            assert_eq!(nearest_frames(frames), nearest, "{frames}");
        }
    }

    #[test]
    fn several_outputs_are_numbered_before_the_extension() {
        let name = |i, n| numbered(Path::new("out/film.mp4"), i, n).display().to_string();
        assert_eq!(name(1, 1), "out/film.mp4");
        assert_eq!(name(3, 4), "out/film-3.mp4");
        assert_eq!(name(3, 12), "out/film-03.mp4");
        assert_eq!(numbered(Path::new("frames"), 2, 3), PathBuf::from("frames-2"));
    }
}
