//! What a film's networks take of a GPU at the real models' shapes, beside what the plan says they do.
//! The device is one that counts memory and does nothing: every allocation of a forward is made, in
//! order, and no value is computed. The weights are a file of holes.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex};

use longreel_kernels::gpu::{
    Address, Arg, Captured, Driver, Element, FrameConvolution, Gpu, GpuError, Launch, MatMul,
    POINTS, SoftmaxAttention, Stream, Tally, Vendor, WeightPlan, Write,
};
use longreel_kernels::{Bytes, DType, Device, Tensor, Weight};
use longreel_models::{
    Context, ContextOptions, ForwardOptions, ModelError, SplitTransformer, Transformer, Vae,
    VaeDecoderState,
};
use longreel_weights::{
    ExpectedTensor, TensorSource, TransformerConfig, WeightDtype, published_models,
};
use memmap2::Mmap;

use super::{Need, TransformerWeights, free_once_open, share_one, strips_in};
use crate::condition::VAE_BUDGET_BYTES;
use crate::estimate::{Batch, tokens_per_frame};
use crate::plan::{Converted, ModelFacts};
use crate::sharing::Sharing;

/// A card of so many bytes that only keeps accounts.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    total: usize,
    /// Operations and bytes from the host in a second, where it keeps time too: of products and of attention in which all
    /// see all.
    pace: Option<[f64; 2]>,
    /// Whether it has a library for convolutions.
    convolves: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    next: u64,
    slabs: HashMap<u64, usize>,
    taken: usize,
    peak: usize,
    copied: u64,
    /// When each stream is done with what it was asked for, in seconds.
    done: [f64; 2],
    /// When it is at each point.
    points: [f64; POINTS],
    /// Shapes of convolutions that the library was asked for, and how often in all.
    convolved: Vec<FrameConvolution>,
    convolutions: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Card(Arc<Accounts>);

impl Card {
    /// Seconds until everything that it was asked for is done.
    pub(crate) fn seconds(&self) -> f64 {
        self.with(|state| state.done[0].max(state.done[1]))
    }

    /// Has a stream work for what `amount` of operations or bytes take.
    fn work(&self, stream: Stream, which: usize, amount: f64) {
        if let Some(pace) = self.0.pace {
            self.with(|state| state.done[stream as usize] += amount / pace[which]);
        }
    }

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

    fn upload(&self, stream: Stream, _: Address, bytes: &[u8]) -> Result<(), GpuError> {
        self.work(stream, 1, bytes.len() as f64);
        self.with(|state| state.copied += bytes.len() as u64);
        Ok(())
    }

    // Nor are they made: they may be all of a model's.
    fn upload_made(
        &self,
        stream: Stream,
        _: Address,
        bytes: usize,
        _: &Write<'_>,
    ) -> Result<(), GpuError> {
        self.work(stream, 1, bytes as f64);
        self.with(|state| state.copied += bytes as u64);
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

    fn matmul(&self, what: &MatMul) -> Result<bool, GpuError> {
        let values = what.rows as f64 * what.inputs as f64 * what.outputs as f64;
        self.work(Stream::Compute, 0, 2.0 * values);
        Ok(true)
    }

    fn attention(&self, what: &SoftmaxAttention) -> Result<Vendor, GpuError> {
        let pairs = what.queries as f64 * what.keys as f64;
        self.work(Stream::Compute, 0, 4.0 * pairs * (what.heads * what.size) as f64);
        Ok(if self.0.pace.is_some() { Vendor::Done } else { Vendor::Refused })
    }

    fn has_convolution(&self, what: &FrameConvolution) -> Result<bool, GpuError> {
        let fits = [what.inputs, what.outputs].into_iter().all(|n| n.is_multiple_of(8));
        Ok(self.0.convolves && fits && what.flops() > 2e9)
    }

    // Each is compared when it is done for the first time, which takes memory too.
    fn convolution(&self, what: &FrameConvolution) -> Result<Vendor, GpuError> {
        let shape = what.shape();
        self.with(|state| {
            state.convolutions += 1;
            if state.convolved.contains(&shape) {
                return Ok(Vendor::Done);
            }
            state.convolved.push(shape);
            Ok(Vendor::First)
        })
    }

    fn follow(&self, stream: Stream) -> Result<(), GpuError> {
        self.with(|state| state.done[stream as usize] = state.done[0].max(state.done[1]));
        Ok(())
    }

    fn mark(&self, stream: Stream, point: usize) -> Result<(), GpuError> {
        self.with(|state| state.points[point] = state.done[stream as usize]);
        Ok(())
    }

    fn reach(&self, stream: Stream, point: usize) -> Result<(), GpuError> {
        self.with(|state| {
            let done = &mut state.done[stream as usize];
            *done = done.max(state.points[point]);
        });
        Ok(())
    }

    fn wait(&self) -> Result<(), GpuError> {
        Ok(())
    }

    // What is not done need not be written down either.
    fn begin_capture(&self) -> Result<(), GpuError> {
        Ok(())
    }

    fn end_capture(&self) -> Result<Captured, GpuError> {
        Ok(Captured(0))
    }

    fn replay(&self, _: Captured) -> Result<(), GpuError> {
        Ok(())
    }
}

/// Weights of these types of which no byte is anywhere.
fn holes(tensors: &[ExpectedTensor], dtype: impl Fn(&str) -> DType) -> TensorSource {
    let bytes = |shape: &[usize]| 4 * shape.iter().product::<usize>();
    let longest = tensors.iter().map(|(_, shape)| bytes(shape)).max().expect("tensors");
    let file: File = tempfile::tempfile().expect("a file");
    file.set_len(longest as u64).expect("a hole");
    // SAFETY: nobody else has the file.
    let map: Arc<Mmap> = Arc::new(unsafe { Mmap::map(&file) }.expect("a mapping"));
    let weight = |(name, shape): &ExpectedTensor| {
        let dtype = dtype(name);
        let bytes = bytes(shape) / 4 * dtype.block_bytes();
        let bytes = Bytes::view(map.clone(), 0..bytes).expect("inside");
        (name.clone(), Weight::new(shape, dtype, bytes).expect("as long as that"))
    };
    TensorSource::from_tensors(tensors.iter().map(weight).collect())
}

/// Whether a tensor of the transformer is one of the matrices of its blocks.
fn is_matrix(name: &str) -> bool {
    name.starts_with("blocks.") && name.ends_with(".weight") && !name.contains("norm")
}

/// A model at work on a card.
pub(crate) struct Case {
    pub(crate) facts: ModelFacts,
    /// Of a pass.
    latents: usize,
    width: usize,
    height: usize,
    /// GiB of the card.
    card: usize,
    /// Whether the card has a library for convolutions.
    convolves: bool,
    pace: Option<[f64; 2]>,
    /// What the files have.
    stored: DType,
}

impl Case {
    /// Of a published model: latent frames of a pass, width and height, GiB of the card.
    pub(crate) fn new(
        model: &str,
        latents: usize,
        [width, height]: [usize; 2],
        card: usize,
    ) -> Self {
        let published = published_models().into_iter().find(|m| m.name == model);
        let facts = ModelFacts::of_published(&published.expect(model), None).expect("published");
        // All of it in bf16.
        let bytes = |tensors: Vec<ExpectedTensor>| {
            tensors.iter().map(|(_, shape)| 2 * shape.iter().product::<usize>() as u64).sum()
        };
        let facts = ModelFacts {
            transformer_bytes: bytes(facts.transformer.expected_tensors()),
            other_bytes: bytes(facts.vae.expected_tensors()),
            ..facts
        };
        let (pace, stored) = (None, DType::BF16);
        Self { facts, latents, width, height, card, convolves: false, pace, stored }
    }

    /// On a card with a library for convolutions.
    fn with_convolutions(self) -> Self {
        Self { convolves: true, ..self }
    }

    /// On a card that keeps time, with so many operations and so many bytes from the host in a second.
    pub(crate) fn with_pace(self, pace: [f64; 2]) -> Self {
        Self { pace: Some(pace), ..self }
    }

    /// Seconds of a pass behind others, with what stays of the weights where it is, and bytes that are copied in it.
    pub(crate) fn paced_pass(&self) -> (f64, u64) {
        let need = Need::of(&self.facts, self.batch(1), self.size(), 1, 0);
        let (card, gpu) = self.planned(&need);
        // The card has the time of each launch, and of no graph.
        gpu.set_replays(false);
        let network = self.transformer().on(&Device::Gpu(gpu));
        let (latents, text) = self.given();
        let context = network.context(&text, None, &ContextOptions::default()).expect("room");
        let (mut seconds, mut copied) = (0.0, 0);
        for _ in 0..3 {
            let before = card.seconds();
            card.with(|state| state.copied = 0);
            network.forward(&latents, &[500.0], &context, &OPTIONS).expect("room");
            (seconds, copied) = (card.seconds() - before, card.with(|state| state.copied));
        }
        (seconds, copied)
    }

    /// The same with the matrices of the blocks, and what is multiplied with them, in 8 bits.
    fn in_8_bits(mut self) -> Self {
        let bytes = |(name, shape): &ExpectedTensor| {
            let values = shape.iter().product::<usize>() as u64;
            if is_matrix(name) { values } else { 2 * values }
        };
        let stored_bytes = self.facts.transformer_bytes;
        self.facts.transformer_bytes = self.config().expected_tensors().iter().map(bytes).sum();
        let dtype = WeightDtype::Fp8;
        self.facts.converted = Some(Converted { dtype, stored_bytes, memory_bytes: 0 });
        self
    }

    /// The same with a transformer's file of singles.
    fn in_singles(mut self) -> Self {
        self.facts.transformer_bytes *= 2;
        Self { stored: DType::F32, ..self }
    }

    /// The same with a VAE's file of singles too, computed with as such (`--dtype f32`).
    fn computed_in_singles(mut self) -> Self {
        self.facts.other_bytes *= 2;
        let (dtype, stored_bytes) = (WeightDtype::F32, 2 * self.facts.transformer_bytes);
        self.facts.converted = Some(Converted { dtype, stored_bytes, memory_bytes: 0 });
        self.in_singles()
    }

    fn config(&self) -> &TransformerConfig {
        &self.facts.transformer
    }

    /// Of so many passes that are one batch.
    fn batch(&self, samples: usize) -> Batch {
        let tokens = self.latents * tokens_per_frame(self.config(), self.height, self.width);
        Batch { tokens, samples }
    }

    /// Height and width.
    fn size(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// Bytes of the card.
    fn free(&self) -> u64 {
        (self.card as u64) << 30
    }

    /// The card, with its memory shared out as the plan has it.
    fn planned(&self, need: &Need) -> (Card, Arc<Gpu>) {
        let (total, convolves, pace) = (self.card << 30, self.convolves, self.pace);
        let card = Card(Arc::new(Accounts { total, convolves, pace, ..Accounts::default() }));
        let gpu = Gpu::new(Box::new(card.clone()), self.facts.element());
        gpu.plan_weights(need.shares(self.free()).expect("a card for it"));
        gpu.set_scarce(need.all() > self.free());
        (card, gpu)
    }

    fn transformer(&self) -> Transformer {
        let tensors = self.config().expected_tensors();
        let weights = match self.facts.has_8_bit_products() {
            true => {
                let dtype = |name: &str| if is_matrix(name) { DType::F8E4M3 } else { DType::BF16 };
                holes(&tensors, dtype).in_dtype(WeightDtype::Fp8)
            }
            false => holes(&tensors, |_| self.stored),
        };
        Transformer::load(self.config(), weights).expect("a model")
    }

    /// What a pass is given: latents, and a prompt.
    fn given(&self) -> (Tensor, Tensor) {
        let latents = Tensor::zeros(&[self.latents, 16, self.height / 8, self.width / 8]);
        (latents, Tensor::zeros(&[77, self.config().text_dim]))
    }
}

/// How each pass is run.
const OPTIONS: ForwardOptions = ForwardOptions {
    fps: Some(24),
    causal_block: None,
    attention_window: None,
    answer_from: 0,
    sparse: None,
};

/// Passes: each context's are plain, captured and replayed.
const ROUNDS: usize = 6;

/// Peaks while denoising, so many passes at once, and, without the transformer's weights, while decoding;
/// bytes copied by the last round.
fn measured(case: &Case, samples: usize, need: &Need, strips: usize) -> (usize, usize, u64) {
    let (card, gpu) = case.planned(need);
    let device = Device::Gpu(gpu.clone());
    let transformer = case.transformer().on(&device);
    let transformer = SplitTransformer::new(vec![transformer]).expect("one device");
    let vae = &case.facts.vae;
    let mut vae =
        Vae::load(vae, holes(&vae.expected_tensors(), |_| case.stored)).expect("a VAE").on(&device);
    vae.decoder.set_strips(strips);
    let (latents, text) = case.given();
    let contexts = [(); 2].map(|()| transformer.context(&text, None, &ContextOptions::default()));
    let timesteps: Vec<f32> = (0..case.latents).map(|t| t as f32).collect();
    let contexts = contexts.map(|context| context.expect("room"));
    for round in 0..ROUNDS {
        card.with(|state| state.copied = 0);
        let batch: Vec<_> = contexts.iter().cycle().skip(round).take(samples).collect();
        transformer.forward(&latents, &timesteps, &batch, &OPTIONS).expect("room");
    }
    let (denoising, copied) = card.with(|state| (state.peak, state.copied));
    let tally = gpu.tally();
    assert!(tally.replayed > 0 && tally.refused.is_none(), "{tally:?}");
    gpu.make_room(usize::MAX).expect("an answer");
    card.with(|state| state.peak = state.taken);
    let mut state = VaeDecoderState::new();
    let part = latents.slice0(0..4);
    vae.decoder
        .decode_each(&part, &mut state, VAE_BUDGET_BYTES, |_| Ok::<_, ModelError>(()))
        .expect("room");
    let (shapes, convolutions) = card.with(|state| (state.convolved.len(), state.convolutions));
    // Of each kind of layer one or two shapes, and every one of them for each frame.
    assert_eq!(shapes > 9 && convolutions > 100, case.convolves, "{shapes}, {convolutions}");
    // Of the weights that are there those of the VAE are part of it.
    let (_, there) = gpu.bytes();
    let decoding = card.with(|state| state.peak) + case.facts.other_bytes as usize - there;
    (denoising, decoding, copied)
}

/// Says how far a peak is from the plan, and allows a tenth.
#[track_caller]
fn assert_near(what: &str, peak: usize, planned: u64) {
    let off = peak as f64 / planned as f64;
    println!("{what}: {off:.3} of the plan");
    assert!((0.9..1.1).contains(&off), "{what}: {off:.3} of the plan");
}

const SMALL: &str = "SkyReels-V2-DF-1.3B-540P";
const LARGE: &str = "SkyReels-V2-DF-14B-540P";
const LARGER: &str = "SkyReels-V2-DF-14B-720P";

#[test]
fn peaks_are_what_the_plan_says_at_the_real_models_shapes() {
    for (model, latents, size, card, samples, expected_strips) in [
        (SMALL, 25, [960, 544], 24, 1, 1),
        (LARGE, 25, [960, 544], 80, 1, 1),
        (LARGER, 31, [1280, 720], 80, 1, 1),
        (SMALL, 25, [960, 544], 6, 1, 1),
        (LARGE, 25, [960, 544], 12, 1, 1),
        (LARGER, 31, [1280, 720], 24, 1, 1),
        // Both passes of guidance as a batch: all weights there, and most of them brought.
        (SMALL, 25, [960, 544], 24, 2, 1),
        (LARGER, 31, [1280, 720], 80, 2, 1),
        (LARGE, 25, [960, 544], 12, 2, 1),
        (LARGER, 31, [1280, 720], 24, 2, 1),
        // Pictures that do not fit these as a whole.
        (SMALL, 25, [960, 544], 4, 1, 2),
        (SMALL, 25, [1280, 720], 6, 1, 2),
        (SMALL, 25, [720, 1280], 6, 1, 2),
    ] {
        let case = Case::new(model, latents, size, card);
        let strips = strips_in(&case.facts, case.size(), case.free());
        assert_eq!(strips, expected_strips, "{model} on {card} GiB");
        assert_peaks_near(&case, samples, strips);
    }
}

#[test]
fn peaks_in_8_bits_are_what_the_plan_says_and_half_the_weights() {
    for (model, latents, size, card, samples) in [
        (SMALL, 25, [960, 544], 24, 1),
        (LARGE, 25, [960, 544], 24, 1),
        (LARGER, 31, [1280, 720], 24, 1),
        (LARGE, 25, [960, 544], 12, 1),
        (LARGE, 25, [960, 544], 24, 2),
    ] {
        let plain = Case::new(model, latents, size, card);
        let need = |case: &Case| Need::of(&case.facts, case.batch(1), case.size(), 1, 0).weights();
        let plain_weights = need(&plain);
        let case = plain.in_8_bits();
        let share = need(&case) as f64 / plain_weights as f64;
        assert!((0.5..0.6).contains(&share), "{model}: {share:.2} of the weights in bf16");
        let strips = strips_in(&case.facts, case.size(), case.free());
        assert_peaks_near(&case, samples, strips);
    }
}

/// What a plan knows of a card is from before it is opened.
#[test]
fn a_card_that_a_plan_is_accepted_for_takes_the_film_once_it_is_open() {
    // As much as contexts and libraries are known to take.
    let context = 600 << 20;
    let (mut accepted, mut refused) = (0, 0);
    for (model, latents, size) in [(SMALL, 25, [960, 544]), (LARGER, 31, [1280, 720])] {
        let case = Case::new(model, latents, size, 0);
        for free in (2_u64 << 30..40 << 30).step_by(64 << 20) {
            let planned = free_once_open(free);
            let strips = strips_in(&case.facts, case.size(), planned);
            let need = Need::of(&case.facts, case.batch(1), case.size(), strips, 0);
            let Some(shares) = need.shares(planned) else {
                refused += 1;
                continue;
            };
            accepted += 1;
            let total = (free - context) as usize;
            let card = Card(Arc::new(Accounts { total, ..Accounts::default() }));
            let gpu = Gpu::new(Box::new(card), Element::Bf16);
            share_one(&gpu, &need).expect("what was planned");
            let there = need.shares(total as u64).expect("as said");
            assert!(
                there.bytes() >= shares.bytes().min(need.weights() as usize),
                "{model}, {free}"
            );
        }
    }
    assert!(accepted > 500 && refused > 30, "{accepted} and {refused}");
}

/// The models' own files are of singles, which the layers around the blocks are given as well.
#[test]
fn a_file_of_singles_takes_what_one_in_bf16_does_but_for_a_few_layers() {
    for (model, latents, size, card) in
        [(SMALL, 25, [960, 544], 24), (LARGE, 25, [960, 544], 12), (LARGER, 31, [1280, 720], 24)]
    {
        let [plain, singles] = [(); 2].map(|()| Case::new(model, latents, size, card));
        let singles = singles.in_singles();
        let need = |case: &Case| Need::of(&case.facts, case.batch(1), case.size(), 1, 0);
        let [of_weights, singles_weights] =
            [&plain, &singles].map(|case| TransformerWeights::of(&case.facts));
        // Twice of those around the blocks. Biases and norms, which the plan of the one counts and that of the other
        // does not, are less than a hundredth.
        assert_eq!(singles_weights.around.bytes, 2 * of_weights.around.bytes);
        let blocks = singles_weights.blocks.bytes as f64 / of_weights.blocks.bytes as f64;
        assert!((blocks - 1.0).abs() < 0.01, "{model}: {blocks}");
        let prompt = singles_weights.prompt.bytes as f64 / of_weights.prompt.bytes as f64;
        assert!((1.0..1.1).contains(&prompt), "{model}: {prompt}");
        let around = need(&singles).weights().saturating_sub(need(&plain).weights());
        let most_around = 2 * of_weights.around.bytes as u64;
        assert!(around < most_around, "{model}: {around} bytes more");
        let [(_, _, of_plain), (denoising, _, of_singles)] =
            [&plain, &singles].map(|case| measured(case, 1, &need(case), 1));
        let most = of_plain + most_around + of_weights.blocks.largest as u64;
        assert!(of_singles <= most, "{model} on {card} GiB: {of_singles} bytes and {of_plain}");
        let shares = need(&singles).shares(singles.free()).expect("a card for it");
        let there = match shares.places {
            0 => need(&singles).weights() - singles.facts.other_bytes,
            _ => shares.bytes() as u64,
        };
        assert_near(model, denoising, need(&singles).activations + there);
    }
}

#[test]
fn peaks_of_a_film_that_is_computed_in_singles_are_what_the_plan_says() {
    for (model, latents, size, card, samples) in [
        (SMALL, 25, [960, 544], 24, 1),
        (SMALL, 25, [960, 544], 24, 2),
        (LARGE, 25, [960, 544], 80, 1),
        (LARGE, 25, [960, 544], 24, 1),
    ] {
        let case = Case::new(model, latents, size, card).computed_in_singles();
        assert_peaks_near(&case, samples, strips_in(&case.facts, case.size(), case.free()));
    }
}

#[test]
fn a_library_for_convolutions_decodes_in_the_memory_that_is_planned() {
    for (model, size, card, strips) in [
        (SMALL, [960, 544], 24, 1),
        (LARGER, [1280, 720], 24, 1),
        (SMALL, [960, 544], 4, 2),
        (SMALL, [1280, 720], 6, 2),
        (SMALL, [720, 1280], 6, 2),
    ] {
        let latents = if model == LARGER { 31 } else { 25 };
        let case = Case::new(model, latents, size, card).with_convolutions();
        assert_peaks_near(&case, 1, strips);
    }
}

/// Measures a case, and compares with its plan.
#[track_caller]
fn assert_peaks_near(case: &Case, samples: usize, strips: usize) {
    let Case { facts, width, height, card, .. } = case;
    let (model, size) = (&facts.name, [width, height]);
    let need = Need::of(&case.facts, case.batch(samples), case.size(), strips, 0);
    let (denoising, decoding, copied) = measured(case, samples, &need, strips);
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let shares = need.shares(case.free()).expect("a card for it");
    // While denoising the VAE's have not come yet, unless they take the place of others.
    let weights = match shares.places {
        0 => need.weights() - facts.other_bytes,
        _ => shares.bytes() as u64,
    };
    let expected = need.activations + weights;
    println!(
        "{model} {size:?} on {card} GiB, {samples} at once: denoising {:.2} GiB ({:.2} planned, {:.2} of weights), decoding \
         {:.2} GiB ({:.2} planned), {:.2} GiB copied each time",
        gib(denoising as u64),
        gib(expected),
        gib(weights),
        gib(decoding as u64),
        gib(need.decoding),
        gib(copied),
    );
    assert_near("denoising", denoising, expected);
    assert_near("decoding", decoding, need.decoding);
    assert_brought(&need, &shares, copied, facts.other_bytes);
}

/// Whether a row copies as much as the plan says, but for what is in the places at its end; the VAE's weights have not
/// come and leave room to others.
#[track_caller]
fn assert_brought(need: &Need, shares: &WeightPlan, copied: u64, other_bytes: u64) {
    let brought = need.brought(shares).saturating_sub(other_bytes);
    let kept = (shares.places * shares.place) as u64;
    // Latents and timesteps, and what is left of the room where the next weight does not fit.
    let given = (32 << 20) + shares.place as u64;
    let expected = brought.saturating_sub(kept)..=brought + given;
    assert!(expected.contains(&copied), "{copied} bytes copied, {brought} planned");
}

/// What makes keys and values of a prompt is brought with the prompt, also between two passes, and passes are as they
/// were: all of their weights stay where there is room for these, and as many as there is room for elsewhere.
#[test]
fn weights_of_prompts_come_with_a_prompt_and_no_pass_has_them_brought() {
    for (card, brings) in [(27, false), (20, true)] {
        let case = Case::new(LARGE, 3, [960, 544], card);
        let need = Need::of(&case.facts, case.batch(1), case.size(), 1, 0);
        let shares = need.shares(case.free()).expect("a card for it");
        assert!(shares.places > 0 && (need.brought(&shares) > 0) == brings, "{shares:?}");
        let (card, gpu) = case.planned(&need);
        let network = case.transformer().on(&Device::Gpu(gpu.clone()));
        let (latents, text) = case.given();
        let copied = || card.with(|state| std::mem::take(&mut state.copied));
        let prompt = || {
            copied();
            let context = network.context(&text, None, &ContextOptions::default()).expect("room");
            (context, copied())
        };
        let pass = |context: &Context| {
            copied();
            network.forward(&latents, &[500.0], context, &OPTIONS).expect("room");
            copied()
        };
        let mut contexts = Vec::new();
        let mut bytes = Vec::new();
        for _ in 0..4 {
            let (context, of_prompt) = prompt();
            // The places have what comes next at its end, and may have had the first ones at its beginning.
            let off = of_prompt.abs_diff(need.prompt.bytes as u64);
            assert!(off < (shares.places * shares.place) as u64, "{of_prompt} bytes");
            contexts.push(context);
            // The first one of before again, as a negative prompt is.
            for context in [&contexts[0], &contexts[contexts.len() - 1]] {
                bytes.extend((0..ROUNDS).map(|_| pass(context)));
            }
        }
        for (n, &copied) in bytes.iter().enumerate().skip(1) {
            // A pass behind a prompt finds no weight in the places.
            let found =
                if n % (2 * ROUNDS) <= 1 { (shares.places * shares.place) as u64 } else { 0 };
            let least = *bytes[1..].iter().min().expect("some");
            assert!(copied <= least + found, "pass {n}: {copied} bytes, {least} of others");
            assert_brought(
                &need,
                &shares,
                copied - found.min(copied - least),
                case.facts.other_bytes,
            );
        }
        let tally = gpu.tally();
        assert_eq!(tally.refused, None);
        // Of each prompt one graph; that of the first one is captured anew once at most.
        assert!((4..=5).contains(&tally.captured), "{tally:?}");
    }
}

#[test]
fn what_a_step_cache_keeps_is_in_the_plan() {
    let case = Case::new(SMALL, 25, [960, 544], 24);
    let (latents, text) = case.given();
    // Both passes of guidance one after the other, and as a batch.
    for samples in [1, 2] {
        let batch = case.batch(samples);
        let kept = if samples == 1 { 2 * batch.tokens * case.facts.dim() } else { 0 };
        let need = Need::of(&case.facts, batch, case.size(), 1, kept as u64);
        let (card, gpu) = case.planned(&need);
        let model = case.transformer().on(&Device::Gpu(gpu.clone()));
        let model = SplitTransformer::new(vec![model]).expect("one device");
        let contexts = [(); 2].map(|()| model.context(&text, None, &ContextOptions::default()));
        let contexts = contexts.map(|context| context.expect("room"));
        let contexts: Vec<_> = contexts.iter().collect();
        let mut residuals = [None, None];
        let begin = || model.begin(&latents, &[500.0], &OPTIONS).expect("fits");
        // Every third row takes over what is there.
        for row in 0..3 * ROUNDS {
            if row % 3 == 2 {
                for residual in residuals.iter().flatten() {
                    let mut pass = begin();
                    pass.add_residual(residual).expect("fits");
                    pass.finish().expect("room");
                }
                continue;
            }
            let batches = contexts.chunks(samples).zip(residuals.chunks_mut(samples));
            for (contexts, residuals) in batches {
                residuals.fill_with(|| None);
                let mut pass = begin();
                let kept = pass.run_blocks_keeping_residuals(contexts).expect("room");
                residuals.iter_mut().zip(kept).for_each(|(to, kept)| *to = Some(kept));
                pass.finish().expect("room");
            }
        }
        // Residuals come to lie where no pass is: each graph is captured once.
        let graphs = 2 / samples;
        let replayed = graphs * (2 * ROUNDS - 2);
        let tally = Tally { captured: graphs, bytes: 0, replayed, refused: None };
        assert_eq!(gpu.tally(), tally, "{samples} at once");
        let expected = need.activations + need.weights() - case.facts.other_bytes;
        let what = format!("with residuals of two passes, {samples} at once");
        assert_near(&what, card.with(|state| state.peak), expected);
    }
}

#[test]
fn each_of_several_devices_takes_what_the_plan_says() {
    for (name, card, strips, samples) in [
        (SMALL, 24, 2, 1),
        (SMALL, 24, 4, 1),
        (SMALL, 24, 2, 2),
        (LARGE, 16, 2, 1),
        (LARGE, 28, 2, 1),
    ] {
        let case = Case::new(name, 25, [960, 544], card);
        let sharing = Sharing { groups: 1, strips, decoder: false };
        let need = Need::of_rank(&case.facts, sharing, case.batch(samples), case.size(), 1, 0);
        let (cards, gpus): (Vec<_>, Vec<_>) = (0..strips).map(|_| case.planned(&need)).unzip();
        let model = case.transformer();
        let ranks = gpus.iter().map(|gpu| model.clone().on(&Device::Gpu(gpu.clone())));
        let model = SplitTransformer::new(ranks.collect()).expect("even heads");
        let (latents, text) = case.given();
        let contexts = [(); 2].map(|()| model.context(&text, None, &ContextOptions::default()));
        let contexts = contexts.map(|context| context.expect("room"));
        let brought = || gpus.iter().map(|gpu| gpu.brought_bytes()).collect::<Vec<_>>();
        let mut before = brought();
        // In the second one those may come still with which the next prompt would begin.
        for round in 0..3 {
            before = brought();
            let batch: Vec<_> = contexts.iter().cycle().skip(round).take(samples).collect();
            model.forward(&latents, &[500.0], &batch, &OPTIONS).expect("room");
        }
        let shares = need.shares(case.free()).expect("a card for it");
        let weights = match shares.places {
            0 => need.weights() - case.facts.other_bytes,
            _ => shares.bytes() as u64,
        };
        // What they exchange is not among it.
        let copied = brought().into_iter().zip(before).map(|(after, before)| after - before);
        for (card, copied) in cards.iter().zip(copied) {
            let what = format!("{name}, {strips} strips, {samples} at once");
            assert_near(&what, card.with(|state| state.peak), need.activations + weights);
            assert_brought(&need, &shares, copied, case.facts.other_bytes);
        }
    }
}
