//! A network of the autoencoder, layer by layer from a checkpoint.

use std::ops::Range;

use longreel_kernels::{Conv3d, Device, Linear, UpsampledConv, Vector};
use longreel_weights::TensorSource;

use super::super::layers::{
    Causal, Layer, PixelAttention, Residual, TimeDown, TimeUp, part_of_weight,
};
use super::{Group, Network, SlotInfo};
use crate::ModelError;
use crate::layers::causal_conv;

/// Builds a [`Network`] layer by layer from a checkpoint.
pub(in crate::vae) struct Builder<'a> {
    source: &'a mut TensorSource,
    network: Network,
    /// Height and width at this point as a multiple of the latents'.
    scale: usize,
    group_start: usize,
    /// Largest need so far in the open group.
    group_values: usize,
    /// How often the height was doubled.
    doublings: usize,
}

impl<'a> Builder<'a> {
    pub fn new(source: &'a mut TensorSource, scale: usize) -> Self {
        let network = Network {
            device: Device::Cpu,
            layers: Vec::new(),
            groups: Vec::new(),
            slots: Vec::new(),
        };
        Self { source, network, scale, group_start: 0, group_values: 0, doublings: 0 }
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
                doublings: self.doublings,
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
        let (name, scale, doublings) = (name.to_owned(), self.scale, self.doublings);
        let info = SlotInfo { name, channels, scale, marks_start, doublings };
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
        self.doublings += 1;
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
