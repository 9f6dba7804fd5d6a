//! Configurations, schedules, solvers and caches: what is refused, and that the message says why.

use std::sync::Arc;

use longreel_kernels::Tensor;
use longreel_sampling::{
    Branch, CacheError, Decision, EasyCache, FewStep, Schedule, ScheduleError, SchedulerConfig,
    SchedulerKind, Solver, SolverError, SolverKind, TeaCache, TeaCacheFamily, UniPcConfig,
    UniPcVariant,
};

fn config(settings: &str) -> Result<SchedulerConfig, ScheduleError> {
    SchedulerConfig::from_json(&format!(
        r#"{{"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction",
             "use_flow_sigmas": true {settings}}}"#
    ))
}

#[test]
fn a_published_configuration_is_read() {
    let read = config(r#", "flow_shift": 5.0, "solver_order": 3, "solver_type": "bh1", "disable_corrector": [0, 1],
        "final_sigmas_type": "sigma_min", "solver_p": null, "shift_terminal": null, "hidden_knob": 3"#)
    .unwrap();
    assert_eq!(read.kind, SchedulerKind::UniPc);
    assert_eq!(
        (read.flow_shift, read.num_train_timesteps, read.final_sigma_zero),
        (5.0, 1000, false)
    );
    assert_eq!(
        read.unipc,
        UniPcConfig {
            order: 3,
            variant: UniPcVariant::Bh1,
            lower_order_final: true,
            disable_corrector: vec![0, 1],
            in_place: false
        }
    );
    assert_eq!(read.ignored, ["hidden_knob"]);
}

#[test]
fn every_unsupported_setting_is_refused_by_name() {
    for (name, value) in [
        ("prediction_type", r#""epsilon""#),
        ("use_flow_sigmas", "false"),
        ("thresholding", "true"),
        ("predict_x0", "false"),
        ("solver_type", r#""bh3""#),
        ("solver_order", "4"),
        ("solver_order", "0"),
        ("solver_order", "-1"),
        ("solver_p", r#"{"a": 1}"#),
        ("use_karras_sigmas", "true"),
        ("use_exponential_sigmas", "true"),
        ("use_beta_sigmas", "true"),
        ("use_dynamic_shifting", "true"),
        ("shift_terminal", "0.1"),
        ("final_sigmas_type", r#""one""#),
        ("lower_order_final", "false"),
        ("disable_corrector", "[-1]"),
        ("flow_shift", r#""eight""#),
        ("num_train_timesteps", "1.5"),
        ("_class_name", r#""DDIMScheduler""#),
    ] {
        let json = format!(
            r#"{{"prediction_type": "flow_prediction", "use_flow_sigmas": true, "{name}": {value}}}"#
        );
        // Of a key that is given twice the last one counts.
        let error = SchedulerConfig::from_json(&json).unwrap_err().to_string();
        assert!(error.contains(name), "{json}: {error}");
    }
    let long = format!(r#", "solver_type": "{}""#, "é".repeat(10_000));
    assert!(config(&long).unwrap_err().to_string().len() < 400);
    for json in ["", "[]", "3", "{", "{\"a\":}"] {
        assert!(
            matches!(SchedulerConfig::from_json(json), Err(ScheduleError::Json { .. })),
            "{json}"
        );
    }
    for setting in [
        r#", "num_train_timesteps": 0"#,
        r#", "num_train_timesteps": 99999999999"#,
        r#", "flow_shift": 0"#,
        r#", "flow_shift": -3"#,
        r#", "flow_shift": 1e300"#,
        r#", "solver_order": 3, "final_sigmas_type": "sigma_min", "lower_order_final": false"#,
    ] {
        assert!(config(setting).is_err(), "{setting}");
    }
    assert!(SchedulerConfig::default().with_flow_shift(f64::NAN).is_err());
}

#[test]
fn the_euler_scheduler_is_read_by_its_own_names() {
    let read = SchedulerConfig::from_json(
        r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}"#,
    )
    .unwrap();
    assert_eq!((read.kind, read.flow_shift), (SchedulerKind::Euler, 3.0));
    assert_eq!(read.solver(), SolverKind::Euler);
    let error = SchedulerConfig::from_json(
        r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": true}"#,
    );
    assert!(error.unwrap_err().to_string().contains("use_dynamic_shifting"));
}

#[test]
fn schedules_of_no_or_too_many_steps_are_refused() {
    for steps in [0, 100_001, usize::MAX] {
        assert_eq!(
            Schedule::new(&SchedulerConfig::default(), steps),
            Err(ScheduleError::Steps { steps })
        );
    }
    let refuse = |few: FewStep| Schedule::few_step(&few).unwrap_err().to_string();
    let four = FewStep::four(5.0);
    assert!(refuse(FewStep { steps: vec![], ..four.clone() }).contains("0 steps"));
    assert!(
        refuse(FewStep { steps: vec![1000, 1000], ..four.clone() })
            .contains("step 1 of the list is 1000")
    );
    assert!(refuse(FewStep { steps: vec![1001], ..four.clone() }).contains("1001"));
    assert!(refuse(FewStep { steps: vec![500, 0], ..four.clone() }).contains("must fall"));
    assert!(refuse(FewStep { flow_shift: 0.0, ..four.clone() }).contains("flow_shift"));
    assert!(
        refuse(FewStep { num_train_timesteps: usize::MAX, ..four }).contains("num_train_timesteps")
    );
}

#[test]
fn schedules_that_a_solver_cannot_follow_are_refused() {
    let build = |kind: &SolverKind, sigmas: &[f32]| {
        let timesteps = vec![0.0; sigmas.len().saturating_sub(1)];
        kind.build(&Arc::new(Schedule { timesteps, sigmas: sigmas.to_vec() })).map(|_| ())
    };
    let unipc = SolverKind::UniPc(UniPcConfig::default());
    for sigmas in [
        &[1.0, 0.5, 0.0][..],
        &[0.9, 0.0, 0.0],
        &[0.9, 0.9, 0.0],
        &[0.5, 0.6, 0.0],
        &[0.9, f32::NAN, 0.0],
        &[2.0, 0.0],
    ] {
        assert!(matches!(build(&unipc, sigmas), Err(SolverError::Sigma { .. })), "{sigmas:?}");
    }
    assert!(build(&unipc, &[0.9, 0.5, 0.0]).is_ok());
    assert!(build(&SolverKind::Euler, &[1.0, 0.5, 0.0]).is_ok());
    for sigmas in [&[][..], &[0.5]] {
        assert!(matches!(
            build(&SolverKind::Euler, sigmas),
            Err(SolverError::ScheduleLength { .. })
        ));
    }
    let order = SolverKind::UniPc(UniPcConfig { order: 4, ..UniPcConfig::default() });
    assert_eq!(build(&order, &[0.9, 0.0]), Err(SolverError::Order { order: 4 }));
    let kept =
        SolverKind::UniPc(UniPcConfig { lower_order_final: false, ..UniPcConfig::default() });
    assert_eq!(build(&kept, &[0.9, 0.5, 0.0]), Err(SolverError::FinalOrder { order: 2 }));
}

#[test]
fn lengths_must_agree_through_a_run() {
    let schedule = Arc::new(Schedule::new(&SchedulerConfig::default(), 3).unwrap());
    for kind in [SchedulerConfig::default().solver(), SolverKind::Euler, SolverKind::Renoise] {
        let mut solver = kind.build(&schedule).unwrap();
        assert!(
            matches!(step(&mut solver, &[1.0], &mut [1.0, 2.0]), Err(SolverError::Length { .. })),
            "{kind:?}"
        );
        assert_eq!(solver.step_index(), 0);
    }
    let mut solver = SchedulerConfig::default().solver().build(&schedule).unwrap();
    step(&mut solver, &[1.0, 1.0], &mut [1.0, 2.0]).unwrap();
    assert!(matches!(step(&mut solver, &[1.0], &mut [1.0]), Err(SolverError::Length { .. })));
}

/// The reference gives NaN here; the paper's first-order step has no difference term.
#[test]
fn variant_bh1_reaches_noise_level_zero() {
    let schedule = Arc::new(Schedule::new(&SchedulerConfig::default(), 4).unwrap());
    let kind =
        SolverKind::UniPc(UniPcConfig { variant: UniPcVariant::Bh1, ..UniPcConfig::default() });
    let mut solver = kind.build(&schedule).unwrap();
    // A model that always predicts the same data leads there exactly in the last step.
    let data = 0.75;
    let mut sample = [2.0_f32];
    for i in 0..4 {
        let velocity = (sample[0] - data) / schedule.sigmas[i];
        step(&mut solver, &[velocity], &mut sample).unwrap();
    }
    assert!((sample[0] - data).abs() < 1e-6, "{sample:?}");
}

#[test]
fn caches_compute_when_the_window_changes_size() {
    let mut tea = TeaCache::new(TeaCacheFamily::Text1_3B, 1e9, false, 10).unwrap();
    assert_eq!(tea.decide(1, Some(0.1)), Decision::Reuse);
    assert_eq!(tea.decide(2, None), Decision::Compute);
    assert_eq!(tea.reused(), 1);
    tea.reset(10);
    assert_eq!(tea.reused(), 0);

    let mut easy = EasyCache::new(1e9, 2, 10).unwrap();
    for row in 0..2 {
        let input = tensor(&[1.0 + row as f32, 2.0]);
        assert_eq!(easy.decide(row, &input), Ok(Decision::Compute));
        easy.store(Branch::Cond, &input, &tensor(&[3.0 + 2.0 * row as f32, 3.0])).unwrap();
    }
    assert_eq!(easy.decide(2, &tensor(&[4.0, 2.0])), Ok(Decision::Reuse));
    assert_eq!(easy.decide(3, &tensor(&[4.0, 2.0, 1.0])), Ok(Decision::Compute));
    let other = easy.reuse(Branch::Cond, &mut tensor(&[0.0; 3]));
    assert!(matches!(other, Err(CacheError::Shape { .. })));
    let none = easy.reuse(Branch::Uncond, &mut tensor(&[0.0; 2]));
    assert!(matches!(none, Err(CacheError::Empty { .. })));
    assert!(easy.store(Branch::Cond, &tensor(&[1.0]), &tensor(&[1.0, 2.0])).is_err());
    easy.reset(10);
    assert_eq!(easy.reused(), 0);
    assert_eq!(easy.decide(2, &tensor(&[4.0, 2.0])), Ok(Decision::Compute));
    for threshold in [0.0, -1.0, f64::NAN] {
        assert!(TeaCache::new(TeaCacheFamily::Text14B, threshold, true, 4).is_err());
        assert!(EasyCache::new(threshold, 1, 4).is_err());
    }
}

#[test]
fn coefficients_exist_for_published_models_only() {
    assert_eq!(TeaCacheFamily::of(1536, false, 540), Some(TeaCacheFamily::Text1_3B));
    assert_eq!(TeaCacheFamily::of(5120, false, 720), Some(TeaCacheFamily::Text14B));
    assert_eq!(TeaCacheFamily::of(1536, true, 540), Some(TeaCacheFamily::Image540P));
    assert_eq!(TeaCacheFamily::of(5120, true, 720), Some(TeaCacheFamily::Image720P));
    assert_eq!(TeaCacheFamily::of(256, false, 128), None);
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_vec(&[values.len()], values.to_vec())
}

/// A step of plain values.
fn step(solver: &mut Solver, velocity: &[f32], sample: &mut [f32]) -> Result<(), SolverError> {
    let mut moved = tensor(sample);
    solver.step(&tensor(velocity).all_frames(), &mut moved.all_frames_mut(), None)?;
    sample.copy_from_slice(moved.data());
    Ok(())
}
