//! What films would take: on this machine or on cards that are not here, with a model that is here or with one that is
//! published.

use std::path::{Path, PathBuf};

use anyhow::Result;
use longreel_film::{
    CardNames, Defaults, DeviceChoice, Engine, Event, FilmError, FilmPlan, FilmRequest, ModelFacts,
    Outputs, PlanError, check_inputs, human_bytes, human_seconds,
};
use longreel_weights::ModelKind;

use crate::generate_args::{CardArg, GenerateArgs, PlanArgs};
use crate::model_name::published_elsewhere;
use crate::outcome::EXIT_DONE;
use crate::outputs;
use crate::report::{Verbosity, print, print_json};
use crate::resolve::{self, Checked, Take};
use crate::run::options;

/// Stand for the prompt and the picture in a plan that was given none; what a film takes does not depend on them.
const ANY_PROMPT: &str = "any prompt";
const ANY_PICTURE: &str = "any.png";

/// Says what films would take.
pub fn plan(args: &PlanArgs, device: DeviceChoice, verbosity: Verbosity) -> Result<u8> {
    let PlanArgs { film, card } = args;
    let mut film = film.clone();
    let prompt = &mut film.prompt;
    if prompt.words.is_empty()
        && prompt.prompt.is_none()
        && prompt.prompts.is_none()
        && prompt.story.is_none()
    {
        prompt.prompt = Some(ANY_PROMPT.to_string());
    }
    let checked = resolve::check(&film, &mut || Ok(0))?;
    let mut warnings = checked.warnings.clone();
    // Cards that are not here are looked for nowhere.
    let device = if card.is_some() { DeviceChoice::Cpu(1) } else { device };
    let (facts, folder) = facts(&film, device)?;
    if facts.revision.is_empty() {
        let name = facts.name.to_ascii_lowercase();
        warnings.push(format!("`longreel models pull {name}` fetches the model"));
    }
    let picture = &mut film.picture;
    let is_typed = picture.image.is_some() || picture.end_image.is_some();
    let without = !is_typed && facts.kind.takes_image();
    if without {
        picture.image = Some(PathBuf::from(ANY_PICTURE));
        picture.end_image =
            (facts.kind == ModelKind::FirstLastFrame).then(|| PathBuf::from(ANY_PICTURE));
        warnings.push("this model begins with a picture: one is taken to be there".into());
    }
    let defaults = Defaults::of(&facts, &folder, film.picture.image.is_some())?;
    let asked = Asked { args: &film, checked, defaults };
    let check_memory = film.model.no_memory_check != Some(true);
    let on = |facts: &ModelFacts, request: &FilmRequest| {
        let plan = longreel_film::plan(request, facts, check_memory)?;
        let notes = match without {
            true => Vec::new(),
            false => check_inputs(&plan, Path::new(""))?,
        };
        Ok::<_, PlanError>((plan, notes))
    };
    let facts = match card {
        Some(CardArg::All) => {
            let plan = |facts: &ModelFacts, request: &FilmRequest| Ok(on(facts, request)?.0);
            return compare(&asked, &facts, plan, verbosity);
        }
        Some(CardArg::These(cards)) => facts.on_cards(cards),
        None => facts,
    };
    let planned =
        |request: &FilmRequest| -> Result<_> { Ok(on(&facts, request).map_err(FilmError::from)?) };
    let films = asked.films(|request| Ok(planned(request)?.0))?;
    let (first, notes) = planned(&asked.request(&asked.checked.takes[0])?)?;
    warnings.extend(notes);
    if verbosity.json {
        print_json(&Event::Plan(Box::new(first.summary().clone())));
        return Ok(EXIT_DONE);
    }
    print(&first.summary().to_string());
    warnings.iter().for_each(|warning| print(&format!("note: {warning}")));
    if films.len() > 1 {
        print(&format!("films      {} like this one", films.len()));
    }
    Ok(EXIT_DONE)
}

/// Says of each card that is known what the first film would take there.
fn compare(
    asked: &Asked<'_>,
    facts: &ModelFacts,
    plan: impl Fn(&ModelFacts, &FilmRequest) -> Result<FilmPlan, PlanError>,
    verbosity: Verbosity,
) -> Result<u8> {
    let request = asked.request(&asked.checked.takes[0])?;
    // What is wrong with the request is wrong on every card.
    let any = longreel_film::plan(&request, facts, false).map_err(FilmError::from)?;
    let say = |line: &str| {
        if !verbosity.json {
            print(line);
        }
    };
    let summary = any.summary();
    let frames = summary.frames.map_or("endless".into(), |frames| format!("{frames} frames"));
    say(&format!("{}, {}x{}, {frames}", summary.model, summary.width, summary.height));
    say(&format!(
        "{:<28}{:>10}  {:<26}time by the data sheet",
        "card", "free", "weights that stay"
    ));
    let mut plans = Vec::new();
    let mut refused = Vec::new();
    for card in CardNames::all() {
        match plan(&facts.clone().on_cards(&card), &request) {
            Ok(plan) => plans.push(plan.summary().clone()),
            Err(PlanError::Value { rule, .. }) => {
                refused.push(format!("{:<28}no: {rule}", card.to_string()));
            }
            Err(error) => return Err(FilmError::from(error).into()),
        }
    }
    plans.sort_by(|a, b| a.expected_seconds.total_cmp(&b.expected_seconds));
    for summary in plans {
        if let Some(gpu) = summary.gpu.as_ref().filter(|_| !verbosity.json) {
            let (there, all) = (gpu.weights_there.unwrap_or(0), gpu.weight_bytes);
            let weights = match there >= all {
                true => format!("all {}", human_bytes(all)),
                false => format!("{} of {}", human_bytes(there), human_bytes(all)),
            };
            let (free, time) =
                (human_bytes(gpu.free_bytes), human_seconds(summary.expected_seconds));
            print(&format!("{:<28}{free:>10}  {weights:<26}{time}", gpu.name));
        } else {
            print_json(&Event::Plan(Box::new(summary)));
        }
    }
    refused.iter().for_each(|line| say(line));
    Ok(EXIT_DONE)
}

/// What is known of the model, and the folder of its own settings.
fn facts(args: &GenerateArgs, device: DeviceChoice) -> Result<(ModelFacts, PathBuf)> {
    let published = args.model.model.as_deref().map(published_elsewhere).transpose()?.flatten();
    let Some(model) = published else {
        let options = options(&args.model, device)?;
        return Ok((Engine::open(&options)?.facts().clone(), options.model));
    };
    let facts = ModelFacts::of_published(&model, args.model.dtype.map(Into::into))?;
    Ok((facts.on(&device)?, PathBuf::new()))
}

/// What is asked of a model.
pub struct Asked<'a> {
    pub args: &'a GenerateArgs,
    pub checked: Checked,
    pub defaults: Defaults,
}

impl Asked<'_> {
    /// A film of those that are asked for.
    pub fn request(&self, take: &Take) -> Result<FilmRequest> {
        resolve::request(self.args, &self.defaults, &self.checked, take)
    }

    /// The outputs of every film, after each has been planned: what cannot work is refused before
    /// the first film is made.
    pub fn films(&self, plan: impl Fn(&FilmRequest) -> Result<FilmPlan>) -> Result<Vec<Outputs>> {
        let takes = &self.checked.takes;
        let films = outputs::of(&self.args.output, takes.len());
        // Films differ in prompt and seed alone, so one request names all that is read.
        let mut inputs = resolve::inputs(&self.request(&takes[0])?);
        inputs.extend(self.args.output.noise.clone());
        outputs::check(&films, &inputs)?;
        let mut planned: Option<&Take> = None;
        for take in takes {
            if planned.is_none_or(|before| before.prompt != take.prompt) {
                plan(&self.request(take)?)?;
                planned = Some(take);
            }
        }
        Ok(films)
    }
}
