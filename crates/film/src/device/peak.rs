//! What a film's networks take of a GPU at the real models' shapes, beside what the plan says they do.
//! The device is one that counts memory and does nothing: every allocation of a forward is made, in
//! order, and no value is computed. The weights are a file of holes.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex};

use longreel_kernels::gpu::{Address, Arg, Driver, Element, Gpu, GpuError, Launch, MatMul, Stream};
use longreel_kernels::{Bytes, DType, Device, Tensor, Weight};
use longreel_models::{
    ContextOptions, ForwardOptions, ModelError, SplitTransformer, Transformer, Vae, VaeDecoderState,
};
use longreel_sampling::SchedulerConfig;
use longreel_weights::{ExpectedTensor, ModelKind, TensorSource, VaeConfig, published_models};
use memmap2::Mmap;

use super::{Need, strips_in};
use crate::plan::ModelFacts;
use crate::sharing::Sharing;

/// A card of so many bytes that only keeps accounts.
#[derive(Debug, Default)]
struct Accounts {
    total: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    slabs: HashMap<u64, usize>,
    taken: usize,
    peak: usize,
    copied: u64,
}

#[derive(Debug, Clone)]
struct Card(Arc<Accounts>);

impl Card {
    fn with<T>(&self, body: impl FnOnce(&mut State) -> T) -> T {
        body(&mut self.0.state.lock().expect("no panic"))
    }
}

impl Driver for Card {
    fn name(&self) -> String {
        "accounts".into()
    }

    fn alloc(&self, bytes: usize) -> Result<Address, GpuError> {
        let total = self.0.total;
        self.with(|state| {
            let free = total - state.taken;
            if bytes > free {
                return Err(GpuError::Memory { asked: bytes, free, total });
            }
            state.next += 1 << 40;
            state.slabs.insert(state.next, bytes);
            state.taken += bytes;
            state.peak = state.peak.max(state.taken);
            Ok(Address(state.next))
        })
    }

    fn free(&self, address: Address) {
        self.with(|state| state.taken -= state.slabs.remove(&address.0).expect("a slab"));
    }

    fn memory(&self) -> Result<(usize, usize), GpuError> {
        Ok((self.0.total - self.with(|state| state.taken), self.0.total))
    }

    fn upload(&self, _: Stream, _: Address, bytes: &[u8]) -> Result<(), GpuError> {
        self.with(|state| state.copied += bytes.len() as u64);
        Ok(())
    }

    fn download(&self, _: Address, _: &mut [u8]) -> Result<(), GpuError> {
        Ok(())
    }

    fn copy(&self, _: Address, _: Address, _: usize) -> Result<(), GpuError> {
        Ok(())
    }

    fn zero(&self, _: Address, _: usize) -> Result<(), GpuError> {
        Ok(())
    }

    fn launch(&self, _: &Launch, _: &[Arg]) -> Result<(), GpuError> {
        Ok(())
    }

    fn matmul(&self, _: &MatMul) -> Result<bool, GpuError> {
        Ok(true)
    }

    fn follow(&self, _: Stream) -> Result<(), GpuError> {
        Ok(())
    }

    fn wait(&self) -> Result<(), GpuError> {
        Ok(())
    }
}

/// Weights in bf16 of which no byte is anywhere.
fn holes(tensors: &[ExpectedTensor]) -> TensorSource {
    let bytes = |shape: &[usize]| 2 * shape.iter().product::<usize>();
    let longest = tensors.iter().map(|(_, shape)| bytes(shape)).max().expect("tensors");
    let file: File = tempfile::tempfile().expect("a file");
    file.set_len(longest as u64).expect("a hole");
    // SAFETY: nobody else has the file.
    let map: Arc<Mmap> = Arc::new(unsafe { Mmap::map(&file) }.expect("a mapping"));
    let weight = |(name, shape): &ExpectedTensor| {
        let bytes = Bytes::view(map.clone(), 0..bytes(shape)).expect("inside");
        (name.clone(), Weight::new(shape, DType::BF16, bytes).expect("as long as that"))
    };
    TensorSource::from_tensors(tensors.iter().map(weight).collect())
}

struct Case {
    model: &'static str,
    latents: usize,
    size: [usize; 2],
    /// GiB of the card.
    card: usize,
    /// In which pictures are decoded there.
    strips: usize,
}

/// What a plan knows of a case's model.
fn facts(case: &Case) -> ModelFacts {
    let published = published_models().into_iter().find(|m| m.name == case.model);
    let config = published.expect(case.model).transformer;
    let vae = VaeConfig::from_json("{}").expect("the default");
    let tensors = config.expected_tensors();
    let count = |tensors: &[ExpectedTensor]| {
        tensors.iter().map(|(_, shape)| 2 * shape.iter().product::<usize>() as u64).sum()
    };
    ModelFacts {
        name: case.model.into(),
        kind: ModelKind::DiffusionForcing,
        causal_few_step: false,
        revision: String::new(),
        transformer: config.clone(),
        vae: vae.clone(),
        scheduler: SchedulerConfig::default(),
        transformer_bytes: count(&tensors),
        text_encoder_bytes: 0,
        other_bytes: count(&vae.expected_tensors()),
        upscaler: None,
        gpu: None,
        devices: 1,
    }
}

/// Peaks while denoising and, without the transformer's weights, while decoding; bytes copied by the
/// second pass; the plan's word.
fn measured(case: &Case) -> (usize, usize, u64, Need, usize) {
    let [width, height] = case.size;
    let facts = facts(case);
    let (config, tensors) = (facts.transformer.clone(), facts.transformer.expected_tensors());
    let vae = facts.vae.clone();
    let tokens = case.latents * crate::estimate::tokens_per_frame(&config, height, width);
    let free = (case.card as u64) << 30;
    let strips = strips_in(&facts, [height, width], free);
    let need = Need::of(&facts, tokens, [height, width], strips, 0);
    let card = Card(Arc::new(Accounts { total: case.card << 30, ..Accounts::default() }));
    let gpu = Gpu::new(Box::new(card.clone()), Element::Bf16);
    gpu.plan_weights(need.shares((case.card as u64) << 30).expect("a card for it"));
    gpu.set_scarce(need.all() > (case.card as u64) << 30);
    let device = Device::Gpu(gpu.clone());

    let transformer = Transformer::load(&config, holes(&tensors)).expect("a model").on(&device);
    let vae_tensors = vae.expected_tensors();
    let mut vae = Vae::load(&vae, holes(&vae_tensors)).expect("a VAE").on(&device);
    vae.decoder.set_strips(strips);
    let text = Tensor::zeros(&[77, config.text_dim]);
    let contexts: Vec<_> = (0..2)
        .map(|_| transformer.context(&text, None, &ContextOptions::default()).expect("room"))
        .collect();
    let latents = Tensor::zeros(&[case.latents, 16, height / 8, width / 8]);
    let options = ForwardOptions { fps: Some(24), causal_block: None, attention_window: None };
    let timesteps: Vec<f32> = (0..case.latents).map(|t| t as f32).collect();
    for context in &contexts {
        card.with(|state| state.copied = 0);
        transformer.forward(&latents, &timesteps, context, &options).expect("room");
    }
    let (denoising, copied) = card.with(|state| (state.peak, state.copied));
    gpu.make_room(usize::MAX).expect("an answer");
    card.with(|state| state.peak = state.taken);
    let mut state = VaeDecoderState::new();
    let part = latents.slice0(0..4);
    vae.decoder
        .decode_each(&part, &mut state, crate::condition::VAE_BUDGET_BYTES, |_| {
            Ok::<_, ModelError>(())
        })
        .expect("room");
    // Of the weights that are there those of the VAE are part of it.
    let (_, there) = gpu.bytes();
    let decoding = card.with(|state| state.peak) + facts.other_bytes as usize - there;
    (denoising, decoding, copied, need, strips)
}

#[test]
fn peaks_are_what_the_plan_says_at_the_real_models_shapes() {
    for case in [
        Case {
            model: "SkyReels-V2-DF-1.3B-540P",
            latents: 25,
            size: [960, 544],
            card: 24,
            strips: 1,
        },
        Case {
            model: "SkyReels-V2-DF-14B-540P",
            latents: 25,
            size: [960, 544],
            card: 80,
            strips: 1,
        },
        Case {
            model: "SkyReels-V2-DF-14B-720P",
            latents: 31,
            size: [1280, 720],
            card: 80,
            strips: 1,
        },
        Case {
            model: "SkyReels-V2-DF-1.3B-540P",
            latents: 25,
            size: [960, 544],
            card: 6,
            strips: 1,
        },
        Case {
            model: "SkyReels-V2-DF-14B-540P",
            latents: 25,
            size: [960, 544],
            card: 12,
            strips: 1,
        },
        Case {
            model: "SkyReels-V2-DF-14B-720P",
            latents: 31,
            size: [1280, 720],
            card: 24,
            strips: 1,
        },
        // Pictures that do not fit these as a whole.
        Case {
            model: "SkyReels-V2-DF-1.3B-540P",
            latents: 25,
            size: [960, 544],
            card: 4,
            strips: 2,
        },
        Case {
            model: "SkyReels-V2-DF-1.3B-540P",
            latents: 25,
            size: [1280, 720],
            card: 6,
            strips: 2,
        },
        Case {
            model: "SkyReels-V2-DF-1.3B-540P",
            latents: 25,
            size: [720, 1280],
            card: 6,
            strips: 2,
        },
    ] {
        let (denoising, decoding, copied, need, strips) = measured(&case);
        assert_eq!(strips, case.strips, "{} on {} GiB", case.model, case.card);
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let shares = need.shares((case.card as u64) << 30).expect("a card for it");
        let weights = (shares.bytes() as u64).min(need.weights);
        let expected = need.activations + weights;
        println!(
            "{} {:?} on {} GiB: denoising {:.2} GiB ({:.2} planned, {:.2} of weights), decoding {:.2} \
             GiB ({:.2} planned), {:.2} GiB copied for a pass",
            case.model,
            case.size,
            case.card,
            gib(denoising as u64),
            gib(expected),
            gib(weights),
            gib(decoding as u64),
            gib(need.decoding),
            gib(copied),
        );
        let off = denoising as f64 / expected as f64;
        assert!((0.9..1.1).contains(&off), "denoising: {off:.3} of the plan");
        let off = decoding as f64 / need.decoding as f64;
        assert!((0.9..1.1).contains(&off), "decoding: {off:.3} of the plan");
    }
}

#[test]
fn what_a_step_cache_keeps_is_in_the_plan() {
    let case = Case {
        model: "SkyReels-V2-DF-1.3B-540P",
        latents: 25,
        size: [960, 544],
        card: 24,
        strips: 1,
    };
    let [width, height] = case.size;
    let facts = facts(&case);
    let config = &facts.transformer;
    let tokens = case.latents * crate::estimate::tokens_per_frame(config, height, width);
    let kept = (2 * tokens * facts.dim()) as u64;
    let need = Need::of(&facts, tokens, [height, width], case.strips, kept);
    let card = Card(Arc::new(Accounts { total: case.card << 30, ..Accounts::default() }));
    let gpu = Gpu::new(Box::new(card.clone()), Element::Bf16);
    gpu.plan_weights(need.shares((case.card as u64) << 30).expect("a card for it"));
    let weights = holes(&config.expected_tensors());
    let model = Transformer::load(config, weights).expect("a model").on(&Device::Gpu(gpu));
    let text = Tensor::zeros(&[77, config.text_dim]);
    let contexts = [(); 2].map(|()| model.context(&text, None, &ContextOptions::default()));
    let latents = Tensor::zeros(&[case.latents, 16, height / 8, width / 8]);
    let options = ForwardOptions { fps: Some(24), causal_block: None, attention_window: None };
    let mut residuals = [None, None];
    for row in 0..3 {
        for (context, residual) in contexts.iter().zip(&mut residuals) {
            let context = context.as_ref().expect("room");
            let mut pass = model.begin(&latents, &[500.0], &options).expect("fits");
            match residual {
                Some(residual) if row == 2 => pass.add_residual(residual).expect("fits"),
                _ => {
                    *residual = None;
                    *residual = Some(pass.run_blocks_keeping_residual(context).expect("room"));
                }
            }
            pass.finish().expect("room");
        }
    }
    let expected = need.activations + need.weights - facts.other_bytes;
    let off = card.with(|state| state.peak) as f64 / expected as f64;
    println!("with residuals of two passes: {off:.3} of the plan");
    assert!((0.9..1.1).contains(&off), "{off:.3} of the plan");
}

#[test]
fn each_of_several_devices_takes_what_the_plan_says() {
    let case = Case {
        model: "SkyReels-V2-DF-1.3B-540P",
        latents: 25,
        size: [960, 544],
        card: 24,
        strips: 1,
    };
    let [width, height] = case.size;
    let facts = facts(&case);
    let config = &facts.transformer;
    let tokens = case.latents * crate::estimate::tokens_per_frame(config, height, width);
    for strips in [2, 4] {
        let sharing = Sharing { groups: 1, strips, decoder: false };
        let need = Need::of_rank(&facts, sharing, tokens, [height, width], 1, 0);
        let cards: Vec<_> = (0..strips)
            .map(|_| Card(Arc::new(Accounts { total: case.card << 30, ..Accounts::default() })))
            .collect();
        let model = Transformer::load(config, holes(&config.expected_tensors())).expect("a model");
        let ranks = cards.iter().map(|card| {
            let gpu = Gpu::new(Box::new(card.clone()), Element::Bf16);
            gpu.plan_weights(need.shares((case.card as u64) << 30).expect("a card for it"));
            model.clone().on(&Device::Gpu(gpu))
        });
        let model = SplitTransformer::new(ranks.collect()).expect("even heads");
        let text = Tensor::zeros(&[77, config.text_dim]);
        let contexts = [(); 2].map(|()| model.context(&text, None, &ContextOptions::default()));
        let latents = Tensor::zeros(&[case.latents, 16, height / 8, width / 8]);
        let options = ForwardOptions { fps: Some(24), causal_block: None, attention_window: None };
        for context in contexts {
            model.forward(&latents, &[500.0], &context.expect("room"), &options).expect("room");
        }
        for card in &cards {
            let expected = need.activations + need.weights - facts.other_bytes;
            let off = card.with(|state| state.peak) as f64 / expected as f64;
            println!("{strips} strips: {off:.3} of the plan");
            assert!((0.9..1.1).contains(&off), "{strips} strips: {off:.3} of the plan");
        }
    }
}
