//! Stderr, with one live line at its end when it is a terminal.
//!
//! Everything for people goes through one lock, so that a message from the signal handler, a warning
//! and the live line never mix.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::words::visible;

/// What the live line shows.
pub trait Line: std::fmt::Debug + Send {
    /// The line at `now`, at most `columns` wide.
    fn line(&self, now: Instant, columns: usize) -> String;
}

/// How often the live line is drawn again, so that its clock runs during a long step.
const TICK: Duration = Duration::from_millis(250);

/// What stderr is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Live {
    /// A live line, if stderr is a terminal.
    IfTerminal,
    /// Plain lines only.
    Never,
}

/// A handle on stderr; clones share it.
#[derive(Debug, Clone)]
pub struct Screen {
    live: bool,
    colour: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    work: Option<Box<dyn Line>>,
    /// Something is drawn on the last line.
    drawn: bool,
    ticking: bool,
}

impl Screen {
    /// Takes stderr. Colours are used on a terminal unless `NO_COLOR` is set.
    pub fn new(live: Live) -> Self {
        let terminal = std::io::stderr().is_terminal()
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            live: terminal && live == Live::IfTerminal,
            colour: terminal && !no_colour,
            state: Arc::default(),
        }
    }

    /// Whether there is a live line.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// A line that stays.
    pub fn say(&self, text: &str) {
        self.write(&visible(text));
    }

    /// The same for text that is safe for a terminal.
    fn write(&self, text: &str) {
        let mut state = self.lock();
        erase(&mut state);
        // Stderr may be gone, with the terminal it was; the film goes on.
        let _ = writeln!(std::io::stderr(), "{text}");
        self.draw(&mut state);
    }

    /// A warning.
    pub fn warn(&self, message: &str) {
        self.write(&format!("{} {}", self.coloured("33", "warning:"), visible(message)));
    }

    /// An error.
    pub fn fail(&self, message: &str) {
        self.write(&format!("{} {}", self.coloured("31", "error:"), visible(message)));
    }

    /// Sets what the live line shows; `None` takes it away.
    pub fn show(&self, work: Option<Box<dyn Line>>) {
        if !self.live {
            return;
        }
        let mut state = self.lock();
        state.work = work;
        match state.work {
            Some(_) => self.draw(&mut state),
            None => erase(&mut state),
        }
        if state.work.is_some() && !state.ticking {
            state.ticking = true;
            let screen = self.clone();
            std::thread::spawn(move || screen.tick());
        }
    }

    /// Leaves the terminal as it was.
    pub fn finish(&self) {
        self.show(None);
    }

    fn tick(&self) {
        loop {
            std::thread::sleep(TICK);
            let mut state = self.lock();
            if state.work.is_none() {
                state.ticking = false;
                return;
            }
            self.draw(&mut state);
        }
    }

    fn draw(&self, state: &mut State) {
        let Some(work) = &state.work else { return };
        let width = terminal_size::terminal_size_of(std::io::stderr())
            .map_or(80, |(terminal_size::Width(columns), _)| usize::from(columns));
        let text = work.line(Instant::now(), width.saturating_sub(1));
        let mut err = std::io::stderr();
        let _ = write!(err, "\r{text}\x1b[K").and_then(|()| err.flush());
        state.drawn = true;
    }

    fn coloured(&self, code: &str, text: &str) -> String {
        match self.colour {
            true => format!("\x1b[1;{code}m{text}\x1b[0m"),
            false => text.to_string(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is in there is only what is drawn; a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn erase(state: &mut State) {
    if state.drawn {
        let mut err = std::io::stderr();
        let _ = write!(err, "\r\x1b[K").and_then(|()| err.flush());
        state.drawn = false;
    }
}
