//! Ctrl-C: once asks for an end after the segment, twice for an end now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use longreel_film::{Stop, StopSignal};

use crate::outcome::EXIT_INTERRUPTED;
use crate::report::Screen;

/// How long a second Ctrl-C waits for the step in work. One step of a large model takes minutes, and
/// a film can be resumed after a kill at any instant, so nothing is lost by not waiting.
const GRACE: Duration = Duration::from_secs(2);

/// Counts what the person asked for.
#[derive(Debug, Clone)]
pub struct Interrupts {
    stop: StopSignal,
    count: Arc<AtomicU8>,
}

impl Interrupts {
    /// Listens to Ctrl-C and, on Unix, to SIGTERM and SIGHUP.
    pub fn listen(screen: &Screen) -> Result<Self> {
        let new = Self { stop: StopSignal::default(), count: Arc::default() };
        let (listener, screen) = (new.clone(), screen.clone());
        ctrlc::set_handler(move || listener.interrupted(&screen))
            .context("cannot listen to Ctrl-C")?;
        Ok(new)
    }

    /// The switch that the engine looks at.
    pub fn stop(&self) -> &StopSignal {
        &self.stop
    }

    /// True after the second Ctrl-C.
    pub fn at_once(&self) -> bool {
        self.stop.get() == Stop::Now
    }

    fn interrupted(&self, screen: &Screen) {
        match self.count.fetch_add(1, Ordering::SeqCst) {
            0 => {
                self.stop.request(Stop::AfterSegment);
                screen.say(
                    "Ending after this segment; the file will be closed. Ctrl-C again ends at once.",
                );
            }
            1 => {
                self.stop.request(Stop::Now);
                screen.say("Ending now.");
                let screen = screen.clone();
                std::thread::spawn(move || {
                    std::thread::sleep(GRACE);
                    exit_now(&screen);
                });
            }
            _ => exit_now(screen),
        }
    }
}

fn exit_now(screen: &Screen) -> ! {
    screen.say("What is finished stays; `longreel resume` goes on from there.");
    screen.finish();
    std::process::exit(EXIT_INTERRUPTED.into());
}
