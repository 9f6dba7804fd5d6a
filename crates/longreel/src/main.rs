//! The `longreel` command: films of any length from a prompt, made on this machine.
//!
//! `args` says what can be typed, `settings` puts environment and settings file beneath it, `resolve`
//! turns it into a request in one step, `run` hands that to the engine and `report` says what happens.

mod amounts;
mod args;
mod bench;
mod demo;
mod doctor;
mod enhancer;
mod films;
mod generate_args;
mod health;
mod inspect;
mod installed;
mod interrupt;
mod keys;
mod manual;
mod model_name;
mod models;
mod models_args;
mod outcome;
mod outputs;
mod plan;
mod remake;
mod report;
mod resolve;
mod rolling;
mod run;
mod schema;
mod serve;
mod serve_args;
mod settings;
mod shell;
mod story;
mod values;

use std::process::ExitCode;

use anyhow::Result;
use args::{Cli, Command, Common};
use longreel_server::own_stdout;
use outcome::EXIT_BAD_INPUT;
use report::{Live, Screen, Verbosity};
use settings::Ended;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    // Without a command line that can be read there is no better way to know.
    let json_typed = words.iter().any(|w| w == "--json");
    let mut cli = match settings::parse(words) {
        Ok(cli) => cli,
        Err(Ended::Clap(error)) => {
            if error.use_stderr() && json_typed {
                let message = error.render().to_string();
                report::error(true, &Screen::new(Live::Never), message.trim(), EXIT_BAD_INPUT);
                return EXIT_BAD_INPUT.into();
            }
            // Stderr may be gone; there is nobody else to tell.
            let _ = error.print();
            return if error.use_stderr() { EXIT_BAD_INPUT.into() } else { ExitCode::SUCCESS };
        }
        Err(Ended::Settings(error)) => {
            let message = format!("{error:#}");
            report::error(json_typed, &Screen::new(Live::Never), &message, EXIT_BAD_INPUT);
            return EXIT_BAD_INPUT.into();
        }
    };
    let verbosity =
        Verbosity { json: cli.common.json == Some(true), quiet: cli.common.quiet == Some(true) };
    if verbosity.json {
        own_stdout::take();
    }
    let screen = Screen::new(if verbosity.quiet { Live::Never } else { Live::IfTerminal });
    let code = run(&mut cli, verbosity, &screen).unwrap_or_else(|error| {
        let code = run::exit_code(&error);
        screen.finish();
        report::error(verbosity.json, &screen, &format!("{error:#}"), code);
        code
    });
    screen.finish();
    code.into()
}

fn run(cli: &mut Cli, verbosity: Verbosity, screen: &Screen) -> Result<u8> {
    prepare(&cli.common)?;
    model_name::settle(cli)?;
    let hub = cli.common.hub.map(Into::into);
    let asked = cli.common.device.clone();
    let device = asked.clone().unwrap_or_default();
    match &cli.command {
        Command::Generate(args) => run::generate(args, device, verbosity, screen),
        Command::Resume(args) => run::go_on(&args.film, asked, verbosity, screen),
        Command::Plan(args) => plan::plan(args, device, verbosity),
        Command::Serve(args) => serve::serve(args, &cli.common, verbosity),
        Command::Keys(args) => keys::keys(args, verbosity.json),
        Command::Completions(args) => manual::completions(args.shell),
        Command::Man(args) => manual::man(args.output.as_deref()),
        Command::Health(args) => health::health(args, verbosity),
        Command::Doctor(args) => doctor::doctor(args, &cli.common),
        Command::Bench(args) => bench::bench(args, device, verbosity),
        Command::Worker => serve::work(),
        Command::Models(args) => models::models(args, &cli.common, verbosity, screen),
        Command::Inspect(args) => inspect::inspect(&args.path, hub, verbosity.json),
    }
}

fn prepare(common: &Common) -> Result<()> {
    run::limit_threads(common.threads)
}
