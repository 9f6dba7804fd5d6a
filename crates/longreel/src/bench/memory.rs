//! The memory of GPUs, shared out as a film's is.

use std::path::Path;

use anyhow::{Result, anyhow};
use longreel_film::{
    Defaults, DeviceChoice, FilmRequest, GpuFacts, Length, MemoryShare, ModelFacts, human_bytes,
    plan, share_memory,
};
use longreel_kernels::Device;
use longreel_kernels::gpu::{Gpu, WeightPlan};
use longreel_weights::{PublishedModel, WeightDtype};
use serde_json::{Value, json};

use super::Window;
use crate::films::usual;

/// A film of one window, as it would be planned.
#[derive(Debug)]
pub struct Film {
    facts: ModelFacts,
    request: FilmRequest,
}

impl Film {
    /// With guidance; `folder` has no settings of a model in it.
    ///
    /// # Errors
    /// None: what is published has defaults.
    pub fn new(
        model: &PublishedModel,
        window: Window,
        dtype: Option<WeightDtype>,
        device: &DeviceChoice,
        folder: &Path,
    ) -> Result<Self> {
        let published = ModelFacts::of_published(model, dtype)?;
        let facts = ModelFacts { devices: 1, ..published.on(device)? };
        let defaults = Defaults::of(&facts, folder, false)?;
        let image_defaults = Defaults::of(&facts, folder, true)?;
        let mut request = usual(model.kind, &defaults, &image_defaults);
        let frames = window.frames();
        (request.width, request.height) = (window.width, window.height);
        (request.base_num_frames, request.length) = (frames, Length::Frames(frames as u64));
        Ok(Self { facts, request })
    }

    /// The GPU by its data sheet.
    pub fn gpu(&self) -> Option<&GpuFacts> {
        self.facts.gpu.as_ref()
    }

    /// Shares the memory of the first device out as that of a film which it makes with guidance; `None` on the
    /// processor.
    ///
    /// # Errors
    /// A window that no film has, and too little memory for it.
    pub fn share(&self, device: &Device) -> Result<Option<Shared>> {
        self.share_among(std::slice::from_ref(device), self.request.guidance_scale)
    }

    /// Shares the memory of several devices out, of which each has a strip of the picture.
    ///
    /// # Errors
    /// As [`share`](Self::share).
    pub fn share_strips(&self, devices: &[Device]) -> Result<Option<Shared>> {
        self.share_among(devices, 1.0)
    }

    fn share_among(&self, devices: &[Device], guidance_scale: f32) -> Result<Option<Shared>> {
        if devices[0].gpu().is_none() {
            return Ok(None);
        }
        let facts = ModelFacts { devices: devices.len(), ..self.facts.clone() };
        let request = FilmRequest { guidance_scale, ..self.request.clone() };
        let planned = plan(&request, &facts, false)?;
        let summary = planned.summary();
        let shares = share_memory(devices, &facts, summary)?;
        let share = *shares.first().ok_or_else(|| anyhow!("no GPU denoises"))?;
        let (batch, strips) = (summary.guidance_batch.is_some(), summary.decoder_strips);
        let transformer_bytes = share.weight_bytes - facts.other_bytes;
        Ok(Some(Shared { share, transformer_bytes, batch, strips }))
    }
}

/// How a GPU's memory was shared out.
#[derive(Debug, Clone, Copy)]
pub struct Shared {
    /// As the film has it.
    pub share: MemoryShare,
    /// Bytes of the transformer's weights there.
    pub transformer_bytes: u64,
    /// Whether both passes of guidance are one batch.
    pub batch: bool,
    /// In how many strips pictures are decoded.
    pub strips: usize,
}

impl Shared {
    /// Bytes of the transformer that are brought for each pass. Its weights are used before those of the decoder, and stay
    /// first.
    pub fn brought_bytes(&self) -> u64 {
        let WeightPlan { resident, places, .. } = self.share.weights;
        match places {
            0 => 0,
            _ => self.transformer_bytes.saturating_sub(self.share.prompt_bytes + resident as u64),
        }
    }

    /// Bytes of the transformer that are brought for each prompt.
    pub fn prompt_bytes(&self) -> u64 {
        if self.share.weights.places > 0 { self.share.prompt_bytes } else { 0 }
    }

    /// Bytes of the transformer that stay.
    fn resident_bytes(&self) -> u64 {
        self.transformer_bytes - self.brought_bytes() - self.prompt_bytes()
    }

    /// The fewest layers of `all` with which as much is brought as does not stay in the places by itself.
    pub fn least_layers(&self, all: usize) -> usize {
        let WeightPlan { places, place, .. } = self.share.weights;
        let (brought, enough) = (self.brought_bytes(), 2 * (places * place) as u64);
        match brought {
            0 => 1,
            _ => (1 + (enough * (all as u64 - 1)).div_ceil(brought) as usize).min(all),
        }
    }

    /// Has a GPU keep as much of a network of `layers` of the model's `all` layers, of which each pass needs so many bytes,
    /// that of every layer behind the first as much is brought as of those of the whole.
    pub fn for_layers(&self, gpu: &Gpu, layers: usize, all: usize, pass_bytes: u64) {
        let brought = self.brought_bytes();
        if layers == all || brought == 0 {
            return gpu.plan_weights(self.share.weights);
        }
        let brought = brought as f64 * (layers - 1) as f64 / (all - 1).max(1) as f64;
        let resident = pass_bytes.saturating_sub(brought as u64) as usize;
        gpu.plan_weights(WeightPlan { resident, ..self.share.weights });
    }

    /// A line.
    pub fn line(&self) -> String {
        let MemoryShare { free_bytes, activation_bytes, .. } = self.share;
        let weights = human_bytes(self.transformer_bytes);
        let there = human_bytes(self.resident_bytes());
        let [brought, prompt] = [self.brought_bytes(), self.prompt_bytes()].map(human_bytes);
        let of =
            |what: &str| format!("of the transformer's weights, {weights}, {there} stay{what}");
        let weights = match (self.brought_bytes(), self.prompt_bytes()) {
            (0, 0) => format!("all {weights} of the transformer's weights stay"),
            (0, _) => of(&format!(" and {prompt} are brought for each prompt")),
            _ => of(&format!(", {brought} are brought for each pass and {prompt} for each prompt")),
        };
        let [free, activations] = [free_bytes, activation_bytes].map(human_bytes);
        format!(
            "the card's memory as a film has it: {free} free, {activations} for activations; {weights}; decoding in {}",
            match self.strips {
                1 => "one piece".to_owned(),
                strips => format!("{strips} strips"),
            }
        )
    }

    /// That for programs.
    pub fn json(&self) -> Value {
        json!({
            "free_bytes": self.share.free_bytes,
            "activation_bytes": self.share.activation_bytes,
            "transformer_bytes": self.transformer_bytes,
            "transformer_bytes_there": self.resident_bytes(),
            "transformer_bytes_brought": self.brought_bytes(),
            "transformer_bytes_brought_for_each_prompt": self.prompt_bytes(),
            "decoder_strips": self.strips,
            "guidance_batch": self.batch,
        })
    }
}

#[cfg(test)]
mod tests {
    use longreel_kernels::gpu::Element;
    use longreel_shim::Shim;
    use longreel_weights::published_models;

    use super::*;
    use crate::bench::shim_folder;

    /// The 14B model at 540P on a card of so many GiB.
    fn shared(gib: usize) -> Option<Shared> {
        let shim = Shim::or_skip(&shim_folder())?.with_memory(gib << 30);
        let device = Device::Gpu(Gpu::new(Box::new(shim), Element::Bf16));
        let name = "SkyReels-V2-DF-14B-540P";
        let model = published_models().into_iter().find(|model| model.name == name).expect(name);
        let window = Window { latents: 25, height: 544, width: 960 };
        let folder = tempfile::tempdir().expect("a folder");
        let film = Film::new(&model, window, None, &DeviceChoice::Cpu(1), folder.path());
        film.expect("a film").share(&device).expect("a card for it")
    }

    #[test]
    fn a_card_with_room_for_each_passs_weights_has_a_prompts_brought_alone() {
        let Some(shared) = shared(30) else { return };
        assert_eq!((shared.brought_bytes(), shared.least_layers(40)), (0, 1));
        let line = shared.line();
        assert!(line.contains("24.3 GB stay and 4.3 GB are brought for each prompt;"), "{line}");
    }

    #[test]
    fn a_model_that_does_not_fit_is_measured_with_its_weights_brought_as_in_a_film() {
        let (Some(small), Some(large)) = (shared(24), shared(80)) else { return };
        assert_eq!((large.brought_bytes(), large.least_layers(40)), (0, 1));
        assert!(
            large.line().contains("all 28.6 GB of the transformer's weights stay"),
            "{}",
            large.line()
        );
        let WeightPlan { resident, places, place } = small.share.weights;
        let (brought, prompt) = (small.brought_bytes(), small.prompt_bytes());
        assert_eq!(brought, small.transformer_bytes - prompt - resident as u64);
        assert!((4_200_000_000..4_400_000_000).contains(&prompt), "{prompt}");
        // The places and the activations have what the card has not got for weights, with what is left to the driver.
        let others = small.share.activation_bytes + (places * place + resident) as u64;
        assert!((23 << 30..24 << 30).contains(&others), "{others}");
        let line = small.line();
        assert!(line.contains(" are brought for each pass and 4.3 GB for each prompt;"), "{line}");
        // As many layers as need more than the places, and no more of them than that.
        let layers = small.least_layers(40);
        let of = |layers: usize| brought as f64 * (layers - 1) as f64 / 39.0;
        let enough = (2 * places * place) as f64;
        assert!(of(layers) >= enough && of(layers - 1) < enough, "{layers} layers");
    }
}
