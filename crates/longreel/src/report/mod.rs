//! What a person, or a program with `--json`, gets to see of a run.

mod line;
mod screen;
mod words;

use std::path::Path;
use std::time::Instant;

use longreel_film::{
    Event, FilmPlan, Observer, Outcome, PlanSummary, human_bytes, human_frames, human_seconds,
};
use longreel_server::own_stdout;
use serde_json::json;

use crate::shell;
use line::Work;
use words::Drifts;

pub use screen::{Line, Live, Screen};
pub use words::Tenths;

/// Plans that take longer are printed in full before the work begins.
const LONG_SECONDS: f64 = 600.0;

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verbosity {
    /// Events as JSON on stdout.
    pub json: bool,
    /// Nothing for people but warnings and errors.
    pub quiet: bool,
}

/// Turns events into lines.
pub struct Reporter {
    verbosity: Verbosity,
    screen: Screen,
    work: Work,
    tenths: Tenths,
    drifts: Drifts,
    peak_memory_bytes: Option<u64>,
    film_seconds: f64,
}

/// Which film of how many, for its heading.
pub struct Heading<'a> {
    /// From 1.
    pub index: usize,
    /// Films of this command.
    pub count: usize,
    /// Where it goes.
    pub film: &'a Path,
    /// Its seed.
    pub seed: u64,
    /// Its first prompt.
    pub prompt: &'a str,
}

impl Reporter {
    /// A reporter that writes progress to `screen`.
    pub fn new(verbosity: Verbosity, screen: Screen) -> Self {
        Self {
            verbosity,
            screen,
            work: Work::default(),
            tenths: Tenths::default(),
            drifts: Drifts::default(),
            peak_memory_bytes: None,
            film_seconds: 0.0,
        }
    }

    /// Announces a film.
    pub fn begin(&mut self, heading: &Heading, plan: &FilmPlan) {
        self.work = Work::default();
        self.tenths = Tenths::default();
        self.drifts = Drifts::default();
        self.film_seconds = 0.0;
        if self.verbosity.json {
            print_json(&json!({
                "event": "film",
                "index": heading.index,
                "of": heading.count,
                "path": heading.film.display().to_string(),
                "seed": heading.seed,
                "prompt": heading.prompt,
            }));
        }
        if self.verbosity.quiet {
            return;
        }
        let of = match heading.count {
            1 => String::new(),
            count => format!("[{}/{count}] ", heading.index),
        };
        self.screen.say(&format!(
            "{of}{} with seed {}: {}",
            heading.film.display(),
            heading.seed,
            words::plan_in_short(plan.summary())
        ));
    }

    /// Announces that a film goes on.
    pub fn go_on(&mut self, film: &Path, seed: u64) {
        if !self.verbosity.quiet {
            self.screen.say(&format!("{} with seed {seed}: going on", film.display()));
        }
    }

    /// A warning, for people and for programs.
    pub fn warn(&mut self, message: &str) {
        self.event(Event::Warning { message: message.to_string() });
    }

    /// Tells how a film ended.
    pub fn end(&mut self, outcome: &Outcome, seed: Option<u64>) {
        self.screen.show(None);
        if self.verbosity.quiet {
            return;
        }
        let film = outcome.film.display().to_string();
        let mut text = format!(
            "{film}: {}, {}",
            human_frames(outcome.frames),
            human_seconds(self.film_seconds)
        );
        if let Some(seed) = seed {
            text.push_str(&format!(", seed {seed}"));
        }
        text.push_str(&format!(", made in {}", human_seconds(outcome.seconds)));
        if let Some(bytes) = self.peak_memory_bytes {
            text.push_str(&format!(" with {} of memory", human_bytes(bytes)));
        }
        if outcome.reused_steps > 0 {
            text.push_str(&format!(", {} steps reused", outcome.reused_steps));
        }
        if let Some(share) = outcome.kept_share {
            text.push_str(&format!(
                ", {:.0}% of the keys kept where attention left some out",
                100.0 * share
            ));
        }
        if let Some(drift) = self.drifts.summary() {
            text.push_str(&format!("\n{drift}"));
        }
        text.push('\n');
        let quoted = shell::quoted(&film);
        text.push_str(&match outcome.stopped {
            true if outcome.frames == 0 => {
                format!("stopped before the first segment: longreel resume {quoted} goes on")
            }
            true if !outcome.playable => {
                format!("stopped early, its parts not joined yet: longreel resume {quoted} goes on")
            }
            true => format!("stopped early, playable as it is: longreel resume {quoted} goes on"),
            false => format!("longreel inspect {quoted} prints how to make it again"),
        });
        match self.verbosity.json {
            true => self.screen.say(&text),
            false => print(&text),
        }
    }

    fn plan(&self, summary: &PlanSummary) {
        if summary.expected_seconds > LONG_SECONDS {
            self.screen.say(&summary.to_string());
        } else {
            summary.notes.iter().for_each(|note| self.screen.say(&format!("note: {note}")));
        }
    }

    fn for_people(&mut self, event: &Event) {
        match event {
            Event::Plan(summary) => self.plan(summary),
            Event::Stage { what } => {
                self.work.stage(what, Instant::now());
                self.plainly(|| what.clone());
            }
            Event::Warning { .. } => {}
            Event::Segment { segment, segments, prompt } => {
                self.work.segment(*segment, *segments, Instant::now());
                self.tenths = Tenths::default();
                let name = words::segment_name(*segment, *segments);
                self.plainly(|| format!("{name}: {prompt}"));
            }
            Event::Step { segment, step, steps, left_seconds, .. } => {
                self.work.step(*step, *steps, *left_seconds, Instant::now());
                if let Some(percent) = self.tenths.passed(*step, *steps) {
                    let name = words::segment_name(*segment, self.work.segments());
                    let left = words::time_left(*left_seconds);
                    self.plainly(|| format!("{name}: step {step}/{steps} ({percent}%){left}"));
                }
            }
            Event::Part { segment, frames, film_seconds, .. } => {
                self.work.part(*frames);
                let name = words::segment_name(*segment, self.work.segments());
                let length = human_seconds(*film_seconds);
                self.plainly(|| {
                    format!("{name}: done, {}, {length} of film", human_frames(*frames))
                });
            }
            Event::Preview { .. } | Event::Drift(_) | Event::Done { .. } => {}
        }
        self.screen.show(Some(Box::new(self.work.clone())));
    }

    /// Lines that a live line makes needless.
    fn plainly(&self, text: impl FnOnce() -> String) {
        if !self.screen.is_live() {
            self.screen.say(&text());
        }
    }
}

impl Observer for Reporter {
    fn event(&mut self, event: Event) {
        if self.verbosity.json {
            print_json(&event);
        }
        match &event {
            Event::Warning { message } => self.screen.warn(message),
            Event::Drift(drift) => self.drifts.add(drift),
            Event::Part { film_seconds, .. } => self.film_seconds = *film_seconds,
            Event::Done { peak_memory_bytes, .. } => self.peak_memory_bytes = *peak_memory_bytes,
            _ => {}
        }
        if !self.verbosity.quiet {
            self.for_people(&event);
        }
    }
}

/// Tells an error to people, and to programs when they listen.
pub fn error(json: bool, screen: &Screen, message: &str, exit_code: u8) {
    if json {
        print_json(&json!({ "event": "error", "message": message, "exit_code": exit_code }));
    }
    screen.fail(message);
}

/// One JSON object on a line of stdout. A reader that went away does not end the film.
pub fn print_json(value: &impl serde::Serialize) {
    if let Ok(line) = serde_json::to_string(value) {
        print(&line);
    }
}

/// A line of stdout. What a terminal would obey is written out for it; a program gets the text as it is.
pub fn print(text: &str) {
    let text = match own_stdout::is_terminal() {
        true => words::visible(text),
        false => text.into(),
    };
    let _ = own_stdout::write(format!("{text}\n").as_bytes());
}
