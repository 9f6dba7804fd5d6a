//! The autoencoder's names.
//!
//! Left: `wan/modules/vae.py` of Wan 2.1, which ComfyUI keeps. Right: Diffusers' `AutoencoderKLWan`. Compare
//! `convert_wan_vae_to_diffusers` in Diffusers' `loaders/single_file_utils.py`.
//!
//! The encoder's levels are one flat list in both. The decoder's are flat in the original and nested in
//! Diffusers: each level has the residual blocks of the configuration and one more, then an upsampler.

use super::pattern::{match_start, rename};
use super::{Mapped, Style};
use crate::container::Container;

const VAE: [(&str, &str); 19] = [
    ("conv1", "quant_conv"),
    ("conv2", "post_quant_conv"),
    ("encoder.conv1", "encoder.conv_in"),
    ("encoder.middle.0", "encoder.mid_block.resnets.0"),
    ("encoder.middle.1", "encoder.mid_block.attentions.0"),
    ("encoder.middle.2", "encoder.mid_block.resnets.1"),
    ("encoder.head.0", "encoder.norm_out"),
    ("encoder.head.2", "encoder.conv_out"),
    ("encoder.downsamples.{}", "encoder.down_blocks.{}"),
    ("decoder.conv1", "decoder.conv_in"),
    ("decoder.middle.0", "decoder.mid_block.resnets.0"),
    ("decoder.middle.1", "decoder.mid_block.attentions.0"),
    ("decoder.middle.2", "decoder.mid_block.resnets.1"),
    ("decoder.head.0", "decoder.norm_out"),
    ("decoder.head.2", "decoder.conv_out"),
    // Inside a residual block.
    ("residual.0", "norm1"),
    ("residual.2", "conv1"),
    ("residual.3", "norm2"),
    ("residual.6", "conv2"),
];

/// How many residual blocks a level of the decoder has; needed to tell the levels of the flat list apart.
pub(super) struct ResidualBlocks(Option<usize>);

impl ResidualBlocks {
    /// The first upsampler of the flat list stands behind the blocks of the first level.
    pub fn of(containers: &[Container], prefix: &str) -> Self {
        let upsampler = containers
            .iter()
            .flat_map(|c| &c.tensors)
            .filter_map(|t| {
                let name = t.name.strip_prefix(prefix)?;
                let (numbers, rest) = match_start("decoder.upsamples.{}", name)?;
                rest.starts_with(".resample.").then(|| numbers[0].parse::<usize>().ok())?
            })
            .min();
        Self(upsampler.filter(|n| *n > 0))
    }
}

pub(super) fn map(style: Style, name: &str, blocks: &ResidualBlocks) -> Mapped {
    if style == Style::Canonical {
        return Mapped::To(name.to_owned());
    }
    let outer = match match_start("decoder.upsamples.{}", name) {
        Some((numbers, rest)) => nested(&numbers, rest, blocks),
        None => rename(&VAE, name),
    };
    let Some(outer) = outer else { return Mapped::To(name.to_owned()) };
    Mapped::To(rename_inside(&outer))
}

fn nested(numbers: &[&str], rest: &str, blocks: &ResidualBlocks) -> Option<String> {
    let index: usize = numbers.first()?.parse().ok()?;
    Some(match blocks.0 {
        // One level, no upsampler.
        None => format!("decoder.up_blocks.0.resnets.{index}{rest}"),
        Some(count) => match (index / (count + 1), index % (count + 1)) {
            (level, place) if place == count => {
                format!("decoder.up_blocks.{level}.upsamplers.0{rest}")
            }
            (level, place) => format!("decoder.up_blocks.{level}.resnets.{place}{rest}"),
        },
    })
}

/// Renames the layers of a residual block at the end of a name.
fn rename_inside(name: &str) -> String {
    if let Some((block, layer)) = name.split_once(".residual.")
        && let Some(layer) = rename(&VAE, &format!("residual.{layer}"))
    {
        return format!("{block}.{layer}");
    }
    match name.split_once(".shortcut.") {
        Some((block, leaf)) => format!("{block}.conv_shortcut.{leaf}"),
        None => name.to_owned(),
    }
}
