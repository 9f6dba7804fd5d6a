//! What several devices exchange in a layer of the transformer.

use std::time::Instant;

use longreel_film::{human_bytes, tokens_per_frame};
use longreel_kernels::ranks::{LocalGroup, RankError};
use longreel_kernels::{Device, Tensor};
use longreel_models::ModelError;
use longreel_weights::PublishedModel;
use serde_json::{Value, json};

use super::Window;

/// Exchanges of a layer: query, key and value to the heads, and what they saw back to the strips.
const EXCHANGES: usize = 4;
/// Layers that are run for the time of one; one more comes before.
const LAYERS: usize = 8;

/// What the devices exchange in a layer, and how long it takes with nothing beside it.
pub struct Exchange {
    /// How it goes from one to another; none where they have the same memory.
    pub way: Option<String>,
    /// Devices.
    pub count: usize,
    /// Bytes that leave each of them.
    pub bytes: usize,
    /// Seconds.
    pub seconds: f64,
}

impl Exchange {
    /// Measures it where a picture is shared out in strips.
    ///
    /// # Errors
    /// What keeps the devices from it.
    pub fn of(
        model: &PublishedModel,
        window: Window,
        devices: &[Device],
    ) -> Result<Self, ModelError> {
        let (config, count) = (&model.transformer, devices.len());
        let tokens = window.latents * tokens_per_frame(config, window.height, window.width);
        let value = if devices[0].gpu().is_some() { 2 } else { size_of::<f32>() };
        // From each device to each other one; what the values are does not matter.
        let part = tokens / count * (config.dim() / count) * value / size_of::<f32>();
        let group = LocalGroup::new(devices.to_vec())?;
        let seconds = group.run(vec![(); count], |ranks, ()| {
            let device = &group.devices()[ranks.rank()];
            let mut parts = vec![Tensor::zeros_on(device, &[part]); count];
            let finish = || device.gpu().map_or(Ok(()), |gpu| gpu.finish());
            let mut begun = Instant::now();
            for layer in 0..=LAYERS {
                for _ in 0..EXCHANGES {
                    parts = ranks.all_to_all(parts)?;
                }
                if layer == 0 {
                    finish()?;
                    begun = Instant::now();
                }
            }
            finish()?;
            Ok::<_, RankError>(begun.elapsed().as_secs_f64() / LAYERS as f64)
        })?;
        Ok(Self {
            way: group.way(),
            count,
            bytes: EXCHANGES * (count - 1) * part * size_of::<f32>(),
            seconds: seconds.into_iter().fold(0.0, f64::max),
        })
    }

    /// A line.
    pub fn line(&self) -> String {
        let Self { way, count, bytes, seconds } = self;
        let each = human_bytes(*bytes as u64);
        let how = way.as_ref().map_or("handed over".to_owned(), |way| {
            format!("by {way}, {}/s", human_bytes((*bytes as f64 / seconds) as u64))
        });
        format!(
            "  what {count} devices exchange in a layer: {each} from each in {:.2} ms, {how}",
            1e3 * seconds
        )
    }

    /// That for programs.
    pub fn json(&self) -> Value {
        json!({"way": self.way, "devices": self.count, "bytes": self.bytes, "seconds": self.seconds})
    }
}
