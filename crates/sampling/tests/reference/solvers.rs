use std::sync::Arc;

use longreel_sampling::{Schedule, SchedulerConfig, Solver, SolverKind};

use crate::{assert_close, count, fixture, floats, list, step};

/// Coefficients are f32 on both sides; a logarithm may differ in its last bit, which moves a sample
/// by less than 1e-6 of the largest value over a run.
#[test]
fn every_step_of_every_solver_equals_the_reference() {
    let fixture = fixture("solvers");
    let cases = list(&fixture["cases"]);
    assert!(cases.len() > 15);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let config = SchedulerConfig::from_json(&case["config"].to_string()).unwrap();
        let schedule = Arc::new(Schedule::new(&config, count(&case["steps"])).unwrap());
        let mut solver = config.solver().build(&schedule).unwrap();
        let mut sample = floats(&case["start"]);
        for (i, velocity) in list(&case["velocities"]).iter().enumerate() {
            assert_eq!(solver.step_index(), i);
            step(&mut solver, &floats(velocity), &mut sample, None).unwrap();
            let what = format!("{name}, after step {i}");
            assert_close(&what, &sample, &floats(&case["samples"][i]), 1e-6);
        }
        assert!(solver.is_finished(), "{name}");
        assert!(
            step(&mut solver, &sample.clone(), &mut sample, None).is_err(),
            "{name}: one step too many"
        );
    }
}

#[test]
fn a_reset_solver_repeats_its_run() {
    let config = SchedulerConfig::default();
    let schedule = Arc::new(Schedule::new(&config, 5).unwrap());
    for kind in [config.solver(), SolverKind::Euler, SolverKind::Renoise] {
        let mut solver = kind.build(&schedule).unwrap();
        let run = |solver: &mut Solver| {
            let mut sample = vec![0.3, -1.2, 2.0];
            for i in 0..5 {
                let velocity = [0.1 * i as f32, -0.4, 1.0];
                step(solver, &velocity, &mut sample, Some(&[0.5, 0.25, -0.5])).unwrap();
            }
            sample
        };
        let first = run(&mut solver);
        solver.reset();
        assert_eq!(first, run(&mut solver), "{kind:?}");
    }
}

/// The fixture is computed in f64; a step in f32 rounds a few times.
#[test]
fn renoising_denoises_and_adds_noise_of_the_next_level() {
    let case = &fixture("solvers")["renoise"];
    let sigmas = floats(&case["sigmas"]);
    let timesteps = sigmas[..4].iter().map(|sigma| sigma * 1000.0).collect();
    let schedule = Arc::new(Schedule { timesteps, sigmas });
    let mut solver = SolverKind::Renoise.build(&schedule).unwrap();
    let mut sample = floats(&case["start"]);
    for i in 0..4 {
        let velocity = floats(&case["velocities"][i]);
        let noise = floats(&case["noises"][i]);
        assert_eq!(solver.wants_noise(), i < 3);
        if solver.wants_noise() {
            let before = sample.clone();
            assert!(step(&mut solver, &velocity, &mut sample, None).is_err());
            assert_eq!(before, sample, "a refused step must not touch the sample");
        }
        step(&mut solver, &velocity, &mut sample, Some(&noise)).unwrap();
        assert_close(&format!("step {i}"), &sample, &floats(&case["samples"][i]), 1e-6);
    }
}
