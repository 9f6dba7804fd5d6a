//! What a film can be asked for by, as JSON Schema: the keys of a request are flags of `generate`, and so
//! are their types, their values and what is said of them.

use std::any::TypeId;

use clap::Arg;
use serde_json::{Map, Value, json};

use crate::settings;

/// The schema of a request with these keys.
pub fn film(keys: &[&str]) -> Value {
    let command = settings::command();
    let generate = command.find_subcommand("generate").expect("a command of this program");
    let mut properties = Map::new();
    for key in keys {
        let arg = generate.get_arguments().find(|arg| arg.get_id() == key);
        properties.insert((*key).to_owned(), arg.map_or_else(|| json!({}), of_flag));
    }
    json!({
        "type": "object",
        "required": ["prompt"],
        "additionalProperties": false,
        "properties": properties,
    })
}

fn of_flag(arg: &Arg) -> Value {
    let parser = arg.get_value_parser();
    let is = |types: &[TypeId]| types.iter().any(|of| parser.type_id() == *of);
    let whole =
        [TypeId::of::<u16>(), TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<usize>()];
    let names: Vec<String> =
        arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let mut schema = match arg.get_id().as_str() {
        // Each is a list as well as one text.
        "prompt_at" => json!({"type": ["array", "string"], "items": {"type": "string"}}),
        "timesteps" => json!({"type": ["array", "string"], "items": {"type": "integer"}}),
        // A length in seconds, or a text such as 1m30s.
        "seconds" => json!({"type": ["number", "string"]}),
        // A threshold of its own, or on and off.
        "easycache" => json!({"type": ["boolean", "number"]}),
        _ if is(&[TypeId::of::<bool>()]) => json!({"type": "boolean"}),
        _ if is(&whole) => json!({"type": "integer", "minimum": 0}),
        _ if is(&[TypeId::of::<f32>(), TypeId::of::<f64>()]) => json!({"type": "number"}),
        _ if !names.is_empty() => json!({"type": "string", "enum": names}),
        _ => json!({"type": "string"}),
    };
    if let Some(help) = arg.get_help() {
        schema["description"] = help.to_string().into();
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_the_types_that_they_are_read_as() {
        let keys = ["prompt", "steps", "guidance_scale", "portrait", "solver", "seconds"];
        let schema = film(&keys);
        let of = |key: &str| schema["properties"][key].clone();
        assert_eq!(of("prompt")["type"], "string");
        assert_eq!(of("steps")["type"], "integer");
        assert_eq!(of("guidance_scale")["type"], "number");
        assert_eq!(of("portrait")["type"], "boolean");
        assert_eq!(of("solver")["enum"][0], "unipc");
        assert!(of("steps")["description"].as_str().is_some_and(|said| said.contains("steps")));
    }
}
