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

/// Flags that do nothing beside others are told of: whoever typed both expects something.
#[test]
fn flags_that_count_for_nothing_are_told_of() {
    let told = |line: &str| check(&args(line), &mut || Ok(1)).expect("valid").warnings.join("; ");
    let few = "dog --solver few-step --timesteps 1000,500";
    assert!(told(&format!("{few} --steps 4")).contains("--steps does not count"));
    assert!(told("dog --teacache-thresh 0.1").contains("count only with --teacache"));
    assert!(told("dog --solver euler --timesteps 1000").contains("counts only with a few-step"));
    for line in [few, "dog --steps 4", "dog --teacache --teacache-thresh 0.1"] {
        assert_eq!(told(line), "", "{line}");
    }
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
        prompt: crate::generate_args::PromptArgs {
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
