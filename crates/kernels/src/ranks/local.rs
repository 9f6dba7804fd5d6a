//! Ranks as threads of one process, each with a device of its own.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{Alone, Communicator, RankError};
use crate::{Device, Tensor, in_pool};

/// Devices of one process as ranks. A tensor goes from hand to hand where both have the same memory,
/// and through the host's otherwise.
#[derive(Debug)]
pub struct LocalGroup {
    devices: Vec<Device>,
    /// Of each rank; none for a single one, which is the caller. A rank waits for others inside its
    /// pool, and in a common one those might be waiting for its thread.
    pools: Vec<ThreadPool>,
}

impl LocalGroup {
    /// A group of `devices`, one rank each.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn new(devices: Vec<Device>) -> Result<Self, RankError> {
        let count = devices.len();
        assert!(count > 0, "LocalGroup::new: no device");
        let pools = if count == 1 { 0 } else { count };
        let threads = rayon::current_num_threads().div_ceil(count);
        let pools = (0..pools)
            .map(|rank| {
                let name = move |thread| format!("rank {rank}, thread {thread}");
                ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build()
            })
            .collect::<Result<_, _>>()
            .map_err(|error| RankError::Threads { count, reason: error.to_string() })?;
        Ok(Self { devices, pools })
    }

    /// Ranks of the group.
    pub fn count(&self) -> usize {
        self.devices.len()
    }

    /// The ranks' devices.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Runs `body` for all ranks at the same time, each with its one of `parts`; results are in the
    /// order of the ranks. A group of one runs it in the caller's pool.
    ///
    /// # Errors
    /// That of the rank that failed first; the others end at their next exchange.
    ///
    /// # Panics
    /// When a rank does; the others end before.
    pub fn run<P, R, E>(
        &self,
        parts: Vec<P>,
        body: impl Fn(&dyn Communicator, P) -> Result<R, E> + Sync,
    ) -> Result<Vec<R>, E>
    where
        P: Send,
        R: Send,
        E: Send,
    {
        let count = self.count();
        assert_eq!(parts.len(), count, "LocalGroup::run: parts for {count} ranks");
        if self.pools.is_empty() {
            return in_pool(|| parts.into_iter().map(|part| body(&Alone, part)).collect());
        }
        let exchange = Exchange::new(&self.devices);
        let (exchange, body) = (&exchange, &body);
        let ended: Vec<_> = std::thread::scope(|scope| {
            let ranks: Vec<_> = parts
                .into_iter()
                .zip(&self.pools)
                .enumerate()
                .map(|(rank, (part, pool))| {
                    scope.spawn(move || {
                        let local = Local { rank, exchange };
                        let work = || pool.install(|| body(&local, part));
                        // The results are not looked at when one of them is a panic.
                        let ended = catch_unwind(AssertUnwindSafe(work));
                        exchange.leave(rank, matches!(ended, Ok(Ok(_))));
                        ended
                    })
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap_or_else(Err)).collect()
        });
        let first = lock(&exchange.state).first_failed;
        let (mut results, mut failure) = (Vec::with_capacity(count), None);
        for (rank, ended) in ended.into_iter().enumerate() {
            match ended.unwrap_or_else(|panic| resume_unwind(panic)) {
                Ok(result) => results.push(result),
                Err(error) if first == Some(rank) => failure = Some(error),
                Err(_) => {}
            }
        }
        failure.map_or(Ok(results), Err)
    }
}

/// A rank of a [`LocalGroup`] while it runs.
struct Local<'a> {
    rank: usize,
    exchange: &'a Exchange<'a>,
}

impl Communicator for Local<'_> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.exchange.devices.len()
    }

    fn all_to_all(&self, parts: Vec<Tensor>) -> Result<Vec<Tensor>, RankError> {
        assert_eq!(parts.len(), self.count(), "all_to_all: parts for {} ranks", self.count());
        let (exchange, rank) = (self.exchange, self.rank);
        let own = &exchange.devices[rank];
        for (to, part) in parts.into_iter().enumerate() {
            // What went wrong on this rank's device is this rank's to tell, so it brings the values
            // out; as they are, of however many bits.
            let part = if exchange.devices[to] == *own { part } else { part.parked()? };
            exchange.give(rank, to, part);
        }
        (0..self.count()).map(|from| Ok(exchange.take(from, rank)?.on(own)?.into_owned())).collect()
    }
}

/// What is on its way between ranks.
struct Exchange<'a> {
    devices: &'a [Device],
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// From rank `i` to rank `j` at `i * count + j`, oldest first; two at most, since a rank gives the
    /// next ones only when it has taken everything that was given before.
    on_the_way: Vec<VecDeque<Tensor>>,
    left: Vec<bool>,
    first_failed: Option<usize>,
}

impl<'a> Exchange<'a> {
    fn new(devices: &'a [Device]) -> Self {
        let count = devices.len();
        let on_the_way = (0..count * count).map(|_| VecDeque::new()).collect();
        let state = State { on_the_way, left: vec![false; count], first_failed: None };
        Self { devices, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn give(&self, from: usize, to: usize, part: Tensor) {
        lock(&self.state).on_the_way[from * self.devices.len() + to].push_back(part);
        self.changed.notify_all();
    }

    fn take(&self, from: usize, to: usize) -> Result<Tensor, RankError> {
        let count = self.devices.len();
        let mut state = lock(&self.state);
        loop {
            if let Some(part) = state.on_the_way[from * count + to].pop_front() {
                return Ok(part);
            }
            if state.left[from] {
                return Err(RankError::Left { rank: from, count });
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn leave(&self, rank: usize, well: bool) {
        let mut state = lock(&self.state);
        state.left[rank] = true;
        if !well {
            state.first_failed.get_or_insert(rank);
        }
        drop(state);
        self.changed.notify_all();
    }
}

/// No panic leaves it half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn group(count: usize) -> LocalGroup {
        LocalGroup::new(vec![Device::Cpu; count]).expect("threads")
    }

    fn value(n: usize) -> Tensor {
        Tensor::from_vec(&[1], vec![n as f32])
    }

    #[test]
    fn each_rank_gets_what_the_others_had_for_it_in_every_exchange() {
        for count in [1, 2, 3, 4] {
            let got = group(count).run((0..count).collect(), |ranks, part| {
                assert_eq!((ranks.rank(), ranks.count()), (part, count));
                let mut got = Vec::new();
                for turn in 0..5 {
                    if (turn + part) % 2 == 0 {
                        // Ranks come at different times.
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    let parts = (0..count).map(|to| value(100 * turn + 10 * part + to)).collect();
                    got.push(ranks.all_to_all(parts)?);
                }
                Ok::<_, RankError>(got)
            });
            for (rank, turns) in got.expect("no failure").iter().enumerate() {
                for (turn, got) in turns.iter().enumerate() {
                    let expected: Vec<_> =
                        (0..count).map(|from| value(100 * turn + 10 * from + rank)).collect();
                    assert_eq!(*got, expected, "rank {rank} of {count}, turn {turn}");
                }
            }
        }
    }

    #[derive(Debug, PartialEq)]
    enum Failure {
        Own,
        Rank(RankError),
    }

    impl From<RankError> for Failure {
        fn from(error: RankError) -> Self {
            Self::Rank(error)
        }
    }

    #[test]
    fn a_rank_that_fails_ends_the_others_and_its_reason_is_told() {
        for failing in 0..3 {
            let result = group(3).run(vec![(); 3], |ranks, ()| {
                if ranks.rank() == failing {
                    return Err(Failure::Own);
                }
                let all = ranks.all_to_all((0..3).map(value).collect());
                assert_eq!(all, Err(RankError::Left { rank: failing, count: 3 }));
                Ok(all?.len())
            });
            assert_eq!(result, Err(Failure::Own));
        }
    }

    #[test]
    fn a_rank_that_panics_ends_the_others_and_the_panic_goes_on() {
        let group = group(2);
        let panic = catch_unwind(AssertUnwindSafe(|| {
            group.run(vec![(); 2], |ranks, ()| {
                assert!(ranks.rank() == 0, "a bug");
                ranks.all_to_all((0..2).map(value).collect())
            })
        }));
        assert_eq!(panic.expect_err("no panic").downcast_ref(), Some(&"a bug"));
        assert!(group.run(vec![1, 2], |_, part| Ok::<_, RankError>(part)) == Ok(vec![1, 2]));
    }
}
