//! `longreel bench`: how fast this machine is at the shapes of the published models, with random
//! weights, so that nothing has to be fetched for it.

mod exchange;
mod host;
mod networks;
mod random;
mod table;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use longreel_film::{DeviceChoice, Opened, flops_per_second_of, human_bytes, peak_memory_bytes};
use longreel_kernels::Products;
use longreel_weights::{PublishedModel, WeightDtype, published_models};
use serde_json::json;

use crate::generate_args::DtypeArg;
use crate::outcome::{EXIT_DONE, bad_input};
use crate::report::{Verbosity, print, print_json};
use crate::values::{Size, check_frames, check_size};

pub const BENCH_EXAMPLES: &str = "\
Examples:
  longreel bench
  longreel bench SkyReels-V2-DF-14B-720P --size 1280x720 --num-frames 121 --layers 1
  longreel bench SkyReels-V2-DF-14B-540P --dtype fp8
  longreel bench --trace trace.json          then open it at https://ui.perfetto.dev

Weights are random, of the model's own shapes, in bf16 or what --dtype makes of it, in a file for temporary use. A network of many
like layers is measured with as many as --budget allows and counted up; what was measured is said.";

/// Frames that the autoencoder decodes at once here, at most.
const DECODED: usize = 3;

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// A published model, whose shapes are taken [default: SkyReels-V2-DF-1.3B-540P]
    #[arg(value_name = "MODEL")]
    pub model: Option<String>,
    /// Pixels [default: those of the model's name]
    #[arg(long, value_name = "WxH")]
    pub size: Option<Size>,
    /// Pixel frames of a window, 4n+1
    #[arg(long, value_name = "N", default_value_t = 97)]
    pub num_frames: u64,
    /// What the transformer's weights are: fp8 has products of 8-bit floats in its blocks [default: bf16]
    #[arg(long, value_enum, ignore_case = true)]
    pub dtype: Option<DtypeArg>,
    /// Have self-attention leave keys out in the transformer's pass, as --sparse-attention of generate, and say how
    /// many are kept: with random weights almost all, since tokens have little in common
    #[arg(long, value_name = "SHARE")]
    pub sparse_attention: Option<f32>,
    /// Layers of the transformer to measure, instead of as many as there is time for
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub layers: Option<u16>,
    /// About how many seconds to measure each network
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    pub budget: u16,
    /// Write all operations as a trace for Perfetto and Chrome
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

/// What was measured of a network.
pub struct Measured {
    /// Its name.
    pub name: &'static str,
    /// What one pass is, for people.
    pub what: String,
    /// Seconds of a whole pass.
    pub seconds: f64,
    /// Its operations.
    pub flops: f64,
    /// Layers measured, and all.
    pub layers: (usize, usize),
    /// What was measured instead, where that would have taken too long.
    pub instead: Option<String>,
    /// Share of the keys that attention kept where it left some out.
    pub kept_share: Option<f64>,
    /// What was really run.
    pub spans: Vec<longreel_kernels::spans::Span>,
}

/// Measures and says.
pub fn bench(args: &BenchArgs, device: DeviceChoice, verbosity: Verbosity) -> Result<u8> {
    let model = published(args.model.as_deref())?;
    let size = args.size.unwrap_or_else(|| size_of(&model));
    check_size("--size", size).map_err(bad_input)?;
    check_frames("--num-frames", args.num_frames).map_err(bad_input)?;
    if args.num_frames > 2_001 {
        return Err(bad_input(format!(
            "--num-frames {}: a window of more than 2001 frames is made by nobody; 97 is usual",
            args.num_frames
        )));
    }
    if let Some(share) = args.sparse_attention.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
        return Err(bad_input(format!(
            "--sparse-attention {share}: it is a share of attention's weights, above 0, at most 1; use 0.9"
        )));
    }
    let all = model.transformer.num_layers;
    if let Some(layers) = args.layers.map(usize::from).filter(|layers| *layers > all) {
        return Err(bad_input(format!("--layers {layers}: {} has {all}", model.name)));
    }
    let latents = (args.num_frames as usize - 1) / 4 + 1;
    let folder = tempfile::tempdir().context("no folder for temporary files")?;
    let budget = f64::from(args.budget);
    let mut measured = Vec::new();
    let say = |text: String| {
        if !verbosity.json && !verbosity.quiet {
            print(&text);
        }
    };
    let (count, heads) = (device.count(), model.transformer.num_attention_heads);
    let rows = size.height / 8 / model.transformer.patch_size[1];
    let fits = |count: &usize| heads.is_multiple_of(*count) && *count <= rows;
    if !fits(&count) {
        let fewer = (1..count).rev().find(fits).unwrap_or(1);
        return Err(bad_input(format!(
            "--device {device}: {count} devices cannot share the {heads} heads and {rows} rows of patches of \
             this model; name {fewer}"
        )));
    }
    let dtype = args.dtype.map(WeightDtype::from);
    let Opened { devices, warning } = device.open(dtype)?;
    let device = &devices[0];
    if let Some(warning) = warning {
        eprintln!("warning: {warning}");
    }
    let products = dtype.map_or(Products::default(), Products::from);
    let peak = flops_per_second_of(device, products)?;
    let what = device.gpu().map_or_else(|| "the processor".to_owned(), |gpu| gpu.name());
    let product = if device.gpu().is_some() || products.are_pairs() { "bf16" } else { "f32" };
    let Size { width, height } = size;
    say(format!(
        "{}{} at {width}x{height}, {} frames, on {what}; a large {product} product reaches {:.0} GFLOP/s",
        model.name,
        dtype.map_or(String::new(), |dtype| format!(" in {dtype}")),
        args.num_frames,
        peak / 1e9
    ));
    let window = networks::Window { latents, height, width };
    let stored = dtype.unwrap_or(WeightDtype::Bf16);
    let host = device.gpu().map(|gpu| host::Host::of(&model, stored, window, gpu)).transpose()?;
    host.iter().for_each(|host| say(host.line()));
    let layers = args.layers.map(usize::from);
    let weights = networks::Weights { folder: folder.path(), dtype };
    let asked = networks::Asked { layers, sparse_attention: args.sparse_attention };
    measured.push(networks::transformer(&model, window, asked, budget, weights, device)?);
    say(table::of(measured.last().expect("just pushed"), peak));
    // The processor does neither by itself.
    let ways = if devices.len() > 1 || device.gpu().is_some() {
        let layers = (measured[0].layers.0 / 3).max(1);
        networks::ways(&model, window, layers, weights, &devices)?
    } else {
        Vec::new()
    };
    ways.iter().for_each(|way| say(table::of_way(way)));
    let exchange = match &devices[..] {
        [_] => None,
        several => Some(exchange::Exchange::of(&model, window, several)?),
    };
    exchange.iter().for_each(|exchange| say(exchange.line()));
    let shown = window.with_latents(latents.min(DECODED));
    measured.push(networks::decoder(shown, budget * peak, folder.path(), device)?);
    say(table::of(measured.last().expect("just pushed"), peak));
    measured.push(networks::text_encoder(budget, folder.path(), device)?);
    say(table::of(measured.last().expect("just pushed"), peak));
    let notes = device.gpu().map(|gpu| gpu.notes()).unwrap_or_default();
    let notes: Vec<String> = notes.into_iter().map(|note| note.text).collect();
    notes.iter().for_each(|note| say(note.clone()));
    let memory = peak_memory_bytes();
    if let Some(memory) = memory {
        say(format!("peak memory, mapped weights included: {}", human_bytes(memory)));
    }
    if let Some(path) = &args.trace {
        let trace = table::trace(&measured).to_string();
        std::fs::write(path, trace).with_context(|| format!("cannot write {}", path.display()))?;
        say(format!("trace: {}", path.display()));
    }
    if verbosity.json {
        print_json(&json!({
            "model": model.name,
            "size": format!("{width}x{height}"),
            "num_frames": args.num_frames,
            "device": what,
            "dtype": stored,
            "probe_flops_per_second": peak,
            "peak_memory_bytes": memory,
            "notes": notes,
            "host": host.as_ref().map(host::Host::json),
            "exchange": exchange.as_ref().map(exchange::Exchange::json),
            "ways": ways.iter().map(table::json_of_way).collect::<Vec<_>>(),
            "networks": measured.iter().map(|network| table::json(network, peak)).collect::<Vec<_>>(),
        }));
    }
    Ok(EXIT_DONE)
}

fn published(name: Option<&str>) -> Result<PublishedModel> {
    let name = name.unwrap_or("SkyReels-V2-DF-1.3B-540P");
    let models = published_models();
    let names: Vec<&str> = models.iter().map(|model| model.name).collect();
    let found = models.iter().find(|model| model.name.eq_ignore_ascii_case(name));
    found
        .cloned()
        .ok_or_else(|| bad_input(format!("MODEL {name:?}: it is none of {}", names.join(", "))))
}

/// The size that a model's name says.
fn size_of(model: &PublishedModel) -> Size {
    let of = |width, height| Size { width, height };
    let name = model.name.to_ascii_uppercase();
    if name.contains("720P") {
        of(1280, 720)
    } else if name.contains("480P") {
        of(832, 480)
    } else {
        of(960, 544)
    }
}
