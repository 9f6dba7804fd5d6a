//! Which files of a repository a film needs.

use std::collections::BTreeSet;

use crate::HubError;
use crate::error::bytes;
use crate::listing::{Listed, Listing};

/// What a person asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// Names or patterns (`*` and `?`) of the only files that are wanted; none: what the family needs.
    pub include: Vec<String>,
}

/// The subfolders of a Diffusers folder that are read.
const PARTS: [&str; 7] = [
    "transformer",
    "vae",
    "text_encoder",
    "tokenizer",
    "scheduler",
    "image_encoder",
    "image_processor",
];
/// Endings of weights, the better ones first: of one network in several of them only the first is fetched.
const WEIGHTS: [&str; 5] = ["safetensors", "gguf", "bin", "pth", "pt"];

/// The files of `listing` that are to be fetched, by the names that the site gives them.
///
/// # Errors
/// When there is nothing, or more than one thing to choose from.
pub fn select<'a>(listing: &'a Listing, wish: &Wish) -> Result<Vec<&'a Listed>, HubError> {
    let refuse = |problem: String, way_out: String| HubError::Choice {
        repository: listing.id.to_string(),
        problem,
        way_out,
    };
    if !wish.include.is_empty() {
        let mut chosen = BTreeSet::new();
        for pattern in &wish.include {
            let found = listing.files.iter().enumerate().filter(|(_, f)| matches(pattern, &f.name));
            let found: Vec<usize> = found.map(|(index, _)| index).collect();
            if found.is_empty() {
                return Err(refuse(
                    format!("has no file {pattern:?}"),
                    format!("it has {}", names(&model_files(listing))),
                ));
            }
            chosen.extend(found);
        }
        return Ok(chosen.into_iter().map(|index| &listing.files[index]).collect());
    }
    let has = |name: &str| listing.files.iter().any(|f| f.name == name);
    let chosen = match () {
        () if has("model_index.json") => diffusers(listing),
        () if has("config.json") && has("Wan2.1_VAE.pth") => official(listing),
        () => {
            let files = model_files(listing);
            match files.as_slice() {
                [] => Vec::new(),
                [one] => vec![*one],
                several => {
                    return Err(refuse(
                        format!(
                            "holds {} model files of which a film needs only some",
                            several.len()
                        ),
                        format!("name them with --file: {}", names(several)),
                    ));
                }
            }
        }
    };
    if !chosen.iter().any(|file| weights_ending(&file.name).is_some()) {
        return Err(refuse(
            "holds no weights of SkyReels-V2 or Wan 2.1".to_owned(),
            "`longreel models search` lists repositories that do".to_owned(),
        ));
    }
    Ok(chosen)
}

fn diffusers(listing: &Listing) -> Vec<&Listed> {
    let mut chosen: Vec<&Listed> = listing
        .files
        .iter()
        .filter(|f| f.name == "model_index.json" || f.name == "longreel.json")
        .collect();
    for part in PARTS {
        let inside = |file: &&Listed| {
            file.name
                .strip_prefix(part)
                .and_then(|rest| rest.strip_prefix('/'))
                .is_some_and(|rest| !rest.contains('/'))
        };
        let files: Vec<&Listed> = listing.files.iter().filter(inside).collect();
        let weights = best_weights(&files);
        chosen.extend(files.into_iter().filter(|file| match weights_ending(&file.name) {
            Some(_) => weights.contains(&file.name.as_str()),
            None if file.name.ends_with(".index.json") || file.name.contains(".index.") => {
                index_of(&file.name, &weights)
            }
            None => [".json", ".model", ".txt"].iter().any(|ending| file.name.ends_with(ending)),
        }));
    }
    chosen
}

/// Of the weights of one network the files that hold it once: the best ending, and the plain variant
/// before `model.fp16`.
fn best_weights<'a>(files: &[&'a Listed]) -> Vec<&'a str> {
    let of = |ending: &str| -> Vec<&'a str> {
        let files = files.iter().map(|file| file.name.as_str());
        files.filter(|name| weights_ending(name) == Some(ending)).collect()
    };
    let Some(all) = WEIGHTS.iter().map(|ending| of(ending)).find(|found| !found.is_empty()) else {
        return Vec::new();
    };
    let plain: Vec<&str> = all.iter().copied().filter(|name| variant(name).is_none()).collect();
    match (plain.is_empty(), all.iter().find_map(|name| variant(name))) {
        (false, _) => plain,
        (true, first) => all.into_iter().filter(|name| variant(name) == first).collect(),
    }
}

/// `fp16` of `model.fp16.safetensors` and `model.fp16-00001-of-00002.safetensors`.
fn variant(name: &str) -> Option<&str> {
    let name = name.rsplit('/').next()?;
    let (stem, _) = name.rsplit_once('.')?;
    let (_, variant) = stem.split_once('.')?;
    Some(variant.split('-').next().unwrap_or(variant))
}

/// Whether an index is that of files that are chosen.
fn index_of(name: &str, weights: &[&str]) -> bool {
    // model.safetensors.index.json, model.safetensors.index.fp16.json
    let Some((stem, rest)) = name.split_once(".index") else { return false };
    let wanted = rest
        .strip_prefix('.')
        .and_then(|rest| rest.strip_suffix(".json"))
        .filter(|v| !v.is_empty());
    let ending = stem.rsplit('.').next();
    weights.iter().any(|file| weights_ending(file) == ending && variant(file) == wanted)
}

fn official(listing: &Listing) -> Vec<&Listed> {
    let wanted = |file: &&Listed| {
        let name = file.name.as_str();
        match name.rsplit_once('/') {
            None => {
                name == "config.json"
                    || name == "Wan2.1_VAE.pth"
                    || (name.starts_with("models_t5_") && name.ends_with(".pth"))
                    || (name.starts_with("models_clip_") && name.ends_with(".pth"))
                    || name.ends_with(".safetensors")
                    || name.ends_with(".safetensors.index.json")
            }
            Some(("google/umt5-xxl", file)) => {
                [".json", ".model"].iter().any(|ending| file.ends_with(ending))
            }
            Some(_) => false,
        }
    };
    listing.files.iter().filter(wanted).collect()
}

fn model_files(listing: &Listing) -> Vec<&Listed> {
    listing
        .files
        .iter()
        .filter(|file| weights_ending(&file.name).is_some_and(|e| e != "bin"))
        .collect()
}

fn weights_ending(name: &str) -> Option<&'static str> {
    let (_, ending) = name.rsplit_once('.')?;
    WEIGHTS.into_iter().find(|known| *known == ending)
}

fn names(files: &[&Listed]) -> String {
    if files.is_empty() {
        return "no model file".to_owned();
    }
    let shown = files.iter().take(12).map(|file| match file.size_bytes {
        Some(size) => format!("{} ({})", crate::error::shown(&file.name), bytes(size)),
        None => crate::error::shown(&file.name),
    });
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if files.len() > 12 {
        text.push_str(&format!(" and {} more", files.len() - 12));
    }
    text
}

/// Whether a pattern with `*` (any characters, slashes too, as in the sites' own tools) and `?` fits.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    // Where to go on after a mismatch: behind the last star, one more character eaten by it.
    let (mut p, mut n, mut back) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                back = Some((p + 1, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match back {
                Some((star, eaten)) => {
                    back = Some((star, eaten + 1));
                    (p, n) = (star, eaten + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str]) -> Listing {
        let file =
            |name: &&str| Listed { name: (*name).to_owned(), size_bytes: Some(1), digest: None };
        Listing {
            id: "a/b".parse().expect("a name"),
            asked: "main".parse().expect("a name"),
            commit: "main".parse().expect("a name"),
            files: names.iter().map(file).collect(),
        }
    }

    fn chosen(names: &[&str], include: &[&str]) -> Result<Vec<String>, String> {
        let wish = Wish { include: include.iter().map(|&s| s.to_owned()).collect() };
        let listing = listing(names);
        let files = select(&listing, &wish).map_err(|e| e.to_string())?;
        Ok(files.into_iter().map(|file| file.name.clone()).collect())
    }

    #[test]
    fn of_a_diffusers_repository_each_network_is_fetched_once() {
        let found = chosen(
            &[
                ".gitattributes",
                "README.md",
                "model_index.json",
                "assets/demo.mp4",
                "transformer/config.json",
                "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
                "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
                "transformer/diffusion_pytorch_model.safetensors.index.json",
                "transformer/diffusion_pytorch_model.fp16.safetensors",
                "transformer/diffusion_pytorch_model.safetensors.index.fp16.json",
                "transformer/diffusion_pytorch_model.bin",
                "text_encoder/pytorch_model.bin",
                "text_encoder/pytorch_model.bin.index.json",
                "text_encoder/config.json",
                "vae/diffusion_pytorch_model.fp16.safetensors",
                "vae/config.json",
                "tokenizer/spiece.model",
                "tokenizer/tokenizer.json",
                "scheduler/scheduler_config.json",
                "unet/x.safetensors",
                "transformer/old/x.safetensors",
            ],
            &[],
        );
        assert_eq!(
            found.expect("a choice"),
            [
                "model_index.json",
                "transformer/config.json",
                "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
                "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
                "transformer/diffusion_pytorch_model.safetensors.index.json",
                "vae/diffusion_pytorch_model.fp16.safetensors",
                "vae/config.json",
                "text_encoder/pytorch_model.bin",
                "text_encoder/pytorch_model.bin.index.json",
                "text_encoder/config.json",
                "tokenizer/spiece.model",
                "tokenizer/tokenizer.json",
                "scheduler/scheduler_config.json",
            ]
        );
    }

    #[test]
    fn of_an_official_repository_the_weights_and_the_tokenizer_are_fetched() {
        let found = chosen(
            &[
                "README.md",
                "config.json",
                "model.safetensors",
                "Wan2.1_VAE.pth",
                "models_t5_umt5-xxl-enc-bf16.pth",
                "google/umt5-xxl/tokenizer.json",
                "google/umt5-xxl/spiece.model",
                "xlm-roberta-large/tokenizer.json",
                "assets/a.png",
                "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
            ],
            &[],
        )
        .expect("a choice");
        assert_eq!(found.len(), 7);
        assert!(
            !found.iter().any(|name| name.contains("roberta-large/") || name.contains("assets"))
        );
    }

    #[test]
    fn a_repository_of_alternatives_asks_which() {
        let files = ["README.md", "wan-Q4_K_M.gguf", "wan-Q8_0.gguf"];
        let message = chosen(&files, &[]).expect_err("two");
        assert!(message.contains("--file") && message.contains("wan-Q8_0.gguf"), "{message}");
        assert_eq!(chosen(&files, &["*Q8_0*"]).expect("one"), ["wan-Q8_0.gguf"]);
        assert!(chosen(&files, &["*Q2*"]).expect_err("none").contains("no file \"*Q2*\""));
        assert_eq!(chosen(&["a.gguf", "x.txt"], &[]).expect("one"), ["a.gguf"]);
        assert!(chosen(&["x.txt"], &[]).expect_err("none").contains("holds no weights"));
    }

    #[test]
    fn patterns_fit_as_in_a_shell() {
        for (pattern, name) in
            [("*", "a/b"), ("a*c", "abc"), ("a*c", "aXcYc"), ("?b", "ab"), ("*.gguf", "x/y.gguf")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a*c", "abd"), ("?", ""), ("a", "ab"), ("", "a"), ("*b?", "b")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
