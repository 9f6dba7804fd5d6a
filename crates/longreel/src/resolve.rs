//! From flags to film requests, in one step: what nobody said comes from the model's defaults.

mod check;

use std::path::PathBuf;

use anyhow::Result;
use longreel_film::{
    CacheChoice, Carry, Defaults, FilmRequest, Finish, FitMode, GuidanceBatchChoice,
    GuidanceInterval, KvCacheChoice, Length, SolverChoice, StartFrom, TimedPrompt,
};

pub use self::check::{Checked, Take, check, random_seed};
use crate::generate_args::{
    CarryArg, Fit, GenerateArgs, GuidanceBatchArg, KvCacheArg, Resolution, Solver,
};
use crate::outcome::bad_input;
use crate::story::Story;
use crate::values::{Size, nearest_frames};

/// TeaCache's threshold in the official script.
const TEACACHE_THRESHOLD: f32 = 0.2;

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

/// Every file that a request reads.
pub fn inputs(request: &FilmRequest) -> Vec<PathBuf> {
    let start = match &request.start {
        StartFrom::Image(path) | StartFrom::Video(path) => Some(path.clone()),
        StartFrom::Prompt => None,
    };
    start.into_iter().chain(request.end_image.clone()).collect()
}

#[cfg(test)]
mod tests;
