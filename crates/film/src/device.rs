//! The devices that make a film, and how their memory is shared out.

mod cards;
mod choice;
#[cfg(test)]
pub(crate) mod peak;
mod weights;

use std::sync::OnceLock;

use longreel_kernels::cuda::{Connection, Pcie};
use longreel_kernels::gpu::{Element, Gpu, WeightGroup, WeightPlan};
use longreel_kernels::{Device, GpuError, cuda, ranks};
use longreel_models::ModelError;
use longreel_weights::WeightDtype;

pub use self::cards::CardNames;
pub use self::choice::DeviceChoice;
pub use self::weights::TransformerWeights;
pub(crate) use self::weights::{block_values, transformer_values};
use crate::error::FilmError;
use crate::estimate::{
    Batch, gpu_decode_bytes, gpu_forward_bytes, gpu_graph_bytes, gpu_latent_bytes, gpu_state_bytes,
};
use crate::plan::{ModelFacts, PlanSummary, human_bytes};
use crate::sharing::Sharing;

/// Devices that were opened, and what there is to say about the choice.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The devices, at least one.
    pub devices: Vec<Device>,
    /// Why a GPU that is there is not used.
    pub warning: Option<String>,
}

impl DeviceChoice {
    /// Opens the devices. On a GPU weights asked for as `f32` are computed with as that, and others in
    /// bf16; products of 8-bit floats are tried first where `dtype` has them.
    ///
    /// # Errors
    /// When a GPU was asked for that cannot be used.
    pub fn open(&self, dtype: Option<WeightDtype>) -> Result<Opened, FilmError> {
        let compute = element_of(dtype);
        let gpu = |ordinal| {
            let gpu = Gpu::new(cuda::open(ordinal)?, compute);
            gpu.check_arithmetic()?;
            if dtype == Some(WeightDtype::Fp8) {
                gpu.check_8_bit_products()?;
            }
            Ok::<_, GpuError>(Device::Gpu(gpu))
        };
        let cpu = |count, warning| Opened { devices: vec![Device::Cpu; count], warning };
        match self {
            Self::Cpu(count) => Ok(cpu(*count, None)),
            Self::Cuda(ordinals) => {
                let open = |&ordinal| {
                    let choice = || Self::Cuda(vec![ordinal]);
                    gpu(ordinal).map_err(|error| FilmError::Device { choice: choice(), error })
                };
                let devices = ordinals.iter().map(open).collect::<Result<_, _>>()?;
                Ok(Opened { devices, warning: None })
            }
            Self::Auto if cuda::cards().is_empty() => Ok(cpu(1, None)),
            Self::Auto => Ok(match gpu(0) {
                Ok(device) => Opened { devices: vec![device], warning: None },
                Err(error) => cpu(
                    1,
                    Some(format!(
                        "the GPU is not used, and the processor is: {error}; `longreel doctor` says more"
                    )),
                ),
            }),
        }
    }
}

/// What a GPU computes in, with weights that are asked for as `dtype`.
fn element_of(dtype: Option<WeightDtype>) -> Element {
    match dtype {
        Some(WeightDtype::F32) => Element::F32,
        _ => Element::Bf16,
    }
}

impl ModelFacts {
    /// What a GPU computes in with its weights.
    pub(crate) fn element(&self) -> Element {
        element_of(self.converted.map(|converted| converted.dtype))
    }

    /// Bytes of a value that passes leave for later ones: the processor computes in singles.
    pub(crate) fn kept_value_bytes(&self) -> usize {
        let element = self.gpu.as_ref().map_or(Element::F32, |_| self.element());
        element.bytes()
    }
}

/// What a plan knows of the GPUs that will make the film: of the one with the least, where there are
/// several.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuFacts {
    /// Its name.
    pub name: String,
    /// Bytes of its memory that a film can have: the free ones, or all where the driver does not tell, without
    /// what a context and libraries take before a film begins.
    pub free_bytes: u64,
    /// Dense bf16 operations a second, by its data sheet's rule.
    pub peak_flops: f64,
    /// Those of 8-bit floats with sums in f32.
    pub peak_8_bit_flops: f64,
    /// How several of them are connected.
    pub link: Option<CardLink>,
    /// What brings weights to it.
    pub host: HostLink,
}

/// What carries bytes from the host's memory to a GPU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HostLink {
    /// So many bytes a second, as measured on it in the way in which weights are brought.
    Measured(f64),
    /// Its bus as the driver tells it.
    Bus(Pcie),
    /// A bus that nobody tells of.
    Unknown,
}

impl HostLink {
    /// What a bus is taken to be where the driver does not tell: as slow as those of the oldest machines that cards of
    /// today are put into.
    const USUAL: Pcie = Pcie { generation: 3, lanes: 16 };

    /// Bytes a second, as measured or by the standard.
    pub(crate) fn bytes_per_second(self) -> f64 {
        match self {
            Self::Measured(rate) => rate,
            Self::Bus(bus) => bus.bytes_per_second(),
            Self::Unknown => Self::USUAL.bytes_per_second(),
        }
    }

    /// Whether that was measured.
    pub(crate) fn is_measured(self) -> bool {
        matches!(self, Self::Measured(_))
    }

    /// In words.
    pub(crate) fn way(self) -> String {
        match self {
            Self::Measured(_) => "measured".into(),
            Self::Bus(bus) => bus.to_string(),
            Self::Unknown => format!("a bus that nobody tells of, taken for {}", Self::USUAL),
        }
    }
}

/// How the GPUs of a group are connected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CardLink {
    /// How they reach each other's memory.
    pub connection: Connection,
    /// What goes out of one of them, by its data sheet, in bytes a second.
    pub bytes_per_second: f64,
}

impl CardLink {
    /// In a word.
    pub(crate) fn way(&self) -> &'static str {
        match self.connection {
            Connection::NvLink => "NVLink",
            Connection::Pcie => "PCI Express",
            Connection::Host => "PCI Express and the host's memory",
        }
    }

    /// Of a card by its name and compute capability. `by_us` where the values are copied to the host, and from there
    /// when they are there, one after the other; the driver and NCCL do both at once.
    fn of(connection: Connection, by_us: bool, name: &str, capability: (u32, u32)) -> Self {
        let connection = if by_us { Connection::Host } else { connection };
        let bytes_per_second = match connection {
            Connection::NvLink => nvlink_bytes(name, capability),
            Connection::Pcie => pcie_bytes(capability),
            Connection::Host if by_us => pcie_bytes(capability) / 2.0,
            Connection::Host => pcie_bytes(capability),
        };
        Self { connection, bytes_per_second }
    }
}

/// Bytes a second each way of a card's PCI Express by NVIDIA's data sheets: of 16 lanes of the fourth generation 32 GB
/// (A100, RTX 30 and 40, L40S), of the fifth 64 GB (H100, B200, RTX 50).
fn pcie_bytes(capability: (u32, u32)) -> f64 {
    if capability.0 >= 9 { 64e9 } else { 32e9 }
}

/// And of its NVLink, which the data sheets give for both ways together: A100 600 GB, A800 and H800 400 GB, RTX 3090
/// and A6000 112.5 GB by a bridge, H100 SXM and H200 900 GB, H100 PCIe and NVL 600 GB by bridges, B200 1800 GB.
fn nvlink_bytes(name: &str, capability: (u32, u32)) -> f64 {
    let is = |part: &str| name.contains(part);
    let both_ways = match capability {
        _ if is("A800") || is("H800") => 400e9,
        (8, 0) => 600e9,
        (8, _) => 112.5e9,
        (9, _) if is("H100 PCIe") || is("H100 NVL") => 600e9,
        (9, _) => 900e9,
        _ => 1800e9,
    };
    both_ways / 2.0
}

impl GpuFacts {
    /// The one that a choice leads to, looked for once; `None` when the processor makes the film.
    pub fn of(choice: &DeviceChoice) -> Option<Self> {
        static CARDS: OnceLock<Vec<cuda::Card>> = OnceLock::new();
        let ordinals = match choice {
            DeviceChoice::Cpu(_) => return None,
            DeviceChoice::Auto => &[0][..],
            DeviceChoice::Cuda(ordinals) => ordinals,
        };
        // Not by a probe: the libraries take hundreds of megabytes to load, and a service that has workers
        // of its own uses none of them.
        let cards = CARDS.get_or_init(cuda::cards);
        let several = (ordinals.len() > 1).then_some(ordinals);
        let connection = several.and_then(cuda::connection);
        let of = |ordinal: &u32| {
            let card = cards.iter().find(|card| card.ordinal == *ordinal)?;
            let link = connection.map(|connection| {
                CardLink::of(connection, ranks::is_by_host(), &card.name, card.capability)
            });
            let free = card.free_bytes.unwrap_or(card.total_bytes);
            let rate =
                peak_flops(&card.name, card.capability, card.multiprocessors, card.clock_khz);
            let host = card.pcie.map_or(HostLink::Unknown, HostLink::Bus);
            Some(Self::of_card(&card.name, card.capability, free, rate, link, host))
        };
        Self::least_of(ordinals.iter().map(of).collect::<Option<Vec<_>>>()?)
    }

    /// Of one card.
    fn of_card(
        name: &str,
        capability: (u32, u32),
        free_bytes: u64,
        peak_flops: f64,
        link: Option<CardLink>,
        host: HostLink,
    ) -> Self {
        let peak_8_bit_flops = eight_bits(capability) * peak_flops;
        let free_bytes = free_once_open(free_bytes);
        Self { name: name.to_owned(), free_bytes, peak_flops, peak_8_bit_flops, link, host }
    }

    /// The least of several; nothing of none.
    fn least_of(cards: Vec<Self>) -> Option<Self> {
        let mut cards = cards.into_iter();
        let mut least = cards.next()?;
        for card in cards {
            if !least.name.split(" + ").any(|name| name == card.name) {
                least.name = format!("{} + {}", least.name, card.name);
            }
            least.free_bytes = least.free_bytes.min(card.free_bytes);
            least.peak_flops = least.peak_flops.min(card.peak_flops);
            least.peak_8_bit_flops = least.peak_8_bit_flops.min(card.peak_8_bit_flops);
            let links = least.link.into_iter().chain(card.link);
            least.link = links.min_by(|a, b| a.bytes_per_second.total_cmp(&b.bytes_per_second));
            if card.host.bytes_per_second() < least.host.bytes_per_second() {
                least.host = card.host;
            }
        }
        Some(least)
    }
}

/// What a card is taken to have where its driver does not tell: as slow as an A100, in kHz.
const USUAL_CLOCK_KHZ: u32 = 1_410_000;

/// Dense bf16 operations a second with sums in f32: a multiprocessor's for each clock are what NVIDIA's
/// architecture papers and data sheets say of the tensor cores of its generation (A100 312, RTX A6000 155,
/// L40S 366, H100 989, RTX PRO 6000 504 TFLOP/s), of which cards for games have half (RTX 3090 71, RTX 4090 165,
/// RTX 5090 209), and so have L40 (181) and L20 (120). H20 has a quarter of its generation's (148).
fn peak_flops(name: &str, capability: (u32, u32), multiprocessors: u32, clock_khz: u32) -> f64 {
    let is = |word: &str| name.split_whitespace().any(|part| part == word);
    let per_clock = match capability {
        _ if is("H20") => 960.0,
        _ if is("L40") || is("L20") => 512.0,
        (8, 0 | 7) => 2048.0,
        (9, _) => 4096.0,
        (10 | 11, _) => 8192.0,
        _ if name.contains("GeForce") => 512.0,
        _ => 1024.0,
    };
    let clock_khz = if clock_khz == 0 { USUAL_CLOCK_KHZ } else { clock_khz };
    per_clock * f64::from(multiprocessors) * f64::from(clock_khz) * 1e3
}

/// How many times as many operations of 8-bit floats a card does, with sums in f32: twice from Ada on (RTX 4090 330,
/// H100 1979, B200 4500, RTX 5090 419 TFLOP/s, by NVIDIA's architecture papers and data sheets), and none of its own
/// before, where our kernel multiplies them as bf16.
fn eight_bits(capability: (u32, u32)) -> f64 {
    if capability >= (8, 9) { 2.0 } else { 1.0 }
}

/// What the networks that make segments need of a GPU, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    /// Weights of each pass, as they lie there: those that come first, among which the VAE's are counted, and those of the
    /// transformer's blocks.
    pub each_pass: [WeightGroup; 2],
    /// Weights that are used once for each prompt.
    pub prompt: WeightGroup,
    /// Everything else while denoising.
    pub activations: u64,
    /// What the decoder remembers between segments.
    pub state: u64,
    /// Everything but the transformer while decoding, which the transformer's weights make room for.
    pub decoding: u64,
}

/// Left of what is free once a device is open: kernels come to a card when they are first used, and something lies
/// between pieces.
const HEADROOM: u64 = 512 << 20;

/// What a card's context and the libraries' handles and workspaces take when it is opened: 0.4 to 0.6 GB are usual, by
/// what users of other programs tell.
const CONTEXT: u64 = 640 << 20;

/// What is left of a card's free bytes once it is open, which is what [`share`] finds.
fn free_once_open(free: u64) -> u64 {
    free.saturating_sub(CONTEXT)
}

impl Need {
    /// Of the transformer and the VAE, for passes of `batch` and frames of `size`, height and width, which
    /// are decoded in so many strips; `kept` is what passes leave for later ones takes.
    pub fn of(
        model: &ModelFacts,
        batch: Batch,
        size: [usize; 2],
        strips: usize,
        kept: u64,
    ) -> Self {
        let (transformer, element) = (&model.transformer, model.element());
        let TransformerWeights { around, blocks, prompt, .. } = TransformerWeights::of(model);
        let first = WeightGroup { bytes: around.bytes + model.other_bytes as usize, ..around };
        Self {
            each_pass: [first, blocks],
            prompt,
            activations: gpu_forward_bytes(transformer, batch, element)
                + gpu_graph_bytes(transformer, batch)
                + gpu_latent_bytes(transformer, batch)
                + kept,
            state: gpu_state_bytes(&model.vae, size, strips, element),
            decoding: gpu_decode_bytes(&model.vae, size, strips, element) + model.other_bytes,
        }
    }

    /// Of one of several devices that denoise. Where none of the others decodes, the first one has the VAE,
    /// and the others are planned as if they had.
    pub fn of_rank(
        model: &ModelFacts,
        sharing: Sharing,
        batch: Batch,
        size: [usize; 2],
        strips: usize,
        kept: u64,
    ) -> Self {
        let tokens = sharing.tokens(batch.tokens, size[0], &model.transformer);
        let own = Batch { tokens, ..batch };
        let need = Self::of(model, own, size, strips, kept / sharing.denoisers() as u64);
        if !sharing.decoder {
            return need;
        }
        let mut each_pass = need.each_pass;
        each_pass[0].bytes -= model.other_bytes as usize;
        Self { each_pass, state: 0, decoding: 0, ..need }
    }

    /// Of a device that encodes and decodes, and does nothing else.
    pub fn of_decoder(model: &ModelFacts, size: [usize; 2], strips: usize) -> Self {
        let working = gpu_decode_bytes(&model.vae, size, strips, model.element());
        let all =
            WeightGroup { bytes: model.other_bytes as usize, largest: model.other_bytes as usize };
        Self {
            each_pass: [all, WeightGroup::default()],
            prompt: WeightGroup::default(),
            activations: working,
            state: 0,
            decoding: working + model.other_bytes,
        }
    }

    /// How the weights share what `free` bytes leave; `None` when that is too little for any film of
    /// this size.
    pub fn shares(&self, free: u64) -> Option<WeightPlan> {
        free.checked_sub(self.decoding + HEADROOM)?;
        let budget = free.checked_sub(self.activations + HEADROOM)?;
        WeightPlan::new(&self.each_pass, self.prompt, budget as usize)
    }

    /// Bytes of all weights, as they lie there.
    pub fn weights(&self) -> u64 {
        self.pass_weights() + self.prompt.bytes as u64
    }

    /// Bytes of those of each pass.
    pub fn pass_weights(&self) -> u64 {
        self.each_pass.iter().map(|group| group.bytes as u64).sum()
    }

    /// Bytes that are brought for each pass where that many stay.
    pub fn brought(&self, shares: &WeightPlan) -> u64 {
        self.pass_weights().saturating_sub(shares.resident as u64)
    }

    /// Whether weights that stay have to leave for decoding, with `free` bytes.
    pub fn leave(&self, shares: &WeightPlan, free: u64) -> bool {
        shares.bytes() as u64 + self.decoding + HEADROOM > free
    }

    /// Bytes of everything together.
    pub fn all(&self) -> u64 {
        (self.weights() + self.activations + self.state).max(self.decoding) + HEADROOM
    }

    /// The least memory that it can work in.
    pub fn least(&self) -> u64 {
        let weights = WeightPlan::least_bytes(&self.each_pass, self.prompt) as u64;
        (self.activations + weights).max(self.decoding) + HEADROOM
    }
}

/// Numbers of strips that are tried, the fewest first: each has rows at its edges computed in vain.
const STRIPS: [usize; 11] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48];

/// In how many strips pictures of `size`, height and width, have to be decoded for `fits` to hold; in one when
/// it never does.
pub(crate) fn strips_until(size: [usize; 2], fits: impl Fn(usize) -> bool) -> usize {
    let rows = size[0] / 8;
    STRIPS.into_iter().filter(|&strips| strips <= rows).find(|&strips| fits(strips)).unwrap_or(1)
}

/// As [`strips_until`], for a GPU of so many free bytes.
pub(crate) fn strips_in(model: &ModelFacts, size: [usize; 2], free: u64) -> usize {
    strips_until(size, |strips| {
        let working = gpu_decode_bytes(&model.vae, size, strips, model.element());
        working + model.other_bytes + HEADROOM <= free
    })
}

/// How a GPU's memory was shared out among the networks of a film's segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryShare {
    /// Bytes that were free, or held by what makes room.
    pub free_bytes: u64,
    /// Bytes of everything but weights while denoising.
    pub activation_bytes: u64,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// Bytes of those of them that are used once for each prompt.
    pub prompt_bytes: u64,
    /// Those of them that stay, and the places of the others.
    pub weights: WeightPlan,
}

/// Shares each GPU out among the networks of a film's segments; what each has, in order.
///
/// # Errors
/// When one has too little memory for films of this size.
pub fn share(
    devices: &[Device],
    model: &ModelFacts,
    plan: &PlanSummary,
) -> Result<Vec<MemoryShare>, FilmError> {
    let (sharing, size) = (plan.sharing, [plan.height, plan.width]);
    let (strips, kept) = (plan.decoder_strips, plan.kept_bytes());
    let need = Need::of_rank(model, sharing, plan.batch(), size, strips, kept);
    let denoisers = devices.iter().take(sharing.denoisers()).map(|device| (device, need));
    let decoder = sharing
        .decoder
        .then(|| (sharing.decoder_of(devices), Need::of_decoder(model, size, strips)));
    denoisers
        .chain(decoder)
        .filter_map(|(device, need)| Some((device.gpu()?, need)))
        .map(|(gpu, need)| share_one(gpu, &need))
        .collect()
}

fn share_one(gpu: &Gpu, need: &Need) -> Result<MemoryShare, FilmError> {
    let (free, _) = gpu.driver().memory().map_err(ModelError::from)?;
    let (held, weights) = gpu.bytes();
    let free = free as u64 + (held + weights) as u64;
    let shares = need.shares(free).ok_or_else(|| FilmError::GpuMemory {
        needed: human_bytes(need.least()),
        free: human_bytes(free),
    })?;
    gpu.plan_weights(shares);
    gpu.set_scarce(need.all() > free);
    Ok(MemoryShare {
        free_bytes: free,
        activation_bytes: need.activations,
        weight_bytes: need.weights(),
        prompt_bytes: need.prompt.bytes as u64,
        weights: shares,
    })
}

/// What is left for a text encoder's activations.
const TEXT_ACTIVATIONS: u64 = 1 << 30;

/// Shares what a GPU has left out for a text encoder of so many bytes.
///
/// # Errors
/// When the GPU does not answer.
pub(crate) fn share_with_text(device: &Device, bytes: u64, largest: u64) -> Result<(), FilmError> {
    let Some(gpu) = device.gpu() else { return Ok(()) };
    let (free, _) = gpu.driver().memory().map_err(ModelError::from)?;
    let budget = (free as u64).saturating_sub(HEADROOM + TEXT_ACTIVATIONS);
    let all = WeightGroup { bytes: bytes as usize, largest: largest as usize };
    let shares = WeightPlan::new(&[all], WeightGroup::default(), budget as usize);
    let mut shares = shares.unwrap_or(WeightPlan::ALL);
    // Those that are there stay.
    shares.resident = shares.resident.saturating_add(gpu.bytes().1);
    gpu.plan_weights(shares);
    Ok(())
}

#[cfg(test)]
mod tests {
    use longreel_weights::published_models;

    use super::*;

    #[test]
    fn peaks_are_those_of_the_data_sheets() {
        for (name, capability, multiprocessors, clock, peak) in [
            ("NVIDIA A100-SXM4-80GB", (8, 0), 108, 1_410_000, 312e12),
            ("NVIDIA GeForce RTX 3090", (8, 6), 82, 1_695_000, 71e12),
            ("NVIDIA RTX A6000", (8, 6), 84, 1_800_000, 154.8e12),
            ("NVIDIA GeForce RTX 4090", (8, 9), 128, 2_520_000, 165e12),
            ("NVIDIA L40S", (8, 9), 142, 2_520_000, 366e12),
            ("NVIDIA L4", (8, 9), 58, 2_040_000, 121e12),
            ("NVIDIA H100 80GB HBM3", (9, 0), 132, 1_830_000, 989e12),
            ("NVIDIA GeForce RTX 5090", (12, 0), 170, 2_407_000, 209.5e12),
            (
                "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
                (12, 0),
                188,
                2_617_000,
                503.8e12,
            ),
            // As much as is told.
            ("NVIDIA A100-SXM4-80GB", (8, 0), 108, 0, 312e12),
        ] {
            let found = peak_flops(name, capability, multiprocessors, clock);
            assert!((found / peak - 1.0).abs() < 0.01, "{name}: {found:e}");
        }
    }

    #[test]
    fn products_of_8_bits_and_links_are_those_of_the_data_sheets() {
        for (capability, times) in [
            ((8, 0), 1.0),
            ((8, 6), 1.0),
            ((8, 9), 2.0),
            ((9, 0), 2.0),
            ((10, 0), 2.0),
            ((12, 0), 2.0),
        ] {
            assert_eq!(eight_bits(capability), times, "{capability:?}");
        }
        let rate = |connection, by_us, name, capability| {
            CardLink::of(connection, by_us, name, capability).bytes_per_second / 1e9
        };
        let [host, pcie, nvlink] = [Connection::Host, Connection::Pcie, Connection::NvLink];
        for (name, capability, rates) in [
            ("NVIDIA A100-SXM4-80GB", (8, 0), [32.0, 300.0]),
            ("NVIDIA A800-SXM4-80GB", (8, 0), [32.0, 200.0]),
            ("NVIDIA GeForce RTX 3090", (8, 6), [32.0, 56.25]),
            ("NVIDIA H100 80GB HBM3", (9, 0), [64.0, 450.0]),
            ("NVIDIA H100 PCIe", (9, 0), [64.0, 300.0]),
            ("NVIDIA H800", (9, 0), [64.0, 200.0]),
            ("NVIDIA H200", (9, 0), [64.0, 450.0]),
            ("NVIDIA B200", (10, 0), [64.0, 900.0]),
        ] {
            let found = [pcie, nvlink].map(|way| rate(way, false, name, capability));
            assert_eq!(found, rates, "{name}");
            // By the host the bus is the same, and taken twice where it is our copies.
            assert_eq!(rate(host, false, name, capability), rates[0]);
            assert_eq!(rate(nvlink, true, name, capability), rates[0] / 2.0);
        }
    }

    /// The published sizes on the cards they are meant for: what stays there and what is brought.
    #[test]
    fn published_models_are_planned_into_the_cards_they_are_meant_for() {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let need = |name: &str, latents: usize, width: usize, height: usize| {
            let model = published_models().into_iter().find(|m| m.name == name).expect(name);
            let config = &model.transformer;
            let facts = ModelFacts {
                transformer_bytes: 2 * transformer_values(config),
                other_bytes: 254 << 20,
                ..ModelFacts::of_published(&model, None).expect("published")
            };
            let tokens = latents * crate::estimate::tokens_per_frame(config, height, width);
            Need::of(&facts, Batch::one(tokens), [height, width], 1, 0)
        };
        let small = need("SkyReels-V2-DF-1.3B-540P", 25, 960, 544);
        let shares = small.shares(6 << 30).expect("the 1.3B model at 540P in 6 GiB");
        assert_eq!(shares.places, 0, "all weights stay: {small:?}");
        let large = need("SkyReels-V2-DF-14B-540P", 25, 960, 544);
        assert!(gib(large.weights()) > 24.0 && gib(large.weights()) < 32.0, "{large:?}");
        let shares = large.shares(12 << 30).expect("the 14B model at 540P in 12 GiB");
        assert!(shares.places > 0 && shares.bytes() as u64 + large.activations < 12 << 30);
        // On 32 GB all that passes need stays, and the decoder beside it.
        let shares = large.shares(31 << 30).expect("the 14B model at 540P in 31 GiB");
        assert!(shares.places > 0 && large.brought(&shares) == 0, "{shares:?}");
        assert!(!large.leave(&shares, 31 << 30), "{large:?} {shares:?}");
        let larger = need("SkyReels-V2-DF-14B-720P", 31, 1280, 720);
        let shares = larger.shares(24 << 30).expect("the 14B model at 720P in 24 GiB");
        assert!(gib(shares.resident as u64) > 8.0, "{larger:?} {shares:?}");
        // Places of the blocks' largest weight: those around the blocks stay.
        assert!(shares.place < 2 * 5120 * 13824 + (1 << 20), "{shares:?}");
        // A model of images makes keys and values of them, too, and passes need as much.
        let image = need("SkyReels-V2-I2V-14B-540P", 25, 960, 544);
        assert!(image.prompt.bytes as f64 > 1.9 * large.prompt.bytes as f64, "{image:?}");
        assert_eq!(image.pass_weights(), large.pass_weights());
        // A card of 48 GB has 44 GiB free and more: what the documents recommend.
        assert!(large.all() < 44 << 30 && larger.all() < 44 << 30, "{large:?} {larger:?}");
        assert_eq!(larger.shares(6 << 30), None);
        assert!(larger.least() > 6 << 30);
    }
}
