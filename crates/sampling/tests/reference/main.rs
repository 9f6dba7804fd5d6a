//! Equality with the reference, on fixtures that `parity/sampling.py` makes with diffusers 0.42.1.
//! After a change of that script or a new version of the reference, run it again.

mod caches;
mod films;
mod noise;
mod schedules;
mod segments;
mod solvers;
mod timetables;
mod windows;

use longreel_kernels::Tensor;
use longreel_sampling::{Solver, SolverError};
use serde_json::Value;

/// Reads a fixture.
fn fixture(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{path}: {error}; make it with parity/sampling.py"));
    serde_json::from_str(&text).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("not a list: {value}"))
}

fn count(value: &Value) -> usize {
    value.as_u64().unwrap_or_else(|| panic!("not a count: {value}")) as usize
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

fn floats(value: &Value) -> Vec<f32> {
    list(value).iter().map(|x| number(x) as f32).collect()
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_vec(&[values.len()], values.to_vec())
}

/// A step of plain values.
fn step(
    solver: &mut Solver,
    velocity: &[f32],
    sample: &mut [f32],
    noise: Option<&[f32]>,
) -> Result<(), SolverError> {
    let (mut moved, noise) = (tensor(sample), noise.map(tensor));
    let noise = noise.as_ref().map(Tensor::all_frames);
    solver.step(&tensor(velocity).all_frames(), &mut moved.all_frames_mut(), noise.as_ref())?;
    sample.copy_from_slice(moved.data());
    Ok(())
}

/// Compares with the reference: |ours - theirs| <= tolerance * max(1, largest |theirs|). Reports
/// the worst index with both values.
#[track_caller]
fn assert_close(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len(), "{what}: lengths");
    let scale = theirs.iter().fold(1.0_f32, |scale, x| scale.max(x.abs()));
    let worst = (0..ours.len()).max_by(|&i, &j| {
        let error = |k: usize| (ours[k] - theirs[k]).abs();
        // NaN counts as the largest error of all.
        error(i).total_cmp(&error(j))
    });
    if let Some(i) = worst {
        let error = (ours[i] - theirs[i]).abs();
        assert!(
            error <= tolerance * scale,
            "{what}: worst at {i}: ours {} theirs {} (error {error}, allowed {})",
            ours[i],
            theirs[i],
            tolerance * scale
        );
    }
}
