//! Memory that begins on a cache line.

/// `f32` values that begin on a cache line, so that a panel's row never straddles two.
pub(crate) struct Aligned {
    memory: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// Zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let memory = vec![0.0; len + 16];
        let start = memory.as_ptr().align_offset(64).min(16);
        Self { memory, start, len }
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        &self.memory[self.start..self.start + self.len]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..self.start + self.len]
    }
}
