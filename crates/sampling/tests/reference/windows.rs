use std::sync::Arc;

use longreel_sampling::{
    Schedule, SchedulerConfig, Timetable, TimetableShape, mix_condition_noise,
};

use crate::{assert_close, count, fixture, floats, list, number, step, tensor};

/// Values of one latent frame in the fixture.
pub const FRAME: usize = 4;

/// The fixture's stand-in for the transformer.
pub fn toy_model(latents: &[f32], timesteps: &[f32]) -> Vec<f32> {
    (0..latents.len())
        .map(|i| {
            let before = if i < FRAME { 0.0 } else { latents[i - FRAME] };
            0.5 * latents[i] - 0.25 * before + 0.001 * timesteps[i / FRAME]
        })
        .collect()
}

/// The reference keeps one solver for each frame, we keep one for each group; frozen frames, noisy
/// conditions, sliding intervals and end images included, the latents agree. The toy model feeds
/// errors back into both, so 2e-6 over a run is rounding.
#[test]
fn whole_windows_are_denoised_like_the_reference_pipelines_do() {
    for case in list(&fixture("denoised_windows")["cases"]) {
        let name = case["name"].as_str().unwrap();
        let field = |name: &str| count(&case[name]);
        let (frames, prefix, end) = (field("frames"), field("prefix"), field("end"));
        let config =
            SchedulerConfig::default().with_flow_shift(number(&case["flow_shift"])).unwrap();
        let schedule = Arc::new(Schedule::new(&config, field("steps")).unwrap());
        let addnoise = number(&case["addnoise"]) as f32;
        let shape = TimetableShape {
            prefix_latents: prefix,
            new_latents: frames - prefix,
            end_latents: end,
            base_latents: field("base"),
            causal_block: field("block"),
            ar_step: field("ar_step"),
            addnoise_condition: addnoise,
        };
        let timetable = Timetable::new(&shape, &schedule.timesteps).unwrap();
        let mut solvers: Vec<_> = timetable
            .groups()
            .iter()
            .map(|_| config.solver().in_place().build(&schedule).unwrap())
            .collect();
        let mut latents = floats(&case["start"]);
        for (i, row) in timetable.rows().iter().enumerate() {
            let first = row.interval.start;
            let mut shown = latents[first * FRAME..row.interval.end * FRAME].to_vec();
            if !row.noisy_condition.is_empty() {
                let noisy = row.noisy_condition.start * FRAME..row.noisy_condition.end * FRAME;
                let noise = floats(&case["noises"][i]);
                let out = &mut shown[noisy.start - first * FRAME..noisy.end - first * FRAME];
                let mut mixed = tensor(out);
                let noise = tensor(&noise[noisy]);
                mix_condition_noise(&mut mixed.all_frames_mut(), &noise.all_frames(), addnoise)
                    .unwrap();
                out.copy_from_slice(mixed.data());
            }
            let velocity = toy_model(&shown, &row.timesteps[row.interval.clone()]);
            for &group in &row.updated_groups {
                let own = &timetable.groups()[group];
                let velocity = &velocity[(own.start - first) * FRAME..(own.end - first) * FRAME];
                let sample = &mut latents[own.start * FRAME..own.end * FRAME];
                step(&mut solvers[group], velocity, sample, None).unwrap();
            }
        }
        assert!(solvers.iter().all(|solver| solver.is_finished()), "{name}");
        assert_close(name, &latents, &floats(&case["final"]), 2e-6);
    }
}
