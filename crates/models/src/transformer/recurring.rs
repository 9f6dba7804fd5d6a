//! What tells the blocks of one forward from those of another, so that a device may replay them.

use std::sync::{Arc, Weak};

use longreel_kernels::Mask;
use longreel_kernels::gpu::Recurring;

use super::cache::Place;
use super::sparse::LeftOut;
use super::strip::Strip;
use super::{Context, KeyValueCache};

/// Marks tensors that stay as they are, where they are, as long as it lives.
#[derive(Debug, Default)]
pub(super) struct Stamp(Arc<()>);

impl Stamp {
    /// What recognises it.
    fn mark(&self) -> Mark {
        Mark(Arc::downgrade(&self.0))
    }
}

/// The mark of a [`Stamp`], which no later one has.
#[derive(Debug)]
struct Mark(Weak<()>);

impl PartialEq for Mark {
    fn eq(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

/// What a pass is of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    /// Patches along time, height and width.
    pub grid: [usize; 3],
    pub strip: Strip,
    pub mask: Mask,
    /// The first frame that the last block computes.
    pub answer_from: usize,
    /// Frames whose keys are kept from then on.
    pub keep: usize,
}

/// The blocks of a forward, run for some samples.
#[derive(Debug)]
pub(super) struct Run {
    shape: Shape,
    /// What attention leaves out, and the blocks that it goes by.
    left_out: Option<LeftOut>,
    /// Of each sample's context.
    marks: Vec<Mark>,
    /// Of the keys kept before each sample's tokens.
    places: Vec<Place>,
}

impl Run {
    /// Of a pass with these contexts, behind what these caches hold.
    pub fn of(
        shape: Shape,
        left_out: Option<&LeftOut>,
        contexts: &[&Context],
        caches: &[&mut KeyValueCache],
    ) -> Self {
        let marks = contexts.iter().map(|context| context.stamp.mark()).collect();
        let places = caches.iter().map(|cache| cache.place()).collect();
        Self { shape, left_out: left_out.cloned(), marks, places }
    }
}

impl PartialEq for Run {
    fn eq(&self, other: &Self) -> bool {
        self.shape == other.shape
            && self.left_out == other.left_out
            && self.marks == other.marks
            && self.places == other.places
    }
}

impl Recurring for Run {
    fn is_there(&self) -> bool {
        self.marks.iter().all(|Mark(stamp)| stamp.strong_count() > 0)
    }
}
