//! Frames that are only seen, as a film's history is, are left out of the answer and of the last block's
//! work, and no bit of the other frames changes for it.

mod common;

use common::{
    OnHost, areas, assert_other, assert_same_bits, contexts, exact_devices, model, noise,
};
use longreel_kernels::{Device, Tensor};
use longreel_models::{
    AttentionWindow, ForwardOptions, SparseAttention, SplitCache, SplitContext, SplitTransformer,
};

const FRAMES: usize = 6;
/// Latent pixels: five rows of patches, which two ranks do not share evenly.
const SIZE: [usize; 2] = [10, 4];
const EACH: [f32; FRAMES] = [0.0, 20.0, 437.0, 437.0, 800.0, 999.0];

fn latents(model: &SplitTransformer) -> Tensor {
    noise(2, &[FRAMES, model.config().in_channels, SIZE[0], SIZE[1]])
}

fn every_mask() -> [ForwardOptions; 3] {
    let all = ForwardOptions { fps: Some(24), ..ForwardOptions::default() };
    let causal = ForwardOptions { causal_block: Some(2), ..all };
    let window = Some(AttentionWindow { before: 1, sink: 0 });
    [all, causal, ForwardOptions { attention_window: window, ..causal }]
}

fn assert_same(what: &str, ours: &[Tensor], whole: &[Tensor], from: usize) {
    assert_eq!(ours.len(), whole.len(), "{what}");
    for (ours, whole) in ours.iter().zip(whole) {
        assert_same_bits(what, ours, &whole.slice0(from..whole.dim(0)));
    }
}

#[test]
fn frames_that_are_asked_about_are_those_of_the_whole_answer() {
    let mut all: Vec<_> = exact_devices().into_iter().map(|(on, d)| (on, vec![d])).collect();
    all.push(("ranks", vec![Device::Cpu; 2]));
    for (on, devices) in all {
        let kinds: &[_] = match on {
            "CPU" => &["transformer_df", "transformer_i2v", "transformer_wan_flf2v"],
            _ => &["transformer_df"],
        };
        for kind in kinds {
            let model = model(kind, &devices);
            let (contexts, latents) = (contexts(&model), latents(&model));
            let contexts: Vec<_> = contexts.iter().collect();
            for (options, timesteps) in every_mask().iter().zip([&EACH[..], &EACH[4..5], &EACH]) {
                let run = |contexts: &[&SplitContext], answer_from: usize| {
                    let options = ForwardOptions { answer_from, ..*options };
                    model.forward(&latents, timesteps, contexts, &options).expect("runs").on_host()
                };
                for contexts in [&contexts[..1], &contexts[..]] {
                    let whole = run(contexts, 0);
                    for &from in if on == "CPU" { &[1, 3, FRAMES - 1][..] } else { &[3] } {
                        let what = format!("{kind} on {on} from {from}, {options:?}");
                        assert_same(&what, &run(contexts, from), &whole, from);
                    }
                }
            }
        }
    }
}

/// A block of queries has tokens of frames that are asked about and of others.
#[test]
fn frames_that_are_asked_about_leave_out_the_keys_that_all_leave_out() {
    let model = model("transformer_df", &[Device::Cpu]);
    let contexts = contexts(&model);
    let latents = areas(2, [FRAMES, model.config().in_channels, 24, 24]);
    let sparse = Some(SparseAttention { mass: 0.3, dense_above: 1000.0 });
    for options in every_mask() {
        let run = |answer_from: usize, sparse| {
            let options = ForwardOptions { answer_from, sparse, ..options };
            model.forward(&latents, &EACH, &[&contexts[0]], &options).expect("runs").on_host()
        };
        let whole = run(0, sparse);
        assert_other(&format!("{options:?}"), &whole[0], &run(0, None)[0]);
        for from in [1, 3, FRAMES - 1] {
            assert_same(&format!("from {from}, {options:?}"), &run(from, sparse), &whole, from);
        }
    }
}

#[test]
fn what_is_kept_of_frames_does_not_depend_on_which_are_asked_about() {
    let [_, causal, _] = every_mask();
    let model = model("transformer_df", &[Device::Cpu]);
    let (contexts, latents) = (contexts(&model), latents(&model));
    let run = |from: usize| {
        let mut caches = [(); 2].map(|()| model.new_cache(0));
        let mut caches: Vec<&mut SplitCache> = caches.iter_mut().collect();
        let contexts: Vec<_> = contexts[..2].iter().collect();
        let mut after = |frames: std::ops::Range<usize>, keep, answer_from| {
            let options = ForwardOptions { answer_from, ..causal };
            model
                .forward_after(
                    &mut caches,
                    keep,
                    &latents.slice0(frames),
                    &EACH,
                    &contexts,
                    &options,
                )
                .expect("runs")
                .on_host()
        };
        (after(0..4, 4, from), after(4..6, 0, 0))
    };
    let (whole, then) = run(0);
    let (first, later) = run(3);
    assert_same("behind nothing", &first, &whole, 3);
    assert_same("behind them", &later, &then, 0);
}

#[test]
fn what_the_blocks_add_is_kept_of_all_frames() {
    let [all, ..] = every_mask();
    let model = model("transformer_df", &[Device::Cpu]);
    let (contexts, latents) = (contexts(&model), latents(&model));
    let contexts: Vec<_> = contexts.iter().collect();
    let begin = |answer_from| {
        model.begin(&latents, &EACH, &ForwardOptions { answer_from, ..all }).expect("begins")
    };
    let mut pass = begin(0);
    let whole = pass.run_blocks_keeping_residuals(&contexts).expect("runs");
    let answer = pass.finish().expect("ends").on_host();
    let mut asked = begin(2);
    let kept = asked.run_blocks_keeping_residuals(&contexts).expect("runs");
    assert_same("computed", &asked.finish().expect("ends").on_host(), &answer, 2);
    for ((whole, kept), from) in whole.iter().zip(&kept).zip([0, 1, 5]) {
        let reused = |residual, from| {
            let mut pass = begin(from);
            assert!(pass.takes(residual));
            pass.add_residual(residual).expect("fits");
            pass.finish().expect("ends").on_host()
        };
        assert_same("taken over", &reused(kept, from), &reused(whole, 0), from);
    }
}

#[test]
fn an_answer_about_nothing_is_refused() {
    let [all, ..] = every_mask();
    let model = model("transformer_df", &[Device::Cpu]);
    let contexts = contexts(&model);
    let options = ForwardOptions { answer_from: FRAMES, ..all };
    let refused = model.forward(&latents(&model), &EACH, &[&contexts[0]], &options).unwrap_err();
    let said = "answer_from is 6, but it must be below the number of latent frames given, 6";
    assert_eq!(refused.to_string(), said);
}
