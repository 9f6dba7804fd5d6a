//! What a device could do at best, which what it does is told beside.

use longreel_film::{GpuFacts, flops_per_second_of};
use longreel_kernels::gpu::Element;
use longreel_kernels::spans::Span;
use longreel_kernels::{Device, GpuError, Products};

use super::table::human_rate;

/// Which operations of a network have the products that `--dtype` chooses. All others have those of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// None: the network is none that `--dtype` is about.
    Nothing,
    /// Layers alone, as with 8-bit floats on a GPU.
    Layers,
    /// Layers and attention.
    Everything,
}

impl Chosen {
    /// Of the transformer on a device.
    pub fn of(device: &Device, products: Products) -> Self {
        match device.gpu().is_some() && products == Products::Fp8 {
            true => Self::Layers,
            false => Self::Everything,
        }
    }

    /// Whether an operation is one of them.
    pub fn has(self, operation: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Layers => matches!(operation, "linear" | "feed-forward"),
            Self::Everything => true,
        }
    }

    /// Work by the operations that were done.
    pub fn work_of(self, spans: &[Span]) -> Work {
        spans.iter().fold(Work::default(), |work, span| match self.has(span.name) {
            true => Work { chosen: work.chosen + span.flops, ..work },
            false => Work { others: work.others + span.flops, ..work },
        })
    }
}

/// Floating-point operations by what is multiplied.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// With the products that were chosen.
    pub chosen: f64,
    /// With those that a device has for everything.
    pub others: f64,
}

impl Work {
    /// All of them.
    pub fn total(self) -> f64 {
        self.chosen + self.others
    }

    /// So many times as much.
    pub fn times(self, times: f64) -> Self {
        Self { chosen: times * self.chosen, others: times * self.others }
    }
}

/// Operations a second by what is multiplied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// With the products that were chosen.
    pub chosen: f64,
    /// With those that a device has for everything.
    pub others: f64,
}

impl Rates {
    /// The share of them that work done in so many seconds has reached.
    pub fn share(self, work: Work, seconds: f64) -> f64 {
        (work.chosen / self.chosen + work.others / self.others) / seconds
    }
}

/// What a device could do at best.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    /// By the data sheet of a GPU; a processor has none.
    pub peak: Option<Rates>,
    /// What a large matrix product reaches.
    pub product: Rates,
}

impl Marks {
    /// Looks the one up and measures the other.
    ///
    /// # Errors
    /// What went wrong on the device.
    pub fn of(
        device: &Device,
        facts: Option<&GpuFacts>,
        products: Products,
    ) -> Result<Self, GpuError> {
        let others = flops_per_second_of(device, Products::default())?;
        let chosen = match products == Products::default() {
            true => others,
            false => flops_per_second_of(device, products)?,
        };
        let peak = facts.map(|facts| Rates {
            chosen: match products {
                Products::Fp8 => facts.peak_8_bit_flops,
                _ => facts.peak_flops,
            },
            others: facts.peak_flops,
        });
        Ok(Self { peak, product: Rates { chosen, others } })
    }

    /// What they are, in words.
    pub fn line(&self, products: Products, device: &Device) -> String {
        let element = device.gpu().map_or(Element::F32, |gpu| gpu.compute());
        let own = if element == Element::Bf16 { "bf16" } else { "f32" };
        let chosen = |others| match products {
            Products::Fp8 if device.gpu().is_some() => "8 bits",
            Products::Bf16 if products.are_pairs() => "bf16",
            _ => others,
        };
        let of = |rates: Rates, others: &'static str| {
            let chosen = chosen(others);
            let rate = |rate, name| format!("{} in {name}", human_rate(rate));
            match chosen == others {
                true => rate(rates.others, others),
                false => format!("{}, {}", rate(rates.chosen, chosen), rate(rates.others, others)),
            }
        };
        let product = format!("a large product reaches {}", of(self.product, own));
        match self.peak {
            Some(peak) => {
                let peak = of(peak, "bf16");
                format!("its peak by its data sheet is {peak}; {product}")
            }
            None => product,
        }
    }

    /// How much of both work done in so many seconds has reached, in words.
    pub fn shares(&self, work: Work, seconds: f64) -> String {
        let percent = |rates: Rates| 100.0 * rates.share(work, seconds);
        let product = format!("{:.0}% of the large product's", percent(self.product));
        match self.peak {
            Some(peak) => format!("{:.0}% of the card's peak, {product}", percent(peak)),
            None => product,
        }
    }
}
