//! A chain of streaming layers, run depth first so that no level holds more frames than memory allows.

use std::ops::Range;

use longreel_kernels::gpu::Gpu;
use longreel_kernels::{
    Conv3d, Device, GpuError, Linear, Tensor, UpsampledConv, Vector, in_pool, ops,
};
use longreel_weights::TensorSource;

use super::layers::{
    Causal, Layer, PixelAttention, Residual, Slot, TimeDown, TimeUp, part_of_weight,
};
use crate::ModelError;
use crate::error::input;
use crate::layers::causal_conv;

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
}

/// Layers that run on the same number of frames, from one change of resolution to the next.
#[derive(Debug)]
struct Group {
    layers: Range<usize>,
    /// Most values alive at once for one input frame and one latent pixel.
    values_per_latent_pixel: usize,
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
        let run = Run { network: self, latent_pixels, budget: budget_bytes / BUDGET_SHARES };
        let Some(gpu) = self.device.gpu() else { return run.group(0, x, slots, sink) };
        self.bring(gpu, slots, latent_pixels, budget_bytes).map_err(ModelError::from)?;
        let x = x.on(&self.device).map_err(ModelError::from)?.into_owned();
        run.group(0, ops::narrowed(x), slots, sink)?;
        if gpu.is_scarce() {
            for slot in slots.iter_mut() {
                *slot = slot.take().map(Tensor::parked).transpose().map_err(ModelError::from)?;
            }
        }
        gpu.shrink();
        Ok(())
    }
}

impl Network {
    /// Makes room on a GPU for a run, and brings what is remembered there.
    fn bring(
        &self,
        gpu: &Gpu,
        slots: &mut [Slot],
        latent_pixels: usize,
        budget_bytes: usize,
    ) -> Result<(), GpuError> {
        let working = budget_bytes.max(self.least_bytes(latent_pixels));
        // What is remembered is in what the GPU computes in, which takes half of a single or all of it.
        gpu.make_room(self.state_bytes(latent_pixels) / 4 * gpu.compute().bytes() + working)?;
        for slot in slots.iter_mut().flatten() {
            *slot = ops::narrowed(slot.on(&self.device)?.into_owned());
        }
        Ok(())
    }
}

/// While one group works, the results of the groups before it wait in memory; each of them is at most
/// a third of its own group's peak and the first groups are small. A third of the budget for the
/// working group keeps the sum within it.
const BUDGET_SHARES: usize = 3;

struct Run<'a> {
    network: &'a Network,
    latent_pixels: usize,
    budget: usize,
}

impl Run<'_> {
    fn group<E: From<ModelError>>(
        &self,
        index: usize,
        x: Tensor,
        slots: &mut [Slot],
        sink: &mut dyn FnMut(Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(group) = self.network.groups.get(index) else {
            return sink(x.into_host().map_err(ModelError::from)?);
        };
        let frames = x.dim(0);
        let frame_bytes = (4 * group.values_per_latent_pixel).saturating_mul(self.latent_pixels);
        let step = (self.budget / frame_bytes.max(1)).max(1);
        if frames <= step {
            return self.layers(index, x, slots, sink);
        }
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
        self.group(index + 1, x, slots, sink)
    }
}

/// Builds a [`Network`] layer by layer from a checkpoint.
pub(super) struct Builder<'a> {
    source: &'a mut TensorSource,
    network: Network,
    /// Height and width at this point as a multiple of the latents'.
    scale: usize,
    group_start: usize,
    /// Largest need so far in the open group.
    group_values: usize,
}

impl<'a> Builder<'a> {
    pub fn new(source: &'a mut TensorSource, scale: usize) -> Self {
        let network = Network {
            device: Device::Cpu,
            layers: Vec::new(),
            groups: Vec::new(),
            slots: Vec::new(),
        };
        Self { source, network, scale, group_start: 0, group_values: 0 }
    }

    pub fn finish(mut self) -> Network {
        self.close_group();
        self.network
    }

    fn close_group(&mut self) {
        let end = self.network.layers.len();
        if end > self.group_start {
            self.network.groups.push(Group {
                layers: self.group_start..end,
                values_per_latent_pixel: self.group_values,
            });
        }
        self.group_start = end;
        self.group_values = 0;
    }

    fn push(&mut self, layer: Layer) {
        let values = layer.values_per_pixel() * self.scale * self.scale;
        self.group_values = self.group_values.max(values);
        self.network.layers.push(layer);
    }

    fn slot(&mut self, name: &str, channels: usize, marks_start: bool) -> usize {
        let info = SlotInfo { name: name.to_owned(), channels, scale: self.scale, marks_start };
        self.network.slots.push(info);
        self.network.slots.len() - 1
    }

    fn gamma(&mut self, name: &str, dim: usize, tail: &[usize]) -> Result<Vector, ModelError> {
        let shape: Vec<usize> = std::iter::once(dim).chain(tail.iter().copied()).collect();
        Ok(self.source.take_f32(&format!("{name}.gamma"), &shape)?.into())
    }

    fn causal_layer(&mut self, name: &str, i: usize, o: usize) -> Result<Causal, ModelError> {
        let conv = causal_conv(self.source, name, i, o, [3, 3, 3])?;
        Ok(Causal { conv, slot: self.slot(name, i, false) })
    }

    /// A causal 3x3x3 convolution.
    pub fn causal(&mut self, name: &str, i: usize, o: usize) -> Result<(), ModelError> {
        let layer = self.causal_layer(name, i, o)?;
        self.push(Layer::Causal(layer));
        Ok(())
    }

    /// A convolution with a kernel of 1.
    pub fn pointwise(&mut self, name: &str, i: usize, o: usize) -> Result<(), ModelError> {
        let conv = causal_conv(self.source, name, i, o, [1, 1, 1])?;
        self.push(Layer::Pointwise(conv));
        Ok(())
    }

    /// A residual block from `i` to `o` channels.
    pub fn residual(&mut self, name: &str, i: usize, o: usize) -> Result<(), ModelError> {
        let block = Residual {
            norm_1: self.gamma(&format!("{name}.norm1"), i, &[1, 1, 1])?,
            conv_1: self.causal_layer(&format!("{name}.conv1"), i, o)?,
            norm_2: self.gamma(&format!("{name}.norm2"), o, &[1, 1, 1])?,
            conv_2: self.causal_layer(&format!("{name}.conv2"), o, o)?,
            shortcut: (i != o)
                .then(|| {
                    causal_conv(self.source, &format!("{name}.conv_shortcut"), i, o, [1, 1, 1])
                })
                .transpose()?,
        };
        self.push(Layer::Residual(Box::new(block)));
        Ok(())
    }

    /// Attention among the pixels of a frame.
    pub fn attention(&mut self, name: &str, dim: usize) -> Result<(), ModelError> {
        let norm = self.gamma(&format!("{name}.norm"), dim, &[1, 1])?;
        let weight = self.source.take(&format!("{name}.to_qkv.weight"), &[3 * dim, dim, 1, 1])?;
        let bias = self.source.take_f32(&format!("{name}.to_qkv.bias"), &[3 * dim])?;
        let part = |index: usize| {
            let rows = index * dim..(index + 1) * dim;
            Linear::new(part_of_weight(&weight, rows.clone()), Some(bias[rows].to_vec()))
        };
        let out_weight = self.source.take(&format!("{name}.proj.weight"), &[dim, dim, 1, 1])?;
        let out_bias = self.source.take_f32(&format!("{name}.proj.bias"), &[dim])?;
        self.push(Layer::Attention(Box::new(PixelAttention {
            norm,
            query: part(0),
            key: part(1),
            value: part(2),
            out: Linear::new(out_weight, Some(out_bias)),
        })));
        Ok(())
    }

    /// The middle of encoder and decoder: residual, attention, residual.
    pub fn middle(&mut self, name: &str, dim: usize) -> Result<(), ModelError> {
        self.residual(&format!("{name}.resnets.0"), dim, dim)?;
        self.attention(&format!("{name}.attentions.0"), dim)?;
        self.residual(&format!("{name}.resnets.1"), dim, dim)
    }

    /// Norm, SiLU and the last convolution.
    pub fn head(&mut self, name: &str, i: usize, o: usize) -> Result<(), ModelError> {
        let gamma = self.gamma(&format!("{name}.norm_out"), i, &[1, 1, 1])?;
        self.push(Layer::NormSilu(gamma));
        self.causal(&format!("{name}.conv_out"), i, o)
    }

    /// Doubles height and width (from `i` to `o` channels), after doubling the frames when `time`.
    pub fn up(&mut self, name: &str, i: usize, o: usize, time: bool) -> Result<(), ModelError> {
        self.close_group();
        if time {
            let name = format!("{name}.time_conv");
            let weight = self.source.take(&format!("{name}.weight"), &[2 * i, i, 3, 1, 1])?;
            let bias = self.source.take_f32(&format!("{name}.bias"), &[2 * i])?;
            let half = |rows: Range<usize>| {
                let bias = Some(bias[rows.clone()].to_vec());
                Conv3d::new(&part_of_weight(&weight, rows), bias, [1, 1, 1], [0; 4])
            };
            let (even, odd) = (half(0..i), half(i..2 * i));
            let slot = self.slot(&name, i, true);
            self.push(Layer::TimeUp(TimeUp { even, odd, slot }));
            self.close_group();
        }
        let weight = self.source.take(&format!("{name}.resample.1.weight"), &[o, i, 3, 3])?;
        let bias = self.source.take_f32(&format!("{name}.resample.1.bias"), &[o])?;
        self.push(Layer::SpatialUp(UpsampledConv::new(&weight, Some(bias))));
        self.scale *= 2;
        Ok(())
    }

    /// Halves height and width, then the frames when `time`.
    pub fn down(&mut self, name: &str, dim: usize, time: bool) -> Result<(), ModelError> {
        let weight = self.source.take(&format!("{name}.resample.1.weight"), &[dim, dim, 3, 3])?;
        let bias = self.source.take_f32(&format!("{name}.resample.1.bias"), &[dim])?;
        let padding = [0, 1, 0, 1];
        self.push(Layer::SpatialDown(Conv3d::new(&weight, Some(bias), [1, 2, 2], padding)));
        self.scale /= 2;
        self.close_group();
        if time {
            let name = format!("{name}.time_conv");
            let weight = self.source.take(&format!("{name}.weight"), &[dim, dim, 3, 1, 1])?;
            let bias = self.source.take_f32(&format!("{name}.bias"), &[dim])?;
            let conv = Conv3d::new(&weight, Some(bias), [2, 1, 1], [0; 4]);
            let slot = self.slot(&name, dim, false);
            self.push(Layer::TimeDown(TimeDown { conv, slot }));
            self.close_group();
        }
        Ok(())
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
