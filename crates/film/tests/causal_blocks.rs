//! What a request says of causal blocks counts, and what the model's configuration says only where it says
//! nothing. (The configuration's blocks once masked attention for requests with blocks of one frame.)

mod common;

use std::path::Path;

use longreel_film::{Engine, EngineOptions, FilmRequest};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let from = entry.expect("an entry").path();
        let to = to.join(from.file_name().expect("a name"));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).expect("a copy");
        }
    }
}

/// The tiny model, configured for blocks of so many latent frames.
fn configured(frames: usize, folder: &Path) -> Engine {
    let model = folder.join(format!("model-{frames}"));
    copy(&common::fixture("models/df"), &model);
    let file = model.join("transformer/config.json");
    let config = std::fs::read_to_string(&file).expect("a configuration");
    let key = "\"num_frame_per_block\": ";
    assert!(config.contains(&format!("{key}1")), "{config}");
    let config = config.replace(&format!("{key}1"), &format!("{key}{frames}"));
    std::fs::write(&file, config).expect("written");
    Engine::open(&EngineOptions::new(model)).expect("a model")
}

/// Latents of a film of four latent frames in a timetable of waves.
fn latents(engine: &mut Engine, folder: &Path, change: impl Fn(&mut FilmRequest)) -> Vec<u8> {
    let mut request = common::request(engine, [64, 48], 13);
    (request.base_num_frames, request.steps, request.ar_step) = (13, 4, 2);
    change(&mut request);
    common::latents(engine, &request, folder).1
}

#[test]
fn a_request_s_blocks_replace_those_of_the_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (mut ones, mut twos) = (configured(1, folder), configured(2, folder));
    let blocks = |size| move |request: &mut FilmRequest| request.causal_block_size = size;

    let asked_for_one = latents(&mut twos, folder, blocks(Some(1)));
    assert!(asked_for_one == latents(&mut ones, folder, blocks(None)), "blocks of one");
    let asked_for_two = latents(&mut ones, folder, blocks(Some(2)));
    assert!(asked_for_two == latents(&mut twos, folder, blocks(None)), "blocks of two");
    assert!(asked_for_two != asked_for_one, "blocks without effect");
}

#[test]
fn attention_is_causal_as_asked_whatever_the_blocks() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (mut ones, mut twos) = (configured(1, folder), configured(2, folder));
    let asked = |size, causal| {
        move |request: &mut FilmRequest| {
            (request.causal_block_size, request.causal_attention) = (Some(size), Some(causal));
        }
    };

    let free = latents(&mut ones, folder, asked(2, false));
    assert!(free == latents(&mut twos, folder, asked(2, false)), "attention to all");
    assert!(free != latents(&mut twos, folder, asked(2, true)), "attention to earlier blocks");
    // As `set_ar_attention(1)` of the official code has it, whose mask does not end at blocks of one.
    let single = latents(&mut ones, folder, asked(1, true));
    assert!(single != latents(&mut ones, folder, asked(1, false)), "frames that look back");
    assert!(single == latents(&mut twos, folder, asked(1, true)), "frames that look back");
}
