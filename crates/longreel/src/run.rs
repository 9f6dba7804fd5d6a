//! The commands that make films: generate, resume.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use longreel_film::{
    DeviceChoice, Engine, EngineOptions, FilmError, Outputs, PlanError, RunFile, Stop, resume,
    run_folder,
};

use longreel_hub::HubError;

use crate::demo::NoDemo;
use crate::enhancer::Enhancer;
use crate::generate_args::{GenerateArgs, ModelArgs};
use crate::interrupt::Interrupts;
use crate::model_name::{Located, locate};
use crate::outcome::{BadInput, EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED};
use crate::plan::Asked;
use crate::remake;
use crate::report::{Heading, Reporter, Screen, Verbosity};
use crate::resolve;
use crate::shell;

/// Makes films.
pub fn generate(
    args: &GenerateArgs,
    device: DeviceChoice,
    verbosity: Verbosity,
    screen: &Screen,
) -> Result<u8> {
    let enhancer = match args.prompt.enhance_prompt {
        Some(true) => Some(Enhancer::new(&args.enhancer)?),
        _ => None,
    };
    let checked = resolve::check(args, &mut resolve::random_seed)?;
    let options = options(&args.model, device)?;
    let mut engine = Engine::open(&options)?;
    let defaults = engine.defaults(args.picture.image.is_some())?;
    let asked = Asked { args, checked, defaults };
    let films = asked.films(|request| Ok(engine.plan(request).map_err(FilmError::from)?))?;
    films.iter().try_for_each(Outputs::check_unfinished)?;
    let mut reporter = Reporter::new(verbosity, screen.clone());
    asked.checked.warnings.iter().for_each(|warning| reporter.warn(warning));
    let interrupts = Interrupts::listen(screen)?;
    let count = films.len();
    for (index, (take, mut outputs)) in asked.checked.takes.iter().zip(films).enumerate() {
        let mut request = asked.request(take)?;
        if let Some(enhancer) = &enhancer {
            enhancer.enhance(&mut request)?;
        }
        let plan = engine.plan(&request).map_err(FilmError::from)?;
        outputs.command =
            remake::command(&request, args.model.model.as_deref(), &options, &outputs);
        let heading = Heading {
            index: index + 1,
            count,
            film: &outputs.film,
            seed: take.seed,
            prompt: &request.prompts[0].prompt,
        };
        reporter.begin(&heading, &plan);
        let outcome = engine
            .run(&plan, &outputs, interrupts.stop(), &mut reporter)
            .map_err(|error| with_what_is_left(error, &outputs.film))?;
        reporter.end(&outcome, Some(take.seed));
        if interrupts.stop().get() != Stop::No {
            let left = count - index - 1;
            if left > 0 {
                reporter.warn(&format!("{left} films were not begun"));
            }
            break;
        }
    }
    Ok(if interrupts.at_once() { EXIT_INTERRUPTED } else { EXIT_DONE })
}

/// Goes on with a film.
pub fn go_on(
    film: &Path,
    device: Option<DeviceChoice>,
    verbosity: Verbosity,
    screen: &Screen,
) -> Result<u8> {
    let mut reporter = Reporter::new(verbosity, screen.clone());
    let interrupts = Interrupts::listen(screen)?;
    let begun = run_of(film);
    let seed = begun.as_ref().map(|file| file.request.seed);
    if let Some(seed) = seed {
        reporter.go_on(film, seed);
    }
    let place = match begun {
        Some(file) => return_to(&file.started_in, film)?,
        None => film.to_path_buf(),
    };
    let outcome = resume(&place, device, interrupts.stop(), &mut reporter)
        .map_err(|error| with_what_is_left(error, &place))?;
    reporter.end(&outcome, seed);
    Ok(if interrupts.at_once() { EXIT_INTERRUPTED } else { EXIT_DONE })
}

/// A failure on the way, with what it leaves: a film that `resume` goes on with, or, when no segment was finished,
/// nothing.
fn with_what_is_left(error: FilmError, film: &Path) -> anyhow::Error {
    let (is_bad_input, is_disk_full) = (error.is_bad_input(), error.is_disk_full());
    let error = anyhow::Error::from(error);
    if is_bad_input {
        return error;
    }
    let resume =
        || format!("`longreel resume {}` goes on", shell::quoted(&film.display().to_string()));
    match (RunFile::path(&run_folder(film)).exists(), is_disk_full) {
        (true, true) => anyhow!("{error:#}, then {}", resume()),
        (true, false) => anyhow!("{error:#}; {}", resume()),
        (false, true) => anyhow!(
            "{error:#}, then begin the film anew: none of its segments was finished, and nothing is left of it"
        ),
        (false, false) => error,
    }
}

/// What the run beside a film says of itself; the engine says what is wrong when there is none.
fn run_of(film: &Path) -> Option<RunFile> {
    let json = std::fs::read(RunFile::path(&run_folder(film))).ok()?;
    serde_json::from_slice(&json).ok()
}

/// Goes to the folder in which the run was begun, from which its paths to models, pictures and dumps
/// start, and gives the path of `film` from there.
fn return_to(folder: &Path, film: &Path) -> Result<PathBuf> {
    let here = std::env::current_dir();
    if !folder.is_dir() || here.is_ok_and(|here| here == folder) {
        return Ok(film.to_path_buf());
    }
    let film = std::path::absolute(film)
        .with_context(|| format!("cannot tell where {} is", film.display()))?;
    std::env::set_current_dir(folder)
        .with_context(|| format!("cannot go to {}, where the film was begun", folder.display()))?;
    Ok(film)
}

/// Which model, and how it is used.
pub fn options(args: &ModelArgs, device: DeviceChoice) -> Result<EngineOptions> {
    // Flags are settled before: a repository's revision is the one in them, wherever it lies.
    let Located { path, label, .. } = locate(args.model.as_deref(), None)?;
    Ok(EngineOptions {
        model: path,
        label,
        loras: args.lora.iter().map(|lora| (lora.path.clone(), lora.weight)).collect(),
        dtype: args.dtype.map(Into::into),
        device,
        check_memory: args.no_memory_check != Some(true),
        upscaler: args.upscaler.clone(),
    })
}

/// The exit code that an error calls for.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let is_bad_input = error.chain().any(|cause| {
        cause.is::<BadInput>()
            || cause.is::<PlanError>()
            || matches!(cause.downcast_ref(), Some(NoDemo::NotBuiltIn))
            || cause.downcast_ref::<HubError>().is_some_and(HubError::is_bad_input)
            || cause.downcast_ref::<FilmError>().is_some_and(FilmError::is_bad_input)
    });
    if is_bad_input { EXIT_BAD_INPUT } else { EXIT_FAILED }
}

/// Limits the threads that compute. `OMP_NUM_THREADS` counts when no flag does, as in the reference.
pub fn limit_threads(asked: Option<u16>) -> Result<()> {
    let usual = || std::env::var("OMP_NUM_THREADS").ok()?.trim().parse::<u16>().ok();
    let Some(threads) = asked.or_else(usual).filter(|&n| n > 0) else { return Ok(()) };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.into())
        .build_global()
        .map_err(|e| anyhow!("cannot start {threads} threads: {e}"))
}
