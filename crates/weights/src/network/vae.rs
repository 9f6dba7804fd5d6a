//! The autoencoder's tensors. Reference: `AutoencoderKLWan` of Diffusers.

use super::{ExpectedTensor, List, Shapes};
use crate::WeightsError;
use crate::config::VaeConfig;

pub(super) fn expected(config: &VaeConfig) -> Vec<ExpectedTensor> {
    let mut list = List::default();
    encoder(config, &mut list);
    let z = config.z_dim;
    list.layer("quant_conv", &[2 * z, 2 * z, 1, 1, 1]);
    list.layer("post_quant_conv", &[z, z, 1, 1, 1]);
    decoder(config, &mut list);
    list.0
}

fn encoder(config: &VaeConfig, list: &mut List) {
    let width = |level: usize| config.base_dim * config.dim_mult[level];
    let last = config.dim_mult.len() - 1;
    conv(list, "encoder.conv_in", config.in_channels, config.base_dim);
    let (mut index, mut inputs, mut scale) = (0, config.base_dim, 1.0);
    let mut next = || {
        index += 1;
        format!("encoder.down_blocks.{}", index - 1)
    };
    for level in 0..=last {
        for _ in 0..config.num_res_blocks {
            residual(list, &next(), inputs, width(level));
            inputs = width(level);
            if config.attn_scales.contains(&scale) {
                attention(list, &next(), inputs);
            }
        }
        if level < last {
            let name = next();
            list.layer(&format!("{name}.resample.1"), &[inputs, inputs, 3, 3]);
            if config.temperal_downsample[level] {
                list.layer(&format!("{name}.time_conv"), &[inputs, inputs, 3, 1, 1]);
            }
            scale /= 2.0;
        }
    }
    middle(list, "encoder", inputs);
    list.tensor("encoder.norm_out.gamma".into(), &[inputs, 1, 1, 1]);
    conv(list, "encoder.conv_out", inputs, 2 * config.z_dim);
}

fn decoder(config: &VaeConfig, list: &mut List) {
    let base = config.decoder_base_dim.unwrap_or(config.base_dim);
    let levels = config.dim_mult.len();
    let width = |level: usize| base * config.dim_mult[levels - 1 - level];
    let mut inputs = width(0);
    conv(list, "decoder.conv_in", config.z_dim, inputs);
    middle(list, "decoder", inputs);
    let times = &config.temperal_downsample;
    let is_temporal = |level: usize| times[times.len() - 1 - level];
    for level in 0..levels {
        let outputs = width(level);
        let name = format!("decoder.up_blocks.{level}");
        for block in 0..=config.num_res_blocks {
            residual(list, &format!("{name}.resnets.{block}"), inputs, outputs);
            inputs = outputs;
        }
        if level + 1 < levels {
            let name = format!("{name}.upsamplers.0");
            // Upsampling halves the channels.
            list.layer(&format!("{name}.resample.1"), &[outputs / 2, outputs, 3, 3]);
            if is_temporal(level) {
                list.layer(&format!("{name}.time_conv"), &[2 * outputs, outputs, 3, 1, 1]);
            }
            inputs = outputs / 2;
        }
    }
    list.tensor("decoder.norm_out.gamma".into(), &[inputs, 1, 1, 1]);
    conv(list, "decoder.conv_out", inputs, config.out_channels);
}

fn conv(list: &mut List, name: &str, inputs: usize, outputs: usize) {
    list.layer(name, &[outputs, inputs, 3, 3, 3]);
}

fn residual(list: &mut List, name: &str, inputs: usize, outputs: usize) {
    list.tensor(format!("{name}.norm1.gamma"), &[inputs, 1, 1, 1]);
    conv(list, &format!("{name}.conv1"), inputs, outputs);
    list.tensor(format!("{name}.norm2.gamma"), &[outputs, 1, 1, 1]);
    conv(list, &format!("{name}.conv2"), outputs, outputs);
    if inputs != outputs {
        list.layer(&format!("{name}.conv_shortcut"), &[outputs, inputs, 1, 1, 1]);
    }
}

fn attention(list: &mut List, name: &str, dim: usize) {
    list.tensor(format!("{name}.norm.gamma"), &[dim, 1, 1]);
    list.layer(&format!("{name}.to_qkv"), &[3 * dim, dim, 1, 1]);
    list.layer(&format!("{name}.proj"), &[dim, dim, 1, 1]);
}

fn middle(list: &mut List, half: &str, dim: usize) {
    residual(list, &format!("{half}.mid_block.resnets.0"), dim, dim);
    attention(list, &format!("{half}.mid_block.attentions.0"), dim);
    residual(list, &format!("{half}.mid_block.resnets.1"), dim, dim);
}

pub(super) fn infer(shapes: &Shapes<'_>) -> Result<VaeConfig, WeightsError> {
    if shapes.has("encoder.downsamples.0.downsamples.0.residual.0.gamma")
        || shapes.has("encoder.down_blocks.0.downsamples.0.residual.0.gamma")
        || shapes.has("encoder.down_blocks.0.resnets.0.norm1.gamma")
    {
        return Err(WeightsError::Config {
            component: "VAE",
            field: "the nested levels".into(),
            value: "Wan 2.2".into(),
            rule: "only the autoencoder of Wan 2.1 and SkyReels-V2 is supported; use Wan2.1_VAE"
                .into(),
        });
    }
    let base = shapes.axis("encoder.conv_in.weight", 0)?;
    let z = shapes.axis("post_quant_conv.weight", 0)?;
    let (mut mult, mut time, mut blocks) = (vec![], vec![], 0);
    let mut blocks_here = 0;
    let count = shapes.count("encoder.down_blocks.");
    for index in 0..count {
        let name = format!("encoder.down_blocks.{index}");
        if let Some(width) = shapes.get(&format!("{name}.conv2.weight")).and_then(|s| s.first()) {
            blocks_here += 1;
            blocks = blocks.max(blocks_here);
            if blocks_here == 1 {
                if base == 0 || !width.is_multiple_of(base) {
                    return Err(shapes.ask("the widths of the levels", width));
                }
                mult.push(width / base);
            }
        } else if shapes.has(&format!("{name}.resample.1.weight")) {
            time.push(shapes.has(&format!("{name}.time_conv.weight")));
            blocks_here = 0;
        } else {
            return Err(shapes.ask("attn_scales", "attention between the levels"));
        }
    }
    if z != 16 {
        return Err(shapes.ask("latents_mean", format!("unknown for {z} latent channels")));
    }
    // The last level of the decoder is one multiple wide; its upsampler before has halved the channels.
    let first = mult.first().copied().filter(|m| *m > 0);
    let top = shapes.axis("decoder.norm_out.gamma", 0)?;
    let Some(decoder_base) = first.filter(|m| top.is_multiple_of(*m)).map(|m| top / m) else {
        return Err(shapes.ask("decoder_base_dim", top));
    };
    let json = serde_json::json!({
        "base_dim": base,
        "decoder_base_dim": (decoder_base != base).then_some(decoder_base),
        "z_dim": z,
        "dim_mult": mult,
        "num_res_blocks": blocks,
        "temperal_downsample": time,
        "in_channels": shapes.axis("encoder.conv_in.weight", 1)?,
        "out_channels": shapes.axis("decoder.conv_out.weight", 0)?,
    });
    VaeConfig::from_json(&json.to_string())
}
