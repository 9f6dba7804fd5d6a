//! Weights on a GPU: brought once at their first use, or, where they do not fit, over and over.
//!
//! A model uses its weights in the same order in every forward. For a circle that is longer than the memory, the
//! best that can be done is to keep as many as fit for good and to bring the others each time (any rule by last use
//! would miss every one of them). Weights that a forward can do without, since what is made of them is kept for
//! many, take no room from those that each one needs: they stay where all do. Those that are brought share a few
//! places, which they got in turn when they were used first: each comes to the same one every time, so that work
//! which was captured finds it there. While one is computed with, those that followed it the last time are copied.
//! Work waits for the copy of its own weight, and a copy for the work with what was in its place; neither waits for
//! anything else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::arena::Arena;
use super::incoming::Incoming;
use super::weight_plan::{Use, WeightPlan};
use super::{Address, Driver, Element, Gpu, GpuError, POINTS, Stream, lock};
use crate::{DType, Weight};

/// Weights that are brought ahead of the one that is computed with.
pub(super) const AHEAD: usize = 4;

/// What a layer knows its weight on a GPU by; the weight leaves the GPU with it.
#[derive(Debug, Default)]
pub(crate) struct Handle {
    known: OnceLock<Known>,
    used: Use,
}

#[derive(Debug)]
struct Known {
    gpu: Arc<Gpu>,
    id: u64,
}

impl Drop for Known {
    fn drop(&mut self) {
        let _turn = self.gpu.course.turn();
        lock(&self.gpu.weights).forget(self.gpu.driver(), self.id);
    }
}

impl Gpu {
    /// Where a weight lies, or will when it has come, for work that is captured; `None` where none is, or nobody has
    /// asked for the weight before.
    fn known_place(&self, id: u64) -> Option<Present> {
        let mut turn = self.course.turn();
        if !turn.is_capturing() || turn.has_failed() {
            return None;
        }
        let (present, comes) = lock(&self.weights).place(id)?;
        if comes {
            turn.needs(self.driver(), id, present.address);
        }
        Some(present)
    }
}

/// Another layer's weight is another one.
impl Clone for Handle {
    fn clone(&self) -> Self {
        Self::of(self.used)
    }
}

/// A weight that is on the GPU until the next but one is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Present {
    pub address: Address,
    pub dtype: DType,
}

impl Handle {
    /// Of a weight with this use.
    pub fn of(used: Use) -> Self {
        Self { known: OnceLock::new(), used }
    }

    /// Brings a weight, which is to be computed with as `element`, to the GPU; `None` after a failure. While work is
    /// captured it is told where the weight will be.
    pub fn bring(&self, gpu: &Arc<Gpu>, weight: &Weight, element: Element) -> Option<Present> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let known = self.known.get_or_init(|| {
            let id = NEXT.fetch_add(1, Ordering::Relaxed);
            Known { gpu: gpu.clone(), id }
        });
        debug_assert!(Arc::ptr_eq(&known.gpu, gpu), "a layer is on one GPU");
        if let Some(there) = gpu.known_place(known.id) {
            return Some(there);
        }
        let asked = Asked { id: known.id, used: self.used, weight, element };
        gpu.attempt_with_room(|driver| lock(&gpu.weights).bring(driver, &asked))
    }
}

/// A weight that a layer asks for.
struct Asked<'a> {
    id: u64,
    used: Use,
    weight: &'a Weight,
    /// What it is computed with as.
    element: Element,
}

#[derive(Debug)]
struct Entry {
    used: Use,
    kept: Kept,
}

/// How a weight is kept on the device.
#[derive(Debug)]
enum Kept {
    /// It stays.
    There { present: Present, bytes: usize },
    /// It is brought to a place.
    Brought(Incoming),
}

/// The weights of a GPU.
#[derive(Debug)]
pub(super) struct Weights {
    plan: WeightPlan,
    arena: Arena,
    entries: HashMap<u64, Entry>,
    /// Bytes of those that stay.
    resident: usize,
    places: Vec<Place>,
    /// Of those that are brought: which place each has.
    spots: HashMap<u64, usize>,
    /// The place that the next one gets that has none.
    turn: usize,
    /// Of those that are brought: which one came after which.
    after: HashMap<u64, u64>,
    last: Option<u64>,
    /// Of those that were asked for last, which may be computed with still: the ones that are brought.
    in_use: [Option<u64>; 2],
    /// How often some came to lie elsewhere while their layers were there.
    moves: u64,
    /// Bytes that were copied to places so far.
    brought: u64,
}

#[derive(Debug)]
struct Place {
    address: Address,
    bytes: usize,
    holds: Option<u64>,
    /// No other place has it.
    number: usize,
}

const _: () = assert!(2 * WeightPlan::PLACES <= POINTS, "two for each place");

impl Place {
    /// The point up to which the copy stream has to come before what is here can be computed with.
    fn copied(&self) -> usize {
        2 * self.number
    }

    /// And the other stream, before it can be filled.
    fn used(&self) -> usize {
        2 * self.number + 1
    }
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            plan: WeightPlan::ALL,
            arena: Arena::default(),
            entries: HashMap::new(),
            resident: 0,
            places: Vec::new(),
            spots: HashMap::new(),
            turn: 0,
            after: HashMap::new(),
            last: None,
            in_use: [None; 2],
            moves: 0,
            brought: 0,
        }
    }
}

impl Weights {
    /// What counts from now on. Weights that are there stay when that fits the plan, and are brought again when it does
    /// not. Others are asked for anew, so that as many as there is room for now come to stay.
    pub fn plan(&mut self, driver: &dyn Driver, plan: WeightPlan) {
        if plan == self.plan {
            return;
        }
        self.plan = plan;
        let is_there = |entry: &Entry| matches!(entry.kept, Kept::There { .. });
        let stays_in_vain = |entry: &Entry| entry.used == Use::Seldom && is_there(entry);
        let in_vain = plan.places > 0 && self.entries.values().any(stays_in_vain);
        if in_vain || self.resident > plan.resident {
            return self.release(driver);
        }
        let known = self.entries.len();
        self.entries.retain(|_, entry| is_there(entry));
        if self.entries.len() < known || !self.places.is_empty() {
            self.moves += 1;
            self.close(driver);
        }
    }

    /// Bytes that were copied to places so far.
    pub fn brought(&self) -> u64 {
        self.brought
    }

    /// How often weights came to lie elsewhere while their layers were there: as long as that is the same, each is
    /// where it was, or comes there.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// Where a weight that was asked for before lies, and whether it is brought there each time; `None` where its place
    /// has to become larger for it.
    fn place(&self, id: u64) -> Option<(Present, bool)> {
        match &self.entries.get(&id)?.kept {
            Kept::There { present, .. } => Some((*present, false)),
            Kept::Brought(weight) => {
                let place = self.places.get(*self.spots.get(&id)?)?;
                let fits = weight.bytes() <= place.bytes;
                fits.then_some((Present { address: place.address, dtype: weight.dtype() }, true))
            }
        }
    }

    /// Nothing more is computed with what was asked for so far.
    pub fn begin(&mut self, driver: &dyn Driver) -> Result<(), GpuError> {
        self.mark_used(driver, [None; 2])?;
        self.in_use = [None; 2];
        Ok(())
    }

    /// Marks in the compute stream that all is asked for that is computed with weights which are in use, but for those
    /// that stay so.
    fn mark_used(&self, driver: &dyn Driver, stay: [Option<u64>; 2]) -> Result<(), GpuError> {
        let leave = |id: &&Option<u64>| id.is_some() && !stay.contains(id);
        for id in self.in_use.iter().filter(leave) {
            for place in self.places.iter().filter(|place| place.holds == *id) {
                driver.mark(Stream::Compute, place.used())?;
            }
        }
        Ok(())
    }

    /// Gives the memory of all weights back. They are brought again when they are used.
    pub fn release(&mut self, driver: &dyn Driver) {
        self.moves += 1;
        for entry in std::mem::take(&mut self.entries).into_values() {
            if let Kept::There { present, bytes } = entry.kept {
                self.arena.give(present.address);
                self.resident -= bytes;
            }
        }
        self.close(driver);
    }

    /// Gives the places back, when no weight is known any more that is brought to them.
    fn close(&mut self, driver: &dyn Driver) {
        if !self.places.is_empty() {
            self.settle(driver);
        }
        self.places.drain(..).for_each(|place| self.arena.give(place.address));
        self.spots.clear();
        self.turn = 0;
        self.after.clear();
        self.last = None;
        self.in_use = [None; 2];
        self.arena.shrink(driver);
    }

    /// Has what is computed from here on wait for the copies that are under way to places: whoever gets
    /// their memory next does not write before they do. A failure has a cause of before, which is told.
    fn settle(&self, driver: &dyn Driver) {
        let _ = driver.follow(Stream::Compute);
    }

    /// Whether a weight of so many bytes that comes for the first time stays.
    fn stays(&self, used: Use, bytes: usize) -> bool {
        let fits = || self.resident + bytes <= self.plan.resident;
        self.plan.places == 0 || used == Use::EachPass && fits()
    }

    fn bring(&mut self, driver: &dyn Driver, asked: &Asked<'_>) -> Result<Present, GpuError> {
        let &Asked { id, used, weight, element } = asked;
        let weight = match self.entries.get(&id).map(|entry| &entry.kept) {
            Some(Kept::There { present, .. }) => {
                let present = *present;
                let in_use = [None, self.in_use[0]];
                self.mark_used(driver, in_use)?;
                self.in_use = in_use;
                // What could not come yet, since its place was in use.
                self.fetch_ahead(driver)?;
                return Ok(present);
            }
            Some(Kept::Brought(weight)) => weight.clone(),
            None => {
                let weight = Incoming::of(weight, element);
                let bytes = weight.bytes();
                if self.stays(used, bytes) {
                    let address = self.arena.take(driver, bytes)?;
                    let uploaded = weight.upload(driver, Stream::Compute, address);
                    // A device that writes down what it is asked for refuses, and is asked again later.
                    uploaded.inspect_err(|_| self.arena.give(address))?;
                    let present = Present { address, dtype: weight.dtype() };
                    self.resident += bytes;
                    self.entries.insert(id, Entry { used, kept: Kept::There { present, bytes } });
                    return Ok(present);
                }
                let kept = Kept::Brought(weight.clone());
                self.entries.insert(id, Entry { used, kept });
                weight
            }
        };
        self.bring_in_turn(driver, id, &weight)
    }

    fn bring_in_turn(
        &mut self,
        driver: &dyn Driver,
        id: u64,
        weight: &Incoming,
    ) -> Result<Present, GpuError> {
        while self.places.len() < self.plan.places {
            self.add_place(driver, self.places.len(), self.plan.place)?;
        }
        let in_use = self.in_use;
        let address = self.have(driver, id, weight)?;
        if let Err(error) = self.fetch_ahead(driver) {
            // The one before is in use while this one is tried again.
            self.in_use = in_use;
            return Err(error);
        }
        Ok(Present { address, dtype: weight.dtype() })
    }

    /// Has what is computed from here on wait for a weight, which is copied to its place if it is not there.
    fn have(
        &mut self,
        driver: &dyn Driver,
        id: u64,
        weight: &Incoming,
    ) -> Result<Address, GpuError> {
        let in_use = [Some(id), self.in_use[0]];
        self.mark_used(driver, in_use)?;
        let at = self.spot(id, in_use);
        if self.places[at].holds != Some(id) {
            self.fill(driver, at, id, weight)?;
        }
        let place = &self.places[at];
        let address = place.address;
        driver.reach(Stream::Compute, place.copied())?;
        // Not before: while this one is tried again, those before stay as they were.
        self.in_use = in_use;
        // One that is used several times in a row is followed by what comes then.
        if let Some(last) = self.last.replace(id).filter(|&last| last != id) {
            self.follows(last, id);
        }
        Ok(address)
    }

    /// Remembers that a weight came after another one. What comes seldom does not take the turn of what comes in each
    /// pass.
    fn follows(&mut self, before: u64, id: u64) {
        let used = |id| self.entries.get(&id).map(|entry| entry.used);
        if (used(before), used(id)) == (Some(Use::EachPass), Some(Use::Seldom)) {
            self.after.entry(before).or_insert(id);
        } else {
            self.after.insert(before, id);
        }
    }

    /// One of those that are brought.
    fn brought_one(&self, id: u64) -> Option<Incoming> {
        match &self.entries.get(&id)?.kept {
            Kept::Brought(weight) => Some(weight.clone()),
            Kept::There { .. } => None,
        }
    }

    /// As [`have`](Self::have), of a weight that was asked for before, for what was captured then; what comes after it
    /// is told.
    pub fn have_again(
        &mut self,
        driver: &dyn Driver,
        id: u64,
    ) -> Result<Vec<(u64, usize)>, GpuError> {
        let Some(weight) = self.brought_one(id) else {
            // A layer that was there when the work was begun.
            let reason = "a weight is not there any more".into();
            return Err(GpuError::Call { call: "bringing a weight again", reason });
        };
        let moves = self.moves;
        self.have(driver, id, &weight)?;
        if self.moves != moves {
            // Places that fit, of weights that are not used together: see `place` and `Turn::needs`.
            let reason = "it came to another place than before".into();
            return Err(GpuError::Call { call: "bringing a weight again", reason });
        }
        Ok(self.ahead())
    }

    /// The place of a weight, which gets one if it has none, and another one where that of its own is in use: one
    /// that the next ones do not have, so that they keep theirs.
    fn spot(&mut self, id: u64, in_use: [Option<u64>; 2]) -> usize {
        let count = self.places.len();
        let is_free = |places: &[Place], place: usize| {
            places[place].holds.is_none_or(|held| held == id || !in_use.contains(&Some(held)))
        };
        let own = self.spots.get(&id).copied().filter(|&own| own < count);
        if let Some(own) = own.filter(|&own| is_free(&self.places, own)) {
            return own;
        }
        let next = std::iter::successors(Some(id), |id| self.after.get(id).copied());
        let next: Vec<_> = next.skip(1).take(AHEAD).filter_map(|id| self.spots.get(&id)).collect();
        let in_turn = || (self.turn..count).chain(0..self.turn.min(count));
        let found = in_turn()
            .find(|place| is_free(&self.places, *place) && !next.contains(&place))
            .or_else(|| in_turn().find(|place| is_free(&self.places, *place)));
        let found = found.expect("one more place than weights in use");
        if self.spots.insert(id, found).is_some() {
            self.moves += 1;
        }
        self.turn = (found + 1) % count;
        found
    }

    /// Of those that come next the ones that are not there, and their places, up to one whose place is in use, or has
    /// to become larger: no place moves but for the weight that is asked for.
    pub fn ahead(&self) -> Vec<(u64, usize)> {
        let mut found = Vec::new();
        // Places of those that are used before the one that is looked at.
        let mut sooner = Vec::with_capacity(AHEAD);
        let Some(mut next) = self.last else { return found };
        for _ in 0..AHEAD {
            let Some(&after) = self.after.get(&next) else { break };
            next = after;
            let Some(&spot) = self.spots.get(&next) else { break };
            let Some(place) = self.places.get(spot) else { break };
            if sooner.contains(&spot) {
                break;
            }
            sooner.push(spot);
            if place.holds == Some(next) {
                continue;
            }
            let Some(weight) = self.brought_one(next) else { break };
            let fits = weight.bytes() <= place.bytes;
            let in_use = place.holds.is_some_and(|held| self.in_use.contains(&Some(held)));
            if in_use || !fits {
                break;
            }
            found.push((next, spot));
        }
        found
    }

    /// Copies what comes next.
    fn fetch_ahead(&mut self, driver: &dyn Driver) -> Result<(), GpuError> {
        let ahead = self.ahead();
        self.fetch(driver, &ahead)
    }

    /// Copies weights to their places, each once what was asked for with the one that lies there is done.
    pub fn fetch(&mut self, driver: &dyn Driver, ahead: &[(u64, usize)]) -> Result<(), GpuError> {
        for &(id, place) in ahead {
            let Some(weight) = self.brought_one(id) else { break };
            self.fill(driver, place, id, &weight)?;
        }
        Ok(())
    }

    /// Copies a weight to a place, once what was asked for with the one that lies there is done: that was marked.
    fn fill(
        &mut self,
        driver: &dyn Driver,
        at: usize,
        id: u64,
        weight: &Incoming,
    ) -> Result<(), GpuError> {
        self.places[at].holds = None;
        if weight.bytes() > self.places[at].bytes {
            self.widen(driver, at, weight.bytes())?;
        }
        let place = &mut self.places[at];
        driver.reach(Stream::Copy, place.used())?;
        weight.upload(driver, Stream::Copy, place.address)?;
        self.brought += weight.bytes() as u64;
        driver.mark(Stream::Copy, place.copied())?;
        place.holds = Some(id);
        Ok(())
    }

    /// Larger memory for a place that a weight does not fit: a file may have some weights in more bits than
    /// most, which a plan made from its size alone does not know.
    fn widen(&mut self, driver: &dyn Driver, at: usize, bytes: usize) -> Result<(), GpuError> {
        self.settle(driver);
        self.moves += 1;
        let old = self.places.remove(at);
        self.arena.give(old.address);
        // Not both at once: the larger one may need the memory of the other.
        self.arena.shrink(driver);
        // What is left of the places is completed when the next weight is brought.
        self.add_place(driver, at, bytes).inspect_err(|_| self.turn = 0)
    }

    /// A place whose memory may still be computed with by whoever had it before.
    fn add_place(&mut self, driver: &dyn Driver, at: usize, bytes: usize) -> Result<(), GpuError> {
        let address = self.arena.take(driver, bytes)?;
        let is_free = |number: &usize| self.places.iter().all(|place| place.number != *number);
        let number = (0..=self.places.len()).find(is_free).unwrap_or_default();
        let place = Place { address, bytes, holds: None, number };
        let marked = driver.mark(Stream::Compute, place.used());
        marked.inspect_err(|_| self.arena.give(address))?;
        self.places.insert(at, place);
        Ok(())
    }

    fn forget(&mut self, driver: &dyn Driver, id: u64) {
        self.after.retain(|&before, after| before != id && *after != id);
        self.last = self.last.filter(|&last| last != id);
        self.spots.remove(&id);
        if let Some(Kept::There { present, bytes }) = self.entries.remove(&id).map(|e| e.kept) {
            self.arena.give(present.address);
            self.resident -= bytes;
            // Activations, which are the memory's other users, have none of this one's.
            self.arena.shrink(driver);
        }
        for place in self.places.iter_mut().filter(|place| place.holds == Some(id)) {
            // It may be computed with still. A failure has a cause of before, which is told.
            let _ = driver.mark(Stream::Compute, place.used());
            place.holds = None;
        }
        if self.entries.is_empty() {
            self.close(driver);
        }
    }

    /// Memory for what a network keeps besides.
    pub fn take(&mut self, driver: &dyn Driver, bytes: usize) -> Result<Address, GpuError> {
        self.arena.take(driver, bytes)
    }

    /// Gives such memory back.
    pub fn give(&mut self, address: Address) {
        self.arena.give(address);
    }

    /// Gives memory back that nothing is in.
    pub fn shrink(&mut self, driver: &dyn Driver) {
        self.arena.shrink(driver);
    }

    /// Bytes taken.
    pub fn bytes(&self) -> usize {
        self.arena.bytes().1
    }
}
