//! `longreel models search`.

use std::collections::BTreeSet;

use anyhow::Result;
use longreel_hub::Hit;
use serde_json::json;

use super::Place;
use crate::model_name::{repositories, short_names};
use crate::models_args::SearchArgs;
use crate::outcome::EXIT_DONE;
use crate::report::{print, print_json};

/// What is looked for when nothing is said.
const FAMILIES: [&str; 2] = ["SkyReels-V2", "Wan2.1"];
const LIMIT: usize = 100;

/// Lists published models that can be run here.
pub fn search(args: &SearchArgs, place: &Place<'_>) -> Result<u8> {
    let client = place.client()?;
    let texts: Vec<String> = match args.text.as_slice() {
        [] => FAMILIES.iter().map(|&text| text.to_owned()).collect(),
        words => vec![words.join(" ")],
    };
    let mut hits: Vec<Hit> = Vec::new();
    let mut seen = BTreeSet::new();
    for text in &texts {
        let found = client.search(text, LIMIT)?;
        hits.extend(found.into_iter().filter(|hit| seen.insert(hit.id.clone())));
    }
    hits.sort_by(|a, b| b.downloads.cmp(&a.downloads).then_with(|| a.id.cmp(&b.id)));
    let of_all = hits.len();
    hits.retain(|hit| args.all || can_run(hit));
    for hit in &hits {
        if place.verbosity.json {
            let name = short_name(&hit.id);
            let mut line = json!({"name": name, "runs": can_run(hit)});
            if let (Some(line), Ok(serde_json::Value::Object(more))) =
                (line.as_object_mut(), serde_json::to_value(hit))
            {
                line.extend(more);
            }
            print_json(&line);
        } else {
            print(&text_of(hit));
        }
    }
    if hits.is_empty() {
        let hint = match of_all {
            0 => "nothing has this name".to_owned(),
            n => format!("{n} were found and none can be run here; --all shows them"),
        };
        place.say(&format!("{hint}; the published models are {}", short_names().join(", ")));
    } else if of_all > hits.len() {
        let left = of_all - hits.len();
        place.say(&format!("{left} more cannot be run here or are only parts; --all shows them"));
    }
    Ok(EXIT_DONE)
}

fn text_of(hit: &Hit) -> String {
    let mut text = format!("{:<58} {:>9} fetched", hit.id, hit.downloads);
    if let Some(day) = hit.updated.as_deref().and_then(|time| time.get(..10)) {
        text.push_str(&format!("  {day}"));
    }
    if hit.gated {
        text.push_str("  gated");
    }
    if let Some(name) = short_name(&hit.id) {
        text.push_str(&format!("  {name}"));
    }
    text
}

/// The short name of a published model's repository.
fn short_name(id: &str) -> Option<String> {
    let models = longreel_weights::published_models();
    let model =
        models.iter().find(|model| repositories(model).iter().any(|r| r.eq_ignore_ascii_case(id)));
    model.map(|model| model.name.to_ascii_lowercase())
}

/// Pipelines of Diffusers that are those of our models.
const PIPELINES: [&str; 6] = [
    "diffusers:SkyReelsV2Pipeline",
    "diffusers:SkyReelsV2DiffusionForcingPipeline",
    "diffusers:SkyReelsV2DiffusionForcingImageToVideoPipeline",
    "diffusers:SkyReelsV2ImageToVideoPipeline",
    "diffusers:WanPipeline",
    "diffusers:WanImageToVideoPipeline",
];
/// Words of names of other members of the wider family, and of what is no whole model.
const OTHERS: [&str; 14] = [
    "wan2.2", "wan2_2", "vace", "fun-", "-fun", "control", "camera", "animate", "lora", "recam",
    "s2v", "ti2v", "audio", "nf4",
];

/// Whether a repository holds what can be run here, as far as its name and tags tell.
fn can_run(hit: &Hit) -> bool {
    let name = hit.id.to_ascii_lowercase();
    if OTHERS.iter().any(|word| name.contains(word)) || hit.tags.iter().any(|tag| tag == "lora") {
        return false;
    }
    let is_pipeline = hit.tags.iter().any(|tag| PIPELINES.contains(&tag.as_str()));
    // ModelScope tells no pipelines.
    let parts = ["gguf", "comfy", "diffusers"];
    let is_family = name.contains("skyreels-v2") || name.contains("wan2.1");
    is_pipeline
        || short_name(&hit.id).is_some()
        || (is_family && parts.iter().any(|part| name.contains(part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_run_is_told_by_pipeline_and_name() {
        let hit = |id: &str, tags: &[&str]| Hit {
            id: id.into(),
            downloads: 0,
            likes: 0,
            updated: None,
            gated: false,
            tags: tags.iter().map(|&tag| tag.into()).collect(),
        };
        for (id, tags) in [
            ("Skywork/SkyReels-V2-DF-1.3B-540P", &[][..]),
            ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", &["diffusers:WanPipeline"]),
            ("city96/Wan2.1-T2V-14B-gguf", &["gguf"]),
            ("someone/fine-tune", &["diffusers:SkyReelsV2DiffusionForcingPipeline"]),
        ] {
            assert!(can_run(&hit(id, tags)), "{id}");
        }
        for (id, tags) in [
            ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", &["diffusers:WanPipeline"][..]),
            ("Wan-AI/Wan2.1-VACE-14B", &[]),
            ("someone/Wan2.1-Fun-Control-gguf", &[]),
            ("someone/wan2.1-style", &["lora", "diffusers:WanPipeline"]),
            ("someone/cats", &["text-generation"]),
        ] {
            assert!(!can_run(&hit(id, tags)), "{id}");
        }
    }
}
