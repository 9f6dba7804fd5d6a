//! `scheduler_config.json`: what a checkpoint says about its sampling, read as data.

use serde_json::{Map, Value};

use crate::schedule::{MAX_STEPS, ScheduleError};
use crate::solver::{SolverKind, UniPcConfig, UniPcVariant};

/// Which published scheduler a configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulerKind {
    /// `UniPCMultistepScheduler`, what every SkyReels-V2 and Wan 2.1 checkpoint names.
    UniPc,
    /// `FlowMatchEulerDiscreteScheduler`.
    Euler,
}

/// A validated scheduler configuration for flow matching.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// Which scheduler.
    pub kind: SchedulerKind,
    /// Train timesteps, 1000 in every published model.
    pub num_train_timesteps: usize,
    /// Shift of the noise levels towards noise; 8 for text, 5 or 3 for images.
    pub flow_shift: f64,
    /// Whether the last noise level is 0 (`final_sigmas_type`), else that of the last step.
    pub final_sigma_zero: bool,
    /// The multistep solver's settings; Euler has none.
    pub unipc: UniPcConfig,
    /// Keys of the file that this crate does not know and that therefore changed nothing, for a
    /// warning; the reference ignores unknown keys too.
    pub ignored: Vec<String>,
}

impl Default for SchedulerConfig {
    /// UniPC as SkyReels-V2 uses it for text to video: order 2, bh2, shift 8.
    fn default() -> Self {
        Self {
            kind: SchedulerKind::UniPc,
            num_train_timesteps: 1000,
            flow_shift: 8.0,
            final_sigma_zero: true,
            unipc: UniPcConfig::default(),
            ignored: Vec::new(),
        }
    }
}

impl SchedulerConfig {
    /// The same configuration with another shift.
    ///
    /// # Errors
    /// When the shift is not a positive number.
    pub fn with_flow_shift(mut self, flow_shift: f64) -> Result<Self, ScheduleError> {
        self.flow_shift = positive_shift(flow_shift)?;
        Ok(self)
    }

    /// The solver this configuration names. Diffusion-forcing models want
    /// [`SolverKind::in_place`] on top.
    pub fn solver(&self) -> SolverKind {
        match self.kind {
            SchedulerKind::UniPc => SolverKind::UniPc(self.unipc.clone()),
            SchedulerKind::Euler => SolverKind::Euler,
        }
    }

    /// Reads a `scheduler_config.json`. Absent keys have the defaults of the class named in
    /// `_class_name` (UniPC when none is named).
    ///
    /// # Errors
    /// When it is no JSON object, or a key has a value that is not implemented; the error names
    /// the key, the value and what works.
    pub fn from_json(json: &str) -> Result<Self, ScheduleError> {
        let map: Map<String, Value> = serde_json::from_str(json)
            .map_err(|error| ScheduleError::Json { reason: error.to_string() })?;
        let keys = Keys(&map);
        match map.get("_class_name").and_then(Value::as_str) {
            Some("UniPCMultistepScheduler" | "FlowUniPCMultistepScheduler") | None => unipc(keys),
            Some("FlowMatchEulerDiscreteScheduler") => euler(keys),
            Some(_) => Err(keys.refuse(
                "_class_name",
                "use UniPCMultistepScheduler or FlowMatchEulerDiscreteScheduler",
            )),
        }
    }
}

fn unipc(keys: Keys<'_>) -> Result<SchedulerConfig, ScheduleError> {
    keys.expect_text(
        "prediction_type",
        "epsilon",
        &["flow_prediction"],
        "only flow_prediction is; this is not a flow-matching model",
    )?;
    if !keys.flag("use_flow_sigmas", false)? {
        return Err(
            keys.refuse("use_flow_sigmas", "set it to true: only flow matching is supported")
        );
    }
    for name in [
        "thresholding",
        "use_karras_sigmas",
        "use_exponential_sigmas",
        "use_beta_sigmas",
        "use_dynamic_shifting",
    ] {
        if keys.flag(name, false)? {
            return Err(keys.refuse(name, "set it to false"));
        }
    }
    for name in ["solver_p", "shift_terminal"] {
        if keys.present(name) {
            return Err(keys.refuse(name, "set it to null"));
        }
    }
    if !keys.flag("predict_x0", true)? {
        return Err(keys.refuse(
            "predict_x0",
            "set it to true; the reference has no flow prediction without it either",
        ));
    }
    let variant = match keys.text("solver_type", "bh2")? {
        "bh1" => UniPcVariant::Bh1,
        // The reference takes the names of other solvers' variants for bh2.
        "bh2" | "midpoint" | "heun" | "logrho" => UniPcVariant::Bh2,
        _ => return Err(keys.refuse("solver_type", "use bh2 or bh1")),
    };
    let order = keys.number("solver_order", 2)?;
    if !(1..=3).contains(&order) {
        return Err(keys.refuse("solver_order", "use 1, 2 or 3"));
    }
    let final_sigma_zero = match keys.text("final_sigmas_type", "zero")? {
        "zero" => true,
        "sigma_min" => false,
        _ => return Err(keys.refuse("final_sigmas_type", "use zero or sigma_min")),
    };
    let lower_order_final = keys.flag("lower_order_final", true)?;
    // The last step goes to noise level 0, or, with sigma_min, from a level to itself.
    if !lower_order_final && order > if final_sigma_zero { 1 } else { 2 } {
        return Err(keys.refuse(
            "lower_order_final",
            "set it to true: a last step of this order divides by zero",
        ));
    }
    let unipc = UniPcConfig {
        order,
        variant,
        lower_order_final,
        disable_corrector: keys.steps("disable_corrector")?,
        in_place: false,
    };
    Ok(SchedulerConfig {
        kind: SchedulerKind::UniPc,
        num_train_timesteps: keys.train_timesteps()?,
        flow_shift: positive_shift(keys.real("flow_shift", 1.0)?)?,
        final_sigma_zero,
        unipc,
        ignored: keys.unknown(UNIPC_KEYS),
    })
}

fn euler(keys: Keys<'_>) -> Result<SchedulerConfig, ScheduleError> {
    for name in [
        "use_dynamic_shifting",
        "invert_sigmas",
        "use_karras_sigmas",
        "use_exponential_sigmas",
        "use_beta_sigmas",
        "stochastic_sampling",
    ] {
        if keys.flag(name, false)? {
            return Err(keys.refuse(name, "set it to false"));
        }
    }
    if keys.present("shift_terminal") {
        return Err(keys.refuse("shift_terminal", "set it to null"));
    }
    Ok(SchedulerConfig {
        kind: SchedulerKind::Euler,
        num_train_timesteps: keys.train_timesteps()?,
        flow_shift: positive_shift(keys.real("shift", 1.0)?)?,
        final_sigma_zero: true,
        unipc: UniPcConfig::default(),
        ignored: keys.unknown(EULER_KEYS),
    })
}

/// Keys of the UniPC scheduler; those that are not read have no effect with flow sigmas.
const UNIPC_KEYS: &[&str] = &[
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "solver_order",
    "prediction_type",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "predict_x0",
    "solver_type",
    "lower_order_final",
    "disable_corrector",
    "solver_p",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_flow_sigmas",
    "flow_shift",
    "timestep_spacing",
    "steps_offset",
    "final_sigmas_type",
    "rescale_betas_zero_snr",
    "use_dynamic_shifting",
    "time_shift_type",
    "sigma_min",
    "sigma_max",
    "shift_terminal",
];

/// Keys of the Euler scheduler; those that are not read belong to dynamic shifting.
const EULER_KEYS: &[&str] = &[
    "num_train_timesteps",
    "shift",
    "use_dynamic_shifting",
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
    "invert_sigmas",
    "shift_terminal",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "time_shift_type",
    "stochastic_sampling",
];

fn positive_shift(flow_shift: f64) -> Result<f64, ScheduleError> {
    // The upper bound keeps every sigma of the table below 1 apart from its neighbour in f32.
    if flow_shift > 0.0 && flow_shift <= 1000.0 {
        Ok(flow_shift)
    } else {
        Err(ScheduleError::Shift { flow_shift })
    }
}

/// Typed access to the keys of a configuration, with refusals that name key and value.
#[derive(Clone, Copy)]
struct Keys<'a>(&'a Map<String, Value>);

impl<'a> Keys<'a> {
    fn get(self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn refuse(self, name: &str, way_out: &'static str) -> ScheduleError {
        let mut value = self.0.get(name).map_or("absent".to_owned(), Value::to_string);
        // The value is a stranger's; a message is no place for all of a long one.
        if let Some((cut, _)) = value.char_indices().nth(80) {
            value.truncate(cut);
            value.push_str("...");
        }
        ScheduleError::Unsupported { name: name.to_owned(), value, way_out }
    }

    /// Whether the key holds anything that Python would call true.
    fn present(self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| *value != Value::Bool(false) && value.as_f64() != Some(0.0))
    }

    fn flag(self, name: &str, default: bool) -> Result<bool, ScheduleError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.refuse(name, "use true or false")),
        }
    }

    fn text(self, name: &str, default: &'a str) -> Result<&'a str, ScheduleError> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value.as_str().ok_or_else(|| self.refuse(name, "use a string")),
        }
    }

    fn expect_text(
        self,
        name: &str,
        default: &'a str,
        allowed: &[&str],
        way_out: &'static str,
    ) -> Result<(), ScheduleError> {
        if allowed.contains(&self.text(name, default)?) {
            Ok(())
        } else {
            Err(self.refuse(name, way_out))
        }
    }

    fn number(self, name: &str, default: usize) -> Result<usize, ScheduleError> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value
                .as_u64()
                .and_then(|number| usize::try_from(number).ok())
                .ok_or_else(|| self.refuse(name, "use a whole number")),
        }
    }

    fn real(self, name: &str, default: f64) -> Result<f64, ScheduleError> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| self.refuse(name, "use a number")),
        }
    }

    fn train_timesteps(self) -> Result<usize, ScheduleError> {
        let num_train_timesteps = self.number("num_train_timesteps", 1000)?;
        if (2..=MAX_STEPS).contains(&num_train_timesteps) {
            Ok(num_train_timesteps)
        } else {
            Err(ScheduleError::TrainTimesteps { num_train_timesteps })
        }
    }

    fn steps(self, name: &str) -> Result<Vec<usize>, ScheduleError> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let refuse = || self.refuse(name, "use a list of step numbers, or []");
        let list = value.as_array().ok_or_else(refuse)?;
        list.iter()
            .map(|step| {
                step.as_u64().and_then(|step| usize::try_from(step).ok()).ok_or_else(refuse)
            })
            .collect()
    }

    fn unknown(self, known: &[&str]) -> Vec<String> {
        self.0
            .keys()
            .filter(|key| !key.starts_with('_') && !known.contains(&key.as_str()))
            .cloned()
            .collect()
    }
}
