//! Which devices are to make a film, as it is written: `cpu`, `cuda:0,cuda:1`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which devices are to be used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first NVIDIA GPU, where there is one that can be used, and the processor otherwise.
    #[default]
    Auto,
    /// The processor, as so many devices (at least one): the way of several GPUs, to be tried without
    /// them.
    Cpu(usize),
    /// NVIDIA GPUs, by the driver's numbers; at least one, each once.
    Cuda(Vec<u32>),
}

/// Devices that share a film, at most.
pub(super) const MOST_DEVICES: usize = 64;

impl DeviceChoice {
    /// How many devices share the work.
    pub fn count(&self) -> usize {
        match self {
            Self::Auto => 1,
            Self::Cpu(count) => *count,
            Self::Cuda(ordinals) => ordinals.len(),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu(count) => f.write_str(&vec!["cpu"; *count].join(",")),
            Self::Cuda(ordinals) => {
                let names: Vec<_> = ordinals.iter().map(|n| format!("cuda:{n}")).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let names: Vec<_> = text.split(',').map(str::trim).collect();
        if names.len() > MOST_DEVICES {
            return Err(format!("{} devices are named; at most {MOST_DEVICES}", names.len()));
        }
        if names.iter().all(|name| *name == "cpu") {
            return Ok(Self::Cpu(names.len()));
        }
        let mut ordinals = Vec::new();
        for name in names {
            let ordinal = match name {
                "cuda" => Some(0),
                "cpu" => {
                    return Err(format!(
                        "{text:?} mixes the processor with GPUs, which would wait for it; name GPUs alone"
                    ));
                }
                _ => name.strip_prefix("cuda:").and_then(|n| n.parse().ok()),
            };
            let ordinal = ordinal.ok_or_else(|| {
                format!(
                    "{name:?} is not auto, cpu, cuda or cuda:N, or several of a kind with commas"
                )
            })?;
            if ordinals.contains(&ordinal) {
                return Err(format!("cuda:{ordinal} is named twice; name each GPU once"));
            }
            ordinals.push(ordinal);
        }
        Ok(Self::Cuda(ordinals))
    }
}

impl Serialize for DeviceChoice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceChoice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_written_as_it_is_read() {
        for text in ["auto", "cpu", "cpu,cpu", "cuda:0", "cuda:3", "cuda:2,cuda:0"] {
            let choice: DeviceChoice = text.parse().expect(text);
            assert_eq!(choice.to_string(), text);
            let json = serde_json::to_string(&choice).expect("JSON");
            assert_eq!(serde_json::from_str::<DeviceChoice>(&json).expect(&json), choice);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(vec![0])));
        assert_eq!("cuda:1, cuda:0".parse(), Ok(DeviceChoice::Cuda(vec![1, 0])));
        let many = vec!["cpu"; MOST_DEVICES + 1].join(",");
        for text in [
            "",
            "gpu",
            "cuda:",
            "cuda:-1",
            "cuda:x",
            "CPU",
            "cuda:0,",
            "cuda,cuda:0",
            "cpu,cuda:0",
            "auto,cpu",
            &many,
        ] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }
}
