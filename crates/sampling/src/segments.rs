//! The arithmetic of a film: pixel frames, latent frames, and the segments a long film is made of.
//!
//! A model denoises a window of at most `base` latent frames. A longer film is made window by
//! window: each later window begins with the last `overlap` latent frames of what exists (its
//! *prefix*, frozen) and the rest is new. This is the long-video loop of the diffusion-forcing
//! pipelines of diffusers 0.42.1 (`pipeline_skyreels_v2_diffusion_forcing*.py`), as a pure function.
//!
//! Where that loop is defective, the plan does this instead:
//! - A causal block that does not divide the overlap cuts the prefix *at its end* there, while the
//!   result is appended as if nothing had been cut, which leaves a seam. Here the overlap itself is
//!   rounded down to whole blocks (to one block at least), so the prefix touches the new frames.
//! - Windows that the block does not divide leave frames that are never denoised. They are refused.
//! - A `total` that a video's history alone fills gives zero segments there. It is refused.
//! - The last image is appended to the last window as one latent frame, whatever the overlap is.

use std::ops::Range;

use thiserror::Error;

/// Pixel frames in one latent frame after the first: the temporal factor of the Wan 2.1 VAE.
pub const TEMPORAL_FACTOR: usize = 4;

/// A number of pixel frames that the VAE can encode without a remainder: 4n+1, so 1, 5, 9, ...
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PixelFrames(usize);

impl PixelFrames {
    /// Checks `frames` against 4n+1; the error names the valid counts on both sides.
    pub fn new(frames: usize) -> Result<Self, SegmentError> {
        if frames % TEMPORAL_FACTOR == 1 && frames < MAX_FRAMES {
            return Ok(Self(frames));
        }
        if frames >= MAX_FRAMES {
            return Err(SegmentError::TooManyFrames { frames });
        }
        let below = (frames.saturating_sub(1)) / TEMPORAL_FACTOR * TEMPORAL_FACTOR + 1;
        Err(SegmentError::NotFourNPlusOne {
            frames,
            nearest: match frames {
                0 => "1".to_owned(),
                _ => format!("{below} or {}", below + TEMPORAL_FACTOR),
            },
        })
    }

    /// The count as a plain number.
    pub fn get(self) -> usize {
        self.0
    }

    /// T = (F - 1) / 4 + 1.
    pub fn to_latent(self) -> LatentFrames {
        LatentFrames((self.0 - 1) / TEMPORAL_FACTOR + 1)
    }
}

/// A number of latent frames; zero is allowed, since a prefix may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LatentFrames(usize);

impl LatentFrames {
    /// Any count.
    pub fn new(frames: usize) -> Self {
        Self(frames)
    }

    /// The count as a plain number.
    pub fn get(self) -> usize {
        self.0
    }

    /// F = 4(T - 1) + 1, or `None` when there are no frames at all.
    pub fn to_pixels(self) -> Option<PixelFrames> {
        let pixels = self.0.checked_sub(1)?.checked_mul(TEMPORAL_FACTOR)?;
        Some(PixelFrames(pixels + 1))
    }
}

/// Frame counts from here on are refused: 2^40 frames are a thousand years of video, and below it
/// no sum in this module can overflow.
const MAX_FRAMES: usize = 1 << 40;

/// What the first window begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nothing: text to video.
    Noise,
    /// One latent frame, the encoded first image.
    Image,
    /// The last `overlap` latent frames of an existing video, which is extended.
    Video,
}

impl Start {
    fn prefix(self, overlap: usize) -> usize {
        match self {
            Start::Noise => 0,
            Start::Image => 1,
            Start::Video => overlap,
        }
    }
}

/// What is asked of a film, in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilmShape {
    /// Length of the film, the frames of the start included; `None` goes on for ever.
    pub total: Option<PixelFrames>,
    /// Longest window the model is given in one piece (97 for 540P, 121 for 720P).
    pub base: PixelFrames,
    /// History that a later window begins with (17 or 37 are usual). Needed when the film is longer
    /// than `base`, and always with [`Start::Video`].
    pub overlap: Option<PixelFrames>,
    /// Latent frames that are denoised together and see each other in causal attention; 1 when
    /// attention is not causal.
    pub causal_block: usize,
    /// What the first window begins with.
    pub start: Start,
    /// Whether the film ends in a given image, appended to the last window as one frozen latent
    /// frame and dropped from the film.
    pub end_image: bool,
}

/// One window of a film: `[prefix, frozen | new, from noise | end image, frozen]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Position in the film, from 0.
    pub index: usize,
    /// Latent frame of the film that the window's first frame is.
    pub first_latent: usize,
    /// Latent frame of the film that the first new frame becomes.
    pub first_new_latent: usize,
    /// Frozen latent frames at the window's head.
    pub prefix_latents: usize,
    /// Latent frames that this segment adds.
    pub new_latents: usize,
    /// Frozen latent frames at the window's tail that do not belong to the film (0 or 1).
    pub end_latents: usize,
    /// Whether the film ends with this segment.
    pub is_last: bool,
}

impl Segment {
    /// Window frames that belong to the film: prefix and new.
    pub fn film_latents(&self) -> usize {
        self.prefix_latents + self.new_latents
    }

    /// Window frames that it adds to the film: the new ones and, of the first segment, those that the film
    /// starts from.
    pub fn added(&self) -> Range<usize> {
        let first = if self.index == 0 { 0 } else { self.prefix_latents };
        first..self.film_latents()
    }

    /// All frames of the window.
    pub fn window_latents(&self) -> usize {
        self.film_latents() + self.end_latents
    }
}

/// The segments of a film, computed on demand, so that an endless film costs nothing to plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentPlan {
    total: Option<usize>,
    base: usize,
    overlap: usize,
    start: Start,
    end_image: bool,
}

impl SegmentPlan {
    /// Checks `shape` and plans it.
    ///
    /// # Errors
    /// Each names the value, the rule and values that work: a missing or too long overlap, a film
    /// that its start fills, counts that the causal block does not divide, an end image without end.
    pub fn new(shape: &FilmShape) -> Result<Self, SegmentError> {
        let block = shape.causal_block;
        if block == 0 {
            return Err(SegmentError::NoBlock);
        }
        let base = shape.base.to_latent().get();
        let total = shape.total.map(|frames| frames.to_latent().get());
        if total.is_none() && shape.end_image {
            return Err(SegmentError::EndImageWithoutEnd);
        }
        // A film within one window never looks at its history; the overlap matters to it only when
        // the history is a video's.
        let is_long = total.is_none_or(|total| total > base);
        let overlap = if is_long || shape.start == Start::Video {
            effective_overlap(shape, base)?
        } else {
            0
        };
        if is_long {
            check_blocks("base_num_frames", shape.base, block)?;
        }
        if let Some(total) = shape.total {
            check_blocks("num_frames", total, block)?;
            let prefix = shape.start.prefix(overlap);
            if total.to_latent().get() <= prefix {
                let least = (prefix + 1).div_ceil(block) * block;
                return Err(SegmentError::NothingNew {
                    total: total.get(),
                    prefix: pixels(prefix),
                    least: pixels(least),
                });
            }
        }
        Ok(Self { total, base, overlap, start: shape.start, end_image: shape.end_image })
    }

    /// Latent frames of history in each later window, in whole causal blocks. Zero when the film
    /// never looks back.
    pub fn overlap(&self) -> LatentFrames {
        LatentFrames(self.overlap)
    }

    /// Latent frames of the whole film, the start included; `None` for an endless one.
    pub fn total(&self) -> Option<LatentFrames> {
        self.total.map(LatentFrames)
    }

    /// Number of segments, or `None` for an endless film.
    ///
    /// `1 + (T - base - 1) // (base - overlap) + 1` of the reference: one window, and one more for
    /// each begun `base - overlap` frames beyond it.
    pub fn count(&self) -> Option<usize> {
        let beyond = self.total?.saturating_sub(self.base);
        // A film within one window may have an overlap that nothing reads; it divides nothing.
        Some(if beyond == 0 { 1 } else { 1 + beyond.div_ceil(self.base - self.overlap) })
    }

    /// Segment `index`, or `None` beyond the end of the film.
    pub fn segment(&self, index: usize) -> Option<Segment> {
        let count = self.count();
        if count.is_some_and(|count| index >= count) || index >= MAX_FRAMES / self.base.max(1) {
            return None;
        }
        let is_last = count.is_some_and(|count| index + 1 == count);
        let first_latent = index * (self.base - self.overlap);
        let window = match self.total {
            Some(total) => (total - first_latent).min(self.base),
            None => self.base,
        };
        let prefix = if index == 0 { self.start.prefix(self.overlap) } else { self.overlap };
        Some(Segment {
            index,
            first_latent,
            first_new_latent: first_latent + prefix,
            prefix_latents: prefix,
            new_latents: window - prefix,
            end_latents: usize::from(self.end_image && is_last),
            is_last,
        })
    }

    /// All segments in order; without end for an endless film.
    pub fn iter(&self) -> impl Iterator<Item = Segment> + '_ {
        (0..).map_while(|index| self.segment(index))
    }
}

/// The overlap in latent frames, in whole blocks: rounded down, but to one block at least.
fn effective_overlap(shape: &FilmShape, base: usize) -> Result<usize, SegmentError> {
    let Some(asked) = shape.overlap else {
        return Err(SegmentError::NoOverlap {
            total: shape.total.map_or("endless".to_owned(), |total| total.get().to_string()),
            base: shape.base.get(),
        });
    };
    let block = shape.causal_block;
    let overlap = (asked.to_latent().get() / block).max(1) * block;
    if overlap >= base {
        let most = (base.saturating_sub(1)) / block * block;
        return Err(SegmentError::OverlapTooLong {
            overlap: asked.get(),
            base: shape.base.get(),
            way_out: match LatentFrames(most).to_pixels() {
                Some(most) => format!("use {} or less", most.get()),
                None => format!("use a base of {} or more", pixels(overlap + block)),
            },
        });
    }
    Ok(overlap)
}

fn check_blocks(name: &'static str, frames: PixelFrames, block: usize) -> Result<(), SegmentError> {
    let latents = frames.to_latent().get();
    if latents.is_multiple_of(block) {
        return Ok(());
    }
    let below = latents / block * block;
    let above = below + block;
    Err(SegmentError::NotWholeBlocks {
        name,
        frames: frames.get(),
        latents,
        block,
        nearest: match below {
            0 => pixels(above).to_string(),
            _ => format!("{} or {}", pixels(below), pixels(above)),
        },
    })
}

/// Pixel frames of a non-zero number of latent frames.
fn pixels(latents: usize) -> usize {
    LatentFrames(latents).to_pixels().map_or(0, PixelFrames::get)
}

/// Why a film cannot be planned as asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SegmentError {
    /// A frame count that the VAE cannot encode.
    #[error("{frames} frames: must be 4n+1; use {nearest}")]
    NotFourNPlusOne {
        /// The count asked for.
        frames: usize,
        /// The valid counts beside it.
        nearest: String,
    },
    /// A frame count beyond the limit.
    #[error("{frames} frames: at most {} are possible; leave the length open for an endless film", MAX_FRAMES - 1)]
    TooManyFrames {
        /// The count asked for.
        frames: usize,
    },
    /// A causal block of no frames.
    #[error("causal_block_size is 0; use 1 for attention that is not causal, or 5")]
    NoBlock,
    /// Frames that the causal block does not divide.
    #[error(
        "{name} is {frames}, which is {latents} latent frames and must be a multiple of \
         causal_block_size {block}; use {nearest} frames"
    )]
    NotWholeBlocks {
        /// Which count.
        name: &'static str,
        /// The count asked for.
        frames: usize,
        /// The same in latent frames.
        latents: usize,
        /// Latent frames in a block.
        block: usize,
        /// The valid counts beside it.
        nearest: String,
    },
    /// A film beyond one window without history.
    #[error(
        "num_frames {total} exceeds or extends what one window of base_num_frames {base} holds, so \
         overlap_history is needed; 17 or 37 are usual"
    )]
    NoOverlap {
        /// Length asked for.
        total: String,
        /// Window length.
        base: usize,
    },
    /// History that leaves no room for new frames.
    #[error(
        "overlap_history {overlap} leaves no new frame in a window of base_num_frames {base}; {way_out}"
    )]
    OverlapTooLong {
        /// Overlap asked for, in pixel frames.
        overlap: usize,
        /// Window length in pixel frames.
        base: usize,
        /// A value that works.
        way_out: String,
    },
    /// A film that its start fills.
    #[error(
        "num_frames {total} counts the {prefix} frames that are given, so nothing new would be \
         made; use {least} or more"
    )]
    NothingNew {
        /// Length asked for.
        total: usize,
        /// Frames of the image or video it starts from.
        prefix: usize,
        /// Shortest length that works.
        least: usize,
    },
    /// An image to end on in a film without end.
    #[error("an endless film has no last segment to put an end image into; give num_frames")]
    EndImageWithoutEnd,
}
