//! Work that recurs, started as one: a graph of what a device was asked for, with the same arguments each
//! time, so that the host has next to nothing to do for it.
//!
//! A graph is captured from work that was done before, which has compiled its kernels, brought its weights
//! and had the vendors' libraries choose their ways. What fails or would wait while it is captured makes the
//! capture useless, and the work is done in the plain way, as it was before. What changes from one time to the next
//! is given as inputs, for which a graph has places of its own.
//!
//! A graph has no memory but that of the arena: its activations lie where they lay when it was captured.
//! Between two replays whatever else is computed may have that memory. A replay makes sure that it is there
//! and nothing lies in it, and that weights are where they were; else the graph is of no use any more.
//!
//! Weights that are brought for each pass come to the same places each time. Work that uses them is captured in
//! parts, each of which begins where a weight has to be waited for. Between two parts the compute stream is told to
//! wait for the copy stream, as in the plain way, and while a part is done the next weights are copied: no graph has
//! copies from the host or waits for another stream in it. Nothing is done while parts are captured, so that either all
//! of them are of use, or the work is done plainly from its beginning.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::course::{Alone, Part};
use super::{Address, Array, Driver, Element, Gpu, Note, lock};
use crate::{Device, Tensor, spans};

/// What tells one piece of work from others: everything that shapes its launches beside the lengths of its
/// inputs, and all that it reads where it lies.
pub trait Recurring: PartialEq {
    /// Whether what it reads is still there.
    fn is_there(&self) -> bool;
}

/// How often a device's work was captured and replayed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Graphs made.
    pub captured: usize,
    /// Bytes of the device's memory that went when they were made and first started, those of graphs that are
    /// gone included. Nobody asks who else took some meanwhile.
    pub bytes: usize,
    /// Times that one did the work.
    pub replayed: usize,
    /// Why some work was not captured, or could not be replayed, the last time.
    pub refused: Option<String>,
}

/// Graphs of one network at most; the one that was not used for the longest time goes.
pub const MOST_GRAPHS: usize = 8;

/// The graphs of one network's recurring work, at most [`MOST_GRAPHS`].
#[derive(Debug)]
pub struct Graphs<K>(Mutex<Vec<Entry<K>>>);

#[derive(Debug)]
struct Entry<K> {
    key: K,
    /// Of the inputs.
    shapes: Vec<Vec<usize>>,
    graph: Option<Graph>,
    /// Captures since the last replay.
    in_vain: usize,
}

/// Captures without a replay after which work is left plain.
const IN_VAIN: usize = 3;

impl<K> Default for Graphs<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// Another network's work is other work.
impl<K> Clone for Graphs<K> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<K: Recurring> Graphs<K> {
    /// What `body` makes of `inputs` on a device, all of them there: plainly the first time, captured the
    /// second, and replayed from then on. `body` is called anew where that fails, and has to give the same.
    ///
    /// # Errors
    /// Those of `body`.
    pub fn run<E>(
        &self,
        device: &Device,
        key: K,
        inputs: &[&Tensor],
        mut body: impl FnMut(&[&Tensor]) -> Result<Tensor, E>,
    ) -> Result<Tensor, E> {
        let Some(gpu) = device.gpu().filter(|gpu| gpu.captures()) else { return body(inputs) };
        let _ = gpu.attempt(|driver| lock(&gpu.weights).begin(driver));
        let shapes: Vec<_> = inputs.iter().map(|input| input.shape().to_vec()).collect();
        // Not held while the work is done, in which a thread may take up other work.
        let Some(mut entry) = self.take(&key, &shapes) else {
            let made = body(inputs)?;
            self.put(Entry { key, shapes, graph: None, in_vain: 0 });
            return Ok(made);
        };
        // While weights have to come to other places than before, nothing can be captured.
        let settled = entry.graph.as_ref().is_none_or(|graph| graph.has_weights(gpu));
        let replayed = entry.graph.take().and_then(|graph| {
            let made = graph.replay(gpu, inputs)?;
            entry.in_vain = 0;
            Some((graph, made))
        });
        let made = match replayed {
            None if settled && entry.in_vain < IN_VAIN => {
                entry.in_vain += 1;
                gpu.capture(inputs, &mut body)
            }
            replayed => replayed,
        };
        let made = match made {
            Some((graph, made)) => {
                entry.graph = Some(graph);
                made
            }
            None => body(inputs)?,
        };
        self.put(entry);
        Ok(made)
    }

    /// Takes out what is known of this work.
    fn take(&self, key: &K, shapes: &[Vec<usize>]) -> Option<Entry<K>> {
        let mut entries = lock(&self.0);
        entries.retain(|entry| entry.key.is_there());
        let found = entries.iter().position(|e| e.key == *key && e.shapes == shapes)?;
        Some(entries.remove(found))
    }

    /// Puts it back as what was used last.
    fn put(&self, entry: Entry<K>) {
        let mut entries = lock(&self.0);
        if entries.len() == MOST_GRAPHS {
            entries.remove(0);
        }
        entries.push(entry);
    }
}

/// Captured work.
#[derive(Debug)]
struct Graph {
    gpu: Arc<Gpu>,
    /// One behind the other: where weights are brought each time, a new one begins with each that has to be waited
    /// for.
    parts: Vec<Part>,
    /// Where it reads its inputs, and their bytes.
    inputs: Vec<(Address, usize)>,
    output: Output,
    /// All places in the arena that it reads or writes, inputs and output among them.
    used: BTreeMap<Address, usize>,
    /// As the arena and the weights told when it was captured.
    shrunk: u64,
    moves: u64,
}

/// What it leaves.
#[derive(Debug)]
struct Output {
    shape: Vec<usize>,
    element: Element,
    address: Address,
}

impl Graph {
    /// Does the work for other inputs of the same shapes; `None` where that cannot be.
    fn replay(&self, gpu: &Arc<Gpu>, inputs: &[&Tensor]) -> Option<Tensor> {
        let from: Vec<_> = inputs.iter().map(|input| input.array()).collect::<Option<_>>()?;
        let fits = from.iter().zip(&self.inputs).all(|(from, (_, bytes))| from.bytes() == *bytes);
        if !fits || !Arc::ptr_eq(gpu, &self.gpu) {
            return None;
        }
        let Output { shape, element, address } = &self.output;
        let len = shape.iter().product::<usize>();
        let _alone = gpu.course.alone()?;
        let is_sound = self.has_weights(gpu) && {
            let arena = lock(&gpu.arena);
            arena.shrunk() == self.shrunk
                && self.used.iter().all(|(&address, &bytes)| arena.is_free(address, bytes))
        };
        if !is_sound {
            return None;
        }
        gpu.attempt(|driver| {
            let mut both = self.inputs.iter().zip(&from);
            both.try_for_each(|(&(to, bytes), from)| driver.copy(to, from.address(), bytes))
        })?;
        start(gpu, &self.parts)?;
        lock(&gpu.arena).take_at(*address, len * element.bytes());
        lock(&gpu.tally).replayed += 1;
        let (gpu, element, address) = (gpu.clone(), *element, *address);
        Some(Tensor::from_array(shape, Array { gpu, element, len, address, kept: false }))
    }

    /// Whether all weights are where they were, or come there.
    fn has_weights(&self, gpu: &Gpu) -> bool {
        lock(&gpu.weights).moves() == self.moves
    }
}

/// Starts captured work, for whoever has the device alone; `None` where nothing of it was done, which is noted, or the
/// device has failed.
fn start(gpu: &Gpu, parts: &[Part]) -> Option<()> {
    let brings = parts.iter().any(|part| !part.weights.is_empty());
    for (n, part) in parts.iter().enumerate() {
        gpu.attempt(|driver| {
            let mut weights = lock(&gpu.weights);
            let mut ahead = Vec::new();
            if n == 0 && brings {
                weights.begin(driver)?;
                ahead = weights.ahead();
            }
            for &weight in &part.weights {
                ahead = weights.have_again(driver, weight)?;
            }
            match driver.replay(part.captured) {
                Ok(()) => weights.fetch(driver, &ahead).map(|()| true),
                // Where the device itself has failed, the plain way will say so.
                Err(error) if n == 0 => {
                    lock(&gpu.tally).refused = Some(error.to_string());
                    Ok(false)
                }
                Err(error) => Err(error),
            }
        })
        .filter(|started| *started)?;
    }
    Some(())
}

impl Drop for Graph {
    fn drop(&mut self) {
        // Not while something else is captured.
        let _turn = self.gpu.course.turn();
        discard(self.gpu.driver(), &self.parts);
    }
}

fn discard(driver: &dyn Driver, parts: &[Part]) {
    parts.iter().for_each(|part| driver.discard(part.captured));
}

impl Gpu {
    /// Says whether work that recurs is replayed as a graph, where the device can; it is at first.
    pub fn set_replays(&self, replays: bool) {
        self.replays.store(replays, Ordering::Relaxed);
    }

    /// How often work was captured and replayed so far.
    pub fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// What there is to say of the device so far: of the vendors' libraries, and of replayed work.
    pub fn notes(&self) -> Vec<Note> {
        let mut notes = self.driver.notes();
        let Tally { captured, bytes, replayed, refused } = self.tally();
        let plain = |text| Note { text, warning: false };
        if captured > 0 {
            notes.push(plain(format!(
                "passes as CUDA graphs: {captured} captured, which took {bytes} bytes, {replayed} times replayed"
            )));
        }
        notes.extend(refused.map(|why| plain(format!("a pass without a CUDA graph: {why}"))));
        notes
    }

    /// Whether work may be captured: not while each operation is waited for.
    fn captures(&self) -> bool {
        self.replays.load(Ordering::Relaxed) && !spans::are_measured()
    }

    /// A graph of what `body` makes of `inputs`, and what it made; `None` where that cannot be, and nothing
    /// was done then.
    fn capture<E>(
        self: &Arc<Self>,
        inputs: &[&Tensor],
        body: &mut impl FnMut(&[&Tensor]) -> Result<Tensor, E>,
    ) -> Option<(Graph, Tensor)> {
        let alone = self.course.alone()?;
        let watch = Watch::begin(self);
        let capture = Capture::begin(self, &alone);
        // Done now, before the device writes down what it is asked for.
        let copies: Vec<_> = inputs.iter().map(|&input| input.clone()).collect();
        // What the body takes for the arena is no graph's.
        let free = || {
            let (slabs, _) = lock(&self.arena).bytes();
            self.driver.memory().map_or(0, |(free, _)| free + slabs)
        };
        let before = free();
        alone.write(self.driver());
        if self.course.turn().has_failed() {
            // It says so when it ends.
            return None;
        }
        let made = body(&copies.iter().collect::<Vec<_>>());
        let parts = capture.end()?;
        let used = watch.end();
        let place = |tensor: &Tensor| tensor.array().map(|a| (a.address(), a.bytes()));
        let inputs = copies.iter().map(place).collect::<Option<Vec<_>>>();
        let array = made.as_ref().ok().and_then(Tensor::array);
        let (Some(inputs), Some(array)) = (inputs, array) else {
            discard(self.driver(), &parts);
            return None;
        };
        let output = Output {
            shape: made.as_ref().map_or(Vec::new(), |made| made.shape().to_vec()),
            element: array.element(),
            address: array.address(),
        };
        let graph = Graph {
            gpu: self.clone(),
            parts,
            inputs,
            output,
            used,
            shrunk: lock(&self.arena).shrunk(),
            moves: lock(&self.weights).moves(),
        };
        let started = start(self, &graph.parts);
        drop(alone);
        started?;
        let taken = before.saturating_sub(free());
        let mut tally = lock(&self.tally);
        (tally.captured, tally.bytes) = (tally.captured + 1, tally.bytes + taken);
        drop(tally);
        made.ok().map(|made| (graph, made))
    }
}

/// A look at which memory of the arena is used. It ends with this, whatever happens.
struct Watch<'a>(&'a Gpu);

impl<'a> Watch<'a> {
    fn begin(gpu: &'a Gpu) -> Self {
        lock(&gpu.arena).watch();
        Self(gpu)
    }

    fn end(self) -> BTreeMap<Address, usize> {
        lock(&self.0.arena).watched()
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        lock(&self.0.arena).watched();
    }
}

/// A capture under way. It ends with this, whatever happens.
struct Capture<'a> {
    gpu: &'a Gpu,
    alone: Option<&'a Alone<'a>>,
}

impl<'a> Capture<'a> {
    fn begin(gpu: &'a Gpu, alone: &'a Alone<'a>) -> Self {
        alone.begin_capture();
        Self { gpu, alone: Some(alone) }
    }

    /// What was captured; `None` where it is of no use, which is noted.
    fn end(mut self) -> Option<Vec<Part>> {
        self.alone.take().and_then(|alone| self.ended(alone))
    }

    fn ended(&self, alone: &Alone<'_>) -> Option<Vec<Part>> {
        let (parts, refused) = alone.end_capture(self.gpu.driver());
        let Some(why) = refused else { return Some(parts) };
        discard(self.gpu.driver(), &parts);
        lock(&self.gpu.tally).refused = Some(why.to_string());
        None
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        let parts = self.alone.take().and_then(|alone| self.ended(alone));
        discard(self.gpu.driver(), &parts.unwrap_or_default());
    }
}
