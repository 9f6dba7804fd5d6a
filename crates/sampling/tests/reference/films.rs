use std::sync::Arc;

use longreel_kernels::Tensor;
use longreel_sampling::{
    FilmShape, Guidance, GuidanceInterval, LatentFrames, Schedule, SchedulerConfig, SegmentPlan,
    Start, Timetable, TimetableShape, mix_condition_noise,
};
use serde_json::Value;

use crate::windows::{FRAME, toy_model};
use crate::{assert_close, count, fixture, floats, list, number, step, tensor};

/// The fixture's transformer: the toy model and a term that the prompt scales.
fn model(latents: &[f32], timesteps: &[f32], prompt: f32) -> Vec<f32> {
    let velocity = toy_model(latents, timesteps);
    velocity.iter().zip(latents).map(|(v, x)| v + prompt * x).collect()
}

fn film(case: &Value) -> Vec<f32> {
    let field = |name: &str| count(&case[name]);
    let pixels = |latents| LatentFrames::new(latents).to_pixels().unwrap();
    let overlap = field("overlap");
    let plan = SegmentPlan::new(&FilmShape {
        total: Some(pixels(field("total"))),
        base: pixels(field("base")),
        overlap: (overlap > 0).then(|| pixels(overlap)),
        causal_block: field("block"),
        start: Start::Noise,
        end_image: false,
    })
    .unwrap();
    let config = SchedulerConfig::default().with_flow_shift(number(&case["flow_shift"])).unwrap();
    let schedule = Arc::new(Schedule::new(&config, field("steps")).unwrap());
    let guidance = Guidance::new(number(&case["guidance"]) as f32, GuidanceInterval::ALL).unwrap();
    let (cond, uncond) = (number(&case["cond"]) as f32, number(&case["uncond"]) as f32);
    let addnoise = number(&case["addnoise"]) as f32;
    let mut noises = list(&case["noises"]).iter().map(floats);

    let mut film: Vec<f32> = Vec::new();
    for segment in plan.iter() {
        let mut latents = noises.next().unwrap();
        assert_eq!(latents.len(), segment.window_latents() * FRAME, "{segment:?}");
        let prefix = segment.prefix_latents * FRAME;
        latents[..prefix].copy_from_slice(&film[segment.first_latent * FRAME..]);
        let shape = TimetableShape::of(&segment, field("block"), field("ar_step"), addnoise);
        let timetable = Timetable::new(&shape, &schedule.timesteps).unwrap();
        let mut solvers: Vec<_> = (timetable.groups().iter())
            .map(|_| config.solver().in_place().build(&schedule).unwrap())
            .collect();
        for row in timetable.rows() {
            assert_eq!(row.interval, 0..segment.window_latents());
            let mut shown = latents.clone();
            if !row.noisy_condition.is_empty() {
                let noise = noises.next().unwrap();
                let mut history = tensor(&shown[..prefix]);
                mix_condition_noise(
                    &mut history.all_frames_mut(),
                    &tensor(&noise).all_frames(),
                    addnoise,
                )
                .unwrap();
                shown[..prefix].copy_from_slice(history.data());
            }
            let mut velocity = model(&shown, &row.timesteps, cond);
            if guidance.guides(row) {
                let frames = |values| Tensor::from_vec(&[row.timesteps.len(), FRAME], values);
                let other = frames(model(&shown, &row.timesteps, uncond));
                let mut guided = frames(velocity);
                guidance.combine(&mut guided, &other, &row.timesteps).unwrap();
                velocity = guided.into_vec();
            }
            for &group in &row.updated_groups {
                let frames = &timetable.groups()[group];
                let own = frames.start * FRAME..frames.end * FRAME;
                step(&mut solvers[group], &velocity[own.clone()], &mut latents[own], None).unwrap();
            }
        }
        film.extend_from_slice(&latents[prefix..]);
    }
    assert!(noises.next().is_none(), "the reference drew more noise");
    film
}

/// The real pipeline's `__call__` made the fixture; the toy model feeds rounding back over all
/// steps and segments, so 2e-6 of the largest value is rounding.
#[test]
fn films_of_several_segments_equal_the_reference_pipeline() {
    let fixture = fixture("films");
    let cases = list(&fixture["cases"]);
    assert_eq!(cases.len(), 4);
    for case in cases {
        assert_close(case["name"].as_str().unwrap(), &film(case), &floats(&case["final"]), 2e-6);
    }
}
