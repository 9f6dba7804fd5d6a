use longreel_sampling::{FewStep, Schedule, SchedulerConfig};

use crate::{assert_close, count, fixture, floats, list, number};

/// Both sides compute in f64 and round once, so timesteps are equal and sigmas are too.
#[test]
fn schedules_equal_the_reference_bit_for_bit() {
    let fixture = fixture("schedules");
    let cases = list(&fixture["schedules"]);
    assert!(cases.len() > 30);
    for case in cases {
        let config = SchedulerConfig::from_json(&case["config"].to_string()).unwrap();
        let steps = count(&case["steps"]);
        let schedule = Schedule::new(&config, steps).unwrap();
        let what = format!("{:?} shift {} steps {steps}", config.kind, config.flow_shift);
        assert_eq!(schedule.timesteps, floats(&case["timesteps"]), "{what}: timesteps");
        assert_eq!(schedule.sigmas, floats(&case["sigmas"]), "{what}: sigmas");
        assert!(config.ignored.is_empty(), "{what}: {:?}", config.ignored);
    }
}

/// torch.linspace in f32 may round an entry of the table differently; one unit in the last place of
/// a sigma near 1 is 6e-8.
#[test]
fn few_step_schedules_follow_the_shifted_table() {
    let fixture = fixture("schedules");
    for case in list(&fixture["few_step"]) {
        let few = FewStep {
            steps: list(&case["steps"]).iter().map(|step| count(step) as u32).collect(),
            flow_shift: number(&case["flow_shift"]),
            num_train_timesteps: 1000,
            warp: case["warp"].as_bool().unwrap(),
        };
        let schedule = Schedule::few_step(&few).unwrap();
        let what = format!("{few:?}");
        assert_close(&what, &schedule.sigmas, &floats(&case["sigmas"]), 1.2e-7);
        assert_close(&what, &schedule.timesteps, &floats(&case["timesteps"]), 1.2e-7);
    }
}
