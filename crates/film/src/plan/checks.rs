//! What cannot work, said with the nearest values that do.

use longreel_sampling::{FilmShape, PixelFrames, SegmentError, SegmentPlan, Start};
use longreel_weights::ModelKind;

use super::ModelFacts;
use crate::error::PlanError;
use crate::request::{CacheChoice, FilmRequest, Length, StartFrom};

/// Sides beyond this are refused: no published model knows them, and the arithmetic of a mistyped
/// size would only fail later.
const MAX_SIDE: usize = 8192;
const MAX_PROMPT_BYTES: usize = 1 << 20;

pub(super) fn check_values(request: &FilmRequest) -> Result<(), PlanError> {
    for (name, side) in [("width", request.width), ("height", request.height)] {
        if side == 0 || !side.is_multiple_of(16) || side > MAX_SIDE {
            let below = (side / 16 * 16).clamp(16, MAX_SIDE);
            let above = (below + 16).min(MAX_SIDE);
            return Err(PlanError::value(
                "--size",
                format!("{}x{}", request.width, request.height),
                format!("the {name} {side} must be a multiple of 16, at most {MAX_SIDE}"),
                if side > below && above > below {
                    format!("use {below} or {above}")
                } else {
                    format!("use {below}")
                },
            ));
        }
    }
    if request.steps == 0 || request.steps > 1000 {
        return Err(PlanError::value(
            "--steps",
            request.steps,
            "must be between 1 and 1000",
            format!("use {}", request.steps.clamp(1, 1000)),
        ));
    }
    let finite = [
        ("--guidance-scale", request.guidance_scale, 0.0, 100.0),
        ("--shift", request.flow_shift, 0.01, 1000.0),
        ("--addnoise-condition", request.addnoise_condition, 0.0, 1000.0),
    ];
    for (what, value, low, high) in finite {
        if !(low..=high).contains(&value) {
            return Err(PlanError::value(
                what,
                value,
                format!("must be between {low} and {high}"),
                if value.is_nan() {
                    "give a number".to_owned()
                } else {
                    format!("use {}", value.clamp(low, high))
                },
            ));
        }
    }
    if request.fps == 0 || request.fps > 240 {
        return Err(PlanError::value(
            "--fps",
            request.fps,
            "must be between 1 and 240",
            format!("use {}", request.fps.clamp(1, 240)),
        ));
    }
    check_finish(request)?;
    if request.prompts.is_empty() || request.prompts.iter().any(|p| p.prompt.trim().is_empty()) {
        return Err(PlanError::value(
            "PROMPT",
            "''",
            "is empty",
            "say what the film shows, such as \"a red circle moves right on a blue background\"",
        ));
    }
    let longest =
        request.prompts.iter().map(|p| p.prompt.len()).chain([request.negative_prompt.len()]);
    if let Some(bytes) = longest.max().filter(|&bytes| bytes > MAX_PROMPT_BYTES) {
        return Err(PlanError::value(
            "PROMPT",
            format!("of {bytes} bytes"),
            format!("must be at most {MAX_PROMPT_BYTES} bytes"),
            "shorten it; a model reads 512 tokens of it at most",
        ));
    }
    if let Some(block) = request.causal_block_size.filter(|&b| b == 0 || b > 1024) {
        return Err(PlanError::value(
            "--causal-block-size",
            block,
            "must be between 1 and 1024 latent frames",
            format!("use {}", block.clamp(1, 1024)),
        ));
    }
    Ok(())
}

/// Checks what is done to frames before they are encoded.
fn check_finish(request: &FilmRequest) -> Result<(), PlanError> {
    let frames = request.finish.frames;
    if !(1..=8).contains(&frames) {
        let fix = format!("use {}", frames.clamp(1, 8));
        return Err(PlanError::value("--interpolate", frames, "must be between 1 and 8", fix));
    }
    if request.film_fps() > 240 {
        let most = 240 / request.fps.max(1);
        return Err(PlanError::value(
            "--interpolate",
            frames,
            format!("gives {} frames a second, and 240 is the most", request.film_fps()),
            format!("use {most}"),
        ));
    }
    let Some([width, height]) = request.finish.size else { return Ok(()) };
    let shown = format!("{width}x{height}");
    if width % 2 != 0 || height % 2 != 0 {
        let fix = format!("use {}x{}", width.div_ceil(2) * 2, height.div_ceil(2) * 2);
        return Err(PlanError::value("--upscale", shown, "both sides must be even", fix));
    }
    if width > MAX_SIDE || height > MAX_SIDE {
        let fix = format!("use {}x{}", width.min(MAX_SIDE), height.min(MAX_SIDE));
        return Err(PlanError::value(
            "--upscale",
            shown,
            format!("a side is at most {MAX_SIDE}"),
            fix,
        ));
    }
    if width < request.width || height < request.height {
        return Err(PlanError::value(
            "--upscale",
            shown,
            format!(
                "the model makes frames of {}x{}, which are larger",
                request.width, request.height
            ),
            "leave it out, or make a smaller --size",
        ));
    }
    Ok(())
}

pub(super) fn check_kind(request: &FilmRequest, model: &ModelFacts) -> Result<(), PlanError> {
    let kind = model.kind;
    let refuse =
        |what, value: &str, rule: String, fix: &str| Err(PlanError::value(what, value, rule, fix));
    let has_image = matches!(request.start, StartFrom::Image(_));
    if let StartFrom::Video(path) = &request.start {
        if kind != ModelKind::DiffusionForcing {
            return refuse(
                "--video",
                &path.display().to_string(),
                format!("{kind} models cannot extend a video"),
                "use a diffusion-forcing (DF) model",
            );
        }
        if let Some(end) = &request.end_image {
            return refuse(
                "--end-image",
                &end.display().to_string(),
                "cannot be combined with --video".into(),
                "leave one of them out",
            );
        }
    }
    if request.end_image.is_some() && matches!(request.start, StartFrom::Prompt) {
        return refuse(
            "--end-image",
            "",
            "needs a first image too".into(),
            "give one with --image",
        );
    }
    match kind {
        ModelKind::DiffusionForcing => {}
        ModelKind::TextToVideo if has_image => {
            return refuse(
                "--image",
                "",
                format!("{kind} models take no image"),
                "use an image-to-video (I2V) or diffusion-forcing (DF) model",
            );
        }
        ModelKind::ImageToVideo | ModelKind::FirstLastFrame if !has_image => {
            return refuse(
                "--image",
                "",
                format!("{kind} models need a first image"),
                "give one with --image FILE",
            );
        }
        ModelKind::FirstLastFrame if request.end_image.is_none() => {
            return refuse(
                "--end-image",
                "",
                format!("{kind} models need a last image"),
                "give one with --end-image FILE",
            );
        }
        _ => {}
    }
    if kind != ModelKind::DiffusionForcing {
        if request.length == Length::Endless {
            return refuse(
                "--endless",
                "",
                format!("{kind} models make one segment"),
                "use a diffusion-forcing (DF) model",
            );
        }
        if request.ar_step > 0 {
            return refuse(
                "--ar-step",
                &request.ar_step.to_string(),
                format!("{kind} models have one timestep for all frames"),
                "use --ar-step 0, or a diffusion-forcing (DF) model",
            );
        }
        if request.causal_block_size.is_some_and(|b| b > 1) {
            return refuse(
                "--causal-block-size",
                &request.causal_block_size.unwrap_or(1).to_string(),
                format!("{kind} models have no causal blocks"),
                "leave it out, or use a diffusion-forcing (DF) model",
            );
        }
    }
    let threshold = match request.cache {
        CacheChoice::Off => None,
        CacheChoice::TeaCache { threshold, .. } => {
            Some(("--teacache-thresh", threshold, "0.1 to 0.3"))
        }
        CacheChoice::EasyCache { threshold } => {
            Some(("--easycache", threshold, "0.05, its default"))
        }
    };
    if let Some((what, threshold, usual)) = threshold
        && !(threshold > 0.0 && threshold < 10.0)
    {
        let fix = format!("use {usual}");
        return refuse(what, &threshold.to_string(), "must be above 0 and below 10".into(), &fix);
    }
    Ok(())
}

/// Refuses windows beyond the positions that the model has.
pub(super) fn check_grid(
    request: &FilmRequest,
    model: &ModelFacts,
    segments: &SegmentPlan,
) -> Result<(), PlanError> {
    let most = model.transformer.rope_max_seq_len;
    let patch = &model.transformer.patch_size;
    for (name, side, patch) in
        [("width", request.width, patch[2]), ("height", request.height, patch[1])]
    {
        let pixels = most.saturating_mul(8 * patch);
        if side > pixels {
            return Err(PlanError::value(
                "--size",
                format!("{}x{}", request.width, request.height),
                format!("this model knows {name}s of at most {pixels}"),
                format!("use {}", pixels / 16 * 16),
            ));
        }
    }
    let windows = [0, 1].into_iter().filter_map(|index| segments.segment(index));
    let longest = windows.map(|segment| segment.window_latents()).max().unwrap_or(0);
    if longest > most {
        let what = match model.kind {
            ModelKind::DiffusionForcing => "--base-num-frames",
            _ => "--num-frames",
        };
        return Err(PlanError::value(
            what,
            4 * (longest - 1) + 1,
            format!("is {longest} latent frames at once, and this model knows at most {most}"),
            format!("use {} or fewer", 4 * (most - 1) + 1),
        ));
    }
    Ok(())
}

pub(super) fn film_shape(
    request: &FilmRequest,
    model: &ModelFacts,
    causal_block: usize,
) -> Result<FilmShape, PlanError> {
    let pixels = |what, frames: u64| {
        PixelFrames::new(usize::try_from(frames).unwrap_or(usize::MAX)).map_err(|e| match e {
            SegmentError::NotFourNPlusOne { frames, nearest } => {
                PlanError::value(what, frames, "must be 4n+1", format!("use {nearest}"))
            }
            other => other.into(),
        })
    };
    let total = match request.length {
        Length::Frames(frames) => Some(pixels("--num-frames", frames)?),
        Length::Endless => None,
    };
    let base = pixels("--base-num-frames", request.base_num_frames as u64)?;
    let overlap = pixels("--overlap-history", request.overlap_history as u64)?;
    // A model without diffusion forcing makes its film in one piece.
    let base = match (model.kind, total) {
        (ModelKind::DiffusionForcing, _) | (_, None) => base,
        (_, Some(total)) => total,
    };
    Ok(FilmShape {
        total,
        base,
        overlap: Some(overlap),
        causal_block,
        start: match (&request.start, model.kind) {
            (StartFrom::Image(_), ModelKind::DiffusionForcing) => Start::Image,
            (StartFrom::Video(_), _) => Start::Video,
            _ => Start::Noise,
        },
        end_image: request.end_image.is_some() && model.kind == ModelKind::DiffusionForcing,
    })
}
