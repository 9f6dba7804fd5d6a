//! `longreel models`: the published models on this machine.

mod default;
mod keep;
mod list;
mod progress;
mod pull;
mod quantize;
mod search;

use anyhow::Result;
use longreel_hub::{Client, Environment, Kept, Settings, Site};

pub use self::list::{has_our_name, is_ours};
use crate::args::Common;
use crate::model_name::{Named, find, parse, short_names};
use crate::models_args::{ModelsArgs, ModelsCommand};
use crate::outcome::bad_input;
use crate::report::{Screen, Verbosity};

/// Does what is asked with the models of this machine.
pub fn models(
    args: &ModelsArgs,
    common: &Common,
    verbosity: Verbosity,
    screen: &Screen,
) -> Result<u8> {
    let hub = common.hub.map(Site::from);
    let place = Place { hub, endpoint: args.endpoint.as_deref(), verbosity, screen };
    match &args.command {
        ModelsCommand::Search(args) => search::search(args, &place),
        ModelsCommand::Pull(args) => pull::pull(args, &place),
        ModelsCommand::List(args) => list::list(args, &place),
        ModelsCommand::Verify(args) => keep::verify(args, &place),
        ModelsCommand::Remove(args) => keep::remove(args, &place),
        ModelsCommand::Pin(args) => keep::pin(args, &place),
        ModelsCommand::Use(args) => default::choose(args, common, &place),
        ModelsCommand::Quantize(args) => quantize::quantize(args, &place),
    }
}

/// Where models come from, and who is told.
struct Place<'a> {
    hub: Option<Site>,
    endpoint: Option<&'a str>,
    verbosity: Verbosity,
    screen: &'a Screen,
}

impl Place<'_> {
    /// A client of the site that is asked for.
    fn client(&self) -> Result<Client> {
        self.client_of(self.hub.unwrap_or_default())
    }

    fn client_of(&self, site: Site) -> Result<Client> {
        // An address that was typed is that of the site that was typed.
        let endpoint = self.endpoint.filter(|_| site == self.hub.unwrap_or_default());
        Ok(Client::new(Settings::new(site, &Environment::of_process(), endpoint)?)?)
    }

    /// For people.
    fn say(&self, text: &str) {
        if !self.verbosity.quiet {
            self.screen.say(text);
        }
    }
}

/// What a typed name stands for.
fn named(text: &str) -> Result<Named> {
    parse(text)?.ok_or_else(|| {
        bad_input(format!(
            "MODEL {text:?}: it is neither OWNER/NAME[@REVISION] nor one of {}",
            short_names().join(", ")
        ))
    })
}

/// The model on this machine that is meant.
fn kept(text: &str, place: &Place<'_>) -> Result<(Named, Kept)> {
    let named = named(text)?;
    let found = find(&named, place.hub)?.ok_or_else(|| {
        bad_input(format!(
            "{text}: it is not on this machine; `longreel models list` shows what is, `longreel models pull {}` \
             fetches it",
            named.reference()
        ))
    })?;
    Ok((named, found))
}
