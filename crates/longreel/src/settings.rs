//! One mechanism for every setting: the command line, `LONGREEL_…` variables, the settings file.
//!
//! The layers meet before anything is parsed: what the environment and the file say becomes the
//! default of the flag of the same name, so one parser and one set of messages serve all three.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::builder::{BoolishValueParser, StyledStr};
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};

use crate::args::Cli;
use crate::outcome::bad_input;
use crate::story::{read_text, toml_problem};

/// Flags of which one replaces the others: a layer may set one of a group, and what the layers below
/// it say about the others no longer counts.
const ONE_OF: [&[&str]; 7] = [
    &["size", "resolution"],
    &["num_frames", "seconds", "endless"],
    &["seed", "seeds"],
    &["words", "prompt", "story", "prompts"],
    &["teacache", "easycache"],
    &["image", "video"],
    &["device", "card"],
];

/// Settings that say where settings are, or that belong to one command only.
const NOT_IN_LAYERS: [&str; 6] = ["help", "version", "config", "endpoint", "film", "path"];

/// Why parsing ended without a command to run.
pub enum Ended {
    /// Help, version, or a mistake that clap words.
    Clap(Box<clap::Error>),
    /// A mistake in the environment or the settings file.
    Settings(anyhow::Error),
}

/// The values of one layer, by the flag's name with underscores.
type Layer = BTreeMap<String, Vec<String>>;

/// Reads the command line `words` (the program's name first) over the environment and the file.
pub fn parse(words: Vec<OsString>) -> Result<Cli, Ended> {
    parse_in(words, &env::vars_os().collect(), find_file)
}

fn parse_in(
    words: Vec<OsString>,
    environment: &BTreeMap<OsString, OsString>,
    find: impl Fn() -> Option<PathBuf>,
) -> Result<Cli, Ended> {
    let clap = |error| Ended::Clap(Box::new(explain_numbers(explain_official_flags(error))));
    let command = command();
    refuse_values_apart(&command, &words).map_err(Ended::Settings)?;
    let typed = command.clone().try_get_matches_from(&words).map_err(clap)?;
    let (name, flags) = typed.subcommand().ok_or_else(|| {
        Ended::Settings(bad_input(
            "name a command: generate, resume, plan, serve, models, keys, health or inspect",
        ))
    })?;
    let typed_flags = typed_flags(&command, name, flags);
    refuse_rivals(&typed_flags, flags).map_err(Ended::Settings)?;
    let known = known_keys(&command);
    let in_environment = environment_layer(environment, &known).map_err(Ended::Settings)?;
    let file = flags.get_one::<PathBuf>("config").cloned();
    let named_in_environment = environment.get(&OsString::from("LONGREEL_CONFIG"));
    let file = file.or_else(|| named_in_environment.map(PathBuf::from)).or_else(find);
    let in_file = match &file {
        Some(path) => file_layer(path, &known).map_err(Ended::Settings)?,
        None => Layer::new(),
    };

    let mut origins = BTreeMap::new();
    let layered = layer(&command, name, typed_flags, in_environment, in_file, file, &mut origins)
        .map_err(Ended::Settings)?;
    let matches = layered
        .try_get_matches_from(&words)
        .map_err(|error| Ended::Clap(Box::new(name_origin(error, &origins))))?;
    Cli::from_arg_matches(&matches).map_err(clap)
}

/// The flags that stand on the command line of subcommand `name`.
fn typed_flags(command: &Command, name: &str, typed: &ArgMatches) -> Vec<String> {
    command
        .find_subcommand(name)
        .into_iter()
        .flat_map(Command::get_arguments)
        .chain(command.get_arguments())
        .map(|arg| arg.get_id().to_string())
        .filter(|id| {
            typed.try_contains_id(id).is_ok()
                && typed.value_source(id) == Some(ValueSource::CommandLine)
        })
        .collect()
}

/// Two flags of one group are typed, and neither is a switch that is switched off.
fn refuse_rivals(typed: &[String], matches: &ArgMatches) -> Result<()> {
    let asks = |id: &&&str| {
        let off = matches!(matches.try_get_one::<bool>(id), Ok(Some(false)));
        !off && typed.iter().any(|t| t == **id)
    };
    for group in ONE_OF {
        let mut asked = group.iter().filter(asks).map(|id| match *id {
            "words" => "PROMPT".to_string(),
            id => format!("--{}", id.replace('_', "-")),
        });
        if let (Some(one), Some(other)) = (asked.next(), asked.next()) {
            return Err(contradiction(&one, &other));
        }
    }
    Ok(())
}

fn contradiction(one: &str, other: &str) -> anyhow::Error {
    bad_input(format!("{one} and {other} contradict each other; keep one"))
}

/// Gives the layers' values to the flags of subcommand `name` as their defaults.
fn layer(
    command: &Command,
    name: &str,
    mut taken: Vec<String>,
    environment: Layer,
    file: Layer,
    path: Option<PathBuf>,
    origins: &mut BTreeMap<String, String>,
) -> Result<Command> {
    let file_name = path.map_or_else(String::new, |p| p.display().to_string());
    let mut values = Layer::new();
    for (layer, origin) in [(environment, None), (file, Some(file_name))] {
        let below: Vec<String> = layer.keys().cloned().collect();
        for (key, value) in layer {
            let name_of = |key: &str| match &origin {
                None => variable(key),
                Some(file) => format!("{key} in {file}"),
            };
            // `off` asks for nothing and so contradicts nothing.
            let off = value.iter().all(|v| ["off", "false", "no", "0"].contains(&v.as_str()));
            let rivals = ONE_OF.iter().filter(|g| g.contains(&key.as_str())).flat_map(|g| g.iter());
            let mut rivals = rivals.filter(|&&rival| rival != key);
            if taken.contains(&key) || rivals.clone().any(|&rival| taken.iter().any(|t| t == rival))
            {
                continue;
            }
            if let Some(rival) = rivals.find(|&&rival| below.iter().any(|b| b == rival) && !off) {
                return Err(contradiction(&name_of(&key), &name_of(rival)));
            }
            origins.insert(key.clone(), name_of(&key));
            values.insert(key, value);
        }
        taken.extend(below);
    }
    // What a command is told without a flag is meant for it alone: `model` is that of films, and not the one whose shapes
    // `bench` takes.
    let apply = move |arg: clap::Arg| match values.get(arg.get_id().as_str()) {
        Some(value) if !value.is_empty() && !arg.is_positional() => {
            arg.default_values(value.clone())
        }
        _ => arg,
    };
    Ok(command
        .clone()
        .mut_args(apply.clone())
        .mut_subcommand(name, |subcommand| subcommand.mut_args(apply)))
}

/// The definition of every flag, with what holds for many of them: dashes may be typed as
/// underscores, as the official script has them, and switches can be switched off.
pub fn command() -> Command {
    let complete = |arg: clap::Arg| {
        let is_bool = arg.get_value_parser().type_id() == TypeId::of::<bool>();
        let arg = match arg.get_action() {
            ArgAction::Set if is_bool => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("on")
                .value_name("on|off")
                // The value's name says it; clap's own list would be "true, false".
                .hide_possible_values(true)
                .value_parser(BoolishValueParser::new()),
            // A number below 0 is a value that may be wrong, and no unknown flag.
            ArgAction::Set | ArgAction::Append if !arg.is_positional() => {
                arg.allow_negative_numbers(true)
            }
            _ => arg,
        };
        let names = arg.get_long().into_iter().map(str::to_string);
        let names =
            names.chain(arg.get_all_aliases().unwrap_or_default().into_iter().map(Into::into));
        let aliases: Vec<String> =
            names.filter(|n| n.contains('-')).map(|n| n.replace('-', "_")).collect();
        arg.aliases(aliases)
    };
    let all = move |command: Command| {
        command.mut_args(complete).mut_subcommands(move |c| c.mut_args(complete))
    };
    all(Cli::command()).mut_subcommands(all)
}

/// Refuses `--portrait on` and `--easycache 0.1`: what stands apart from a flag that needs no value would become a word of
/// the prompt.
fn refuse_values_apart(command: &Command, words: &[OsString]) -> Result<()> {
    let args = command.get_subcommands().flat_map(Command::get_arguments);
    let flags: Vec<&str> =
        args.filter(|arg| arg.is_require_equals_set()).filter_map(clap::Arg::get_long).collect();
    let is_value = |word: &str| {
        ["on", "off", "true", "false", "yes", "no"].contains(&word) || word.parse::<f32>().is_ok()
    };
    let words: Vec<&str> = words
        .iter()
        .map(|word| word.to_str().unwrap_or_default())
        .take_while(|w| *w != "--")
        .collect();
    for pair in words.windows(2) {
        let Some(flag) = pair[0].strip_prefix("--").map(|flag| flag.replace('_', "-")) else {
            continue;
        };
        if flags.contains(&flag.as_str()) && is_value(pair[1]) {
            return Err(bad_input(format!(
                "--{flag} {0}: its value is part of the same word; write --{flag}={0}, or put a prompt that begins so \
                 in quotes with more than this word",
                pair[1]
            )));
        }
    }
    Ok(())
}

/// Every key, and whether it may have several values.
fn known_keys(command: &Command) -> BTreeMap<String, bool> {
    std::iter::once(command)
        .chain(command.get_subcommands())
        .flat_map(Command::get_arguments)
        .filter(|arg| arg.get_long().is_some() && !NOT_IN_LAYERS.contains(&arg.get_id().as_str()))
        .map(|arg| (arg.get_id().to_string(), matches!(arg.get_action(), ArgAction::Append)))
        .collect()
}

fn variable(key: &str) -> String {
    format!("LONGREEL_{}", key.to_ascii_uppercase())
}

/// A variable holds one value; of a flag that may be given many times, one a line.
fn environment_layer(
    environment: &BTreeMap<OsString, OsString>,
    known: &BTreeMap<String, bool>,
) -> Result<Layer> {
    let mut layer = Layer::new();
    for (key, &many) in known {
        let name = variable(key);
        let Some(value) = environment.get(&OsString::from(&name)) else { continue };
        let value = value.to_str().ok_or_else(|| bad_input(format!("{name} is not UTF-8")))?;
        // An empty variable is how a wrapper script says nothing.
        let values: Vec<String> = match many {
            true => value.lines().filter(|l| !l.is_empty()).map(str::to_string).collect(),
            false if value.is_empty() => Vec::new(),
            false => vec![value.to_string()],
        };
        if !values.is_empty() {
            layer.insert(key.clone(), values);
        }
    }
    Ok(layer)
}

fn file_layer(path: &Path, known: &BTreeMap<String, bool>) -> Result<Layer> {
    let text = read_text(path)?;
    settings_of(&text, known).with_context(|| format!("the settings file {}", path.display()))
}

fn settings_of(text: &str, known: &BTreeMap<String, bool>) -> Result<Layer> {
    let table: toml::Table = toml::from_str(text).map_err(|e| bad_input(toml_problem(&e)))?;
    let mut layer = Layer::new();
    for (key, value) in table {
        let Some(&many) = known.get(&key.replace('-', "_")) else {
            let nearest = known
                .keys()
                .map(|k| (strsim::jaro_winkler(k, &key), k))
                .filter(|(likeness, _)| *likeness > 0.8)
                .max_by(|a, b| a.0.total_cmp(&b.0));
            return Err(bad_input(match nearest {
                Some((_, nearest)) => format!("there is no key `{key}`; did you mean `{nearest}`?"),
                None => format!("there is no key `{key}`; `longreel generate --help` lists them"),
            }));
        };
        let values = match value {
            toml::Value::Array(values) if many => {
                values.iter().map(|v| scalar(&key, v)).collect::<Result<_>>()?
            }
            value => vec![scalar(&key, &value)?],
        };
        layer.insert(key.replace('-', "_"), values);
    }
    Ok(layer)
}

fn scalar(key: &str, value: &toml::Value) -> Result<String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Boolean(on) => Ok(on.to_string()),
        other => Err(bad_input(format!(
            "`{key}` must be one value, as its flag takes it, and is a {}",
            other.type_str()
        ))),
    }
}

/// The settings file that is there without being named.
pub fn find_file() -> Option<PathBuf> {
    let here = PathBuf::from("longreel.toml");
    [Some(here), user_file()].into_iter().flatten().find(|path| path.is_file())
}

/// The settings file of this user, which need not be there.
pub fn user_file() -> Option<PathBuf> {
    let home = |name: &str, rest: &str| {
        env::var_os(name).filter(|v| !v.is_empty()).map(|v| PathBuf::from(v).join(rest))
    };
    home("XDG_CONFIG_HOME", "longreel/longreel.toml")
        .or_else(|| home("APPDATA", "longreel/longreel.toml"))
        .or_else(|| home("HOME", ".config/longreel/longreel.toml"))
}

/// A message about a value that was not typed says where the value is.
fn name_origin(mut error: clap::Error, origins: &BTreeMap<String, String>) -> clap::Error {
    if let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) {
        let key = flag
            .trim_start_matches('-')
            .split([' ', '=', '['])
            .next()
            .unwrap_or_default()
            .replace('-', "_");
        if let Some(origin) = origins.get(&key) {
            let note = StyledStr::from(format!("the value is that of {origin}"));
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![note]));
        }
    }
    error
}

/// What is no number for a flag that takes one is told what would be.
fn explain_numbers(mut error: clap::Error) -> clap::Error {
    let source = std::error::Error::source(&error);
    let whole = source.is_some_and(|source| source.is::<std::num::ParseIntError>());
    let number = source.is_some_and(|source| source.is::<std::num::ParseFloatError>());
    let seed = matches!(error.get(ContextKind::InvalidArg),
        Some(ContextValue::String(flag)) if flag.starts_with("--seed "));
    let rule = match (whole, number) {
        (true, _) if seed => {
            "it is a whole number from 0 to 18446744073709551615; leave it out for one by chance"
        }
        (true, _) => "it is a whole number from 0 up",
        (_, true) => "it is a number, such as 6.5",
        _ => return error,
    };
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(rule)]));
    error
}

/// Flags of the official script that have no meaning here say why, instead of being unknown.
fn explain_official_flags(mut error: clap::Error) -> clap::Error {
    let why = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) => match flag.replace('-', "_").as_str() {
            "__offload" => "weights stay in the file and are read as they are needed; leave it out",
            "__use_usp" => "here the cards that share a film are named: --device cuda:0,cuda:1",
            "__prompt_enhancer" => "here it is --enhance-prompt, with --enhancer-url",
            "__outdir" => "name the film itself with -o",
            _ => return error,
        },
        _ => return error,
    };
    let note = StyledStr::from(why);
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![note]));
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Command as Sub;
    use crate::generate_args::{GenerateArgs, Resolution};
    use crate::values::{Size, Span};

    fn parsed(
        line: &str,
        env: &[(&str, &str)],
        file: Option<&str>,
    ) -> Result<GenerateArgs, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("longreel.toml");
        if let Some(text) = file {
            std::fs::write(&path, text).expect("writable");
        }
        let words = std::iter::once("longreel").chain(line.split(' ')).map(OsString::from);
        let env = env.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect();
        match parse_in(words.collect(), &env, || file.map(|_| path.clone())) {
            Ok(cli) => match cli.command {
                Sub::Generate(args) => Ok(*args),
                other => panic!("{other:?}"),
            },
            Err(Ended::Clap(error)) => Err(error.to_string()),
            Err(Ended::Settings(error)) => Err(format!("{error:#}")),
        }
    }

    #[test]
    fn the_model_of_films_is_not_the_one_that_bench_measures() {
        let words = ["longreel", "bench"].map(OsString::from).to_vec();
        let env = BTreeMap::from([("LONGREEL_MODEL", "demo"), ("LONGREEL_THREADS", "1")]);
        let env = env.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        let cli = parse_in(words, &env, || None).unwrap_or_else(|_| panic!("valid"));
        assert_eq!(cli.common.threads, Some(1));
        match cli.command {
            Sub::Bench(args) => assert_eq!(args.model, None),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn clap_accepts_the_definition_of_every_flag() {
        command().debug_assert();
    }

    #[test]
    fn the_official_scripts_flags_are_taken_as_its_users_type_them() {
        let args = parsed(
            "generate --prompt dog --model_id m --resolution 540P --num_frames 97 --ar_step 5 \
             --causal_attention --causal_block_size 5 --base_num_frames 97 --overlap_history 17 \
             --addnoise_condition 20 --guidance_scale 6.0 --shift 8.0 --inference_steps 30 --fps 24 \
             --seed 3 --teacache --teacache_thresh 0.3 --use_ret_steps --end_image e.png \
             --video_path v.mp4",
            &[],
            None,
        )
        .expect("valid");
        assert_eq!(args.sampling.steps, Some(30));
        assert_eq!(args.history.causal_attention, Some(true));
        assert_eq!(args.model.model, Some("m".into()));
        assert_eq!(args.picture.video, Some("v.mp4".into()));
        assert_eq!(args.speed.use_ret_steps, Some(true));
    }

    #[test]
    fn what_is_no_number_is_told_what_would_be_one() {
        for (line, parts) in [
            ("generate dog --seed -1", &["'-1'", "--seed", "leave it out for one by chance"][..]),
            ("generate dog --seed 1.5", &["'1.5'", "whole number from 0"]),
            ("generate dog --fps -24", &["'-24'", "--fps", "not in 0..="]),
            ("generate dog --num-frames many", &["'many'", "whole number"]),
            ("generate dog --shift five", &["'five'", "--shift", "a number, such as"]),
            ("generate dog --image --steps 3", &["--image"]),
        ] {
            let error = parsed(line, &[], None).expect_err(line);
            for part in parts {
                assert!(error.contains(part), "{line}: no {part:?} in {error}");
            }
        }
        let args = parsed("generate dog --shift -2.5", &[], None).expect("judged later");
        assert_eq!(args.sampling.shift, Some(-2.5));
    }

    #[test]
    fn what_is_typed_wins_over_the_environment_and_that_over_the_file() {
        let file = Some("steps = 1\nshift = 1.5\nguidance-scale = 2\nteacache = true\n");
        let env = [("LONGREEL_STEPS", "2"), ("LONGREEL_SHIFT", "2.5")];
        let args = parsed("generate dog --steps 3 --teacache=off", &env, file).expect("valid");
        assert_eq!(args.sampling.steps, Some(3));
        assert_eq!(args.sampling.shift, Some(2.5));
        assert_eq!(args.sampling.guidance_scale, Some(2.0));
        assert_eq!(args.speed.teacache, Some(false));
    }

    #[test]
    fn a_flag_typed_replaces_its_rivals_of_the_layers_below() {
        let file = Some("size = '64x64'\nendless = true\nseeds = '1..4'\n");
        let args =
            parsed("generate dog --resolution 720p --num-frames 9", &[], file).expect("valid");
        assert_eq!(args.picture.size, None);
        assert_eq!(args.picture.resolution, Some(Resolution::P720));
        assert_eq!(args.length.endless, None);
        assert!(args.prompt.seeds.is_some());
        let args = parsed("generate dog", &[("LONGREEL_SECONDS", "2")], file).expect("valid");
        assert_eq!(args.picture.size, Some(Size { width: 64, height: 64 }));
        assert_eq!((args.length.endless, args.length.seconds), (None, Some(Span::Seconds(2.0))));
    }

    #[test]
    fn of_flags_that_replace_each_other_one_may_be_typed() {
        for (line, parts) in [
            ("generate dog --seed 1 --seeds 2..3", ["--seed ", "--seeds"]),
            ("generate dog --num-frames 9 --seconds 2", ["--num-frames", "--seconds"]),
            ("generate dog --seconds 2 --endless", ["--seconds", "--endless"]),
            ("generate dog --prompt cat", ["PROMPT", "--prompt "]),
            ("generate dog --story a.toml", ["PROMPT", "--story"]),
            ("plan dog --size 64x64 --resolution 540p", ["--size", "--resolution"]),
            ("generate dog --teacache --easycache", ["--teacache", "--easycache"]),
        ] {
            let message = parsed(line, &[], None).expect_err(line);
            for part in parts {
                assert!(message.contains(part), "{line}: no {part:?} in {message}");
            }
        }
        let line = "generate dog --seconds 2 --endless=off --easycache --teacache=off";
        assert_eq!(
            parsed(line, &[], None).expect("nothing contradicts").length.endless,
            Some(false)
        );
    }

    #[test]
    fn lists_come_from_arrays_and_from_lines() {
        let args = parsed("generate dog", &[], Some("lora = ['a:0.5', 'b']\n")).expect("valid");
        assert_eq!(args.model.lora.len(), 2);
        let env = [("LONGREEL_PROMPT_AT", "1s:a cat\n2s:a cow")];
        assert_eq!(parsed("generate dog", &env, None).expect("valid").prompt.prompt_at.len(), 2);
    }

    #[test]
    fn a_mistake_in_a_layer_is_told_with_its_place() {
        for (env, file, parts) in [
            (&[("LONGREEL_STEPS", "many")][..], None, &["many", "LONGREEL_STEPS"][..]),
            (&[], Some("steps = 'many'"), &["many", "steps in", "longreel.toml"]),
            (&[], Some("stepps = 3"), &["stepps", "did you mean `steps`"]),
            (&[], Some("xyzzy = 3"), &["no key `xyzzy`", "--help"]),
            (&[], Some("size = '64x64'\nresolution = '540P'"), &["contradict", "keep one"]),
            (&[], Some("steps = [1, 2]"), &["`steps` must be one value", "array"]),
            (&[], Some("steps = "), &["longreel.toml", "line 1"]),
        ] {
            let message = parsed("generate dog", env, file).expect_err("a mistake");
            for part in parts {
                assert!(message.contains(part), "{file:?} {env:?}: no {part:?} in {message}");
            }
        }
    }

    #[test]
    fn official_flags_without_a_meaning_here_say_what_to_do() {
        for (flag, part) in [
            ("--offload", "leave it out"),
            ("--use_usp", "--device cuda:0,cuda:1"),
            ("--outdir", "-o"),
        ] {
            let message = parsed(&format!("generate dog {flag}"), &[], None).expect_err("unknown");
            assert!(message.contains(part), "{message}");
        }
    }
}
