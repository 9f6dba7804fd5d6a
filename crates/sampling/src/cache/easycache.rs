//! EasyCache (Zhou et al. 2025, "Less is Enough", arXiv:2507.02860): no coefficients. The model's
//! output is taken to change in proportion to its input, and the factor is measured in the rows that
//! are computed. Follows the authors' code for Wan 2.1 (`EasyCache4Wan2.1/easycache_generate.py`).
//!
//! The conditional branch decides for both.
//!
//! ```text
//! match cache.decide(row, input)? {                        // of the conditional branch
//!     Decision::Compute => { output = run(input); cache.store(branch, input, output)?; }
//!     Decision::Reuse => cache.reuse(branch, input)?,      // input becomes the output
//! }
//! ```

use longreel_kernels::{Tensor, ops};

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
    previous_input: Option<Tensor>,
    /// Of the last computed row.
    computed: Option<Computed>,
    residuals: Residuals,
    reused: usize,
}

/// Conditional input and output of a computed row.
#[derive(Debug)]
struct Computed {
    input: Tensor,
    output: Tensor,
    /// Mean of |output|.
    size: f64,
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
        Ok(Self::begin(check_threshold(threshold)?, warmup_rows, rows))
    }

    /// Of which nothing is known yet.
    fn begin(threshold: f64, warmup_rows: usize, rows: usize) -> Self {
        Self {
            threshold,
            warmup_rows,
            rows,
            rate: None,
            accumulated: 0.0,
            previous_input: None,
            computed: None,
            residuals: Residuals::default(),
            reused: 0,
        }
    }

    /// Decides about `row` of the timetable, of which `input` is what the conditional branch is given, `f32`.
    ///
    /// # Errors
    /// What went wrong on the device.
    pub fn decide(&mut self, row: usize, input: &Tensor) -> Result<Decision, CacheError> {
        let decision = self.judge(row, input)?;
        match decision {
            Decision::Compute => self.accumulated = 0.0,
            Decision::Reuse => self.reused += 1,
        }
        keep(&mut self.previous_input, input);
        Ok(decision)
    }

    fn judge(&mut self, row: usize, input: &Tensor) -> Result<Decision, CacheError> {
        let protected = row < self.warmup_rows || row + 1 >= self.rows;
        // A window that has moved shows other frames; what is known of the old ones says nothing.
        let comparable = |other: &&Tensor| other.shape() == input.shape();
        let previous = self.previous_input.as_ref().filter(comparable);
        let computed = self.computed.as_ref().filter(|computed| comparable(&&computed.output));
        Ok(match (self.rate, previous, computed) {
            (Some(rate), Some(previous), Some(computed)) if !protected => {
                let [change, _] = ops::change(input, previous)?;
                self.accumulated += rate * (change / computed.size);
                if self.accumulated < self.threshold { Decision::Reuse } else { Decision::Compute }
            }
            _ => Decision::Compute,
        })
    }

    /// Keeps `output - input` of a computed branch for later rows, both `f32` on one device.
    ///
    /// # Errors
    /// When the shapes differ; what went wrong on the device.
    pub fn store(
        &mut self,
        branch: Branch,
        input: &Tensor,
        output: &Tensor,
    ) -> Result<(), CacheError> {
        self.residuals.store(branch, input, output)?;
        if branch == Branch::Uncond {
            return Ok(());
        }
        let [_, size] = ops::change(output, output)?;
        let before = self.computed.take().filter(|before| before.output.shape() == output.shape());
        let Some(mut computed) = before else {
            self.rate = None;
            let [input, output] = [input, output].map(|tensor| tensor.clone().into_kept());
            self.computed = Some(Computed { input, output, size });
            return Ok(());
        };
        let [input_change, _] = ops::change(input, &computed.input)?;
        // An unchanged input tells nothing about the rate; the one known stays.
        if input_change > 0.0 {
            let [output_change, _] = ops::change(output, &computed.output)?;
            self.rate = Some(output_change / input_change);
        }
        computed.input.write0(0, input, 0..input.dim(0));
        computed.output.write0(0, output, 0..output.dim(0));
        self.computed = Some(Computed { size, ..computed });
        Ok(())
    }

    /// Adds the residual: `values` is the branch's input and becomes its output.
    ///
    /// # Errors
    /// When nothing was stored for the branch, or something of another shape; after a
    /// [`Decision::Reuse`] for an input of unchanged shape neither happens.
    pub fn reuse(&self, branch: Branch, values: &mut Tensor) -> Result<(), CacheError> {
        self.residuals.reuse(branch, values)
    }

    /// Forgets everything, for a window of `rows` rows.
    pub fn reset(&mut self, rows: usize) {
        *self = Self::begin(self.threshold, self.warmup_rows, rows);
    }

    /// Rows answered with [`Decision::Reuse`] since the last reset, for reports.
    pub fn reused(&self) -> usize {
        self.reused
    }
}

/// The stored residual of each branch, in what its device computes in.
#[derive(Debug, Default)]
struct Residuals([Option<Tensor>; 2]);

impl Residuals {
    fn store(&mut self, branch: Branch, input: &Tensor, output: &Tensor) -> Result<(), CacheError> {
        check_shapes(input, output)?;
        self.0[branch as usize] = Some(ops::difference(output, input).into_kept());
        Ok(())
    }

    fn reuse(&self, branch: Branch, values: &mut Tensor) -> Result<(), CacheError> {
        let residual = self.0[branch as usize].as_ref().ok_or(CacheError::Empty { branch })?;
        check_shapes(residual, values)?;
        ops::gate_residual(values, residual, None);
        Ok(())
    }
}

fn check_shapes(stored: &Tensor, given: &Tensor) -> Result<(), CacheError> {
    if stored.shape() == given.shape() {
        return Ok(());
    }
    let [stored, given] = [stored, given].map(|tensor| tensor.shape().to_vec());
    Err(CacheError::Shape { stored, given })
}

/// Remembers a tensor, in the place of the one before where that fits.
fn keep(kept: &mut Option<Tensor>, tensor: &Tensor) {
    match kept {
        Some(kept) if kept.shape() == tensor.shape() => kept.write0(0, tensor, 0..tensor.dim(0)),
        _ => *kept = Some(tensor.clone().into_kept()),
    }
}
