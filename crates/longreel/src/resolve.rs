//! From flags to film requests, in one step: what nobody said comes from the model's defaults.

use std::path::PathBuf;

use anyhow::Result;
use longreel_film::{
    CacheChoice, Carry, Defaults, FilmRequest, Finish, FitMode, GuidanceBatchChoice,
    GuidanceInterval, KvCacheChoice, Length, SolverChoice, StartFrom, TimedPrompt,
};

use crate::args::{CarryArg, Fit, GenerateArgs, GuidanceBatchArg, KvCacheArg, Resolution, Solver};
use crate::outcome::bad_input;
use crate::story::{Story, read_prompts};
use crate::values::{FILMS_MAX, Size, check_frames, check_size, nearest_frames};

/// TeaCache's threshold in the official script.
const TEACACHE_THRESHOLD: f32 = 0.2;

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

/// The complete request of one film.
pub fn request(
    args: &GenerateArgs,
    defaults: &Defaults,
    checked: &Checked,
    take: &Take,
) -> Result<FilmRequest> {
    let fps = args.length.fps.unwrap_or(defaults.fps);
    let overlap = args.history.overlap_history.unwrap_or(defaults.overlap_history);
    let story = checked.story.as_ref();
    let (prompts, story_end) = prompts(args, story, take, fps);
    let Size { width, height } = size(args, defaults);
    let negative = args.prompt.negative_prompt.as_ref();
    let negative = negative.or_else(|| story.and_then(|s| s.negative_prompt.as_ref()));
    let (picture, sampling, history) = (&args.picture, &args.sampling, &args.history);
    let start = match (&picture.image, &picture.video) {
        (Some(path), _) => StartFrom::Image(path.clone()),
        (None, Some(path)) => StartFrom::Video(path.clone()),
        (None, None) => StartFrom::Prompt,
    };
    let solver = solver(args, defaults)?;
    let steps = sampling.steps.unwrap_or(defaults.steps);
    Ok(FilmRequest {
        prompts,
        negative_prompt: negative.unwrap_or(&defaults.negative_prompt).clone(),
        width,
        height,
        length: length(args, defaults, &start, story_end, fps, overlap)?,
        base_num_frames: history.base_num_frames.unwrap_or(defaults.base_num_frames),
        overlap_history: overlap,
        steps,
        guidance_scale: sampling.guidance_scale.unwrap_or(defaults.guidance_scale),
        guidance_interval: match (sampling.guidance_interval, sampling.guidance_scale) {
            (Some(interval), _) => interval,
            // The model's own was found for its own scale.
            (None, Some(_)) => GuidanceInterval::ALL,
            (None, None) => defaults.guidance_interval,
        },
        flow_shift: sampling.shift.unwrap_or(defaults.flow_shift),
        fps,
        seed: take.seed,
        ar_step: history.ar_step.unwrap_or_else(|| defaults.ar_step(&solver, steps)),
        causal_block_size: history.causal_block_size,
        causal_attention: history.causal_attention,
        attention_window: history.attention_window,
        attention_sink: history.attention_sink,
        sparse_attention: args.speed.sparse_attention,
        sparse_after: args.speed.sparse_after,
        addnoise_condition: history.addnoise_condition.unwrap_or(defaults.addnoise_condition),
        start,
        end_image: picture.end_image.clone(),
        fit: match picture.fit.unwrap_or(Fit::Crop) {
            Fit::Crop => FitMode::Crop,
            Fit::Pad => FitMode::Pad,
            Fit::Stretch => FitMode::Stretch,
        },
        carry: match history.carry.unwrap_or(CarryArg::Latents) {
            CarryArg::Latents => Carry::Latents,
            CarryArg::Pixels => Carry::Pixels,
        },
        solver,
        cache: cache(args),
        kv_cache: match args.speed.kv_cache.unwrap_or(KvCacheArg::Auto) {
            KvCacheArg::Auto => KvCacheChoice::Auto,
            KvCacheArg::On => KvCacheChoice::On,
            KvCacheArg::Off => KvCacheChoice::Off,
        },
        guidance_batch: match args.speed.guidance_batch.unwrap_or(GuidanceBatchArg::Auto) {
            GuidanceBatchArg::Auto => GuidanceBatchChoice::Auto,
            GuidanceBatchArg::On => GuidanceBatchChoice::On,
            GuidanceBatchArg::Off => GuidanceBatchChoice::Off,
        },
        finish: Finish {
            size: picture.upscale.map(|upscale| upscale.of([width, height])),
            frames: picture.interpolate.unwrap_or(1),
        },
    })
}

/// The prompts by their first frame, and the frame at which a story ends.
fn prompts(
    args: &GenerateArgs,
    story: Option<&Story>,
    take: &Take,
    fps: u32,
) -> (Vec<TimedPrompt>, Option<u64>) {
    if let Some(story) = story {
        let (starts, end) = story.starts(fps);
        let timed = starts.into_iter().zip(&story.parts).map(|(from_frame, part)| TimedPrompt {
            from_frame,
            prompt: part.prompt.trim().to_string(),
            seed: part.seed,
        });
        return (timed.collect(), end);
    }
    let first = take.prompt.iter().map(|prompt| TimedPrompt {
        from_frame: 0,
        prompt: prompt.clone(),
        seed: None,
    });
    let later = args.prompt.prompt_at.iter().map(|p| TimedPrompt {
        from_frame: p.at.frames(fps),
        prompt: p.prompt.clone(),
        seed: p.seed,
    });
    let mut prompts: Vec<TimedPrompt> = first.chain(later).collect();
    // A stable sort: of two prompts for one frame the later typed counts, as the last in order.
    prompts.sort_by_key(|p| p.from_frame);
    (prompts, None)
}

fn size(args: &GenerateArgs, defaults: &Defaults) -> Size {
    let named = args.picture.resolution.map(|resolution| match resolution {
        Resolution::P540 => Size { width: 960, height: 544 },
        Resolution::P720 => Size { width: 1280, height: 720 },
    });
    let default = Size { width: defaults.width, height: defaults.height };
    let size = args.picture.size.or(named).unwrap_or(default);
    match args.picture.portrait {
        Some(true) if size.width > size.height => Size { width: size.height, height: size.width },
        _ => size,
    }
}

fn length(
    args: &GenerateArgs,
    defaults: &Defaults,
    start: &StartFrom,
    story_end: Option<u64>,
    fps: u32,
    overlap: usize,
) -> Result<Length> {
    if args.length.endless == Some(true) {
        return Ok(Length::Endless);
    }
    // A count of frames has the video's last ones in it, as the reference counts; seconds are of new
    // film, as a person means them.
    let history = match start {
        StartFrom::Video(_) => overlap as u64,
        _ => 0,
    };
    let new = match (args.length.num_frames, args.length.seconds) {
        (Some(frames), _) => return Ok(Length::Frames(frames)),
        (None, Some(seconds)) => Some(seconds.frames(fps)),
        (None, None) => story_end,
    };
    Ok(Length::Frames(match new {
        Some(new) => nearest_frames(new.saturating_add(history)),
        None => defaults.num_frames,
    }))
}

fn solver(args: &GenerateArgs, defaults: &Defaults) -> Result<SolverChoice> {
    let (own, own_renoise) = match &defaults.solver {
        SolverChoice::FewStep { timesteps, renoise } => (Some(timesteps), Some(*renoise)),
        SolverChoice::UniPc | SolverChoice::Euler => (None, None),
    };
    let typed = args.sampling.timesteps.as_ref().map(|timesteps| &timesteps.0);
    let renoise = match (args.sampling.solver, typed, own_renoise) {
        (Some(Solver::Unipc), ..) => return Ok(SolverChoice::UniPc),
        (Some(Solver::Euler), ..) => return Ok(SolverChoice::Euler),
        (Some(Solver::FewStep), ..) => true,
        (Some(Solver::FewStepEuler), ..) => false,
        (None, _, Some(renoise)) => renoise,
        (None, None, None) => return Ok(defaults.solver.clone()),
        (None, Some(_), None) => {
            return Err(bad_input(
                "--timesteps: this model takes --steps; for a distilled one add --solver few-step",
            ));
        }
    };
    let Some(timesteps) = typed.or(own).cloned() else {
        return Err(bad_input(
            "--solver: few steps need their timesteps; use the checkpoint's own, such as \
             --timesteps 1000,750,500,250",
        ));
    };
    Ok(SolverChoice::FewStep { timesteps, renoise })
}

fn cache(args: &GenerateArgs) -> CacheChoice {
    match (args.speed.teacache, args.speed.easycache) {
        (Some(true), _) => CacheChoice::TeaCache {
            threshold: args.speed.teacache_thresh.unwrap_or(TEACACHE_THRESHOLD),
            use_ret_steps: args.speed.use_ret_steps == Some(true),
        },
        (_, Some(threshold)) => CacheChoice::EasyCache { threshold },
        _ => CacheChoice::Off,
    }
}

/// A seed that nobody asked for: 32 bits, so that a person can type it again.
pub fn random_seed() -> Result<u64> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|e| {
        anyhow::anyhow!("the system gives no random seed ({e}); choose one with --seed")
    })?;
    Ok(u32::from_le_bytes(bytes).into())
}

/// Every file that a request reads.
pub fn inputs(request: &FilmRequest) -> Vec<PathBuf> {
    let start = match &request.start {
        StartFrom::Image(path) | StartFrom::Video(path) => Some(path.clone()),
        StartFrom::Prompt => None,
    };
    start.into_iter().chain(request.end_image.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Command;
    use crate::settings;
    use clap::FromArgMatches;

    fn args(line: &str) -> GenerateArgs {
        let words = ["longreel", "generate"].into_iter().map(str::to_string);
        let words = words.chain(line.split(' ').map(|w| w.replace('_', " ")));
        let matches = settings::command().try_get_matches_from(words).expect("valid flags");
        match crate::args::Cli::from_arg_matches(&matches).expect("valid flags").command {
            Command::Generate(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn defaults() -> Defaults {
        Defaults {
            width: 960,
            height: 544,
            num_frames: 97,
            base_num_frames: 97,
            overlap_history: 17,
            steps: 30,
            guidance_scale: 6.0,
            guidance_interval: "0.5..1".parse().expect("an interval"),
            flow_shift: 8.0,
            fps: 24,
            negative_prompt: "ugly".into(),
            addnoise_condition: 0.0,
            solver: SolverChoice::UniPc,
            block_by_block: false,
        }
    }

    fn resolved(line: &str) -> Result<Vec<FilmRequest>> {
        let args = args(line);
        let mut next = 100;
        let checked = check(&args, &mut || {
            next += 1;
            Ok(next)
        })?;
        checked.takes.iter().map(|take| request(&args, &defaults(), &checked, take)).collect()
    }

    fn one(line: &str) -> FilmRequest {
        let films = resolved(line).expect("valid");
        assert_eq!(films.len(), 1);
        films.into_iter().next().expect("one")
    }

    #[test]
    fn what_is_not_said_is_the_models_default() {
        let film = one("dog");
        let d = defaults();
        assert_eq!((film.width, film.height), (d.width, d.height));
        assert_eq!(film.length, Length::Frames(d.num_frames));
        assert_eq!((film.steps, film.fps, film.seed), (d.steps, d.fps, 101));
        assert_eq!(film.negative_prompt, "ugly");
        assert_eq!(film.causal_attention, None);
        assert_eq!(one("dog --negative-prompt=").negative_prompt, "");
    }

    #[test]
    fn the_models_guidance_interval_goes_with_the_models_scale() {
        let interval = |line| one(line).guidance_interval.to_string();
        assert_eq!(interval("dog"), "0.5..1");
        assert_eq!(interval("dog --guidance-scale 6"), "0..1");
        assert_eq!(interval("dog --guidance-scale 6 --guidance-interval 0.9..1"), "0.9..1");
        assert_eq!(interval("dog --guidance-interval 0..1"), "0..1");
    }

    #[test]
    fn portrait_turns_a_wide_size_and_leaves_a_high_one() {
        let size = |line| {
            let film = one(line);
            (film.width, film.height)
        };
        assert_eq!(size("dog --portrait"), (544, 960));
        assert_eq!(size("dog --resolution 720P --portrait"), (720, 1280));
        assert_eq!(size("dog --size 64x96 --portrait"), (64, 96));
        assert_eq!(size("dog --size 96x64 --portrait=off"), (96, 64));
    }

    #[test]
    fn seconds_become_the_nearest_frames_and_of_a_video_the_new_ones() {
        assert_eq!(one("dog --seconds 4").length, Length::Frames(97));
        assert_eq!(one("dog --seconds 4 --fps 16").length, Length::Frames(65));
        assert_eq!(one("dog --seconds 4 --video v.mp4").length, Length::Frames(113));
        assert_eq!(one("dog --num-frames 97 --video v.mp4").length, Length::Frames(97));
        assert_eq!(one("dog --endless").length, Length::Endless);
    }

    #[test]
    fn timed_prompts_are_sorted_and_may_begin_the_film() {
        let film = one("dog --prompt-at 8s:cow --prompt-at 4s@5:cat");
        let got: Vec<_> =
            film.prompts.iter().map(|p| (p.from_frame, p.prompt.as_str(), p.seed)).collect();
        assert_eq!(got, [(0, "dog", None), (96, "cat", Some(5)), (192, "cow", None)]);
        assert_eq!(one("--prompt-at 0s:cow").prompts.len(), 1);
    }

    #[test]
    fn words_of_one_prompt_are_joined_and_two_prompts_are_refused() {
        assert_eq!(one("a red dog").prompts[0].prompt, "a red dog");
        // The underscore is a blank inside one word of the command line.
        let error = resolved("a_red_dog a_cat").expect_err("two prompts");
        assert!(error.to_string().contains("--prompts FILE"), "{error}");
    }

    #[test]
    fn each_seed_makes_a_film_of_each_prompt() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "\u{feff}dog\n\n# no\n cat \n").expect("writable");
        let args = GenerateArgs {
            prompt: crate::args::PromptArgs {
                prompts: Some(file.path().into()),
                words: Vec::new(),
                ..args("dog --seeds 1..2").prompt
            },
            ..args("dog")
        };
        let checked = check(&args, &mut || unreachable!("seeds are given")).expect("valid");
        let takes: Vec<_> =
            checked.takes.iter().map(|t| (t.prompt.as_deref().unwrap_or(""), t.seed)).collect();
        assert_eq!(takes, [("dog", 1), ("dog", 2), ("cat", 1), ("cat", 2)]);
    }

    #[test]
    fn what_cannot_work_names_the_flag_and_the_way_out() {
        for (line, parts) in [
            ("dog --num-frames 96", &["--num-frames 96", "4n+1", "97"][..]),
            ("dog --base-num-frames 16", &["--base-num-frames 16", "17"]),
            ("dog --overlap-history 18", &["--overlap-history 18", "17 or 21"]),
            ("dog --size 850x480", &["--size 850x480", "width", "848 or 864"]),
            ("dog --shift inf", &["--shift inf", "number"]),
            ("dog --guidance-scale=-1", &["--guidance-scale -1"]),
            ("dog --solver few-step", &["--timesteps 1000"]),
            ("dog --timesteps 1000,500", &["--timesteps", "--solver few-step"]),
            ("_", &["PROMPT is empty", "red circle"]),
            ("--seed 3", &["PROMPT is missing", "red circle"]),
            ("--prompt-at 1s:dog", &["PROMPT is missing"]),
        ] {
            let error = match resolved(line) {
                Ok(films) => panic!("{line}: taken as {films:?}"),
                Err(error) => format!("{error:#}"),
            };
            for part in parts {
                assert!(error.contains(part), "{line}: no {part:?} in {error}");
            }
        }
    }

    #[test]
    fn a_causal_few_step_model_streams_unless_something_else_is_typed() {
        let few = |timesteps: &[u32], renoise| SolverChoice::FewStep {
            timesteps: timesteps.to_vec(),
            renoise,
        };
        let defaults = Defaults {
            solver: few(&[1000, 750, 500, 250], true),
            block_by_block: true,
            steps: 4,
            ..defaults()
        };
        let film = |line: &str| {
            let args = args(line);
            let checked = check(&args, &mut || Ok(1)).expect("valid");
            request(&args, &defaults, &checked, &checked.takes[0]).expect("valid")
        };
        assert_eq!((film("dog").solver, film("dog").ar_step), (defaults.solver.clone(), 4));
        let two = film("dog --timesteps 1000,500");
        assert_eq!((two.solver, two.ar_step), (few(&[1000, 500], true), 2));
        let euler = film("dog --solver few-step-euler");
        assert_eq!((euler.solver, euler.ar_step), (few(&[1000, 750, 500, 250], false), 4));
        let long = film("dog --solver unipc --steps 30");
        assert_eq!((long.solver, long.ar_step), (SolverChoice::UniPc, 30));
        assert_eq!(film("dog --ar-step 1").ar_step, 1);
    }

    #[test]
    fn caches_and_solvers_are_taken_over() {
        assert_eq!(
            one("dog --teacache --use-ret-steps").cache,
            CacheChoice::TeaCache { threshold: 0.2, use_ret_steps: true }
        );
        assert_eq!(one("dog --easycache=0.1").cache, CacheChoice::EasyCache { threshold: 0.1 });
        assert_eq!(one("dog --teacache=off").cache, CacheChoice::Off);
        assert_eq!(
            one("dog --solver few-step --timesteps 1000,500").solver,
            SolverChoice::FewStep { timesteps: vec![1000, 500], renoise: true }
        );
    }
}
