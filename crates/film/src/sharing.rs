//! How several devices share the denoising of a film.

use std::fmt;

use longreel_kernels::{Device, Pairs};
use longreel_models::{ModelError, SplitTransformer, Transformer};
use longreel_sampling::Branch;
use longreel_weights::TransformerConfig;
use serde::Serialize;

use crate::error::PlanError;
use crate::request::{CacheChoice, Carry, FilmRequest};

/// Which part of the work is a device's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sharing {
    /// Groups of devices that denoise: one for both branches of guidance, or one for each.
    pub groups: usize,
    /// Devices of a group, each with a strip of the picture.
    pub strips: usize,
    /// Whether the last device does nothing but encode and decode, and decodes a segment while the others
    /// denoise the next one. Otherwise the first one of those that denoise does.
    pub decoder: bool,
}

impl Sharing {
    /// One device that does everything.
    pub const ALONE: Self = Self { groups: 1, strips: 1, decoder: false };

    /// Ways to share a film of so many segments (endless when `None`) among `devices` devices, at least
    /// one. A branch of guidance needs nothing of the other one, so an even number of those that denoise is
    /// two groups where there is guidance. A step cache decides for both branches in turn, and a single
    /// group has them one after the other.
    ///
    /// # Errors
    /// Heads or rows of patches that cannot be shared out among so many.
    pub(crate) fn ways(
        devices: usize,
        segments: Option<usize>,
        request: &FilmRequest,
        model: &TransformerConfig,
    ) -> Result<Vec<Self>, PlanError> {
        let all = Self::by_rule(devices, request);
        // A segment that begins with frames waits for those of the one before.
        let apart = devices > 1
            && segments.is_none_or(|segments| segments > 1)
            && request.carry == Carry::Latents;
        let without_one =
            apart.then(|| Self { decoder: true, ..Self::by_rule(devices - 1, request) });
        let ways: Vec<_> = [Some(all), without_one]
            .into_iter()
            .flatten()
            .filter(|way| way.obstacle(request, model).is_none())
            .collect();
        if !ways.is_empty() {
            return Ok(ways);
        }
        let why = all.obstacle(request, model).unwrap_or_default();
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
        Self { groups, strips: devices / groups, decoder: false }
    }

    /// What a film takes on these devices when they work side by side, for the `denoise` of those that denoise and
    /// one device's `decode` of all its segments; of one segment when it is endless.
    pub(crate) fn cost(self, denoise: f64, decode: f64, segments: Option<usize>) -> f64 {
        match (self.decoder, segments) {
            (false, _) => denoise + decode,
            (true, None) => denoise.max(decode),
            (true, Some(segments)) => {
                // The first one is denoised, and the last one decoded, with nothing beside.
                let count = segments.max(1) as f64;
                let (denoise, decode) = (denoise / count, decode / count);
                denoise + (count - 1.0) * denoise.max(decode) + decode
            }
        }
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

    /// Devices that denoise.
    pub fn denoisers(self) -> usize {
        self.groups * self.strips
    }

    /// Devices in all.
    pub fn devices(self) -> usize {
        self.denoisers() + usize::from(self.decoder)
    }

    /// Which device encodes and decodes.
    pub(crate) fn decoder_of<T>(self, devices: &[T]) -> &T {
        if self.decoder { &devices[self.denoisers()] } else { &devices[0] }
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
        let all = self.devices();
        if self.decoder {
            write!(f, "{all}: the last one decodes a segment while the next one is denoised")?;
            let others = self.denoisers();
            return match (self.groups, self.strips) {
                (1, 1) => f.write_str(" by the first"),
                (1, _) => write!(f, " by the first {others}, each with a strip of the picture"),
                (_, 1) => write!(f, " by the first {others}, one for each pass of guidance"),
                (_, strips) => write!(
                    f,
                    " by the first {others}, {strips} for each pass of guidance, each with a strip of the \
                     picture"
                ),
            };
        }
        match (self.groups, self.strips) {
            (1, 1) => f.write_str("one"),
            (1, strips) => write!(f, "{strips}, each with a strip of the picture"),
            (groups, 1) => write!(f, "{groups}, one for each pass of guidance"),
            (_, strips) => write!(
                f,
                "{all}, {strips} for each pass of guidance, each with a strip of the picture"
            ),
        }
    }
}

/// The transformer on the devices that denoise.
pub struct Denoisers {
    groups: Vec<SplitTransformer>,
    /// Of the device that decodes, which has none of its weights.
    spare: Option<Transformer>,
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
        Ok(Self { groups, spare: ranks.next() })
    }

    /// The same copies in the groups of `sharing`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn arranged(self, sharing: Sharing) -> Result<Self, ModelError> {
        let now = Sharing {
            groups: self.groups.len(),
            strips: self.groups[0].devices().len(),
            decoder: self.spare.is_some(),
        };
        if now == sharing {
            return Ok(self);
        }
        let ranks = self.groups.into_iter().flat_map(SplitTransformer::into_ranks);
        Self::new(ranks.chain(self.spare).collect(), sharing)
    }

    /// Those of a branch of guidance.
    pub fn of(&self, branch: Branch) -> &SplitTransformer {
        &self.groups[branch as usize % self.groups.len()]
    }

    /// Where a segment's latents are kept while it is denoised: on the device that does all of it, or on the host where
    /// several have a share.
    pub fn home(&self) -> Device {
        match &self.groups[..] {
            [group] => group.home(),
            _ => Device::Cpu,
        }
    }

    /// How what self-attention exchanges goes from one GPU of a group to another; none where none does.
    pub fn way(&self) -> Option<String> {
        self.groups.iter().find_map(SplitTransformer::way)
    }

    /// Why it goes no better way; the same again and again.
    pub fn obstacles(&self) -> Vec<String> {
        self.groups.iter().flat_map(SplitTransformer::warnings).map(str::to_owned).collect()
    }

    /// What is not as good as it could be on a device, each told once.
    pub fn warnings(&self) -> Vec<String> {
        let gpus = self.groups.iter().flat_map(SplitTransformer::devices).filter_map(Device::gpu);
        gpus.flat_map(|gpu| gpu.warnings()).collect()
    }

    /// What sparse attention kept so far, on all devices.
    ///
    /// # Errors
    /// What went wrong on one.
    pub fn pairs(&self) -> Result<Pairs, ModelError> {
        let mut of_groups = self.groups.iter().map(SplitTransformer::pairs);
        of_groups.try_fold(Pairs::default(), |sum, pairs| Ok(sum + pairs?))
    }

    /// Whether the branches of guidance have devices of their own.
    pub fn are_apart(&self) -> bool {
        self.groups.len() > 1
    }
}
