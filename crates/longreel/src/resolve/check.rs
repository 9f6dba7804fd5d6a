//! What is wrong with flags whatever the model is, and the films that a command lists.

use anyhow::Result;

use crate::generate_args::{GenerateArgs, Solver};
use crate::outcome::bad_input;
use crate::story::{Story, read_prompts};
use crate::values::{FILMS_MAX, check_frames, check_size};

/// What one film of a command has of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Take {
    /// The prompt from the start; `None` when a story or `--prompt-at 0s` has it.
    pub prompt: Option<String>,
    /// The seed.
    pub seed: u64,
}

/// Files that the flags name, read; and what is wrong with flags whatever the model is.
#[derive(Debug)]
pub struct Checked {
    /// The parts of `--story`.
    pub story: Option<Story>,
    /// A film for each prompt and seed.
    pub takes: Vec<Take>,
    /// What is worth saying.
    pub warnings: Vec<String>,
}

/// Refuses what cannot work with any model, and lists the films. `new_seed` gives a seed where none
/// is asked for.
pub fn check(args: &GenerateArgs, new_seed: &mut dyn FnMut() -> Result<u64>) -> Result<Checked> {
    check_numbers(args)?;
    let mut warnings = Vec::new();
    let speed = &args.speed;
    if speed.teacache != Some(true)
        && (speed.teacache_thresh.is_some() || speed.use_ret_steps == Some(true))
    {
        warnings.push("--teacache-thresh and --use-ret-steps count only with --teacache".into());
    }
    let by_steps = matches!(args.sampling.solver, Some(Solver::Unipc | Solver::Euler));
    if by_steps && args.sampling.timesteps.is_some() {
        warnings.push("--timesteps counts only with a few-step --solver".into());
    }
    if !by_steps && args.sampling.timesteps.is_some() && args.sampling.steps.is_some() {
        warnings.push("--steps does not count beside --timesteps, which are the steps".into());
    }
    let story = args.prompt.story.as_deref().map(Story::read).transpose()?;
    if story.is_some() && !args.prompt.prompt_at.is_empty() {
        return Err(bad_input(
            "--prompt-at: a --story has its own times; put the prompt there as a [[part]]",
        ));
    }
    let prompts: Vec<Option<String>> = match (&args.prompt.prompts, typed_prompt(args)?) {
        (Some(path), _) => read_prompts(path)?.into_iter().map(Some).collect(),
        (None, prompt) => vec![prompt],
    };
    let has_first = story.is_some()
        || prompts.iter().all(Option::is_some)
        || args.prompt.prompt_at.iter().any(|p| p.at.frames(1000) == 0);
    if !has_first {
        return Err(bad_input(
            "PROMPT is missing; say what the film shows, such as \
             \"a red circle moves right on a blue background\"",
        ));
    }
    let story_seed = story.as_ref().and_then(|s| s.seed);
    let seeds: Option<Vec<u64>> = match (&args.prompt.seeds, args.prompt.seed.or(story_seed)) {
        (Some(seeds), _) => Some(seeds.0.clone()),
        (None, seed) => seed.map(|seed| vec![seed]),
    };
    let count = prompts.len() * seeds.as_ref().map_or(1, Vec::len);
    if count as u64 > FILMS_MAX {
        return Err(bad_input(format!(
            "--seeds: {count} films are more than {FILMS_MAX}; make them in several runs"
        )));
    }
    let mut takes = Vec::with_capacity(count);
    for prompt in prompts {
        let seeds = match &seeds {
            Some(seeds) => seeds.clone(),
            None => vec![new_seed()?],
        };
        takes.extend(seeds.into_iter().map(|seed| Take { prompt: prompt.clone(), seed }));
    }
    if args.output.noise.is_some() && takes.len() > 1 {
        warnings.push("--noise is that of all films, whatever their seeds are".into());
    }
    Ok(Checked { story, takes, warnings })
}

fn check_numbers(args: &GenerateArgs) -> Result<()> {
    let frames = |flag: &str, frames: Option<u64>| match frames {
        Some(frames) => check_frames(flag, frames).map_err(bad_input),
        None => Ok(()),
    };
    frames("--num-frames", args.length.num_frames)?;
    frames("--base-num-frames", args.history.base_num_frames.map(|n| n as u64))?;
    frames("--overlap-history", args.history.overlap_history.map(|n| n as u64))?;
    if let Some(size) = args.picture.size {
        check_size("--size", size).map_err(bad_input)?;
    }
    for (flag, value) in [
        ("--guidance-scale", args.sampling.guidance_scale),
        ("--shift", args.sampling.shift),
        ("--addnoise-condition", args.history.addnoise_condition),
        ("--teacache-thresh", args.speed.teacache_thresh),
        ("--easycache", args.speed.easycache),
    ] {
        if let Some(value) = value.filter(|v| !v.is_finite() || *v < 0.0) {
            return Err(bad_input(format!("{flag} {value}: must be a number from 0 up")));
        }
    }
    Ok(())
}

/// PROMPT or `--prompt`. Words that a shell took apart are put together again; two quoted texts are
/// not, since nobody can tell whether two films or two parts are meant.
fn typed_prompt(args: &GenerateArgs) -> Result<Option<String>> {
    let words = &args.prompt.words;
    if words.len() > 1 && words.iter().any(|w| w.trim().contains(char::is_whitespace)) {
        return Err(bad_input(format!(
            "PROMPT is given {} times; for parts of one film use --prompt-at 4s:\"…\", for several \
             films --prompts FILE",
            words.len()
        )));
    }
    let prompt = match (&args.prompt.prompt, words.is_empty()) {
        (Some(prompt), _) => prompt.clone(),
        (None, false) => words.join(" "),
        (None, true) => return Ok(None),
    };
    if prompt.trim().is_empty() {
        return Err(bad_input(
            "PROMPT is empty; say what the film shows, such as \
             \"a red circle moves right on a blue background\"",
        ));
    }
    Ok(Some(prompt.trim().to_string()))
}

/// A seed that nobody asked for: 32 bits, so that a person can type it again.
pub fn random_seed() -> Result<u64> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|e| {
        anyhow::anyhow!("the system gives no random seed ({e}); choose one with --seed")
    })?;
    Ok(u32::from_le_bytes(bytes).into())
}
