//! Ranks as threads of one process, each with a device of its own.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::meeting::Meeting;
use super::route::Route;
use super::{Alone, Communicator, RankError};
use crate::gpu::Link;
use crate::{Device, GpuError, Tensor, in_pool};

/// How often it is looked whether what is under way between devices still goes on.
const LOOK: Duration = Duration::from_secs(1);
/// How long ranks may be at work without an exchange before the way between their devices is given up. The longest
/// wait is for the end of a forward, whose work a device may still have before it: minutes for the largest model at its
/// largest picture on the slowest card.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Devices of one process as ranks. A tensor goes from hand to hand where both have the same memory, and otherwise from
/// card to card by the [way](Self::way) that was found when the group was made.
#[derive(Debug)]
pub struct LocalGroup {
    route: Route,
    devices: Vec<Device>,
    /// Of each rank; none for a single one, which is the caller. A rank waits for others inside its
    /// pool, and in a common one those might be waiting for its thread.
    pools: Vec<ThreadPool>,
    look: Duration,
    patience: Duration,
}

impl LocalGroup {
    /// A group of `devices`, one rank each. GPUs are connected, and the connection is tried.
    ///
    /// # Errors
    /// When the system gives no threads; when the way that `LONGREEL_EXCHANGE` asks for does not work.
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
        let route = Route::find(&devices)?;
        Ok(Self { route, devices, pools, look: LOOK, patience: PATIENCE })
    }

    /// Looked after as often as that, with so much patience.
    #[cfg(test)]
    pub(super) fn looked_after(self, look: Duration, patience: Duration) -> Self {
        Self { look, patience, ..self }
    }

    /// Ranks of the group.
    pub fn count(&self) -> usize {
        self.devices.len()
    }

    /// The ranks' devices.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// How tensors go from one GPU of the group to another, such as `NCCL 2.27.3`; none where there are no
    /// several GPUs.
    pub fn way(&self) -> Option<String> {
        self.route.name(&self.devices)
    }

    /// Why they do not go by another way that would have come first, where that is not for want of a library.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.route.notes.iter().filter(|note| note.warning).map(|note| &*note.text)
    }

    /// Runs `body` for all ranks at the same time, each with its one of `parts`; results are in the
    /// order of the ranks. A group of one runs it in the caller's pool.
    ///
    /// # Errors
    /// That of the rank that failed first; the others end at their next exchange. What went wrong on the way
    /// between the devices, whatever the ranks made of it.
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
        E: Send + From<RankError>,
    {
        let count = self.count();
        assert_eq!(parts.len(), count, "LocalGroup::run: parts for {count} ranks");
        if self.pools.is_empty() {
            return in_pool(|| parts.into_iter().map(|part| body(&Alone, part)).collect());
        }
        let link = self.route.link.as_deref();
        let meeting = Meeting::new(&self.devices, link);
        let (meeting, body) = (&meeting, &body);
        let (ended, broken) = std::thread::scope(|scope| {
            let ranks: Vec<_> = parts
                .into_iter()
                .zip(&self.pools)
                .enumerate()
                .map(|(rank, (part, pool))| {
                    scope.spawn(move || {
                        let local = Local { rank, meeting };
                        let work = || pool.install(|| body(&local, part));
                        // The results are not looked at when one of them is a panic.
                        let ended = catch_unwind(AssertUnwindSafe(work));
                        meeting.leave(rank, matches!(ended, Ok(Ok(_))));
                        ended
                    })
                })
                .collect();
            let broken = link.and_then(|link| self.watch(meeting, link));
            let ended: Vec<_> =
                ranks.into_iter().map(|rank| rank.join().unwrap_or_else(Err)).collect();
            (ended, broken)
        });
        let first = meeting.first_failed();
        let (mut results, mut failure) = (Vec::with_capacity(count), None);
        for (rank, ended) in ended.into_iter().enumerate() {
            match ended.unwrap_or_else(|panic| resume_unwind(panic)) {
                Ok(result) => results.push(result),
                Err(error) if first == Some(rank) => failure = Some(error),
                Err(_) => {}
            }
        }
        match broken {
            Some(error) => Err(E::from(RankError::Gpu(error))),
            None => failure.map_or(Ok(results), Err),
        }
    }

    /// Stays until all ranks have left. When what is under way between their devices fails or does not come to an
    /// end, it is ended, and with it whatever waits for it.
    fn watch(&self, meeting: &Meeting<'_>, link: &dyn Link) -> Option<GpuError> {
        let (mut exchanges, mut since) = (0, Instant::now());
        while let Some(now) = meeting.all_left_within(self.look) {
            if now != exchanges {
                (exchanges, since) = (now, Instant::now());
            }
            let waited = since.elapsed();
            let stalled = || {
                (waited > self.patience).then(|| GpuError::Call {
                    call: "exchanging between cards",
                    reason: format!(
                        "nothing came within {} seconds; LONGREEL_EXCHANGE=peer or host takes another way",
                        waited.as_secs()
                    ),
                })
            };
            if let Some(error) = link.check().err().or_else(stalled)
                && link.abort()
            {
                meeting.end(error.clone());
                return Some(error);
            }
        }
        None
    }
}

/// A rank of a [`LocalGroup`] while it runs.
struct Local<'a> {
    rank: usize,
    meeting: &'a Meeting<'a>,
}

impl Communicator for Local<'_> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.meeting.devices.len()
    }

    fn all_to_all(&self, parts: Vec<Tensor>) -> Result<Vec<Tensor>, RankError> {
        assert_eq!(parts.len(), self.count(), "all_to_all: parts for {} ranks", self.count());
        self.meeting.all_to_all(self.rank, parts)
    }
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
