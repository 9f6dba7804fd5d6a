//! The memory that a plan expects to take.

use super::{FilmPlan, ModelFacts};
use crate::device::{strips_in, strips_until};
use crate::estimate::{Batch, decode_bytes, decoded_bytes, forward_bytes, tokens_per_frame};
use crate::finish::FinishBytes;
use crate::request::Carry;
use crate::sharing::Sharing;
use crate::texts::KEEP_BYTES;

/// Expected peak memory without what is kept of finished blocks, when a pass has `tokens` tokens.
pub(super) fn bytes_with(
    model: &ModelFacts,
    plan: &FilmPlan,
    tokens: usize,
    finish: FinishBytes,
) -> u64 {
    let size = [plan.request.height, plan.request.width];
    let text = model.text_encoder_bytes;
    let stays = if text <= KEEP_BYTES { text } else { 0 };
    let weights = model.transformer_bytes + model.other_bytes + stays;
    // Groups run at the same time; the parts of one are a forward together.
    let forwards = |tokens| {
        let all = plan.batch(tokens).all_tokens();
        plan.sharing.groups as u64 * forward_bytes(&model.transformer, all)
    };
    let latents = plan.kinds_of_segments().into_iter().map(|(s, _)| match plan.request.carry {
        Carry::Latents => s.new_latents,
        Carry::Pixels => s.film_latents(),
    });
    let latents = latents.max().unwrap_or(0);
    let decoding = decode_bytes(&model.vae, size, plan.strips, latents) + finish.part;
    // While a frame is written the decoder does not work.
    let decoded = decoded_bytes(&model.vae, size, plan.strips, latents);
    let writing = decoded + finish.frame + finish.part;
    let film = match plan.sharing.decoder {
        // With a device of its own the decoder works at the same time.
        true => forwards(tokens) + decoding.max(writing),
        false => forwards(tokens).max(decoding).max(forwards(0) + writing),
    };
    // A large encoder has gone before the film begins. Its own activations are those of 512 tokens at most.
    (weights + film).max(text)
}

/// Bytes of the host that values on their way between GPUs take where no better way works, which a plan does not
/// know: of each query, key or value in turn, in bf16, what was given and not taken yet.
pub(super) fn on_the_way(sharing: Sharing, model: &ModelFacts, batch: Batch) -> u64 {
    let tokens = sharing.groups * batch.all_tokens();
    if sharing.strips == 1 { 0 } else { (2 * 2 * tokens * model.dim()) as u64 }
}

/// In how many strips pictures are decoded: in as few as the memory allows. That of the processor counts only
/// when it is asked to be `checked`.
pub(super) fn strips(plan: &FilmPlan, model: &ModelFacts, checked: bool) -> usize {
    let size = [plan.request.height, plan.request.width];
    if let Some(gpu) = &model.gpu {
        return strips_in(model, size, gpu.free_bytes);
    }
    let Some(available) = model.available_bytes().filter(|_| checked) else { return 1 };
    strips_until(size, |strips| {
        base_bytes(&FilmPlan { strips, ..plan.clone() }, model) <= available
    })
}

/// Expected peak memory when nothing is kept of finished blocks.
pub(super) fn base_bytes(plan: &FilmPlan, model: &ModelFacts) -> u64 {
    let frames = plan.request.base_num_frames as u64;
    let finish = FinishBytes::of(&plan.request, model.upscaler, frames);
    bytes_with(model, plan, base_tokens(plan, model), finish)
}

/// Tokens of the longest window.
pub(super) fn base_tokens(plan: &FilmPlan, model: &ModelFacts) -> usize {
    let request = &plan.request;
    let frames = plan.kinds_of_segments().iter().map(|(s, _)| s.window_latents()).max();
    frames.unwrap_or(0) * tokens_per_frame(&model.transformer, request.height, request.width)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::{Engine, EngineOptions};
    use crate::plan::plan;

    #[test]
    fn a_text_encoder_counts_beside_the_film_only_where_it_stays() {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures/models/df");
        let engine = Engine::open(&EngineOptions::new(tiny)).expect("a model");
        let request = engine.defaults(false).expect("defaults").request("a red circle");
        let memory = |text_encoder_bytes| {
            let facts = ModelFacts { text_encoder_bytes, ..engine.facts().clone() };
            plan(&request, &facts, false).expect("a plan").summary().memory_bytes
        };
        let film = memory(0);
        assert_eq!(memory(KEEP_BYTES), film + KEEP_BYTES, "one that is kept");
        assert!(film < KEEP_BYTES, "{film} bytes: too many for this test");
        for large in [KEEP_BYTES + 1, 11 << 30] {
            assert_eq!(memory(large), large, "one that is gone before the film begins");
        }
        let own = engine.facts().clone();
        let beside = ModelFacts { transformer_bytes: 20 << 30, text_encoder_bytes: 0, ..own };
        let with = ModelFacts { text_encoder_bytes: 11 << 30, ..beside.clone() };
        let [alone, with] = [beside, with]
            .map(|facts| plan(&request, &facts, false).expect("a plan").summary().memory_bytes);
        assert_eq!(with, alone, "one that is smaller than what comes after it");
    }
}
