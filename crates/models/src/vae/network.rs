//! A chain of streaming layers, run depth first so that no level holds more frames than memory allows.

mod builder;
mod strips;

use std::ops::Range;

use longreel_kernels::gpu::Gpu;
use longreel_kernels::{Device, GpuError, Tensor, in_pool, ops};

pub(super) use self::builder::Builder;
use self::strips::{Stitched, rows_of};
use super::layers::{Layer, Slot};
use super::tiles::{VaeTile, VaeTiles};
use crate::ModelError;
use crate::error::input;

/// What a slot may hold.
#[derive(Debug)]
pub(super) struct SlotInfo {
    /// The layer's name in the checkpoint.
    pub name: String,
    pub channels: usize,
    /// Height and width as a multiple of the latents'.
    pub scale: usize,
    /// True for a layer that doubles the frames, whose slot must be filled from the clip's first frame
    /// on, if only with no frames.
    pub marks_start: bool,
    /// As of its group.
    pub doublings: usize,
}

/// Layers that run on the same number of frames, from one change of resolution to the next.
#[derive(Debug)]
struct Group {
    layers: Range<usize>,
    /// Most values alive at once for one input frame and one latent pixel.
    values_per_latent_pixel: usize,
    /// How often the height is doubled up to the group's end, by itself or, when it doubles the frames, by the
    /// next one.
    doublings: usize,
}

/// A chain of layers and the slots they use.
#[derive(Debug)]
pub(super) struct Network {
    pub device: Device,
    layers: Vec<Layer>,
    groups: Vec<Group>,
    slots: Vec<SlotInfo>,
}

impl Network {
    pub fn slots(&self) -> &[SlotInfo] {
        &self.slots
    }

    /// A state before the first frame of a clip.
    pub fn empty_slots(&self) -> Vec<Slot> {
        self.slots.iter().map(|_| None).collect()
    }

    /// A state in the middle of a clip whose past is unknown: zeros, and no first frame to come.
    pub fn slots_in_the_middle(&self) -> Vec<Slot> {
        let start =
            |slot: &SlotInfo| slot.marks_start.then(|| Tensor::zeros(&[0, 1, 1, slot.channels]));
        self.slots.iter().map(start).collect()
    }

    /// Bytes that the slots hold in the middle of a clip of `latent_pixels` = h * w.
    pub fn state_bytes(&self, latent_pixels: usize) -> usize {
        let values = self.slots.iter().map(|s| 2 * s.channels * s.scale * s.scale);
        4 * latent_pixels * values.sum::<usize>()
    }

    /// The least working memory: one frame at a time in each group.
    pub fn least_bytes(&self, latent_pixels: usize) -> usize {
        let most = self.groups.iter().map(|g| g.values_per_latent_pixel).max().unwrap_or(0);
        most.saturating_mul(4).saturating_mul(latent_pixels).saturating_mul(BUDGET_SHARES)
    }

    /// After how many frames at the input the state no longer depends on what came before.
    pub fn receptive_frames(&self) -> usize {
        let (mut bad, mut factor, mut most) = (0, 1, 0);
        for layer in &self.layers {
            let after = layer.spread(bad);
            if matches!(layer, Layer::TimeUp(_)) {
                factor *= 2;
            }
            bad = after;
            // Two frames of right results must follow, for they are the history of the next layer.
            most = most.max((bad + 2).div_ceil(factor));
        }
        most
    }

    /// As [`state_bytes`](Self::state_bytes), of what stands at once in strips: what is before the first
    /// doubling is whole.
    pub fn strip_state_bytes(&self, latent_pixels: usize, tile: &VaeTile, rows: usize) -> usize {
        let slots = self.slots.iter().map(|slot| {
            let values = 2 * slot.channels * slot.scale * slot.scale * latent_pixels;
            tile.part_of(values, slot.doublings, rows)
        });
        4 * slots.sum::<usize>()
    }

    /// As [`least_bytes`](Self::least_bytes), in strips.
    pub fn strip_least_bytes(&self, latent_pixels: usize, tile: &VaeTile, rows: usize) -> usize {
        let values = self.groups.iter().map(|group| {
            tile.part_of(group.values_per_latent_pixel * latent_pixels, group.doublings, rows)
        });
        4 * values.max().unwrap_or(0) * BUDGET_SHARES
    }

    /// Feeds frames through all layers and hands each finished part to `sink`, in order.
    ///
    /// `budget_bytes` bounds the activations; one frame at a time is the least a group can do. Parts
    /// are on the host.
    pub fn run<E: From<ModelError>>(
        &self,
        x: Tensor,
        latent_pixels: usize,
        slots: &mut [Slot],
        budget_bytes: usize,
        sink: &mut dyn FnMut(Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        let budget = budget_bytes / BUDGET_SHARES;
        let run = Run { network: self, latent_pixels, budget, strip: None, end: self.groups.len() };
        let sink = &mut |part: Tensor| sink(part.into_host().map_err(ModelError::from)?);
        let Some(gpu) = self.device.gpu() else { return run.group(0, x, slots, sink) };
        let working = budget_bytes.max(self.least_bytes(latent_pixels));
        self.make_room(gpu, self.state_bytes(latent_pixels), working)
            .and_then(|()| self.bring(slots))
            .map_err(ModelError::from)?;
        let x = x.on(&self.device).map_err(ModelError::from)?.into_owned();
        run.group(0, ops::narrowed(x), slots, sink)?;
        if gpu.is_scarce() {
            park(slots)?;
        }
        gpu.shrink();
        Ok(())
    }

    /// As [`run`](Self::run), but from the first doubling of the height on in strips of the picture, one after
    /// the other: `together` frames of the input go through all of them before the next ones do, and
    /// their results are put together on the host. `slots` are those of what is done with the whole
    /// picture, `strips` those of the rest, for each strip. On a GPU the host keeps the ones of the
    /// strips that are not at work. Each group takes one frame at a time.
    #[expect(clippy::too_many_arguments, reason = "as `run`, and the strips")]
    pub fn run_in_strips<E: From<ModelError>>(
        &self,
        x: &Tensor,
        latent_pixels: usize,
        tiles: &VaeTiles,
        together: usize,
        slots: &mut [Slot],
        strips: &mut [Vec<Slot>],
        sink: &mut dyn FnMut(Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        let (frames, rows, budget) = (x.dim(0), x.dim(1), 0);
        let gpu = self.device.gpu();
        if let Some(gpu) = gpu {
            let most = |of: &dyn Fn(&VaeTile) -> usize| tiles.tiles().iter().map(of).max();
            let state = most(&|tile| self.strip_state_bytes(latent_pixels, tile, rows));
            let least = most(&|tile| self.strip_least_bytes(latent_pixels, tile, rows));
            self.make_room(gpu, state.unwrap_or(0), least.unwrap_or(0))
                .and_then(|()| self.bring(slots))
                .map_err(ModelError::from)?;
        }
        for start in (0..frames).step_by(together.max(1)) {
            let part = x.slice0(start..(start + together.max(1)).min(frames));
            let part = part.on(&self.device).map_err(ModelError::from)?.into_owned();
            let whole = Run { network: self, latent_pixels, budget, strip: None, end: 1 };
            let mut parts = Vec::new();
            whole.group(0, ops::narrowed(part), slots, &mut |part| {
                parts.push(part);
                Ok::<_, ModelError>(())
            })?;
            let before = Tensor::concat0(&parts.iter().collect::<Vec<_>>());
            drop(parts);
            let mut pictures = Stitched::default();
            for (tile, slots) in tiles.tiles().iter().zip(strips.iter_mut()) {
                self.bring(slots).map_err(ModelError::from)?;
                let part = rows_of(&before, &tile.doubled[0]);
                let strip = Some((tile, rows));
                let run =
                    Run { network: self, latent_pixels, budget, strip, end: self.groups.len() };
                pictures.next_strip(tile, rows);
                run.group(1, part, slots, &mut |part| {
                    pictures.add(&part.into_host()?);
                    Ok::<_, ModelError>(())
                })?;
                if let Some(gpu) = gpu {
                    park(slots)?;
                    gpu.shrink();
                }
            }
            drop(before);
            sink(pictures.into_tensor())?;
        }
        if let Some(gpu) = gpu {
            if gpu.is_scarce() {
                park(slots)?;
            }
            gpu.shrink();
        }
        Ok(())
    }

    /// Makes room on a GPU for what is remembered, in bytes of `f32`, and what is worked with.
    fn make_room(&self, gpu: &Gpu, state_bytes: usize, working: usize) -> Result<(), GpuError> {
        // What is remembered is in what the GPU computes in, which takes half of a single or all of it.
        gpu.make_room(state_bytes / 4 * gpu.compute().bytes() + working)
    }

    /// Brings what is remembered to the device.
    fn bring(&self, slots: &mut [Slot]) -> Result<(), GpuError> {
        if self.device.gpu().is_some() {
            for slot in slots.iter_mut().flatten() {
                *slot = ops::narrowed(slot.on(&self.device)?.into_owned());
            }
        }
        Ok(())
    }
}

/// Has the host keep what is remembered.
fn park(slots: &mut [Slot]) -> Result<(), ModelError> {
    for slot in slots {
        *slot = slot.take().map(Tensor::parked).transpose()?;
    }
    Ok(())
}

/// While one group works, the results of the groups before it wait in memory; each of them is at most
/// a third of its own group's peak and the first groups are small. A third of the budget for the
/// working group keeps the sum within it.
const BUDGET_SHARES: usize = 3;

/// Activations of a group that the processor's caches hold from one layer to the next, and the frames that
/// are worked on at once whatever they take: a convolution's window has two frames more.
const NEAR_BYTES: usize = 3 << 20;
const NEAR_FRAMES: usize = 8;

struct Run<'a> {
    network: &'a Network,
    latent_pixels: usize,
    budget: usize,
    /// The strip that it works on, and the rows of latents of the whole picture.
    strip: Option<(&'a VaeTile, usize)>,
    /// The group before which it ends.
    end: usize,
}

impl Run<'_> {
    /// Frames that a group may take at once.
    fn step(&self, group: &Group) -> usize {
        let values = group.values_per_latent_pixel.saturating_mul(self.latent_pixels);
        let values = match self.strip {
            Some((tile, rows)) => tile.part_of(values, group.doublings, rows),
            None => values,
        };
        let bytes = values.saturating_mul(4).max(1);
        let most = (self.budget / bytes).max(1);
        match self.network.device.gpu() {
            Some(_) => most,
            None => most.min((NEAR_BYTES / bytes).max(NEAR_FRAMES)),
        }
    }

    /// Of what a group gets those rows that it needs, where a strip has more of them.
    fn needed(&self, index: usize, x: Tensor) -> Tensor {
        let groups = &self.network.groups;
        let (Some((tile, _)), Some(group)) = (self.strip, groups.get(index)) else { return x };
        let before = groups[index - 1].doublings;
        if before == 0 || group.doublings == before {
            return x;
        }
        let (had, needed) = (&tile.doubled[before - 1], &tile.doubled[before]);
        rows_of(&x, &(needed.start - 2 * had.start..needed.end - 2 * had.start))
    }

    /// Frames through a group and those behind it; `sink` gets what comes of them, in parts, where the
    /// network computes.
    fn group<E: From<ModelError>>(
        &self,
        index: usize,
        x: Tensor,
        slots: &mut [Slot],
        sink: &mut dyn FnMut(Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        if index == self.end {
            return sink(x);
        }
        let (frames, most) = (x.dim(0), self.step(&self.network.groups[index]));
        if frames <= most {
            return self.layers(index, x, slots, sink);
        }
        // In even parts: the last one would take longer for each of its few frames.
        let step = frames.div_ceil(frames.div_ceil(most));
        for start in (0..frames).step_by(step) {
            let part = x.slice0(start..(start + step).min(frames));
            self.layers(index, part, slots, sink)?;
        }
        Ok(())
    }

    fn layers<E: From<ModelError>>(
        &self,
        index: usize,
        x: Tensor,
        slots: &mut [Slot],
        sink: &mut dyn FnMut(Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        let layers = &self.network.layers[self.network.groups[index].layers.clone()];
        let x = in_pool(|| {
            let mut x = x;
            for layer in layers {
                if x.dim(0) == 0 {
                    break;
                }
                x = layer.forward(x, slots);
            }
            x
        });
        if x.dim(0) == 0 {
            return Ok(());
        }
        self.group(index + 1, self.needed(index + 1, x), slots, sink)
    }
}

/// Puts named tensors `[frames, H, W, C]` back into slots, checking every shape against a picture of
/// `[h, w]` latent pixels that the first of them defines.
pub(super) fn restore(
    network: &Network,
    tensors: impl IntoIterator<Item = (String, Tensor)>,
) -> Result<Vec<Slot>, ModelError> {
    let mut slots = network.empty_slots();
    let mut size: Option<[usize; 2]> = None;
    for (name, tensor) in tensors {
        let index = network.slots.iter().position(|slot| slot.name == name).ok_or_else(|| {
            input("a tensor of the saved state", &name, "this model has no such layer")
        })?;
        let SlotInfo { channels, scale, marks_start, .. } = network.slots[index];
        let wrong =
            |rule: String| input("the shape of a saved state", (&name, tensor.shape()), rule);
        let [frames, h, w, c] = *tensor.shape() else {
            return Err(wrong("it must be [frames, H, W, C]".into()));
        };
        let least = usize::from(!marks_start);
        if c != channels || frames > 2 || frames < least || h == 0 || w == 0 {
            return Err(wrong(format!("it must be [{least} to 2, H, W, {channels}]")));
        }
        if frames > 0 {
            let here = [h / scale, w / scale];
            let expected = *size.get_or_insert(here);
            if here != expected || h % scale != 0 || w % scale != 0 {
                return Err(wrong(format!("other layers hold a picture of {expected:?} latents")));
            }
        }
        slots[index] = Some(tensor);
    }
    // A clip that has begun has filled every slot but those of layers after a lack of frames, which
    // only the layers that double the frames may show.
    let begun = slots.iter().any(Option::is_some);
    if begun && let Some(missing) = slots.iter().position(Option::is_none) {
        let name = &network.slots[missing].name;
        return Err(input("the saved state", "incomplete", format!("{name} is missing")));
    }
    Ok(slots)
}
