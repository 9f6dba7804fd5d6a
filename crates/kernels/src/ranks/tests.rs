//! Ways between devices that are nothing but memory, and what becomes of a group when one fails.

use std::alloc::{Layout, alloc_zeroed};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::RankError;
use super::local::LocalGroup;
use super::route::Route;
use crate::gpu::{
    Address, Arg, Driver, Element, Gpu, GpuError, Launch, Link, LinkKind, MatMul, Stream, Transfer,
};
use crate::{Device, Tensor};

/// What a way does from its start on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    Works,
    IsNotThere,
    DoesNotStart,
    StartsForEver,
    Refuses,
    BringsSomethingElse,
    /// Until it is ended.
    BringsNothing,
    /// Even then.
    NeverLetsGo,
}

/// What happened, and what is to happen from now on.
#[derive(Debug, Default)]
struct Story {
    exchanges: AtomicUsize,
    aborted: AtomicBool,
    /// What `check` finds.
    failed: AtomicBool,
    /// Transfers do not come from now on.
    stands: AtomicBool,
    tried: Mutex<Vec<LinkKind>>,
}

/// A device whose addresses are the program's own; memory is never given back.
#[derive(Debug)]
struct Plain {
    habits: [Habit; 2],
    story: Arc<Story>,
}

#[derive(Debug)]
struct PlainLink {
    habit: Habit,
    kind: LinkKind,
    story: Arc<Story>,
}

fn broken(call: &'static str) -> GpuError {
    GpuError::Call { call, reason: "as it was asked to".into() }
}

fn bytes<'a>(at: Address, count: usize) -> &'a mut [u8] {
    // SAFETY: what `alloc` gives stays, and no two of the tests' threads are at the same bytes at a time.
    unsafe {
        std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut(at.0 as usize), count)
    }
}

impl Driver for Plain {
    fn name(&self) -> String {
        "memory".into()
    }

    fn alloc(&self, bytes: usize) -> Result<Address, GpuError> {
        let layout = Layout::from_size_align(bytes.max(1), 256).expect("a size");
        // SAFETY: the layout is not empty.
        Ok(Address(unsafe { alloc_zeroed(layout) }.expose_provenance() as u64))
    }

    fn free(&self, _: Address) {}

    fn memory(&self) -> Result<(usize, usize), GpuError> {
        Ok((1 << 30, 1 << 30))
    }

    fn upload(&self, _: Stream, to: Address, from: &[u8]) -> Result<(), GpuError> {
        bytes(to, from.len()).copy_from_slice(from);
        Ok(())
    }

    fn download(&self, from: Address, to: &mut [u8]) -> Result<(), GpuError> {
        while self.story.stands.load(Ordering::Relaxed)
            && !self.story.aborted.load(Ordering::Relaxed)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        to.copy_from_slice(bytes(from, to.len()));
        Ok(())
    }

    fn copy(&self, to: Address, from: Address, count: usize) -> Result<(), GpuError> {
        bytes(to, count).copy_from_slice(bytes(from, count));
        Ok(())
    }

    fn zero(&self, to: Address, count: usize) -> Result<(), GpuError> {
        bytes(to, count).fill(0);
        Ok(())
    }

    fn launch(&self, _: &Launch, _: &[Arg]) -> Result<(), GpuError> {
        Ok(())
    }

    fn matmul(&self, _: &MatMul) -> Result<bool, GpuError> {
        Ok(false)
    }

    fn follow(&self, _: Stream) -> Result<(), GpuError> {
        Ok(())
    }

    fn link(&self, kind: LinkKind, _: &[Arc<Gpu>]) -> Result<Box<dyn Link>, GpuError> {
        self.story.tried.lock().expect("no panic").push(kind);
        match self.habits[kind as usize] {
            Habit::IsNotThere => {
                Err(GpuError::Library { library: "NCCL", reason: "as it was asked to".into() })
            }
            Habit::DoesNotStart => Err(broken("starting")),
            Habit::StartsForEver => loop {
                std::thread::park();
            },
            habit => {
                self.story.aborted.store(false, Ordering::Relaxed);
                Ok(Box::new(PlainLink { habit, kind, story: self.story.clone() }))
            }
        }
    }

    fn wait(&self) -> Result<(), GpuError> {
        Ok(())
    }
}

impl Link for PlainLink {
    fn name(&self) -> String {
        self.kind.name().into()
    }

    fn exchange(&self, transfers: &[Transfer]) -> Result<(), GpuError> {
        self.story.exchanges.fetch_add(1, Ordering::Relaxed);
        match self.habit {
            Habit::Refuses => return Err(broken("exchanging")),
            Habit::BringsNothing => {
                while !self.story.aborted.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                return Err(broken("exchanging"));
            }
            Habit::NeverLetsGo => loop {
                std::thread::park();
            },
            _ => {}
        }
        for &Transfer { source, target, bytes: count, .. } in transfers {
            let to = bytes(target, count);
            to.copy_from_slice(bytes(source, count));
            if self.habit == Habit::BringsSomethingElse {
                to[count / 2] ^= 1;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), GpuError> {
        match self.story.failed.load(Ordering::Relaxed) {
            true => Err(broken("exchanging")),
            false => Ok(()),
        }
    }

    fn abort(&self) -> bool {
        self.story.aborted.store(true, Ordering::Relaxed);
        self.kind == LinkKind::Nccl
    }
}

fn gpus(count: usize, habits: [Habit; 2]) -> (Vec<Arc<Gpu>>, Arc<Story>) {
    let story = Arc::new(Story::default());
    let gpu = |_| {
        let plain = Plain { habits, story: story.clone() };
        Gpu::new(Box::new(plain), Element::F32)
    };
    ((0..count).map(gpu).collect(), story)
}

/// Long enough for what works, and short enough to be waited for.
const PATIENCE: Duration = Duration::from_secs(2);

fn route(habits: [Habit; 2], value: Option<&str>) -> (Result<Route, RankError>, Vec<LinkKind>) {
    let (gpus, story) = gpus(3, habits);
    let route = Route::of(&gpus, value.map(Into::into), PATIENCE);
    let tried = story.tried.lock().expect("no panic").clone();
    (route, tried)
}

#[test]
fn the_first_way_that_brings_what_was_sent_is_taken_and_what_failed_before_is_told() {
    use Habit::*;
    for (nccl, peer, expected, warnings) in [
        (Works, Works, Some("nccl"), 0),
        (IsNotThere, Works, Some("peer"), 0),
        (DoesNotStart, Works, Some("peer"), 1),
        (Refuses, Works, Some("peer"), 1),
        (BringsSomethingElse, Works, Some("peer"), 1),
        (BringsNothing, Works, Some("peer"), 1),
        (IsNotThere, BringsSomethingElse, None, 1),
        (DoesNotStart, Refuses, None, 2),
        (IsNotThere, IsNotThere, None, 0),
    ] {
        let (route, _) = route([nccl, peer], None);
        let route = route.expect("a way");
        let name = route.link.as_ref().map(|link| link.name());
        assert_eq!(name.as_deref(), expected, "{nccl:?}, {peer:?}");
        let told = route.notes.iter().filter(|note| note.warning).count();
        assert_eq!(told, warnings, "{nccl:?}, {peer:?}: {:?}", route.notes);
    }
}

#[test]
fn a_way_that_does_not_let_go_of_the_devices_ends_it_with_what_to_do() {
    for habit in [Habit::StartsForEver, Habit::NeverLetsGo] {
        let (route, _) = route([habit, Habit::Works], None);
        let error = route.expect_err("it does not let go").to_string();
        assert!(error.contains("nccl") && error.contains("set LONGREEL_EXCHANGE to"), "{error}");
    }
}

#[test]
fn a_way_that_is_asked_for_is_the_only_one() {
    use Habit::*;
    for (value, tried) in
        [("nccl", &[LinkKind::Nccl][..]), ("peer", &[LinkKind::Peer]), ("host", &[])]
    {
        let (route, found) = route([Works, Works], Some(value));
        let name = route.expect("a way").link.map_or("host".into(), |link| link.name());
        assert_eq!((&*name, &*found), (value, tried));
    }
    let (failed, tried) = route([DoesNotStart, Works], Some("nccl"));
    let error = failed.expect_err("it does not start").to_string();
    assert!(error.contains("nccl") && error.contains("as it was asked to"), "{error}");
    assert_eq!(tried, [LinkKind::Nccl]);
    let (failed, _) = route([Works, Works], Some("NCCL 2"));
    let error = failed.expect_err("there is none").to_string();
    assert!(error.contains("NCCL 2") && error.contains("nccl, peer or host"), "{error}");
}

/// A group with a way of NCCL's, which is looked after every few milliseconds.
fn group(count: usize) -> (LocalGroup, Arc<Story>) {
    let (gpus, story) = gpus(count, [Habit::Works; 2]);
    let group = LocalGroup::new(gpus.into_iter().map(Device::Gpu).collect()).expect("threads");
    assert_eq!(group.way().as_deref(), Some("nccl"), "LONGREEL_EXCHANGE is set");
    story.exchanges.store(0, Ordering::Relaxed);
    (group.looked_after(Duration::from_millis(5), Duration::from_millis(300)), story)
}

fn value(n: usize) -> Tensor {
    Tensor::from_vec(&[1 + n % 3], vec![n as f32; 1 + n % 3])
}

#[test]
fn parts_of_any_size_come_to_the_rank_that_they_are_for_and_the_own_one_stays() {
    for count in [2, 3, 4] {
        let (group, story) = group(count);
        let got = group.run((0..count).collect(), |ranks, rank| {
            let mut all = Vec::new();
            for turn in 0..3 {
                let parts = (0..count).map(|to| value(100 * turn + 10 * rank + to)).collect();
                for part in ranks.all_to_all(parts)? {
                    assert!(part.device() == group.devices()[rank], "on this rank's device");
                    all.push(part.into_host()?);
                }
            }
            Ok::<_, RankError>(all)
        });
        assert_eq!(story.exchanges.load(Ordering::Relaxed), 3, "one for all ranks");
        for (rank, got) in got.expect("no failure").into_iter().enumerate() {
            let expected =
                (0..3 * count).map(|n| value(100 * (n / count) + 10 * (n % count) + rank));
            assert_eq!(got, expected.collect::<Vec<_>>(), "rank {rank} of {count}");
        }
    }
}

#[test]
fn nothing_is_asked_of_the_devices_when_a_rank_does_not_come() {
    let (group, story) = group(3);
    let failed = group.run(vec![(); 3], |ranks, ()| match ranks.rank() {
        1 => Err(RankError::Gpu(broken("its own"))),
        _ => {
            let all = ranks.all_to_all((0..3).map(value).collect());
            assert_eq!(all.as_ref().err(), Some(&RankError::Left { rank: 1, count: 3 }));
            all.map(drop)
        }
    });
    assert_eq!(failed, Err(RankError::Gpu(broken("its own"))));
    assert_eq!(story.exchanges.load(Ordering::Relaxed), 0);
}

#[test]
fn a_way_that_fails_under_the_ranks_is_ended_and_nobody_goes_on_waiting() {
    // It tells, or it says nothing and nothing comes.
    for tells in [true, false] {
        let (group, story) = group(2);
        let begun = Instant::now();
        let failed = group.run(vec![(); 2], |ranks, ()| {
            let got = ranks.all_to_all((0..2).map(value).collect())?;
            story.stands.store(true, Ordering::Relaxed);
            story.failed.store(tells, Ordering::Relaxed);
            // Waits for the devices, which wait for each other.
            got.into_iter().try_for_each(|part| part.into_host().map(drop))?;
            Ok::<_, RankError>(())
        });
        let error = failed.expect_err("what came is not what was sent").to_string();
        assert!(error.contains("exchanging"), "{error}");
        assert_eq!(error.contains("takes another way"), !tells, "{error}");
        assert!(story.aborted.load(Ordering::Relaxed));
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
