//! The command that makes a film again, with every value spelled out, so that it does not depend on
//! defaults that may change.

use std::path::Path;

use longreel_film::{
    CacheChoice, Carry, DeviceChoice, EngineOptions, FilmRequest, FitMode, GuidanceBatchChoice,
    KvCacheChoice, Length, Outputs, SolverChoice, StartFrom,
};

use crate::demo;
use crate::outputs::codec_name;
use crate::shell;

/// The shell-quoted command. `model` is the model as typed.
pub fn command(
    request: &FilmRequest,
    model: Option<&Path>,
    engine: &EngineOptions,
    outputs: &Outputs,
) -> String {
    shell::joined(&words(request, model, engine, outputs))
}

fn words(
    request: &FilmRequest,
    model: Option<&Path>,
    engine: &EngineOptions,
    outputs: &Outputs,
) -> Vec<String> {
    let mut words = vec!["longreel".to_string(), "generate".to_string()];
    // A value that begins with a dash would be read as a flag.
    let mut flag = |name: &str, value: String| match value.starts_with('-') {
        true => words.push(format!("{name}={value}")),
        false => words.extend([name.to_string(), value]),
    };
    let path = |path: &Path| path.display().to_string();
    for prompt in &request.prompts {
        let seed = prompt.seed.map_or(String::new(), |seed| format!("@{seed}"));
        match (prompt.from_frame, prompt.seed) {
            (0, None) => flag("--prompt", prompt.prompt.clone()),
            (frame, _) => flag("--prompt-at", format!("{frame}f{seed}:{}", prompt.prompt)),
        }
    }
    flag("--model", model.map_or_else(|| demo::NAME.to_string(), path));
    for (lora, weight) in &engine.loras {
        flag("--lora", format!("{}:{weight}", path(lora)));
    }
    if let Some(dtype) = engine.dtype {
        flag("--dtype", dtype.to_string());
    }
    if engine.device != DeviceChoice::Auto {
        flag("--device", engine.device.to_string());
    }
    flag("--seed", request.seed.to_string());
    flag("--size", format!("{}x{}", request.width, request.height));
    if let Length::Frames(frames) = request.length {
        flag("--num-frames", frames.to_string());
    }
    flag("--base-num-frames", request.base_num_frames.to_string());
    flag("--overlap-history", request.overlap_history.to_string());
    flag("--fps", request.fps.to_string());
    flag("--steps", request.steps.to_string());
    flag("--guidance-scale", request.guidance_scale.to_string());
    flag("--guidance-interval", request.guidance_interval.to_string());
    flag("--shift", request.flow_shift.to_string());
    flag("--negative-prompt", request.negative_prompt.clone());
    flag("--addnoise-condition", request.addnoise_condition.to_string());
    flag("--ar-step", request.ar_step.to_string());
    if let Some(block) = request.causal_block_size {
        flag("--causal-block-size", block.to_string());
    }
    if let Some(frames) = request.attention_window {
        flag("--attention-window", frames.to_string());
    }
    if let Some(frames) = request.attention_sink {
        flag("--attention-sink", frames.to_string());
    }
    if let Some(share) = request.sparse_attention {
        flag("--sparse-attention", share.to_string());
    }
    if let Some(share) = request.sparse_after {
        flag("--sparse-after", share.to_string());
    }
    match request.kv_cache {
        KvCacheChoice::Auto => {}
        KvCacheChoice::On => flag("--kv-cache", "on".into()),
        KvCacheChoice::Off => flag("--kv-cache", "off".into()),
    }
    match request.guidance_batch {
        GuidanceBatchChoice::Auto => {}
        GuidanceBatchChoice::On => flag("--guidance-batch", "on".into()),
        GuidanceBatchChoice::Off => flag("--guidance-batch", "off".into()),
    }
    match &request.start {
        StartFrom::Prompt => {}
        StartFrom::Image(image) => flag("--image", path(image)),
        StartFrom::Video(video) => flag("--video", path(video)),
    }
    if let Some(image) = &request.end_image {
        flag("--end-image", path(image));
    }
    match request.fit {
        FitMode::Crop => {}
        FitMode::Pad => flag("--fit", "pad".into()),
        FitMode::Stretch => flag("--fit", "stretch".into()),
    }
    if let Some([width, height]) = request.finish.size {
        flag("--upscale", format!("{width}x{height}"));
    }
    if let Some(upscaler) = &engine.upscaler {
        flag("--upscaler", path(upscaler));
    }
    if request.finish.frames > 1 {
        flag("--interpolate", request.finish.frames.to_string());
    }
    if request.carry == Carry::Pixels {
        flag("--carry", "pixels".into());
    }
    match &request.solver {
        // Said, since a model of few steps has another one by itself.
        SolverChoice::UniPc => flag("--solver", "unipc".into()),
        SolverChoice::Euler => flag("--solver", "euler".into()),
        SolverChoice::FewStep { timesteps, renoise } => {
            flag("--solver", if *renoise { "few-step" } else { "few-step-euler" }.into());
            let list: Vec<String> = timesteps.iter().map(u32::to_string).collect();
            flag("--timesteps", list.join(","));
        }
    }
    if let Some(codec) = outputs.encoding.codec {
        flag("--codec", codec_name(codec).into());
    }
    if let Some(crf) = outputs.encoding.crf {
        flag("--crf", crf.to_string());
    }
    if let Some(noise) = &outputs.noise {
        flag("--noise", path(noise));
    }
    flag("-o", path(&outputs.film));
    match request.cache {
        CacheChoice::Off => {}
        CacheChoice::TeaCache { threshold, use_ret_steps } => {
            flag("--teacache-thresh", threshold.to_string());
            words.push("--teacache".into());
            words.extend(use_ret_steps.then(|| "--use-ret-steps".to_string()));
        }
        CacheChoice::EasyCache { threshold } => words.push(format!("--easycache={threshold}")),
    }
    match request.causal_attention {
        None => {}
        Some(true) => words.push("--causal-attention".into()),
        Some(false) => words.push("--causal-attention=off".into()),
    }
    // The last word, so that it can be replaced by the frames that an endless film got.
    if request.length == Length::Endless {
        words.push("--endless".into());
    }
    words
}

/// `command` of an endless film that ended after `frames` frames.
pub fn with_length(command: &str, frames: u64) -> String {
    match command.strip_suffix(" --endless") {
        Some(rest) => format!("{rest} --num-frames {frames}"),
        None => command.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use crate::resolve;
    use crate::settings;
    use clap::FromArgMatches;
    use longreel_film::{Defaults, Encoding, Finish, TimedPrompt};
    use longreel_media::Codec;
    use longreel_weights::WeightDtype;

    fn awkward() -> (FilmRequest, EngineOptions, Outputs) {
        let request = FilmRequest {
            prompts: vec![
                TimedPrompt { from_frame: 0, prompt: "-it's \"a\" $dog".into(), seed: Some(9) },
                TimedPrompt { from_frame: 95, prompt: "中文: 12:30".into(), seed: None },
            ],
            negative_prompt: "-".into(),
            width: 112,
            height: 80,
            length: Length::Frames(193),
            base_num_frames: 33,
            overlap_history: 5,
            steps: 7,
            guidance_scale: 1.7,
            guidance_interval: "0.1..0.9".parse().expect("an interval"),
            flow_shift: 0.1,
            fps: 16,
            seed: u64::MAX,
            ar_step: 2,
            causal_block_size: Some(3),
            causal_attention: Some(false),
            attention_window: Some(9),
            attention_sink: Some(6),
            sparse_attention: Some(0.9),
            sparse_after: Some(0.3),
            addnoise_condition: 12.5,
            start: StartFrom::Image("first image.png".into()),
            end_image: Some("-last.png".into()),
            fit: FitMode::Pad,
            carry: Carry::Pixels,
            solver: SolverChoice::FewStep { timesteps: vec![1000, 500], renoise: false },
            cache: CacheChoice::TeaCache { threshold: 0.15, use_ret_steps: true },
            kv_cache: KvCacheChoice::On,
            guidance_batch: GuidanceBatchChoice::Off,
            finish: Finish { size: Some([224, 162]), frames: 3 },
        };
        let engine = EngineOptions {
            model: "m".into(),
            loras: vec![("a:b.safetensors".into(), -0.5)],
            dtype: Some(WeightDtype::Bf16),
            device: DeviceChoice::Cuda(vec![1, 3]),
            upscaler: Some("up scaler.pth".into()),
            ..EngineOptions::new("m")
        };
        let outputs = Outputs {
            encoding: Encoding { codec: Some(Codec::H265), crf: Some(20) },
            ..Outputs::new("my film.mp4")
        };
        (request, engine, outputs)
    }

    #[test]
    fn the_command_read_back_asks_for_the_same_film() {
        let (request, engine, outputs) = awkward();
        let words = words(&request, Some(Path::new("m")), &engine, &outputs);
        let matches = settings::command().try_get_matches_from(&words).expect("its own flags");
        let cli = Cli::from_arg_matches(&matches).expect("its own");
        let device = cli.common.device;
        let Command::Generate(args) = cli.command else { panic!("another command") };
        let checked =
            resolve::check(&args, &mut || unreachable!("a seed is given")).expect("valid");
        // Defaults that differ in everything show that the command says all.
        let other = Defaults {
            width: 16,
            height: 16,
            num_frames: 1,
            base_num_frames: 1,
            overlap_history: 1,
            steps: 1,
            guidance_scale: 99.0,
            guidance_interval: "0.3..0.4".parse().expect("an interval"),
            flow_shift: 99.0,
            fps: 1,
            negative_prompt: "other".into(),
            addnoise_condition: 99.0,
            solver: SolverChoice::UniPc,
            block_by_block: true,
        };
        let again = resolve::request(&args, &other, &checked, &checked.takes[0]).expect("valid");
        assert_eq!(again, request);
        assert_eq!(args.model.lora[0].weight, -0.5);
        assert_eq!(args.model.lora[0].path, engine.loras[0].0);
        assert_eq!(args.model.dtype.map(Into::into), engine.dtype);
        assert_eq!(device, Some(engine.device));
        assert_eq!(args.model.upscaler, engine.upscaler);
        assert_eq!(crate::outputs::encoding(&args.output), outputs.encoding);
    }

    #[test]
    fn an_endless_film_is_made_again_with_the_length_it_got() {
        let (mut request, engine, outputs) = awkward();
        request.length = Length::Endless;
        let command = command(&request, None, &engine, &outputs);
        assert!(command.contains("--model demo"), "{command}");
        assert!(with_length(&command, 129).ends_with("--num-frames 129"));
        assert_eq!(
            with_length("longreel generate 'x --endless'", 9),
            "longreel generate 'x --endless'"
        );
    }
}
