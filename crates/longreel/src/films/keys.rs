//! The keys of a request: flags of `generate` under other names, and messages about flags told of keys.

use std::ffi::OsString;

use longreel_server::{About, Code, Refusal};
use serde_json::{Map, Value};

/// What a client may say. Each is the flag of `generate` of the same name.
pub const KEYS: [&str; 36] = [
    "addnoise_condition",
    "ar_step",
    "attention_sink",
    "attention_window",
    "base_num_frames",
    "carry",
    "causal_attention",
    "causal_block_size",
    "easycache",
    "enhance_prompt",
    "fit",
    "fps",
    "guidance_interval",
    "guidance_scale",
    "interpolate",
    "kv_cache",
    "negative_prompt",
    "num_frames",
    "overlap_history",
    "portrait",
    "prompt",
    "prompt_at",
    "resolution",
    "seconds",
    "seed",
    "shift",
    "size",
    "solver",
    "sparse_after",
    "sparse_attention",
    "steps",
    "teacache",
    "teacache_thresh",
    "timesteps",
    "upscale",
    "use_ret_steps",
];

/// What a request may say besides, which the server takes out of it before it becomes a film.
pub const SERVERS: [&str; 8] = [
    "deadline_seconds",
    "end_image",
    "image",
    "input_reference",
    "model",
    "priority",
    "video",
    "webhook_url",
];

/// Those of them that are files, by flags of `generate`; a name that begins another comes after it.
const FILES: [&str; 3] = ["end_image", "image", "video"];

/// The words of `generate` that say the same.
pub fn words_of(asked: &Map<String, Value>) -> Result<Vec<OsString>, Refusal> {
    let mut words = Vec::new();
    for (key, value) in asked {
        if !KEYS.contains(&key.as_str()) {
            return Err(unknown(key));
        }
        let flag = format!("--{}", key.replace('_', "-"));
        let mut add = |value: String| words.push(format!("{flag}={value}").into());
        match (key.as_str(), value) {
            (_, Value::Null) => {}
            ("prompt_at", Value::Array(values)) => {
                values.iter().try_for_each(|value| scalar(key, value).map(&mut add))?;
            }
            ("timesteps", Value::Array(values)) => {
                let values: Vec<String> =
                    values.iter().map(|value| scalar(key, value)).collect::<Result<_, _>>()?;
                add(values.join(","));
            }
            // A switch with a value of its own.
            ("easycache", Value::Bool(false)) => {}
            ("easycache", Value::Bool(true)) => words.push(flag.into()),
            (_, value) => add(scalar(key, value)?),
        }
    }
    Ok(words)
}

pub fn scalar(key: &str, value: &Value) -> Result<String, Refusal> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(on) => Ok(on.to_string()),
        _ => Err(clients(&format!("{key} must be one value, a text, a number or true or false"))),
    }
}

fn unknown(key: &str) -> Refusal {
    let shown: String = key.chars().take(64).collect();
    let mut known = [&KEYS[..], &SERVERS[..]].concat();
    known.sort_unstable();
    let nearest = known
        .iter()
        .map(|known| (strsim::jaro_winkler(known, &shown), known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let (detail, allowed) = match nearest {
        Some((_, nearest)) => {
            (format!("there is no key {shown:?}; did you mean {nearest:?}?"), &[*nearest][..])
        }
        None => (format!("there is no key {shown:?}; there are {}", known.join(", ")), &known[..]),
    };
    let allowed = allowed.iter().map(ToString::to_string).collect();
    let about = Box::new(About { allowed, ..About::field(shown) });
    Refusal { code: Code::UnknownKey, about, detail, is_clients: true }
}

/// What the client can put right, with flags as it knows them. It is about the key that it names first;
/// where the way out is another value, the message ends with it.
pub fn clients(message: &str) -> Refusal {
    let detail = in_keys(message);
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut words = detail.split(|c: char| !is_word(c));
    // Pictures and videos are spoken of in other messages too.
    let file = detail.split_once(':').map(|(first, _)| first).filter(|it| FILES.contains(it));
    let field = file.or_else(|| words.find(|word| KEYS.contains(word)));
    let mut about = Box::new(field.map_or_else(About::default, About::field));
    // A length, a size or a number, and not the name of another key.
    let is_value = |value: &&str| {
        value.starts_with(|c: char| c.is_ascii_digit()) && !value.contains(char::is_whitespace)
    };
    let way_out = detail.rsplit_once("; use ").map_or("", |(_, way_out)| way_out);
    about.allowed = way_out.split(" or ").filter(is_value).map(str::to_owned).collect();
    Refusal { code: Code::InvalidValue, about, detail, is_clients: true }
}

pub fn operators(message: &str) -> Refusal {
    let (code, about) = (Code::Internal, Box::default());
    Refusal { code, about, detail: message.to_string(), is_clients: false }
}

/// A message about flags, about keys.
pub fn in_keys(message: &str) -> String {
    // A name that begins another comes after it.
    let mut keys = [&KEYS[..], &FILES[..]].concat();
    keys.sort_unstable_by_key(|key| std::cmp::Reverse(key.len()));
    keys.iter().fold(message.replace("PROMPT is", "prompt is"), |message, key| {
        message.replace(&format!("--{}", key.replace('_', "-")), key)
    })
}

/// What clap says, without its hints for the command line, but for what a value would have to be.
pub fn first_line(rendered: &str) -> String {
    let said: Vec<&str> =
        rendered.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let said = said.join(" ").trim_start_matches("error: ").to_string();
    let rule = rendered.lines().find_map(|line| line.trim().strip_prefix("tip: it is "));
    match (said.rsplit_once(": "), rule) {
        // Instead of what the parser of numbers stumbled over.
        (Some((what, _)), Some(rule)) => format!("{what}: it is {rule}"),
        _ => said,
    }
}
