//! Cards that are not here, by name: what a plan for one of them needs to know.

use std::fmt;
use std::str::FromStr;

use longreel_kernels::cuda::{Connection, Pcie};

use super::choice::MOST_DEVICES;
use super::{CardLink, GpuFacts, HostLink, peak_flops};

/// One of the cards that are known by name.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Card {
    /// As its driver calls it, but for the maker.
    name: &'static str,
    capability: (u32, u32),
    multiprocessors: u32,
    /// With what its data sheet's rate is reckoned.
    clock_mhz: u32,
    /// As `nvidia-smi` tells it.
    memory_mib: u64,
    /// How several of them reach each other in the machines that are usually rented.
    connection: Connection,
}

const fn card(
    name: &'static str,
    capability: (u32, u32),
    multiprocessors: u32,
    clock_mhz: u32,
    memory_mib: u64,
    connection: Connection,
) -> Card {
    Card { name, capability, multiprocessors, clock_mhz, memory_mib, connection }
}

/// By NVIDIA's architecture papers and data sheets. The drivers of cards for games let none reach another one's memory
/// from the RTX 40 on.
const CARDS: [Card; 33] = {
    use Connection::{Host, NvLink, Pcie};
    [
        card("RTX A2000 6GB", (8, 6), 26, 1200, 6138, Pcie),
        card("GeForce RTX 3060 12GB", (8, 6), 28, 1777, 12_288, Pcie),
        card("GeForce RTX 3080 10GB", (8, 6), 68, 1710, 10_240, Pcie),
        card("GeForce RTX 3090", (8, 6), 82, 1695, 24_576, Pcie),
        card("GeForce RTX 3090 Ti", (8, 6), 84, 1860, 24_564, Pcie),
        card("GeForce RTX 4060 Ti 16GB", (8, 9), 34, 2535, 16_380, Host),
        card("GeForce RTX 4070", (8, 9), 46, 2475, 12_282, Host),
        card("GeForce RTX 4070 Ti SUPER", (8, 9), 66, 2610, 16_376, Host),
        card("GeForce RTX 4080", (8, 9), 76, 2505, 16_376, Host),
        card("GeForce RTX 4090", (8, 9), 128, 2520, 24_564, Host),
        card("GeForce RTX 4090 D", (8, 9), 114, 2520, 24_564, Host),
        card("GeForce RTX 5070 Ti", (12, 0), 70, 2452, 16_303, Host),
        card("GeForce RTX 5080", (12, 0), 84, 2617, 16_303, Host),
        card("GeForce RTX 5090", (12, 0), 170, 2407, 32_607, Host),
        card("RTX A4000", (8, 6), 48, 1560, 16_376, Pcie),
        card("RTX A5000", (8, 6), 64, 1695, 24_564, Pcie),
        card("RTX A6000", (8, 6), 84, 1800, 49_140, Pcie),
        card("RTX 6000 Ada Generation", (8, 9), 142, 2505, 49_140, Pcie),
        card("RTX PRO 6000 Blackwell", (12, 0), 188, 2617, 97_887, Pcie),
        card("A10", (8, 6), 72, 1695, 23_028, Pcie),
        card("A40", (8, 6), 84, 1740, 46_068, Pcie),
        card("L4", (8, 9), 58, 2040, 23_034, Pcie),
        card("L20", (8, 9), 92, 2520, 46_068, Pcie),
        card("L40", (8, 9), 142, 2490, 46_068, Pcie),
        card("L40S", (8, 9), 142, 2520, 46_068, Pcie),
        card("A100 40GB", (8, 0), 108, 1410, 40_960, NvLink),
        card("A100 80GB", (8, 0), 108, 1410, 81_920, NvLink),
        card("A800 80GB", (8, 0), 108, 1410, 81_920, NvLink),
        card("H100 PCIe", (9, 0), 114, 1620, 81_559, Pcie),
        card("H100 SXM", (9, 0), 132, 1830, 81_559, NvLink),
        card("H800 SXM", (9, 0), 132, 1830, 81_559, NvLink),
        card("H20", (9, 0), 78, 1980, 97_871, NvLink),
        card("H200", (9, 0), 132, 1830, 143_771, NvLink),
    ]
};

/// Of what `nvidia-smi` tells, what a driver leaves to programs of a card that nothing else uses: 98.6% were seen of an
/// RTX 4090, 99.1% of an A100.
const FREE_OF_1000: u64 = 985;

/// Cards that are not here, at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct CardNames(Vec<Card>);

impl CardNames {
    /// Each card that is known, by itself.
    pub fn all() -> impl Iterator<Item = Self> {
        CARDS.into_iter().map(|card| Self(vec![card]))
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// What a plan knows of them, with all of their memory free but for what the driver takes.
    pub(crate) fn facts(&self) -> GpuFacts {
        let several = self.count() > 1;
        let all: Vec<_> = self.0.iter().map(|card| card.facts(several)).collect();
        GpuFacts::least_of(all).expect("there is one")
    }
}

impl Card {
    fn facts(&self, several: bool) -> GpuFacts {
        let Self { name, capability, multiprocessors, clock_mhz, memory_mib, connection } = *self;
        let free = (memory_mib << 20) / 1000 * FREE_OF_1000;
        let rate = peak_flops(name, capability, multiprocessors, clock_mhz * 1000);
        let link = several.then(|| CardLink::of(connection, false, name, capability));
        // Of its own generation and all its lanes, as the data sheet has it.
        let generation = if capability.0 >= 9 { 5 } else { 4 };
        let host = HostLink::Bus(Pcie { generation, lanes: 16 });
        GpuFacts::of_card(name, capability, free, rate, link, host)
    }

    /// Whether it is meant by `text`, all of its name or without its memory, in lower case and without spaces.
    fn is(&self, text: &str) -> bool {
        let name = bare(self.name);
        let memory = self.name.rsplit(' ').next().map(bare).filter(|word| word.ends_with("gb"));
        let short = memory.and_then(|word| name.strip_suffix(word.as_str()));
        name == text || short == Some(text)
    }
}

/// A name in lower case, without what is left out when people talk of cards.
fn bare(name: &str) -> String {
    let mut name: String =
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    for word in ["nvidia", "geforce", "tesla", "rtx"] {
        name = name.replace(word, "");
    }
    for ending in ["generation", "blackwell", "ada"] {
        name = name.trim_end_matches(ending).to_owned();
    }
    name
}

impl fmt::Display for CardNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|card| card.name).collect();
        f.write_str(&names.join(","))
    }
}

impl FromStr for CardNames {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |text: &str| {
            let asked = bare(text);
            let meant: Vec<_> = CARDS.iter().filter(|card| card.is(&asked)).collect();
            match meant[..] {
                [card] => Ok(*card),
                [] => {
                    let all: Vec<_> = CARDS.iter().map(|card| card.name).collect();
                    Err(format!(
                        "{:?} is not among the cards that are known: {}; take one with as much memory",
                        text.trim(),
                        all.join(", ")
                    ))
                }
                _ => {
                    let names: Vec<_> = meant.iter().map(|card| card.name).collect();
                    Err(format!("{:?} may be {}; name one", text.trim(), names.join(" or ")))
                }
            }
        };
        let cards = text.split(',').map(one).collect::<Result<Vec<_>, _>>()?;
        match cards.len() {
            count if count > MOST_DEVICES => {
                Err(format!("{count} cards are named; at most {MOST_DEVICES}"))
            }
            _ => Ok(Self(cards)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(text: &str) -> GpuFacts {
        text.parse::<CardNames>().expect(text).facts()
    }

    #[test]
    fn a_card_is_found_by_what_people_call_it() {
        for (text, name) in [
            ("4090", "GeForce RTX 4090"),
            ("RTX 4090", "GeForce RTX 4090"),
            ("NVIDIA GeForce RTX 4090", "GeForce RTX 4090"),
            ("rtx-4090d", "GeForce RTX 4090 D"),
            ("3060", "GeForce RTX 3060 12GB"),
            ("a100-80gb", "A100 80GB"),
            ("L40S", "L40S"),
            ("RTX 6000 Ada", "RTX 6000 Ada Generation"),
            ("RTX PRO 6000", "RTX PRO 6000 Blackwell"),
            ("H100 SXM", "H100 SXM"),
        ] {
            assert_eq!(facts(text).name, name, "{text}");
        }
        for card in &CARDS {
            assert_eq!(facts(card.name).name, card.name);
        }
    }

    #[test]
    fn a_card_that_is_not_known_or_may_be_two_is_refused_with_those_that_are() {
        let error = "RTX 9090".parse::<CardNames>().expect_err("no such card");
        assert!(error.contains("\"RTX 9090\"") && error.contains("GeForce RTX 4090, "), "{error}");
        let error = "A100".parse::<CardNames>().expect_err("two");
        assert_eq!(error, "\"A100\" may be A100 40GB or A100 80GB; name one");
        assert!("".parse::<CardNames>().is_err() && "4090,".parse::<CardNames>().is_err());
        let many = vec!["4090"; MOST_DEVICES + 1].join(",");
        assert!(many.parse::<CardNames>().is_err());
    }

    /// Dense bf16 rates of the data sheets, in TFLOP/s.
    #[test]
    fn rates_are_those_of_the_data_sheets() {
        for (text, tflops) in [
            ("3090", 71.0),
            ("4090", 165.2),
            ("5090", 209.5),
            ("A6000", 154.8),
            ("A10", 125.0),
            ("L4", 121.0),
            ("L20", 119.5),
            ("L40", 181.0),
            ("L40S", 362.0),
            ("A100 80GB", 312.0),
            ("H100 PCIe", 756.0),
            ("H100 SXM", 989.4),
            ("H20", 148.0),
            ("RTX PRO 6000", 503.8),
        ] {
            let rate = facts(text).peak_flops / 1e12;
            assert!(
                (rate / tflops - 1.0).abs() < 0.015,
                "{text}: {rate} TFLOP/s, {tflops} by the sheet"
            );
        }
    }

    #[test]
    fn several_cards_are_the_least_of_them_and_linked() {
        let both: CardNames = "H100 SXM, A100 40GB".parse().expect("two");
        assert_eq!(both.count(), 2);
        let facts = both.facts();
        assert_eq!(facts.name, "H100 SXM + A100 40GB");
        assert_eq!(facts.free_bytes, super::tests::facts("A100 40GB").free_bytes);
        assert!(facts.link.is_some() && self::facts("A100 40GB").link.is_none());
    }
}
