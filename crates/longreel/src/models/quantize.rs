//! `longreel models quantize`.

use anyhow::Result;
use longreel_film::human_bytes;
use longreel_hub::free_bytes;
use longreel_weights::{
    QuantizedPart, QuantizedTensor, Target, WeightsError, inspect, quantize_model, quantized_bytes,
};
use serde_json::json;

use super::Place;
use super::pull::memory_line;
use crate::model_name::locate;
use crate::models_args::{PartArg, QuantizeArgs, TargetArg};
use crate::outcome::{EXIT_DONE, bad_input};
use crate::report::{print, print_json};
use crate::shell;

/// Writes a model again in fewer bits.
pub fn quantize(args: &QuantizeArgs, place: &Place<'_>) -> Result<u8> {
    let source = locate(Some(&args.model), place.hub)?.path;
    let target = match args.to {
        TargetArg::Q8_0 => Target::Q8_0,
        TargetArg::Q4K => Target::Q4K,
        TargetArg::Fp8 => Target::Fp8,
    };
    let mut parts: Vec<QuantizedPart> = Vec::new();
    for part in &args.parts {
        let part = match part {
            PartArg::Transformer => QuantizedPart::Transformer,
            PartArg::TextEncoder => QuantizedPart::TextEncoder,
        };
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    if parts.is_empty() {
        parts.push(QuantizedPart::Transformer);
    }
    let out = args.output.as_path();
    let needed = quantized_bytes(&source, target, &parts, out).map_err(refused)?;
    if let Some(free) = free_bytes(out).filter(|free| *free < needed) {
        return Err(bad_input(format!(
            "-o {}: {} are needed and {} are free; name another disk",
            out.display(),
            human_bytes(needed),
            human_bytes(free)
        )));
    }
    let mut told = |tensor: &QuantizedTensor| {
        if place.verbosity.json {
            let mut event = json!({"event": "tensor"});
            if let (Some(event), Ok(serde_json::Value::Object(more))) =
                (event.as_object_mut(), serde_json::to_value(tensor))
            {
                event.extend(more);
            }
            print_json(&event);
        } else if tensor.relative_l2 > 0.0 {
            print(&format!(
                "{:<58} {:>7} -> {:<7} error {:.5}",
                tensor.name, tensor.from, tensor.to, tensor.relative_l2
            ));
        }
    };
    let done = quantize_model(&source, target, &parts, out, &mut told)?;
    if place.verbosity.json {
        let mut event = json!({"event": "quantized", "path": out.display().to_string()});
        if let (Some(event), Ok(serde_json::Value::Object(more))) =
            (event.as_object_mut(), serde_json::to_value(&done))
        {
            event.extend(more);
        }
        print_json(&event);
    } else {
        print(&format!(
            "{} matrices quantised, {} tensors kept; error of all {:.5} (relative L2); {} became {}",
            done.quantized,
            done.kept,
            done.relative_l2,
            human_bytes(done.source_bytes),
            human_bytes(done.bytes)
        ));
    }
    let shown = shell::quoted(&out.display().to_string());
    match inspect(out) {
        Ok(report) if report.problems.is_empty() => {
            place.say(&memory_line(report.memory_bytes));
            place.say(&format!("longreel generate \"…\" --model {shown} makes films with it"));
        }
        Ok(report) => {
            place.say(&format!("to make films with {shown}: {}", report.problems[0]));
        }
        Err(error) => place.say(&format!("to make films with {shown}: {error}")),
    }
    Ok(EXIT_DONE)
}

/// What is wrong before anything is written is for the person to put right.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: WeightsError) -> anyhow::Error {
    bad_input(error.to_string())
}
