//! Weights that a GPU has no room for and that are brought to it for each pass, or for each prompt: how long that takes,
//! and how much of it goes on beside the arithmetic.

use longreel_kernels::gpu::WeightPlan;
use serde::Serialize;

use super::summary::{Denoising, RowWork, Work};
use super::time::GPU_SHARE;
use super::words::human_seconds;
use super::{FilmPlan, ModelFacts, gpu};
use crate::device::{HostLink, TransformerWeights, transformer_values};
use crate::error::PlanError;
use crate::estimate::ForwardFlops;
use crate::sharing::Sharing;

/// Weights that are brought to each GPU that denoises.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BringingSummary {
    /// Bytes for each pass, or for each row whose passes are a batch.
    pub bytes: u64,
    /// Bytes for each prompt: of what its keys and values are made with, which stay.
    pub prompt_bytes: u64,
    /// Bytes of those of each pass that stay, where they make room for decoding and come again for each segment; 0 where
    /// they do not.
    pub again_bytes: u64,
    /// What they come by, or that it was measured.
    pub way: String,
    /// What carries them, in bytes a second: measured, or by the standard.
    pub bytes_per_second: f64,
    /// Whether that was measured.
    pub is_measured: bool,
    /// Expected seconds of copies (of one segment, when endless).
    pub seconds: f64,
    /// Of these, seconds that the film takes longer for them. The others go on beside the arithmetic.
    pub waited_seconds: f64,
}

impl HostLink {
    /// Bytes a second that are counted on.
    fn expected(self) -> f64 {
        let share = if self.is_measured() { 1.0 } else { GPU_SHARE };
        self.bytes_per_second() * share
    }
}

/// The copy of a weight of a block, and the work with it until the next one is asked for, in seconds.
#[derive(Debug, Clone, Copy)]
struct Step {
    copy: f64,
    work: f64,
}

/// The share of a film's time from which on it is told that the GPU waits for weights.
const WORTH_TELLING: f64 = 0.03;

/// Passes that are followed until one is like the next.
const PASSES: usize = 3;

/// Seconds by which a pass of these steps takes longer than its work, where the last `brought` of them have their weights
/// brought and those before have them there. The copies of a pass begin at the end of the one before: a copy begins
/// when the copy before and the work with what was in its place are done, a step when its own copy is. What is in a place
/// leaves it with the step after the next one (`kernels/src/gpu/weights.rs`).
fn waited(steps: &[Step], brought: usize) -> f64 {
    let first = steps.len() - brought.min(steps.len());
    let there: f64 = steps[..first].iter().map(|step| step.work).sum();
    let work = there + steps[first..].iter().map(|step| step.work).sum::<f64>();
    // When the steps with the last places were done, the oldest first, and the last copy.
    let (mut done, mut copied) = ([0.0_f64; WeightPlan::PLACES - 1], 0.0_f64);
    let mut took = 0.0;
    for _ in 0..PASSES {
        let begun = done[done.len() - 1];
        let mut now = begun + there;
        for step in &steps[first..] {
            copied = copied.max(done[0]) + step.copy;
            now = now.max(copied) + step.work;
            done.rotate_left(1);
            done[WeightPlan::PLACES - 2] = now;
        }
        took = now - begun;
    }
    (took - work).max(0.0)
}

/// How many of the last steps have so many bytes brought.
fn last_steps(steps: &[Step], bytes: f64, rate: f64) -> usize {
    let mut left = bytes;
    steps
        .iter()
        .rev()
        .take_while(|step| {
            let more = left > 0.0;
            left -= step.copy * rate;
            more
        })
        .count()
}

/// The steps of a pass: the weights of its blocks in their order, and what is done with each.
fn steps(model: &ModelFacts, pass: ForwardFlops, rate: f64) -> Vec<Step> {
    let config = &model.transformer;
    let layers = config.num_layers.max(1) as f64;
    let (dim, ffn) = (model.dim() as f64, config.ffn_dim as f64);
    let bytes_per_value = TransformerWeights::of(model).bytes_per_value;
    let seconds = |flops: ForwardFlops| model.seconds(flops * (1.0 / layers), model.products());
    let square = dim * dim / (6.0 * dim * dim + 2.0 * dim * ffn);
    let linear = |share: f64| {
        seconds(ForwardFlops { linear: pass.linear * share, ..ForwardFlops::default() })
    };
    let attention = seconds(ForwardFlops { attention: pass.attention, ..ForwardFlops::default() });
    let cross =
        seconds(ForwardFlops { cross_attention: pass.cross_attention, ..ForwardFlops::default() });
    let of = |values: f64, work| Step { copy: values * bytes_per_value / rate, work };
    let layer = |more: f64| of(dim * dim, linear(square) + more);
    let [query, key, value, out] = [layer(0.0), layer(0.0), layer(attention), layer(0.0)];
    let [cross_query, cross_out] = [layer(cross), layer(0.0)];
    // Both are there before the feed-forward begins.
    let up = of(dim * ffn, 0.0);
    let down = of(dim * ffn, linear(1.0 - 6.0 * square));
    [query, key, value, out, cross_query, cross_out, up, down].repeat(config.num_layers)
}

/// What fewer bits would make of a film's `seconds` that is waited for weights, of which its `denoising` takes so many.
pub(super) fn note(
    plan: &FilmPlan,
    sharing: Sharing,
    model: &ModelFacts,
    work: &Work,
    denoising: &Denoising,
    seconds: f64,
) -> Result<Option<String>, PlanError> {
    let waited = denoising.waited_seconds();
    if waited < WORTH_TELLING * seconds {
        return Ok(None);
    }
    let values = transformer_values(&model.transformer);
    let mut ways = Vec::new();
    for (target, bits) in [("q8_0", 8.5), ("q4_k", 4.5)] {
        let transformer_bytes = (values as f64 * bits / 8.0) as u64;
        if transformer_bytes < model.transformer_bytes && model.converted.is_none() {
            let fewer = ModelFacts { transformer_bytes, ..model.clone() };
            let saved = denoising.seconds - work.denoising(sharing, plan, &fewer)?.seconds;
            let about = human_seconds((seconds - saved).max(0.0));
            ways.push(format!("`longreel models quantize --to {target}` about {about}"));
        }
    }
    let share = 100.0 * waited / seconds;
    let ways = match ways.is_empty() {
        true => String::new(),
        false => format!("; of fewer bits less is brought: with {}", ways.join(", with ")),
    };
    Ok(Some(format!("{share:.0}% of the time the GPU waits for weights{ways}")))
}

/// What is brought for the `rows` of a film to each GPU that denoises, and how long it takes; `None` where nothing is,
/// but once.
pub(super) fn of(
    plan: &FilmPlan,
    sharing: Sharing,
    model: &ModelFacts,
    rows: &[RowWork],
) -> Result<Option<BringingSummary>, PlanError> {
    let Some(gpu) = &model.gpu else { return Ok(None) };
    let need = gpu::need(plan, model)?;
    let Some(shares) = need.shares(gpu.free_bytes) else { return Ok(None) };
    let leave = need.leave(&shares, gpu.free_bytes);
    if shares.places == 0 && !leave {
        return Ok(None);
    }
    let rate = gpu.host.expected();
    let copies = steps(model, ForwardFlops::default(), rate);
    let all = copies.iter().map(|step| step.copy).sum::<f64>() * rate;
    let bytes = (need.brought(&shares) as f64).min(all);
    let brought = last_steps(&copies, bytes, rate);
    let (mut rounds, mut waited_for) = (0.0, 0.0);
    for row in rows {
        let together = if plan.guidance_batch { row.passes } else { 1 };
        let count = row.times * (row.passes / together).div_ceil(sharing.groups);
        let pass = row.pass * (together as f64 / sharing.strips as f64);
        rounds += count as f64;
        waited_for += count as f64 * waited(&steps(model, pass, rate), brought);
    }
    let segments = if leave { plan.segments.count().unwrap_or(1) } else { 0 };
    let again_bytes = if leave { (shares.resident as u64).min(need.pass_weights()) } else { 0 };
    let again = segments as f64 * again_bytes as f64 / rate;
    // Those of a prompt stay where all do, up to the next decoding: for the prompt and the negative one.
    let negative = shares.places > 0 && plan.guidance.enabled();
    let prompts = plan.prompts_used() + usize::from(negative);
    let prompt_bytes = need.prompt.bytes as u64;
    // Nothing goes on beside these.
    let again = again + prompts as f64 * prompt_bytes as f64 / rate;
    Ok(Some(BringingSummary {
        bytes: bytes as u64,
        prompt_bytes,
        again_bytes,
        way: gpu.host.way(),
        bytes_per_second: gpu.host.bytes_per_second(),
        is_measured: gpu.host.is_measured(),
        seconds: rounds * bytes / rate + again,
        waited_seconds: waited_for + again,
    }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use longreel_kernels::cuda::Pcie;

    use crate::device::GpuFacts;
    use crate::device::peak::Case;
    use crate::engine::{Engine, EngineOptions};
    use crate::plan::{PlanSummary, plan};
    use crate::request::{FilmRequest, GuidanceBatchChoice, Length, TimedPrompt};

    const LARGE: &str = "SkyReels-V2-DF-14B-540P";

    /// A film of one segment at 540P, of so many latent frames in each pass.
    fn request(latents: usize, guidance_scale: f32) -> FilmRequest {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures/models/df");
        let engine = Engine::open(&EngineOptions::new(tiny)).expect("a model");
        let mut request = engine.defaults(false).expect("defaults").request("a red circle");
        (request.width, request.height) = (960, 544);
        request.base_num_frames = 4 * (latents - 1) + 1;
        request.length = Length::Frames(request.base_num_frames as u64);
        (request.steps, request.guidance_scale) = (30, guidance_scale);
        request
    }

    /// On a card of so many free bytes and operations a second, of which half are counted on.
    fn on_card(facts: ModelFacts, free_bytes: u64, flops: f64, host: HostLink) -> ModelFacts {
        let gpu = GpuFacts {
            name: "a card".into(),
            free_bytes,
            peak_flops: flops / GPU_SHARE,
            peak_8_bit_flops: 2.0 * flops / GPU_SHARE,
            link: None,
            host,
        };
        ModelFacts { gpu: Some(gpu), ..facts }
    }

    fn planned(request: &FilmRequest, facts: &ModelFacts) -> PlanSummary {
        plan(request, facts, false).expect("a plan").summary().clone()
    }

    /// The real code of the weights on a card that does nothing but keep time, from passes that wait for nothing to those
    /// that do little else.
    #[test]
    fn a_pass_takes_as_much_longer_for_its_weights_as_the_plan_says() {
        for (latents, card, flops, rate) in [
            (25, 12, 1e14, 1e10),
            (25, 12, 1e15, 1e10),
            (25, 16, 4e15, 1e10),
            (25, 12, 1e17, 1e10),
            (3, 12, 1e14, 1e10),
            (3, 24, 1e14, 3e9),
        ] {
            let case = || {
                let mut case = Case::new(LARGE, latents, [960, 544], card);
                // No decoder is there.
                case.facts.other_bytes = 0;
                case
            };
            let (alone, _) = case().with_pace([flops, f64::INFINITY]).paced_pass();
            let (seconds, copied) = case().with_pace([flops, rate]).paced_pass();
            let host = HostLink::Measured(rate);
            let facts = on_card(case().facts, (card as u64) << 30, flops, host);
            let summary = planned(&request(latents, 1.0), &facts);
            let bringing = summary.bringing.clone().expect("not all stay");
            // But for what comes back once.
            let waited = bringing.waited_seconds - bringing.again_bytes as f64 / rate;
            let expected = waited / summary.forwards as f64;
            let what =
                format!("{latents} latent frames on {card} GiB, {flops:e} FLOP/s, {rate:e} B/s");
            println!(
                "{what}: {alone:.2} s and {:.2} s more, {expected:.2} planned; {copied} bytes, {} planned",
                seconds - alone,
                bringing.bytes
            );
            assert!((seconds - alone - expected).abs() < 0.05 * seconds, "{what}");
            let off = copied as f64 / bringing.bytes as f64;
            assert!((0.97..1.03).contains(&off), "{what}: {off} of the bytes");
        }
    }

    #[test]
    fn steps_wait_for_their_own_copies_and_those_for_a_place() {
        let step = |copy, work| Step { copy, work };
        // As long as each other: all beside the work. Longer, and the copies decide.
        assert_eq!(waited(&[step(2.0, 2.0); 80], 80), 0.0);
        assert_eq!(waited(&[step(3.0, 2.0); 80], 80), 80.0);
        // Long work hides as many copies as there are places beside those that are worked with, and the last.
        let mut steps = [step(1.0, 0.0); 80];
        steps[40].work = 100.0;
        let waits = waited(&steps, 80);
        assert!((75.0..=76.0).contains(&waits), "{waits}");
        // Copies of a pass begin at the end of the one before, and go on while what is there is worked with.
        let steps = [step(1.0, 10.0), step(1.0, 0.0), step(1.0, 0.0), step(1.0, 0.0)];
        assert_eq!(waited(&steps, 3), 0.0);
        assert_eq!(waited(&steps, 0), 0.0);
        assert_eq!(waited(&[], 0), 0.0);
    }

    #[test]
    fn nothing_is_brought_again_where_all_weights_stay() {
        let facts = Case::new(LARGE, 25, [960, 544], 80).facts;
        let facts = on_card(facts, 80 << 30, 1e14, HostLink::Measured(1e10));
        let summary = planned(&request(25, 6.0), &facts);
        assert_eq!(summary.bringing, None);
        assert!(!summary.to_string().contains("copies"), "{summary}");
    }

    #[test]
    fn weights_of_a_prompt_are_waited_for_with_each_that_is_in_force() {
        const RATE: f64 = 1e10;
        let facts = Case::new(LARGE, 25, [960, 544], 12).facts;
        let facts = on_card(facts, 12 << 30, 1e14, HostLink::Measured(RATE));
        let film = |prompts: &[(u64, &str)], guidance_scale| {
            let mut request = request(25, guidance_scale);
            request.guidance_batch = GuidanceBatchChoice::Off;
            // Segments begin at frames 0, 97, 177 and 257.
            request.length = Length::Frames(97 + 3 * 80);
            let timed = |&(from_frame, prompt): &(u64, &str)| TimedPrompt {
                from_frame,
                prompt: prompt.to_owned(),
                seed: None,
            };
            request.prompts = prompts.iter().map(timed).collect();
            planned(&request, &facts).bringing.expect("brought")
        };
        let one = film(&[(0, "a lake")], 1.0);
        assert!((4.2e9..4.4e9).contains(&(one.prompt_bytes as f64)), "{one:?}");
        let seconds = one.prompt_bytes as f64 / RATE;
        let cases: [(&[(u64, &str)], f64); 4] = [
            (&[(0, "a lake"), (150, "a river")], 1.0),
            (&[(0, "a lake"), (97, "a river"), (257, "a lake")], 2.0),
            // The second one is in force nowhere, or the same.
            (&[(0, "a lake"), (110, "a river"), (150, "a sea")], 1.0),
            (&[(0, "a lake"), (97, "a lake")], 0.0),
        ];
        for (prompts, more) in cases {
            let waited = film(prompts, 1.0).waited_seconds - one.waited_seconds;
            assert!((waited - more * seconds).abs() < 1e-6, "{prompts:?}: {waited} s");
        }
        // A negative one, and twice the passes.
        let guided = film(&[(0, "a lake")], 6.0);
        let of_passes = |bringing: &BringingSummary, prompts| bringing.seconds - prompts * seconds;
        let again = one.again_bytes as f64 * 4.0 / RATE;
        let [passes, twice] = [of_passes(&one, 1.0), of_passes(&guided, 2.0)].map(|s| s - again);
        assert!((twice / passes - 2.0).abs() < 1e-6, "{passes} s and {twice} s");
    }

    #[test]
    fn a_batch_brings_weights_once_a_row_and_the_plan_says_how_long_is_waited() {
        let facts = Case::new(LARGE, 3, [960, 544], 12).facts;
        // So slow a bus that there is little else.
        let facts = on_card(facts, 12 << 30, 1e15, HostLink::Measured(1e9));
        let seconds = |batch| {
            let mut request = request(3, 6.0);
            request.guidance_batch = batch;
            planned(&request, &facts)
        };
        let (apart, together) =
            (seconds(GuidanceBatchChoice::Off), seconds(GuidanceBatchChoice::On));
        let waited =
            |summary: &PlanSummary| summary.bringing.as_ref().expect("brought").waited_seconds;
        assert!(waited(&together) < 0.6 * waited(&apart), "{together} {apart}");
        let text = apart.to_string();
        assert!(text.contains("again for each segment (measured, 1.0 GB/s): "), "{text}");
        assert!(text.contains("of the time the GPU waits for weights; of fewer bits"), "{text}");
        assert!(text.contains("quantize --to q8_0` about"), "{text}");
        let saving = apart.savings.iter().find(|saving| saving.option == "--dtype fp8");
        let share = saving.expect("half the bytes").time_share;
        assert!((0.1..0.5).contains(&share), "{share}");
    }

    #[test]
    fn what_nobody_measured_is_the_buss_and_half_of_it() {
        let case = Case::new(LARGE, 3, [960, 544], 12);
        let bus = Pcie { generation: 4, lanes: 16 };
        let waited = |host| {
            let facts = on_card(case.facts.clone(), 12 << 30, 1e17, host);
            let summary = planned(&request(3, 1.0), &facts);
            (summary.bringing.clone().expect("brought"), summary.to_string())
        };
        let (by_bus, text) = waited(HostLink::Bus(bus));
        assert!(
            text.contains("(PCI Express 4.0 x16, 31.5 GB/s, by the data sheet; half"),
            "{text}"
        );
        let (measured, _) = waited(HostLink::Measured(bus.bytes_per_second() / 2.0));
        assert!((by_bus.seconds / measured.seconds - 1.0).abs() < 1e-9);
        let (unknown, text) = waited(HostLink::Unknown);
        assert!((unknown.seconds / by_bus.seconds - 2.0).abs() < 0.01, "half as fast a bus");
        assert!(text.contains("a bus that nobody tells of"), "{text}");
    }
}
