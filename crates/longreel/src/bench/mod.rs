//! `longreel bench`: how fast this machine is at the shapes of the published models, with random
//! weights, so that nothing has to be fetched for it.

mod exchange;
mod memory;
mod networks;
mod random;
mod rates;
mod table;
mod timed;
mod transformer;
mod weights;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use longreel_film::{DeviceChoice, Opened, human_bytes, peak_memory_bytes};
use longreel_kernels::gpu::WeightPlan;
use longreel_kernels::{Device, Products};
use longreel_weights::{PublishedModel, WeightDtype, published_models};
use serde_json::json;

use self::exchange::Exchange;
use self::memory::{Film, Shared};
use self::networks::Pictures;
use self::rates::{Chosen, Marks, Work};
use self::timed::Seconds;
use self::transformer::{Case, Way, Weights};
use crate::generate_args::DtypeArg;
use crate::outcome::{EXIT_DONE, bad_input};
use crate::report::{Verbosity, print, print_json};
use crate::values::{Size, check_frames, check_size};

pub const BENCH_EXAMPLES: &str = "\
Examples:
  longreel bench
  longreel bench SkyReels-V2-DF-14B-720P --size 1280x720 --num-frames 121 --layers 1
  longreel bench SkyReels-V2-DF-14B-540P --dtype fp8
  longreel bench --trace trace.json          # then open it at https://ui.perfetto.dev

Weights are random, of the model's own shapes, in bf16 or what --dtype makes of it, in a file for
temporary use. A network of many like layers is measured with as many as --budget allows and
counted up; what was measured is said. On a GPU memory is shared out as a film's is: what does not
fit is brought for each pass.";

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

/// What is denoised, decoded or encoded at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Latent frames.
    pub latents: usize,
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
}

impl Window {
    /// The same picture for another time.
    pub fn with_latents(self, latents: usize) -> Self {
        Self { latents, ..self }
    }

    /// Pixel frames.
    pub fn frames(self) -> usize {
        4 * self.latents - 3
    }
}

/// Weights that were brought to a GPU during a pass.
#[derive(Debug, Clone, Copy)]
pub struct Brought {
    /// With the layers that were measured.
    pub bytes: u64,
    /// By the whole time of the pass.
    pub bytes_per_second: f64,
}

/// What was measured of a network.
#[derive(Debug)]
pub struct Measured {
    /// Its name.
    pub name: &'static str,
    /// What one pass is, for people.
    pub what: String,
    /// What a whole pass takes.
    pub seconds: Seconds,
    /// Its operations.
    pub work: Work,
    /// Which of them have the products that `--dtype` chooses.
    pub chosen: Chosen,
    /// Layers measured, and all.
    pub layers: (usize, usize),
    /// What was measured instead, where that would have taken too long.
    pub instead: Option<String>,
    /// Share of the keys that attention kept where it left some out.
    pub kept_share: Option<f64>,
    /// What was brought meanwhile, where not all weights stay.
    pub brought: Option<Brought>,
    /// What was really run, of one pass; nothing where another row shows it.
    pub spans: Vec<longreel_kernels::spans::Span>,
}

/// Measures and says.
pub fn bench(args: &BenchArgs, device: DeviceChoice, verbosity: Verbosity) -> Result<u8> {
    let model = published(args.model.as_deref())?;
    let size = args.size.unwrap_or_else(|| size_of(&model));
    check(args, &model, size, &device)?;
    let Size { width, height } = size;
    let latents = (args.num_frames as usize - 1) / 4 + 1;
    let window = Window { latents, height, width };
    let folder = tempfile::tempdir().context("no folder for temporary files")?;
    let say = |text: String| {
        if !verbosity.json && !verbosity.quiet {
            print(&text);
        }
    };
    let dtype = args.dtype.map(WeightDtype::from);
    let Opened { devices, warning } = device.open(dtype)?;
    if let Some(warning) = warning {
        eprintln!("warning: {warning}");
    }
    let first = &devices[0];
    let film = Film::new(&model, window, dtype, &device, folder.path())?;
    let products = dtype.map_or(Products::default(), Products::from);
    let marks = Marks::of(first, film.gpu().filter(|_| first.gpu().is_some()), products)?;
    let what = first.gpu().map_or_else(|| "the processor".to_owned(), |gpu| gpu.name());
    say(format!(
        "{}{} at {width}x{height}, {} frames, on {what}; {}",
        model.name,
        dtype.map_or(String::new(), |dtype| format!(" in {dtype}")),
        args.num_frames,
        marks.line(products, first)
    ));
    // Before any weight comes, as a film does.
    let shared = film.share(first)?;
    shared.iter().for_each(|shared| say(shared.line()));
    let host_rate = first.gpu().map(|gpu| gpu.host_rate()).transpose()?;
    if let Some(rate) = host_rate {
        say(format!("weights come from the host at {}/s", human_bytes(rate as u64)));
    }
    warn_of_few(args, &model, shared.as_ref());
    let case = Case {
        model: &model,
        window,
        weights: Weights { folder: folder.path(), dtype },
        layers: args.layers.map(usize::from),
        sparse_attention: args.sparse_attention,
        shared: shared.as_ref(),
    };
    let found = measure(&case, &film, &devices, &marks, args, &say)?;
    let notes = first.gpu().map(|gpu| gpu.notes()).unwrap_or_default();
    let notes: Vec<String> = notes.into_iter().map(|note| note.text).collect();
    notes.iter().for_each(|note| say(note.clone()));
    let memory = peak_memory_bytes();
    if let Some(memory) = memory {
        let memory = human_bytes(memory);
        say(format!("peak memory of these measurements, mapped weights included: {memory}"));
    }
    if let Some(path) = &args.trace {
        let trace = table::trace(&found.networks).to_string();
        std::fs::write(path, trace).with_context(|| format!("cannot write {}", path.display()))?;
        say(format!("trace: {}", path.display()));
    }
    if verbosity.json {
        print_json(&json!({
            "model": model.name,
            "size": format!("{width}x{height}"),
            "num_frames": args.num_frames,
            "device": what,
            "dtype": dtype.unwrap_or(WeightDtype::Bf16),
            "probe_flops_per_second": marks.product.chosen,
            "probe_others_flops_per_second": marks.product.others,
            "peak_flops_per_second": marks.peak.map(|peak| peak.chosen),
            "peak_others_flops_per_second": marks.peak.map(|peak| peak.others),
            "host_bytes_per_second": host_rate,
            "gpu_memory": shared.as_ref().map(Shared::json),
            "peak_memory_bytes": memory,
            "notes": notes,
            "exchange": found.exchange.as_ref().map(Exchange::json),
            "ways": found.ways.iter().map(table::json_of_way).collect::<Vec<_>>(),
            "networks": found.networks.iter().map(|network| table::json(network, &marks)).collect::<Vec<_>>(),
        }));
    }
    Ok(EXIT_DONE)
}

/// All that was measured.
struct Found {
    networks: Vec<Measured>,
    ways: Vec<Way>,
    exchange: Option<Exchange>,
}

/// Measures all networks, and says of each what came out.
fn measure(
    case: &Case<'_>,
    film: &Film,
    devices: &[Device],
    marks: &Marks,
    args: &BenchArgs,
    say: &impl Fn(String),
) -> Result<Found> {
    let (first, budget, folder) = (&devices[0], f64::from(args.budget), case.weights.folder);
    let mut networks = Vec::new();
    let mut add = |network: Measured| {
        say(table::of(&network, marks));
        networks.push(network);
    };
    let [pass, step] = transformer::transformer(case, budget, first)?;
    // Fewer for each of several ways, as long as weights have to be brought.
    let layers = (pass.layers.0 / 3).max(case.least_layers());
    add(pass);
    add(step);
    // The processor does neither by itself.
    let ways = match devices.len() > 1 || first.gpu().is_some() {
        true => transformer::ways(case, layers, film, devices)?,
        false => Vec::new(),
    };
    ways.iter().for_each(|way| say(table::of_way(way)));
    let exchange = match devices {
        [_] => None,
        several => Some(Exchange::of(case.model, case.window, several)?),
    };
    exchange.iter().for_each(|exchange| say(exchange.line()));
    // With the transformer gone, the memory is the decoder's as in a film, and then the text encoder's alone.
    let strips = film.share(first)?.map_or(1, |shared| shared.strips);
    let flops_per_second = marks.product.others;
    let pictures = Pictures { window: case.window, strips, budget, flops_per_second };
    let [decoder, encoder] = networks::autoencoder(&pictures, folder, first)?;
    add(decoder);
    add(encoder);
    if let Some(gpu) = first.gpu() {
        gpu.plan_weights(WeightPlan::ALL);
    }
    add(networks::text_encoder(budget, folder, first)?);
    Ok(Found { networks, ways, exchange })
}

/// Says where so few layers are asked for that none of their weights has to be brought again.
fn warn_of_few(args: &BenchArgs, model: &PublishedModel, shared: Option<&Shared>) {
    let least = shared.map_or(1, |shared| shared.least_layers(model.transformer.num_layers));
    if let Some(layers) = args.layers.filter(|layers| usize::from(*layers) < least) {
        eprintln!(
            "warning: --layers {layers}: what so few layers have brought for a pass stays where it came to, and the whole \
             model's does not; {least} layers or more tell what bringing weights takes"
        );
    }
}

/// Refuses what cannot be measured.
fn check(
    args: &BenchArgs,
    model: &PublishedModel,
    size: Size,
    device: &DeviceChoice,
) -> Result<()> {
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
    Ok(())
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

/// Where tests keep the kernels that they have compiled, beside those of other tests.
#[cfg(test)]
fn shim_folder() -> PathBuf {
    let program = std::env::current_exe().expect("this program");
    // target/PROFILE/deps/PROGRAM
    program.ancestors().nth(3).expect("a folder of cargo's").join("tmp")
}
