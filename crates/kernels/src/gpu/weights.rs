//! Weights on a GPU: brought once at their first use, or, where they do not fit, over and over.
//!
//! A model uses its weights in the same order in every forward. For a circle that is longer than the
//! memory, the best that can be done is to keep as many as fit for good and to bring the others each
//! time (any rule by last use would miss every one of them). Those that are brought have a few places
//! in turn; while one is computed with, those that followed it the last time are copied.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::arena::Arena;
use super::{Address, Driver, Element, Gpu, GpuError, Stream, lock};
use crate::narrow::f32_to_bf16;
use crate::{DType, Weight};

/// How the weights of a model share a GPU's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightPlan {
    /// Bytes of weights that stay.
    pub resident: usize,
    /// Places for those that are brought in turn; 0 when all stay.
    pub places: usize,
    /// Bytes of such a place: the largest weight's. One that is larger all the same gets a place as large as
    /// itself.
    pub place: usize,
}

impl WeightPlan {
    /// Everything stays.
    pub const ALL: Self = Self { resident: usize::MAX, places: 0, place: 0 };

    /// Places when not all stay: two that are computed with, as a feed-forward does, and two that are
    /// being filled.
    pub const PLACES: usize = 4;

    /// The plan for weights of `total` bytes, the largest of `largest`, in `budget` bytes; `None` when
    /// not even the places fit.
    pub fn new(total: usize, largest: usize, budget: usize) -> Option<Self> {
        if total <= budget {
            return Some(Self { resident: total, places: 0, place: 0 });
        }
        let resident = budget.checked_sub(Self::PLACES * largest)?;
        Some(Self { resident, places: Self::PLACES, place: largest })
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.resident.saturating_add(self.places * self.place)
    }
}

/// What a layer knows its weight on a GPU by; the weight leaves the GPU with it.
#[derive(Debug, Default)]
pub(crate) struct Handle(OnceLock<Known>);

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

/// Another layer's weight is another one.
impl Clone for Handle {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// A weight that is on the GPU until the next but one is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Present {
    pub address: Address,
    pub dtype: DType,
}

impl Handle {
    /// Brings a weight, which is to be computed with as `element`, to the GPU; `None` after a failure.
    pub fn bring(&self, gpu: &Arc<Gpu>, weight: &Weight, element: Element) -> Option<Present> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let known = self.0.get_or_init(|| {
            let id = NEXT.fetch_add(1, Ordering::Relaxed);
            Known { gpu: gpu.clone(), id }
        });
        debug_assert!(Arc::ptr_eq(&known.gpu, gpu), "a layer is on one GPU");
        gpu.attempt_with_room(|driver| lock(&gpu.weights).bring(driver, known.id, weight, element))
    }
}

#[derive(Debug)]
enum Entry {
    Resident { present: Present, bytes: usize },
    Brought(Weight),
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
    /// The place that is filled next.
    turn: usize,
    /// Of those that are brought: which one came after which.
    after: HashMap<u64, u64>,
    last: Option<u64>,
    /// How often those that stay were given back.
    released: u64,
    /// Bytes that were copied to places so far.
    brought: u64,
}

#[derive(Debug)]
struct Place {
    address: Address,
    bytes: usize,
    holds: Option<u64>,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            plan: WeightPlan::ALL,
            arena: Arena::default(),
            entries: HashMap::new(),
            resident: 0,
            places: Vec::new(),
            turn: 0,
            after: HashMap::new(),
            last: None,
            released: 0,
            brought: 0,
        }
    }
}

impl Weights {
    /// What counts from now on. Weights that were brought stay when that fits the plan, and are
    /// brought again when it does not.
    pub fn plan(&mut self, driver: &dyn Driver, plan: WeightPlan) {
        // Without places of their own, those that are brought in turn go on with all that are there.
        let brought = self.are_brought();
        let fits = self.resident <= plan.resident
            && self.places.iter().all(|place| place.bytes >= plan.place)
            && (!brought || plan.places > 0 || self.places.len() == WeightPlan::PLACES);
        self.plan = plan;
        if !fits {
            self.release(driver);
        }
    }

    /// Whether some of those that are known are brought for each pass.
    pub fn are_brought(&self) -> bool {
        self.entries.values().any(|entry| matches!(entry, Entry::Brought(_)))
    }

    /// Bytes that were copied to places in turn so far.
    pub fn brought(&self) -> u64 {
        self.brought
    }

    /// How often weights that stay were given back while their layers were there: as long as that is the
    /// same, each is where it was.
    pub fn released(&self) -> u64 {
        self.released
    }

    /// Gives the memory of all weights back. They are brought again when they are used.
    pub fn release(&mut self, driver: &dyn Driver) {
        self.released += 1;
        for entry in std::mem::take(&mut self.entries).into_values() {
            if let Entry::Resident { present, bytes } = entry {
                self.arena.give(present.address);
                self.resident -= bytes;
            }
        }
        self.close(driver);
    }

    /// Gives everything back, when no weight is known any more.
    fn close(&mut self, driver: &dyn Driver) {
        if !self.places.is_empty() {
            self.settle(driver);
        }
        self.places.drain(..).for_each(|place| self.arena.give(place.address));
        self.turn = 0;
        self.after.clear();
        self.last = None;
        self.arena.shrink(driver);
    }

    /// Has what is computed from here on wait for the copies that are under way to places: whoever gets
    /// their memory next does not write before they do. A failure has a cause of before, which is told.
    fn settle(&self, driver: &dyn Driver) {
        let _ = driver.follow(Stream::Compute);
    }

    fn bring(
        &mut self,
        driver: &dyn Driver,
        id: u64,
        weight: &Weight,
        element: Element,
    ) -> Result<Present, GpuError> {
        if let Some(Entry::Resident { present, .. }) = self.entries.get(&id) {
            return Ok(*present);
        }
        if !self.entries.contains_key(&id) {
            let narrow = element == Element::Bf16
                && weight.is_unscaled()
                && matches!(weight.dtype(), DType::F32 | DType::F16);
            let bytes = if narrow { 2 * weight.len() } else { weight.bytes().len() };
            if self.plan.places == 0 || self.resident + bytes <= self.plan.resident {
                let address = self.arena.take(driver, bytes)?;
                let (uploaded, dtype) = match narrow {
                    true => {
                        (driver.upload(Stream::Compute, address, &narrowed(weight)), DType::BF16)
                    }
                    false => {
                        (driver.upload(Stream::Compute, address, weight.bytes()), weight.dtype())
                    }
                };
                // A device that writes down what it is asked for refuses, and is asked again later.
                uploaded.inspect_err(|_| self.arena.give(address))?;
                let present = Present { address, dtype };
                self.resident += bytes;
                self.entries.insert(id, Entry::Resident { present, bytes });
                return Ok(present);
            }
            self.entries.insert(id, Entry::Brought(weight.clone()));
        }
        self.bring_in_turn(driver, id, weight)
    }

    fn bring_in_turn(
        &mut self,
        driver: &dyn Driver,
        id: u64,
        weight: &Weight,
    ) -> Result<Present, GpuError> {
        while self.places.len() < self.plan.places {
            let bytes = self.plan.place;
            let address = self.arena.take(driver, bytes)?;
            self.places.push(Place { address, bytes, holds: None });
        }
        let last = self.last;
        // One that is used several times in a row is followed by what comes then.
        if let Some(last) = last.filter(|&last| last != id) {
            self.after.insert(last, id);
        }
        let kept = [Some(id), last];
        let place = match self.places.iter().position(|place| place.holds == Some(id)) {
            Some(place) => place,
            None => self.fill(driver, id, weight, kept)?,
        };
        let address = self.places[place].address;
        // Not before: the one before stays while this one is tried again.
        self.last = Some(id);
        // What is computed from here on waits for the copies so far, of which this is one.
        driver.follow(Stream::Compute)?;
        let mut next = id;
        for _ in kept.len()..self.places.len() {
            let Some(&after) = self.after.get(&next) else { break };
            next = after;
            if self.places.iter().any(|place| place.holds == Some(next)) {
                continue;
            }
            let Some(Entry::Brought(weight)) = self.entries.get(&next) else { break };
            let weight = weight.clone();
            self.fill(driver, next, &weight, kept)?;
        }
        Ok(Present { address, dtype: weight.dtype() })
    }

    /// Copies a weight to the place whose turn it is, once what was asked for with it is done; those
    /// of `kept` may still be asked for and stay.
    fn fill(
        &mut self,
        driver: &dyn Driver,
        id: u64,
        weight: &Weight,
        kept: [Option<u64>; 2],
    ) -> Result<usize, GpuError> {
        let count = self.places.len();
        while self.places[self.turn].holds.is_some_and(|held| kept.contains(&Some(held))) {
            self.turn = (self.turn + 1) % count;
        }
        let turn = self.turn;
        self.turn = (turn + 1) % count;
        self.places[turn].holds = None;
        if weight.bytes().len() > self.places[turn].bytes {
            self.widen(driver, turn, weight.bytes().len())?;
        }
        let place = &mut self.places[turn];
        driver.follow(Stream::Copy)?;
        driver.upload(Stream::Copy, place.address, weight.bytes())?;
        self.brought += weight.bytes().len() as u64;
        place.holds = Some(id);
        Ok(turn)
    }

    /// Larger memory for a place that a weight does not fit: a file may have some weights in more bits than
    /// most, which a plan made from its size alone does not know.
    fn widen(&mut self, driver: &dyn Driver, turn: usize, bytes: usize) -> Result<(), GpuError> {
        self.settle(driver);
        let old = self.places.remove(turn);
        self.arena.give(old.address);
        // Not both at once: the larger one may need the memory of the other.
        self.arena.shrink(driver);
        match self.arena.take(driver, bytes) {
            Ok(address) => {
                self.places.insert(turn, Place { address, bytes, holds: None });
                Ok(())
            }
            Err(error) => {
                // What is left of the places is completed when the next weight is brought.
                self.turn = 0;
                Err(error)
            }
        }
    }

    fn forget(&mut self, driver: &dyn Driver, id: u64) {
        self.after.retain(|&before, after| before != id && *after != id);
        self.last = self.last.filter(|&last| last != id);
        if let Some(Entry::Resident { present, bytes }) = self.entries.remove(&id) {
            self.arena.give(present.address);
            self.resident -= bytes;
            // Activations, which are the memory's other users, have none of this one's.
            self.arena.shrink(driver);
        }
        for place in self.places.iter_mut().filter(|place| place.holds == Some(id)) {
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

/// Values that a thread rounds at least, and threads at most: they read a mapped file side by side.
const SHARE_VALUES: usize = 1 << 20;
const SHARES: usize = 4;

/// A weight's values as bf16. By plain threads, as in `cuda/staging.rs`: locks are held meanwhile, which other work
/// of the operations' pool may want.
fn narrowed(weight: &Weight) -> Vec<u8> {
    let mut bytes = vec![0; 2 * weight.len()];
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let shares = (weight.len() / SHARE_VALUES).clamp(1, SHARES.min(cores));
    let values = weight.len().div_ceil(shares).max(1);
    std::thread::scope(|scope| {
        let mut parts = bytes.chunks_mut(2 * values).enumerate();
        let first = parts.next();
        for (n, part) in parts {
            scope.spawn(move || narrow(weight, n * values, part));
        }
        if let Some((_, part)) = first {
            narrow(weight, 0, part);
        }
    });
    bytes
}

/// Values from `first` on as bf16.
fn narrow(weight: &Weight, first: usize, to: &mut [u8]) {
    let mut values = [0.0; 4096];
    for (n, to) in to.chunks_mut(2 * values.len()).enumerate() {
        let here = &mut values[..to.len() / 2];
        weight.values_to_f32(first + n * 4096, here);
        for (to, value) in to.as_chunks_mut::<2>().0.iter_mut().zip(here) {
            *to = f32_to_bf16(*value).to_le_bytes();
        }
    }
}
