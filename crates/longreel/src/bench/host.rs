//! How fast weights come to a GPU that has no room for all of them, and how many come for each pass.

use anyhow::Result;
use longreel_film::{bytes_brought, human_bytes, human_seconds};
use longreel_kernels::gpu::Gpu;
use longreel_weights::{PublishedModel, WeightDtype};
use serde_json::{Value, json};

use super::networks::Window;

/// What comes from the host's memory.
pub struct Host {
    /// Bytes a second, measured in the way in which weights are brought.
    bytes_per_second: f64,
    /// Bytes of the whole model's weights that a pass over the window has brought; `None` where the GPU has no room for it.
    bytes: Option<u64>,
}

impl Host {
    /// Measures it, before anything else takes the GPU's memory.
    ///
    /// # Errors
    /// What went wrong on the GPU.
    pub fn of(
        model: &PublishedModel,
        dtype: WeightDtype,
        window: Window,
        gpu: &Gpu,
    ) -> Result<Self> {
        let bytes_per_second = gpu.host_rate()?;
        let (free, _) = gpu.driver().memory()?;
        let Window { latents, height, width } = window;
        let bytes = bytes_brought(model, dtype, latents, [height, width], free as u64)?;
        Ok(Self { bytes_per_second, bytes })
    }

    /// A line.
    pub fn line(&self) -> String {
        let Self { bytes_per_second, bytes } = *self;
        let what = match bytes {
            None => "this model has no room here".to_owned(),
            Some(0) => "all of this model stay there".to_owned(),
            Some(bytes) => format!(
                "a pass of this model has {} brought, in {}",
                human_bytes(bytes),
                human_seconds(bytes as f64 / bytes_per_second)
            ),
        };
        format!("weights come from the host at {}/s; {what}", human_bytes(bytes_per_second as u64))
    }

    /// That for programs.
    pub fn json(&self) -> Value {
        json!({"bytes_per_second": self.bytes_per_second, "bytes_of_a_pass": self.bytes})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pass_has_brought_is_said_with_how_long_it_takes() {
        let line = |bytes| Host { bytes_per_second: 20e9, bytes }.line();
        assert_eq!(
            line(Some(5_000_000_000)),
            "weights come from the host at 20.0 GB/s; a pass of this model has 5.0 GB brought, in 0.2 s"
        );
        assert!(line(Some(0)).ends_with("all of this model stay there"));
        assert!(line(None).ends_with("this model has no room here"));
    }
}
