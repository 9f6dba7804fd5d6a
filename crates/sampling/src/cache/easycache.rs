//! EasyCache (Zhou et al. 2025, "Less is Enough", arXiv:2507.02860): no coefficients. The model's
//! output is taken to change in proportion to its input, and the factor is measured in the rows that
//! are computed. Follows the authors' code for Wan 2.1 (`EasyCache4Wan2.1/easycache_generate.py`).
//!
//! The conditional branch decides for both.

use super::{
    Branch, CacheError, Decision, Observed, Residuals, Span, StepCache, check_threshold,
    mean_change, mean_size,
};

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
    decision: Decision,
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
            decision: Decision::Compute,
            residuals: Residuals::default(),
            reused: 0,
        })
    }

    /// The decision of the conditional branch.
    fn decide_pair(&mut self, row: usize, input: &[f32]) -> Decision {
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
}

impl StepCache for EasyCache {
    fn observed(&self) -> Observed {
        Observed::ModelInput
    }

    fn span(&self) -> Span {
        Span::Model
    }

    fn decide(&mut self, branch: Branch, row: usize, observed: &[f32]) -> Decision {
        if branch == Branch::Cond {
            self.decision = self.decide_pair(row, observed);
            if self.decision == Decision::Compute {
                self.accumulated = 0.0;
            }
            self.previous_input.clear();
            self.previous_input.extend_from_slice(observed);
        }
        let decision = if self.residuals.has(branch) { self.decision } else { Decision::Compute };
        self.reused += usize::from(decision == Decision::Reuse);
        decision
    }

    fn store(&mut self, branch: Branch, input: &[f32], output: &[f32]) -> Result<(), CacheError> {
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

    fn reuse(&self, branch: Branch, values: &mut [f32]) -> Result<(), CacheError> {
        self.residuals.reuse(branch, values)
    }

    fn reset(&mut self, rows: usize) {
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
            decision: Decision::Compute,
            residuals: Residuals::default(),
            reused: 0,
        };
    }

    fn reused(&self) -> usize {
        self.reused
    }
}
