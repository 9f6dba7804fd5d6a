//! Bytes on their way: how many, how fast, how long.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use longreel_film::{human_bytes, human_seconds};
use serde_json::json;

use super::Place;
use crate::report::{Line, Tenths, print_json};

/// The speed is that of the last so many seconds.
const WINDOW: Duration = Duration::from_secs(10);
/// How often a program hears of bytes.
const TICK: Duration = Duration::from_secs(1);
/// How often the live line is given to the screen, which draws it each time.
const DRAW: Duration = Duration::from_millis(100);
const BAR: u64 = 24;

/// How far some bytes are.
#[derive(Debug, Clone)]
pub struct Amount {
    what: &'static str,
    total: u64,
    done: u64,
    /// Bytes that took time, after each tick.
    marks: VecDeque<(Instant, u64)>,
    moved: u64,
}

impl Amount {
    fn new(what: &'static str, total: u64, now: Instant) -> Self {
        Self { what, total, done: 0, marks: VecDeque::from([(now, 0)]), moved: 0 }
    }

    fn add(&mut self, bytes: i64, now: Instant) {
        self.done = self.done.saturating_add_signed(bytes);
        self.moved += bytes.max(0).unsigned_abs();
        if self.marks.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= TICK / 4) {
            self.marks.push_back((now, self.moved));
            while self.marks.len() > 2 && now.saturating_duration_since(self.marks[1].0) >= WINDOW {
                self.marks.pop_front();
            }
        }
    }

    /// Bytes a second, as far back as the window goes.
    fn speed(&self, now: Instant) -> Option<f64> {
        let (since, before) = *self.marks.front()?;
        let seconds = now.saturating_duration_since(since).as_secs_f64();
        (seconds >= 0.5).then(|| (self.moved - before) as f64 / seconds)
    }

    fn left_seconds(&self, now: Instant) -> Option<f64> {
        let speed = self.speed(now).filter(|speed| *speed >= 1.0)?;
        Some(self.total.saturating_sub(self.done) as f64 / speed)
    }

    fn percent(&self) -> u64 {
        100 * self.done.min(self.total) / self.total.max(1)
    }

    fn text(&self, now: Instant) -> String {
        let mut text = format!(
            "{} of {} ({} %)",
            human_bytes(self.done.min(self.total)),
            human_bytes(self.total),
            self.percent()
        );
        if let Some(speed) = self.speed(now) {
            text.push_str(&format!(", {}/s", human_bytes(speed as u64)));
        }
        if let Some(left) = self.left_seconds(now).filter(|left| *left >= 1.0) {
            text.push_str(&format!(", {} left", human_seconds(left.round())));
        }
        text
    }
}

impl Line for Amount {
    fn line(&self, now: Instant, columns: usize) -> String {
        let filled = (BAR * self.percent() / 100) as usize;
        let line = format!(
            "{}  [{}{}]  {}",
            self.what,
            "#".repeat(filled),
            ".".repeat(BAR as usize - filled),
            self.text(now)
        );
        line.chars().take(columns).collect()
    }
}

/// Shows an amount: as a live line, as plain lines at each tenth, or as events.
pub struct Meter<'a> {
    place: &'a Place<'a>,
    state: Mutex<State>,
}

struct State {
    amount: Amount,
    tenths: Tenths,
    began: Instant,
    told: Instant,
    drawn: Option<Instant>,
}

impl<'a> Meter<'a> {
    /// `what` is done to `total` bytes.
    pub fn new(place: &'a Place<'a>, what: &'static str, total: u64) -> Self {
        let now = Instant::now();
        let amount = Amount::new(what, total, now);
        let tenths = Tenths::default();
        Self {
            place,
            state: Mutex::new(State { amount, tenths, began: now, told: now, drawn: None }),
        }
    }

    /// Bytes that took no time.
    pub fn skip(&self, bytes: u64) {
        let mut state = self.lock();
        state.amount.done += bytes;
        // A tenth that was there before is nothing to tell.
        let percent = state.amount.percent() as usize;
        state.tenths.passed(percent, 100);
        self.show(&mut state, Instant::now());
    }

    /// Bytes that were moved; below zero when they are to be moved again.
    pub fn add(&self, bytes: i64) {
        let now = Instant::now();
        let mut state = self.lock();
        state.amount.add(bytes, now);
        self.show(&mut state, now);
    }

    fn show(&self, state: &mut State, now: Instant) {
        let State { amount, tenths, began, told, drawn } = state;
        let whole = amount.done >= amount.total;
        let verbosity = self.place.verbosity;
        if now.saturating_duration_since(*told) >= TICK || whole {
            *told = now;
            if verbosity.json {
                print_json(&json!({
                    "event": "progress",
                    "bytes": amount.done,
                    "total_bytes": amount.total,
                    "bytes_per_second": amount.speed(now).map(|speed| speed as u64),
                    "left_seconds": amount.left_seconds(now).map(f64::round),
                }));
            }
        }
        if verbosity.quiet {
            return;
        }
        let passed = tenths.passed(amount.percent() as usize, 100).is_some();
        if self.place.screen.is_live() {
            if whole || drawn.is_none_or(|at| now.saturating_duration_since(at) >= DRAW) {
                *drawn = Some(now);
                self.place.screen.show(Some(Box::new(amount.clone())));
            }
        } else if passed && (whole || now.saturating_duration_since(*began) >= TICK) {
            // What takes no time is told once.
            self.place.screen.say(&format!("{}: {}", amount.what, amount.text(now)));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Numbers for people; a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.place.screen.show(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_and_time_left_are_those_of_the_last_seconds() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut amount = Amount::new("fetching", 1_000_000_000, start);
        amount.done += 400_000_000;
        // Ten seconds at 1 MB/s, then twenty at 10 MB/s.
        (1..=10).for_each(|s| amount.add(1_000_000, at(f64::from(s))));
        assert_eq!(amount.speed(at(10.0)), Some(1e6));
        (11..=30).for_each(|s| amount.add(10_000_000, at(f64::from(s))));
        assert_eq!(amount.speed(at(30.0)), Some(1e7));
        assert_eq!(amount.text(at(30.0)), "610.0 MB of 1.0 GB (61 %), 10.0 MB/s, 39 s left");
        // Nothing comes: the speed falls, nothing is promised.
        assert!(amount.speed(at(60.0)).is_some_and(|speed| speed < 3e6));
        amount.add(-210_000_000, at(61.0));
        assert_eq!(amount.done, 400_000_000);
        assert!(amount.line(at(61.0), 40).chars().count() == 40);
    }
}
