//! Where the ranks of a group meet to exchange.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::RankError;
use crate::gpu::{Array, Link, Transfer};
use crate::{Device, GpuError, Tensor};

/// Each rank brings what it has for the others, and the last one to come hands everything over: no device is at
/// work on an exchange that another one's rank does not come to, since it failed before. What the devices have to do
/// for it is only asked for then, and no rank waits until they have done it.
pub(super) struct Meeting<'a> {
    pub devices: &'a [Device],
    link: Option<&'a dyn Link>,
    state: Mutex<State>,
    /// Something was handed over, or somebody left.
    changed: Condvar,
    /// Somebody left.
    left: Condvar,
}

struct State {
    /// By rank, of those that wait: a part for each rank.
    brought: Vec<Option<Vec<Tensor>>>,
    /// By rank, what it has not taken yet: a part of each rank.
    handed: Vec<Option<Vec<Tensor>>>,
    exchanges: u64,
    left: Vec<bool>,
    first_left: Option<usize>,
    first_failed: Option<usize>,
    /// The way between the devices has failed, and nothing more goes by it.
    ended: Option<GpuError>,
}

impl<'a> Meeting<'a> {
    pub fn new(devices: &'a [Device], link: Option<&'a dyn Link>) -> Self {
        let count = devices.len();
        let none = || (0..count).map(|_| None).collect();
        let state = State {
            brought: none(),
            handed: none(),
            exchanges: 0,
            left: vec![false; count],
            first_left: None,
            first_failed: None,
            ended: None,
        };
        let (changed, left) = (Condvar::new(), Condvar::new());
        Self { devices, link, state: Mutex::new(state), changed, left }
    }

    /// See [`Communicator::all_to_all`](super::Communicator::all_to_all).
    pub fn all_to_all(&self, rank: usize, parts: Vec<Tensor>) -> Result<Vec<Tensor>, RankError> {
        let own = &self.devices[rank];
        let ready = |(to, part): (usize, Tensor)| match self.link {
            // What went wrong on this rank's device is this rank's to tell, so it brings the values
            // out; as they are, of however many bits.
            None if self.devices[to] != *own => part.parked(),
            None => Ok(part),
            Some(_) => part.into_device(own),
        };
        let parts = parts.into_iter().enumerate().map(ready).collect::<Result<_, _>>()?;
        own.check()?;
        let got = self.meet(rank, parts)?;
        let there = got.into_iter().map(|part| part.into_device(own));
        Ok(there.collect::<Result<_, _>>()?)
    }

    fn meet(&self, rank: usize, parts: Vec<Tensor>) -> Result<Vec<Tensor>, RankError> {
        let count = self.devices.len();
        let mut state = lock(&self.state);
        state.brought[rank] = Some(parts);
        if state.brought.iter().all(Option::is_some) {
            let brought = state.brought.iter_mut().filter_map(Option::take).collect();
            // Whoever looks whether it still goes on must not wait for it.
            drop(state);
            let handed = self.hand_over(brought)?;
            state = lock(&self.state);
            state.handed = handed.into_iter().map(Some).collect();
            state.exchanges += 1;
            self.changed.notify_all();
        }
        loop {
            if let Some(error) = &state.ended {
                return Err(error.clone().into());
            }
            if let Some(got) = state.handed[rank].take() {
                return Ok(got);
            }
            // Whoever leaves has taken what was handed over before, and brings nothing more.
            if let Some(rank) = state.first_left {
                return Err(RankError::Left { rank, count });
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What each rank gets of what all have brought. By a link, memory for it is taken on each rank's device, and
    /// what was brought goes when the transfers are asked for: its memory is used again behind them.
    fn hand_over(&self, brought: Vec<Vec<Tensor>>) -> Result<Vec<Vec<Tensor>>, GpuError> {
        let count = self.devices.len();
        let mut handed: Vec<_> = (0..count).map(|_| Vec::with_capacity(count)).collect();
        let (mut transfers, mut sent) = (Vec::new(), Vec::new());
        for (from, parts) in brought.into_iter().enumerate() {
            for (to, part) in parts.into_iter().enumerate() {
                let gpu = self.devices[to].gpu().filter(|_| self.link.is_some() && from != to);
                let Some((gpu, array)) = gpu.zip(part.array()) else {
                    handed[to].push(part);
                    continue;
                };
                let place = Array::unset(gpu, array.element(), array.len());
                gpu.check()?;
                if !array.is_empty() {
                    transfers.push(Transfer {
                        from,
                        to,
                        source: array.address(),
                        target: place.address(),
                        bytes: array.bytes(),
                    });
                }
                handed[to].push(Tensor::from_array(part.shape(), place));
                sent.push(part);
            }
        }
        // Each rank begins with the next one, so that not all write to the same.
        transfers.sort_by_key(|transfer| (count + transfer.to - transfer.from) % count);
        if let Some(link) = self.link.filter(|_| !transfers.is_empty()) {
            link.exchange(&transfers).inspect_err(|_| {
                link.abort();
            })?;
        }
        Ok(handed)
    }

    /// Ends the rank's part.
    pub fn leave(&self, rank: usize, well: bool) {
        let mut state = lock(&self.state);
        state.left[rank] = true;
        state.first_left.get_or_insert(rank);
        if !well {
            state.first_failed.get_or_insert(rank);
        }
        drop(state);
        self.changed.notify_all();
        self.left.notify_all();
    }

    /// Ends all ranks' part, each at its next exchange.
    pub fn end(&self, why: GpuError) {
        lock(&self.state).ended = Some(why);
        self.changed.notify_all();
    }

    /// Waits until all ranks have left; how many exchanges there were when that takes longer.
    pub fn all_left_within(&self, time: Duration) -> Option<u64> {
        let begun = Instant::now();
        let mut state = lock(&self.state);
        while !state.left.iter().all(|left| *left) {
            let Some(rest) = time.checked_sub(begun.elapsed()) else {
                return Some(state.exchanges);
            };
            let waited = self.left.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }

    /// The rank that failed before the others.
    pub fn first_failed(&self) -> Option<usize> {
        lock(&self.state).first_failed
    }
}

/// No panic leaves it half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
