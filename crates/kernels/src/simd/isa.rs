//! Which instruction set the kernels use.

use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Portable Rust, four lanes at a time.
    Plain,
    /// Portable Rust in the tile sizes of AVX-512; never chosen, there to test those sizes anywhere.
    PlainWide,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F.
    Avx512,
}

const ALL: [Isa; 4] = [Isa::Plain, Isa::PlainWide, Isa::Avx2, Isa::Avx512];

/// The choice: an index into `ALL`, or `UNSET`.
static CHOICE: AtomicU8 = AtomicU8::new(UNSET);
const UNSET: u8 = u8::MAX;

impl Isa {
    /// The set in use: the widest this CPU has, unless [`Isa::choose`] said otherwise.
    pub fn current() -> Self {
        match CHOICE.load(Ordering::Relaxed) {
            UNSET => {
                let best = [Self::Avx512, Self::Avx2].into_iter().find(|isa| isa.is_available());
                let best = best.unwrap_or(Self::Plain);
                // Two threads that race here store the same value.
                CHOICE.store(best as u8, Ordering::Relaxed);
                best
            }
            index => ALL[usize::from(index)],
        }
    }

    /// Whether this CPU can run it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Plain | Self::PlainWide => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Self::Avx2.is_available() && is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// Rows of a GEMM tile in a product of so many columns; where half a panel holds them, tiles are
    /// half as wide and twice as high.
    pub(crate) fn tile_rows(self, columns: usize) -> usize {
        let rows = match self {
            Self::Plain | Self::Avx2 => 6,
            Self::PlainWide | Self::Avx512 => 12,
        };
        if columns <= self.tile_columns() / 2 { 2 * rows } else { rows }
    }

    /// Columns of a GEMM tile, which is a panel's width.
    pub(crate) fn tile_columns(self) -> usize {
        match self {
            Self::Plain => 8,
            Self::Avx2 => 16,
            Self::PlainWide | Self::Avx512 => 32,
        }
    }

    /// The set for rows of so many channels: narrower vectors where those would stay half empty.
    pub(crate) fn for_channels(self, channels: usize) -> Self {
        match self {
            Self::Avx512 if channels <= Self::Avx2.tile_columns() / 2 => Self::Avx2,
            Self::PlainWide if channels <= Self::Plain.tile_columns() / 2 => Self::Plain,
            _ => self,
        }
    }

    /// Whether it multiplies pairs of bf16 in one step on this CPU: AVX-512 with BF16 (Cooper Lake, Sapphire
    /// Rapids, Zen 4 and newer).
    pub fn has_pairs(self) -> bool {
        match self {
            // For tests.
            Self::PlainWide => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => self.is_available() && is_x86_feature_detected!("avx512bf16"),
            _ => false,
        }
    }

    /// All sets this CPU can run.
    pub fn available() -> impl Iterator<Item = Self> {
        ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// Makes the whole process use this set from now on; false, and nothing changes, when the CPU
    /// lacks it. Results differ between sets by rounding.
    pub fn choose(self) -> bool {
        let available = self.is_available();
        if available {
            CHOICE.store(self as u8, Ordering::Relaxed);
        }
        available
    }
}
