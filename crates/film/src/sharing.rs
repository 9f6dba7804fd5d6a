//! How several devices share the denoising of a film.

use std::fmt;

use longreel_models::{ModelError, SplitTransformer, Transformer};
use longreel_sampling::Branch;
use longreel_weights::TransformerConfig;
use serde::Serialize;

use crate::error::PlanError;
use crate::request::{CacheChoice, FilmRequest};

/// Which part of the work is a device's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sharing {
    /// Groups of devices: one for both branches of guidance, or one for each.
    pub groups: usize,
    /// Devices of a group, each with a strip of the picture.
    pub strips: usize,
}

impl Sharing {
    /// Of `devices` devices. A branch of guidance needs nothing of the other one, so an even number is
    /// two groups where there is guidance. A step cache decides for both branches in turn, and a single
    /// group has them one after the other.
    ///
    /// # Errors
    /// Heads or rows of patches that cannot be shared out among so many.
    pub fn new(
        devices: usize,
        request: &FilmRequest,
        model: &TransformerConfig,
    ) -> Result<Self, PlanError> {
        let sharing = Self::by_rule(devices, request);
        let Some(why) = sharing.obstacle(request, model) else { return Ok(sharing) };
        let fewer = (1..devices)
            .rev()
            .find(|&n| Self::by_rule(n, request).obstacle(request, model).is_none());
        let fix = format!("give {} of them", fewer.unwrap_or(1));
        Err(PlanError::value("--device", format!("(a list of {devices})"), why, fix))
    }

    fn by_rule(devices: usize, request: &FilmRequest) -> Self {
        let apart = request.guidance_scale > 1.0
            && request.cache == CacheChoice::Off
            && devices.is_multiple_of(2);
        let groups = if apart { 2 } else { 1 };
        Self { groups, strips: devices / groups }
    }

    /// Why a group cannot share the work.
    fn obstacle(self, request: &FilmRequest, model: &TransformerConfig) -> Option<String> {
        let (heads, rows) = (model.num_attention_heads, rows(model, request.height));
        if !heads.is_multiple_of(self.strips) {
            let strips = self.strips;
            return Some(format!("{strips} devices cannot share {heads} attention heads evenly"));
        }
        (rows < self.strips).then(|| {
            format!("{} devices cannot share {rows} rows of patches of the picture", self.strips)
        })
    }

    /// Devices in all.
    pub fn devices(self) -> usize {
        self.groups * self.strips
    }

    /// Most of `tokens` tokens of whole frames that are one device's.
    pub(crate) fn tokens(self, tokens: usize, height: usize, model: &TransformerConfig) -> usize {
        let rows = rows(model, height).max(1);
        (tokens * rows.div_ceil(self.strips)).div_ceil(rows)
    }
}

/// Rows of patches of a picture.
fn rows(model: &TransformerConfig, height: usize) -> usize {
    height / 8 / model.patch_size[1]
}

impl fmt::Display for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.groups, self.strips) {
            (1, 1) => f.write_str("one"),
            (1, strips) => write!(f, "{strips}, each with a strip of the picture"),
            (groups, 1) => write!(f, "{groups}, one for each pass of guidance"),
            (_, strips) => write!(
                f,
                "{}, {strips} for each pass of guidance, each with a strip of the picture",
                self.devices()
            ),
        }
    }
}

/// The transformer on the devices that denoise.
pub struct Denoisers {
    groups: Vec<SplitTransformer>,
}

impl Denoisers {
    /// Copies of one network, each on its device, in the groups of `sharing`.
    ///
    /// # Errors
    /// What cannot be shared out; the system gives no threads.
    pub fn new(ranks: Vec<Transformer>, sharing: Sharing) -> Result<Self, ModelError> {
        assert_eq!(ranks.len(), sharing.devices(), "a plan for other devices");
        let mut ranks = ranks.into_iter();
        let groups = (0..sharing.groups)
            .map(|_| SplitTransformer::new(ranks.by_ref().take(sharing.strips).collect()))
            .collect::<Result<_, _>>()?;
        Ok(Self { groups })
    }

    /// The same copies in the groups of `sharing`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn arranged(self, sharing: Sharing) -> Result<Self, ModelError> {
        let now = Sharing { groups: self.groups.len(), strips: self.groups[0].devices().len() };
        if now == sharing {
            return Ok(self);
        }
        Self::new(self.groups.into_iter().flat_map(SplitTransformer::into_ranks).collect(), sharing)
    }

    /// Those of a branch of guidance.
    pub fn of(&self, branch: Branch) -> &SplitTransformer {
        &self.groups[branch as usize % self.groups.len()]
    }

    /// Whether the branches of guidance have devices of their own.
    pub fn are_apart(&self) -> bool {
        self.groups.len() > 1
    }
}
