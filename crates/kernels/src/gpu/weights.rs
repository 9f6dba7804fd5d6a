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
    /// Bytes of such a place: the largest weight's.
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
        gpu.attempt(|driver| lock(&gpu.weights).bring(driver, known.id, weight, element))
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
}

#[derive(Debug)]
struct Place {
    address: Address,
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
        }
    }
}

impl Weights {
    /// What counts from now on. Weights that were brought stay when that fits the plan, and are
    /// brought again when it does not.
    pub fn plan(&mut self, driver: &dyn Driver, plan: WeightPlan) {
        let fits = self.resident <= plan.resident
            && (self.places.is_empty() || self.plan.place >= plan.place);
        self.plan = plan;
        if !fits {
            self.release(driver);
        }
    }

    /// Gives the memory of all weights back. They are brought again when they are used.
    pub fn release(&mut self, driver: &dyn Driver) {
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
        self.places.drain(..).for_each(|place| self.arena.give(place.address));
        self.turn = 0;
        self.after.clear();
        self.last = None;
        self.arena.shrink(driver);
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
                let dtype = if narrow {
                    driver.upload(Stream::Compute, address, &narrowed(weight))?;
                    DType::BF16
                } else {
                    driver.upload(Stream::Compute, address, weight.bytes())?;
                    weight.dtype()
                };
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
            let address = self.arena.take(driver, self.plan.place)?;
            self.places.push(Place { address, holds: None });
        }
        let last = self.last.replace(id);
        if let Some(last) = last {
            self.after.insert(last, id);
        }
        let kept = [Some(id), last];
        let place = match self.places.iter().position(|place| place.holds == Some(id)) {
            Some(place) => place,
            None => self.fill(driver, id, weight, kept)?,
        };
        let address = self.places[place].address;
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
        let place = &mut self.places[turn];
        place.holds = None;
        driver.follow(Stream::Copy)?;
        driver.upload(Stream::Copy, place.address, weight.bytes())?;
        place.holds = Some(id);
        Ok(turn)
    }

    fn forget(&mut self, driver: &dyn Driver, id: u64) {
        self.after.retain(|&before, after| before != id && *after != id);
        self.last = self.last.filter(|&last| last != id);
        if let Some(Entry::Resident { present, bytes }) = self.entries.remove(&id) {
            self.arena.give(present.address);
            self.resident -= bytes;
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

    /// Bytes taken.
    pub fn bytes(&self) -> usize {
        self.arena.bytes().1
    }
}

/// A weight's values as bf16.
fn narrowed(weight: &Weight) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 * weight.len());
    let mut values = vec![0.0; weight.len().min(1 << 16)];
    let mut at = 0;
    while at < weight.len() {
        let here = values.len().min(weight.len() - at);
        weight.values_to_f32(at, &mut values[..here]);
        bytes.extend(values[..here].iter().flat_map(|v| f32_to_bf16(*v).to_le_bytes()));
        at += here;
    }
    bytes
}
