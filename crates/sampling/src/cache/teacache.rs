//! TeaCache (Liu et al. 2024, arXiv:2411.19108): the change of the model's output is estimated from
//! the change of its time embedding, rescaled by a polynomial that was fitted for each model.
//!
//! Follows SkyReels-V2's own code (`skyreels_v2_infer/modules/transformer.py`, `initialize_teacache`
//! and `forward`, commit abed76f), whose coefficients are TeaCache's for Wan 2.1.
//!
//! One deliberate difference. The official code counts calls, two for each step, but restarts the
//! count after `num_steps` of them: warm-up comes a second time in the middle of a run, the last
//! step is never protected, and with an odd number of steps (or without guidance) the branches
//! exchange their residuals. Here rows are counted, as TeaCache's own Wan code intends.
//!
//! Both branches of guidance see the same embedding, so one decision is for both.

use super::{CacheError, Decision, Observed, check_threshold};

/// The models that coefficients are published for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TeaCacheFamily {
    /// Text to video and diffusion forcing, 1.3B.
    Text1_3B,
    /// Text to video and diffusion forcing, 14B.
    Text14B,
    /// Image to video at 540P (SkyReels-V2) or 480P (Wan 2.1).
    Image540P,
    /// Image to video at 720P.
    Image720P,
}

impl TeaCacheFamily {
    /// The family of a published model, by what its configuration says: width of the transformer,
    /// whether it takes image channels, and the height it was trained for (540 or 720). `None` for
    /// any other model, which has no coefficients; use [`super::EasyCache`] for those.
    pub fn of(dim: usize, image_model: bool, height: usize) -> Option<Self> {
        match (dim, image_model) {
            (1536, false) => Some(Self::Text1_3B),
            (5120, false) => Some(Self::Text14B),
            (1536 | 5120, true) if height < 720 => Some(Self::Image540P),
            (1536 | 5120, true) => Some(Self::Image720P),
            _ => None,
        }
    }

    /// The published polynomial, highest power first.
    fn coefficients(self, use_ret_steps: bool) -> [f64; 5] {
        match (self, use_ret_steps) {
            (Self::Image540P, true) => {
                [2.57151496e+05, -3.54229917e+04, 1.40286849e+03, -1.35890334e+01, 1.32517977e-01]
            }
            (Self::Image720P, true) => {
                [8.10705460e+03, 2.13393892e+03, -3.72934672e+02, 1.66203073e+01, -4.17769401e-02]
            }
            (Self::Image540P, false) => {
                [-3.02331670e+02, 2.23948934e+02, -5.25463970e+01, 5.87348440e+00, -2.01973289e-01]
            }
            (Self::Image720P, false) => {
                [-114.36346466, 65.26524496, -18.82220707, 4.91518089, -0.23412683]
            }
            (Self::Text1_3B, true) => {
                [-5.21862437e+04, 9.23041404e+03, -5.28275948e+02, 1.36987616e+01, -4.99875664e-02]
            }
            (Self::Text14B, true) => {
                [-3.03318725e+05, 4.90537029e+04, -2.65530556e+03, 5.87365115e+01, -3.15583525e-01]
            }
            (Self::Text1_3B, false) => {
                [2.39676752e+03, -1.31110545e+03, 2.01331979e+02, -8.29855975e+00, 1.37887774e-01]
            }
            (Self::Text14B, false) => {
                [-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404]
            }
        }
    }
}

/// The TeaCache strategy.
#[derive(Debug)]
pub struct TeaCache {
    coefficients: [f64; 5],
    threshold: f64,
    use_ret_steps: bool,
    rows: usize,
    /// Change since the last computed row.
    accumulated: f64,
    reused: usize,
}

impl TeaCache {
    /// TeaCache for a window of `rows` rows. A `threshold` of 0.2 (`--teacache_thresh`) is about
    /// three times as fast, 0.1 twice. With `use_ret_steps` the time projection is watched and the
    /// first five rows are always computed; without, the time embedding is, and the first and the
    /// last row are computed.
    ///
    /// # Errors
    /// When the threshold is not a positive number.
    pub fn new(
        family: TeaCacheFamily,
        threshold: f64,
        use_ret_steps: bool,
        rows: usize,
    ) -> Result<Self, CacheError> {
        Ok(Self {
            coefficients: family.coefficients(use_ret_steps),
            threshold: check_threshold(threshold)?,
            use_ret_steps,
            rows,
            accumulated: 0.0,
            reused: 0,
        })
    }

    /// Rows that are always computed: the warm-up, and without retention steps the last.
    fn is_protected(&self, row: usize) -> bool {
        if self.use_ret_steps { row < 5 } else { row < 1 || row + 1 >= self.rows }
    }

    /// What to watch.
    pub fn observed(&self) -> Observed {
        if self.use_ret_steps { Observed::TimeProjection } else { Observed::TimeEmbedding }
    }

    /// Decides about `row` of the timetable. `change` is the mean of |now - before| through the mean of
    /// |before|, of what is observed in this row and in the one before; `None` where the two cannot be
    /// compared or there is no residual to add: a window that has moved shows other frames, and what is
    /// known of the old ones says nothing.
    pub fn decide(&mut self, row: usize, change: Option<f64>) -> Decision {
        let decision = match change.filter(|_| !self.is_protected(row)) {
            None => Decision::Compute,
            Some(change) => {
                self.accumulated += self.coefficients.iter().fold(0.0, |sum, c| sum * change + c);
                if self.accumulated < self.threshold { Decision::Reuse } else { Decision::Compute }
            }
        };
        match decision {
            Decision::Compute => self.accumulated = 0.0,
            Decision::Reuse => self.reused += 1,
        }
        decision
    }

    /// Forgets everything, for a window of `rows` rows.
    pub fn reset(&mut self, rows: usize) {
        (self.rows, self.accumulated, self.reused) = (rows, 0.0, 0);
    }

    /// Rows answered with [`Decision::Reuse`] since the last reset, for reports.
    pub fn reused(&self) -> usize {
        self.reused
    }
}
