//! How long something takes, by several tries.

use std::time::Instant;

use longreel_kernels::Device;
use longreel_kernels::spans::{Span, measured};

/// Passes on a GPU before any counts: the first one brings weights and compiles kernels, the second captures what
/// recurs.
pub const WARMING: usize = 2;
/// Passes that are timed there at least; elsewhere one is enough where there is no time for more.
const LEAST_TIMED: usize = 2;
/// And at most.
const MOST_TIMED: usize = 10;
/// How many times as long as one pass all that is done with it takes on a GPU: those before, those that are timed, and
/// one whose operations are waited for.
pub const PASSES: usize = WARMING + LEAST_TIMED + 1;

/// What several tries took, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seconds {
    /// The fastest.
    pub best: f64,
    /// The one in the middle, or the mean of the two there.
    pub median: f64,
    /// How many there were.
    pub tries: usize,
}

impl Seconds {
    /// Of at least one try.
    pub fn of(tries: &[f64]) -> Self {
        let mut sorted = tries.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = |n: usize| sorted[n.min(sorted.len() - 1)];
        let half = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => middle(half),
            _ => (middle(half.saturating_sub(1)) + middle(half)) / 2.0,
        };
        Self { best: middle(0), median, tries: sorted.len() }
    }

    /// So many times as long.
    pub fn times(self, times: f64) -> Self {
        Self { best: times * self.best, median: times * self.median, ..self }
    }

    /// Of a network with `all` layers, by those of one with `layers` layers and what one of one layer took. The tries of
    /// the whole are taken to differ as those did.
    pub fn counted_up(self, one: Self, layers: usize, all: usize) -> Self {
        let layer = ((self.best - one.best) / (layers - 1).max(1) as f64).max(0.0);
        let best = match layers {
            _ if layers == all => self.best,
            // What comes before and behind the layers counts with each: an upper bound.
            1 => self.best * all as f64,
            _ => one.best + layer * (all - 1) as f64,
        };
        self.times(best / self.best)
    }
}

/// Whether so many tries are not yet enough for a budget, in seconds, of which so much went.
pub fn wants_more(device: &Device, tries: usize, went: f64, budget: f64) -> bool {
    let least = if device.gpu().is_some() { LEAST_TIMED } else { 1 };
    // The next one takes as long as those before.
    let fits = went + went / tries.max(1) as f64 <= budget;
    tries < least || (fits && tries < MOST_TIMED)
}

/// Something that was done several times.
#[derive(Debug)]
pub struct Timed {
    /// What it took.
    pub seconds: Seconds,
    /// Its operations.
    pub spans: Vec<Span>,
}

/// Does `pass` as often as `budget` seconds allow.
///
/// # Errors
/// Those of `pass`.
pub fn timed<T, E>(
    device: &Device,
    budget: f64,
    mut pass: impl FnMut() -> Result<T, E>,
) -> Result<Timed, E> {
    let on_gpu = device.gpu().is_some();
    if on_gpu {
        for _ in 0..WARMING {
            pass()?;
        }
    }
    let (mut tries, mut went, mut spans) = (Vec::new(), 0.0, Vec::new());
    while wants_more(device, tries.len(), went, budget) {
        let begun = Instant::now();
        // A look at each operation costs the processor nothing, and on a GPU waiting for each does.
        let (result, its_spans) = if on_gpu { (pass(), Vec::new()) } else { measured(&mut pass) };
        result?;
        let took = begun.elapsed().as_secs_f64();
        if tries.iter().all(|before| took < *before) {
            spans = its_spans;
        }
        tries.push(took);
        went += took;
    }
    if on_gpu {
        let (result, its_spans) = measured(pass);
        result?;
        spans = its_spans;
    }
    Ok(Timed { seconds: Seconds::of(&tries), spans })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_and_the_middle_of_several_tries_are_told() {
        let seconds = |tries: &[f64]| Seconds::of(tries);
        assert_eq!(seconds(&[3.0, 1.0, 2.0]), Seconds { best: 1.0, median: 2.0, tries: 3 });
        assert_eq!(seconds(&[4.0, 1.0, 2.0, 9.0]), Seconds { best: 1.0, median: 3.0, tries: 4 });
        assert_eq!(seconds(&[5.0]), Seconds { best: 5.0, median: 5.0, tries: 1 });
    }

    #[test]
    fn a_network_is_counted_up_by_what_each_further_layer_took() {
        // 2 s before and behind the layers, 3 s each.
        let of = |layers: f64| Seconds::of(&[2.0 + 3.0 * layers]);
        assert_eq!(of(5.0).counted_up(of(1.0), 5, 40).best, 122.0);
        assert_eq!(of(40.0).counted_up(of(1.0), 40, 40).best, 122.0);
        assert_eq!(of(1.0).counted_up(of(1.0), 1, 40).best, 200.0, "an upper bound");
        // One slow try of a single layer makes the middle of the whole no shorter than its best.
        let one = Seconds::of(&[5.0, 9.0]);
        let whole = Seconds::of(&[17.0, 17.0]).counted_up(one, 5, 40);
        assert_eq!((whole.best, whole.median), (122.0, 122.0));
    }

    #[test]
    fn one_try_is_enough_on_a_processor_without_time_for_more() {
        let more = |tries, went| wants_more(&Device::Cpu, tries, went, 1.0);
        assert!(more(0, 0.0) && !more(1, 0.6) && more(1, 0.4));
        assert!(more(9, 0.1) && !more(10, 0.1));
    }
}
