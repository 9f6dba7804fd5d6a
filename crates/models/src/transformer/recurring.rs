//! What tells the blocks of one forward from those of another, so that a device may replay them.

use std::sync::{Arc, Weak};

use longreel_kernels::gpu::Recurring;
use longreel_kernels::{Mask, RopeTable};

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
}

/// The blocks of a forward, run for some samples.
#[derive(Debug)]
pub(super) struct Run {
    shape: Shape,
    /// Its own, which the next forward of this grid finds again.
    rope: Arc<RopeTable>,
    /// What attention leaves out, and the blocks that it goes by.
    left_out: Option<LeftOut>,
    /// Of each sample's context, and of the keys kept before its tokens.
    marks: Vec<Mark>,
}

impl Run {
    /// Of a pass with these contexts, behind what these caches hold.
    pub fn of(
        shape: Shape,
        rope: &Arc<RopeTable>,
        left_out: Option<&LeftOut>,
        contexts: &[&Context],
        caches: &[&mut KeyValueCache],
    ) -> Self {
        let contexts = contexts.iter().map(|context| context.stamp.mark());
        let marks = contexts.chain(caches.iter().map(|cache| cache.stamp.mark())).collect();
        Self { shape, rope: rope.clone(), left_out: left_out.cloned(), marks }
    }
}

impl PartialEq for Run {
    fn eq(&self, other: &Self) -> bool {
        self.shape == other.shape
            && Arc::ptr_eq(&self.rope, &other.rope)
            && self.left_out == other.left_out
            && self.marks == other.marks
    }
}

impl Recurring for Run {
    fn is_there(&self) -> bool {
        self.marks.iter().all(|Mark(stamp)| stamp.strong_count() > 0)
    }
}
