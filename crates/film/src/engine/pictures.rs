//! What a film starts from and ends in, as the networks are given it.

use std::path::Path;

use longreel_kernels::{Device, Tensor};
use longreel_media::Frame;
use longreel_models::{ClipPreprocess, ClipVision};
use longreel_weights::ModelKind;

use super::{Engine, Networks};
use crate::condition::{self, Conditions, load_fitted, load_tail, to_tensor};
use crate::error::FilmError;
use crate::events::{Event, Observer};
use crate::kept::Kept;
use crate::plan::{FilmPlan, video_history_frames};
use crate::request::{FilmRequest, StartFrom};

/// Pictures, brought to the film's size and as they were.
pub(super) struct Images {
    first: Option<(Frame, Frame)>,
    last: Option<(Frame, Frame)>,
}

/// Pictures before the VAE is there.
pub(super) enum Seen {
    /// The run has begun before, and kept all that is needed.
    Kept(Kept),
    /// With CLIP's view of them.
    Now(Images, Option<Tensor>),
}

impl Engine {
    /// Reads the pictures that a request names.
    pub(super) fn look(
        &self,
        device: &Device,
        request: &FilmRequest,
        observer: &mut dyn Observer,
    ) -> Result<Seen, FilmError> {
        let mut load = |path: &Path| load_fitted(path, request, observer);
        let images = Images {
            first: match &request.start {
                StartFrom::Image(path) => Some(load(path)?),
                _ => None,
            },
            last: request.end_image.as_deref().map(load).transpose()?,
        };
        let embeds = self.image_embeds(device, &images, observer)?;
        Ok(Seen::Now(images, embeds))
    }

    /// CLIP's view, for models that look at it.
    fn image_embeds(
        &self,
        device: &Device,
        images: &Images,
        observer: &mut dyn Observer,
    ) -> Result<Option<Tensor>, FilmError> {
        if self.facts.kind == ModelKind::DiffusionForcing {
            return Ok(None);
        }
        let (Some((_, first)), Some((config, source))) =
            (&images.first, self.folder.image_encoder()?)
        else {
            return Ok(None);
        };
        observer.event(Event::Stage { what: "looking at the image".into() });
        let clip = ClipVision::load(&config, source)?.on(device);
        let preprocess = match self.folder.image_processor_json() {
            Some(json) => ClipPreprocess::from_json(json)?,
            None => ClipPreprocess::default(),
        };
        let mut seen = vec![first];
        seen.extend(images.last.as_ref().map(|(_, original)| original));
        let embeds = condition::image_embeds(&clip, &preprocess, &seen)?;
        match embeds.data().iter().all(|v| v.is_finite()) {
            true => Ok(Some(embeds)),
            false => Err(FilmError::NotFinite { what: "the image encoder's answer".into() }),
        }
    }

    /// What the networks are given besides the prompt. What comes of pictures is kept in the run's `folder`.
    pub(super) fn conditions(
        &self,
        networks: &Networks,
        plan: &FilmPlan,
        seen: Seen,
        resumed: bool,
        folder: &Path,
        observer: &mut dyn Observer,
    ) -> Result<Kept, FilmError> {
        let (images, image_embeds) = match seen {
            Seen::Kept(kept) => return Ok(kept),
            Seen::Now(images, image_embeds) => (images, image_embeds),
        };
        let request = plan.request();
        let encoder = &networks.vae.encoder;
        let mut conditions = Conditions::default();
        let alone = |frame| condition::encode(encoder, &to_tensor(std::slice::from_ref(frame)));
        if let Some((first, _)) = &images.first {
            if self.facts.kind == ModelKind::DiffusionForcing {
                conditions.prefix = Some(alone(first)?);
                conditions.end = images.last.as_ref().map(|(last, _)| alone(last)).transpose()?;
            } else {
                let frames = plan.segments.total().map_or(1, |t| 4 * (t.get() - 1) + 1);
                let last = images.last.as_ref().map(|(last, _)| last);
                conditions.extra_channels =
                    Some(condition::image_to_video_channels(encoder, first, last, frames)?);
            }
        }
        if let (StartFrom::Video(path), false) = (&request.start, resumed) {
            observer.event(Event::Stage { what: "encoding the end of the video".into() });
            let tail = load_tail(path, video_history_frames(plan), request, observer)?;
            conditions.prefix = Some(condition::encode(encoder, &to_tensor(&tail))?);
        }
        let kept = Kept { conditions, image_embeds };
        if images.first.is_some() {
            kept.write(folder)?;
        }
        Ok(kept)
    }
}
