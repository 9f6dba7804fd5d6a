//! EasyCache (Zhou et al. 2025, "Less is Enough", arXiv:2507.02860): no coefficients. The model's
//! output is taken to change in proportion to its input, and the factor is measured in the rows that
//! are computed. Follows the authors' code for Wan 2.1 (`EasyCache4Wan2.1/easycache_generate.py`).
//!
//! The conditional branch decides for both.
//!
//! ```text
//! match cache.decide(row, input) {                         // of the conditional branch
//!     Decision::Compute => { output = run(input); cache.store(branch, input, output)?; }
//!     Decision::Reuse => cache.reuse(branch, input)?,      // input becomes the output
//! }
//! ```

use super::{Branch, CacheError, Decision, check_threshold};

/// The EasyCache strategy.
#[derive(Debug)]
pub struct EasyCache {
    threshold: f64,
    warmup_rows: usize,
    rows: usize,
    /// Change of the output for each unit of change of the input, k of the paper.
    rate: Option<f64>,
    accumulated: f64,
    /// Conditional input of the row before, computed or not.
    previous_input: Vec<f32>,
    /// Conditional input and output of the last computed row.
    computed_input: Vec<f32>,
    computed_output: Vec<f32>,
    residuals: Residuals,
    reused: usize,
}

impl EasyCache {
    /// The authors' values: threshold 0.05, ten rows of warm-up.
    pub const DEFAULT: (f64, usize) = (0.05, 10);

    /// EasyCache for a window of `rows` rows, of which the first `warmup_rows` and the last are
    /// always computed. A higher `threshold` reuses more.
    ///
    /// # Errors
    /// When the threshold is not a positive number.
    pub fn new(threshold: f64, warmup_rows: usize, rows: usize) -> Result<Self, CacheError> {
        Ok(Self {
            threshold: check_threshold(threshold)?,
            warmup_rows,
            rows,
            rate: None,
            accumulated: 0.0,
            previous_input: Vec::new(),
            computed_input: Vec::new(),
            computed_output: Vec::new(),
            residuals: Residuals::default(),
            reused: 0,
        })
    }

    /// Decides about `row` of the timetable, of which `input` is what the conditional branch is given.
    pub fn decide(&mut self, row: usize, input: &[f32]) -> Decision {
        let decision = self.judge(row, input);
        match decision {
            Decision::Compute => self.accumulated = 0.0,
            Decision::Reuse => self.reused += 1,
        }
        self.previous_input.clear();
        self.previous_input.extend_from_slice(input);
        decision
    }

    fn judge(&mut self, row: usize, input: &[f32]) -> Decision {
        let protected = row < self.warmup_rows || row + 1 >= self.rows;
        // A window that has moved shows other frames; what is known of the old ones says nothing.
        let comparable =
            self.previous_input.len() == input.len() && self.computed_output.len() == input.len();
        match self.rate {
            Some(rate) if !protected && comparable => {
                let change = mean_change(input, &self.previous_input);
                self.accumulated += rate * (change / mean_size(&self.computed_output));
                if self.accumulated < self.threshold { Decision::Reuse } else { Decision::Compute }
            }
            _ => Decision::Compute,
        }
    }

    /// Keeps `output - input` of a computed branch for later rows.
    ///
    /// # Errors
    /// When the lengths differ.
    pub fn store(
        &mut self,
        branch: Branch,
        input: &[f32],
        output: &[f32],
    ) -> Result<(), CacheError> {
        self.residuals.store(branch, input, output)?;
        if branch == Branch::Cond {
            if self.computed_output.len() == output.len() {
                let input_change = mean_change(input, &self.computed_input);
                // An unchanged input tells nothing about the rate; the one known stays.
                if input_change > 0.0 {
                    self.rate = Some(mean_change(output, &self.computed_output) / input_change);
                }
            } else {
                self.rate = None;
            }
            for (kept, new) in
                [(&mut self.computed_input, input), (&mut self.computed_output, output)]
            {
                kept.clear();
                kept.extend_from_slice(new);
            }
        }
        Ok(())
    }

    /// Adds the residual: `values` is the branch's input and becomes its output.
    ///
    /// # Errors
    /// When nothing was stored for the branch, or something of another length; after a
    /// [`Decision::Reuse`] for an input of unchanged size neither happens.
    pub fn reuse(&self, branch: Branch, values: &mut [f32]) -> Result<(), CacheError> {
        self.residuals.reuse(branch, values)
    }

    /// Forgets everything, for a window of `rows` rows.
    pub fn reset(&mut self, rows: usize) {
        // The threshold was checked when this cache was made.
        *self = Self {
            threshold: self.threshold,
            warmup_rows: self.warmup_rows,
            rows,
            rate: None,
            accumulated: 0.0,
            previous_input: Vec::new(),
            computed_input: Vec::new(),
            computed_output: Vec::new(),
            residuals: Residuals::default(),
            reused: 0,
        };
    }

    /// Rows answered with [`Decision::Reuse`] since the last reset, for reports.
    pub fn reused(&self) -> usize {
        self.reused
    }
}

/// The stored residual of each branch.
#[derive(Debug, Default)]
struct Residuals([Option<Vec<f32>>; 2]);

impl Residuals {
    fn store(&mut self, branch: Branch, input: &[f32], output: &[f32]) -> Result<(), CacheError> {
        if input.len() != output.len() {
            return Err(CacheError::Length { stored: input.len(), given: output.len() });
        }
        let residual = self.0[branch as usize].get_or_insert_default();
        residual.clear();
        residual.extend(output.iter().zip(input).map(|(&o, &i)| o - i));
        Ok(())
    }

    fn reuse(&self, branch: Branch, values: &mut [f32]) -> Result<(), CacheError> {
        let residual = self.0[branch as usize].as_ref().ok_or(CacheError::Empty { branch })?;
        if residual.len() != values.len() {
            return Err(CacheError::Length { stored: residual.len(), given: values.len() });
        }
        for (value, &r) in values.iter_mut().zip(residual) {
            *value += r;
        }
        Ok(())
    }
}

/// Mean of |a - b|, summed in f64.
fn mean_change(a: &[f32], b: &[f32]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from((a - b).abs())).sum();
    sum / a.len().max(1) as f64
}

/// Mean of |a|, summed in f64.
fn mean_size(a: &[f32]) -> f64 {
    a.iter().map(|&a| f64::from(a.abs())).sum::<f64>() / a.len().max(1) as f64
}
