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

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::{Address, Array, Captured, Driver, Element, Gpu, Note, lock};
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
        let shapes: Vec<_> = inputs.iter().map(|input| input.shape().to_vec()).collect();
        // Not held while the work is done, in which a thread may take up other work.
        let Some(mut entry) = self.take(&key, &shapes) else {
            let made = body(inputs)?;
            self.put(Entry { key, shapes, graph: None, in_vain: 0 });
            return Ok(made);
        };
        let made = match entry.graph.take() {
            Some(graph) => graph.replay(gpu, inputs).map(|made| {
                entry.in_vain = 0;
                (graph, made)
            }),
            None if entry.in_vain < IN_VAIN => {
                entry.in_vain += 1;
                gpu.capture(inputs, &mut body)
            }
            None => None,
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
    captured: Captured,
    /// Where it reads its inputs, and their bytes.
    inputs: Vec<(Address, usize)>,
    output: Output,
    /// All places in the arena that it reads or writes, inputs and output among them.
    used: BTreeMap<Address, usize>,
    /// As the arena and the weights told when it was captured.
    shrunk: u64,
    released: u64,
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
        let start = |driver: &dyn Driver| {
            let weights = lock(&gpu.weights);
            let mut arena = lock(&gpu.arena);
            let sound = weights.released() == self.released
                && arena.shrunk() == self.shrunk
                && self.used.iter().all(|(&address, &bytes)| arena.is_free(address, bytes));
            if !sound {
                return Ok(false);
            }
            let copied = self
                .inputs
                .iter()
                .zip(&from)
                .try_for_each(|(&(to, bytes), from)| driver.copy(to, from.address(), bytes));
            if let Err(error) = copied.and_then(|()| driver.replay(self.captured)) {
                // Where the device itself has failed, the plain way will say so.
                lock(&gpu.tally).refused = Some(error.to_string());
                return Ok(false);
            }
            arena.take_at(*address, len * element.bytes());
            Ok(true)
        };
        gpu.attempt(start).filter(|started| *started)?;
        lock(&gpu.tally).replayed += 1;
        let (gpu, element, address) = (gpu.clone(), *element, *address);
        Some(Tensor::from_array(shape, Array { gpu, element, len, address, kept: false }))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // Not while something else is captured.
        let _turn = self.gpu.course.turn();
        self.gpu.driver().discard(self.captured);
    }
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

    /// Whether work may be captured: not while each operation is waited for, nor where weights are brought
    /// for each pass, by another stream and to other places.
    fn captures(&self) -> bool {
        self.replays.load(Ordering::Relaxed)
            && !spans::are_measured()
            && !lock(&self.weights).are_brought()
    }

    /// A graph of what `body` makes of `inputs`, and what it made; `None` where that cannot be, and nothing
    /// was done then.
    fn capture<E>(
        self: &Arc<Self>,
        inputs: &[&Tensor],
        body: &mut impl FnMut(&[&Tensor]) -> Result<Tensor, E>,
    ) -> Option<(Graph, Tensor)> {
        let mut capture = Capture::begin(self)?;
        // Done now, before the device writes down what it is asked for.
        let copies: Vec<_> = inputs.iter().map(|&input| input.clone()).collect();
        self.attempt(|driver| driver.begin_capture())?;
        capture.writes = true;
        let made = body(&copies.iter().collect::<Vec<_>>());
        // What the body took of the arena is no graph's.
        let free = |driver: &dyn Driver| driver.memory().map_or(0, |(free, _)| free);
        let before = free(self.driver());
        let (captured, used) = capture.end()?;
        let place = |tensor: &Tensor| tensor.array().map(|a| (a.address(), a.bytes()));
        let inputs = copies.iter().map(place).collect::<Option<_>>();
        let (Ok(made), Some(inputs)) = (made, inputs) else {
            self.driver.discard(captured);
            return None;
        };
        let Some(array) = made.array() else {
            self.driver.discard(captured);
            return None;
        };
        let output = Output {
            shape: made.shape().to_vec(),
            element: array.element(),
            address: array.address(),
        };
        let graph = Graph {
            gpu: self.clone(),
            captured,
            inputs,
            output,
            used,
            shrunk: lock(&self.arena).shrunk(),
            released: lock(&self.weights).released(),
        };
        let start = |driver: &dyn Driver| {
            let started = driver.replay(captured);
            Ok(started.map_err(|error| lock(&self.tally).refused = Some(error.to_string())))
        };
        self.attempt(start)?.ok()?;
        let taken = before.saturating_sub(free(self.driver()));
        let mut tally = lock(&self.tally);
        (tally.captured, tally.bytes) = (tally.captured + 1, tally.bytes + taken);
        drop(tally);
        Some((graph, made))
    }
}

/// A capture under way. It ends with this, whatever happens.
struct Capture<'a> {
    gpu: &'a Gpu,
    is_open: bool,
    /// Whether the device writes down what it is asked for.
    writes: bool,
}

impl<'a> Capture<'a> {
    fn begin(gpu: &'a Gpu) -> Option<Self> {
        gpu.course.begin_capture().then(|| {
            lock(&gpu.arena).watch();
            Self { gpu, is_open: true, writes: false }
        })
    }

    /// What was captured, and the places that it uses; `None` where it is of no use, which is noted.
    fn end(&mut self) -> Option<(Captured, BTreeMap<Address, usize>)> {
        if !std::mem::replace(&mut self.is_open, false) {
            return None;
        }
        let captured = self.writes.then(|| self.gpu.driver.end_capture());
        let used = lock(&self.gpu.arena).watched();
        let refused = self.gpu.course.end_capture();
        let why = match (captured, refused) {
            (Some(Ok(captured)), Ok(())) => return Some((captured, used)),
            (Some(Ok(captured)), Err(why)) => {
                self.gpu.driver.discard(captured);
                Some(why)
            }
            // What was refused is the cause of the other.
            (Some(Err(why)), refused) => Some(refused.err().unwrap_or(why)),
            (None, refused) => refused.err(),
        };
        if let Some(why) = why {
            lock(&self.gpu.tally).refused = Some(why.to_string());
        }
        None
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if let Some((captured, _)) = self.end() {
            self.gpu.driver.discard(captured);
        }
    }
}
