//! The steps along `k` of whole tiles of singles, instruction by instruction.
//!
//! What a compiler makes of them finds its way from row to row by a dozen additions a step. Intel's cores
//! execute these where they multiply, which took a sixth of the speed; here rows are reached from every fourth of
//! them by the distance once, twice and three times, and four steps share what is added.

use std::arch::asm;
use std::arch::x86_64::{__m256, __m512};

use crate::gemm::Segment;

/// The value of A at an address, times the two vectors of B, added to two sums.
macro_rules! row {
    ($v:literal, $a:literal, $at:expr, [$b0:literal, $b1:literal], $s0:literal, $s1:literal) => {
        concat!(
            "vbroadcastss ",
            $v,
            $a,
            ", dword ptr [",
            $at,
            "]\n",
            "vfmadd231ps ",
            $v,
            $s0,
            ", ",
            $v,
            $a,
            ", ",
            $v,
            $b0,
            "\n",
            "vfmadd231ps ",
            $v,
            $s1,
            ", ",
            $v,
            $a,
            ", ",
            $v,
            $b1,
            "\n",
        )
    };
}

/// Two vectors of B, `$lanes` bytes each, of a step.
macro_rules! columns {
    ($v:literal, [$b0:literal, $b1:literal], $lanes:literal, $k:literal) => {
        concat!(
            "vmovups ",
            $v,
            $b0,
            ", [{b} + ",
            $lanes,
            " * 2 * ",
            $k,
            "]\n",
            "vmovups ",
            $v,
            $b1,
            ", [{b} + ",
            $lanes,
            " * 2 * ",
            $k,
            " + ",
            $lanes,
            "]\n",
        )
    };
}

/// A step of 12 x 32.
macro_rules! step_of_12 {
    ($k:literal) => {
        concat!(
            columns!("zmm", ["24", "25"], "64", $k),
            row!("zmm", "26", concat!("{a0} + 4 * ", $k), ["24", "25"], "0", "1"),
            row!("zmm", "27", concat!("{a0} + {one} + 4 * ", $k), ["24", "25"], "2", "3"),
            row!("zmm", "28", concat!("{a0} + 2 * {one} + 4 * ", $k), ["24", "25"], "4", "5"),
            row!("zmm", "29", concat!("{a0} + {three} + 4 * ", $k), ["24", "25"], "6", "7"),
            row!("zmm", "26", concat!("{a4} + 4 * ", $k), ["24", "25"], "8", "9"),
            row!("zmm", "27", concat!("{a4} + {one} + 4 * ", $k), ["24", "25"], "10", "11"),
            row!("zmm", "28", concat!("{a4} + 2 * {one} + 4 * ", $k), ["24", "25"], "12", "13"),
            row!("zmm", "29", concat!("{a4} + {three} + 4 * ", $k), ["24", "25"], "14", "15"),
            row!("zmm", "26", concat!("{a8} + 4 * ", $k), ["24", "25"], "16", "17"),
            row!("zmm", "27", concat!("{a8} + {one} + 4 * ", $k), ["24", "25"], "18", "19"),
            row!("zmm", "28", concat!("{a8} + 2 * {one} + 4 * ", $k), ["24", "25"], "20", "21"),
            row!("zmm", "29", concat!("{a8} + {three} + 4 * ", $k), ["24", "25"], "22", "23"),
        )
    };
}

/// A step of 6 x 16.
macro_rules! step_of_6 {
    ($k:literal) => {
        concat!(
            columns!("ymm", ["12", "13"], "32", $k),
            row!("ymm", "14", concat!("{a0} + 4 * ", $k), ["12", "13"], "0", "1"),
            row!("ymm", "15", concat!("{a0} + {one} + 4 * ", $k), ["12", "13"], "2", "3"),
            row!("ymm", "14", concat!("{a0} + 2 * {one} + 4 * ", $k), ["12", "13"], "4", "5"),
            row!("ymm", "15", concat!("{a0} + {three} + 4 * ", $k), ["12", "13"], "6", "7"),
            row!("ymm", "14", concat!("{a4} + 4 * ", $k), ["12", "13"], "8", "9"),
            row!("ymm", "15", concat!("{a4} + {one} + 4 * ", $k), ["12", "13"], "10", "11"),
        )
    };
}

/// All steps: four at a time, then the rest.
macro_rules! steps {
    ($step:ident, [$($a:literal),*], $lanes:literal) => {
        concat!(
            "test {fours}, {fours}\n",
            "jz 3f\n",
            "2:\n",
            $step!("0"), $step!("1"), $step!("2"), $step!("3"),
            $("add {", $a, "}, 16\n",)*
            "add {b}, 8 * ", $lanes, "\n",
            "dec {fours}\n",
            "jnz 2b\n",
            "3:\n",
            "test {rest}, {rest}\n",
            "jz 5f\n",
            "4:\n",
            $step!("0"),
            $("add {", $a, "}, 4\n",)*
            "add {b}, 2 * ", $lanes, "\n",
            "dec {rest}\n",
            "jnz 4b\n",
            "5:\n",
        )
    };
}

/// Adds a segment of `depth` values to the sums of 12 rows by two vectors.
///
/// # Safety
/// The segment's rows and panel are readable; the CPU has AVX-512 F.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn of_12(
    segment: Segment,
    a_row: usize,
    depth: usize,
    s: &mut [[__m512; 2]; 12],
) {
    let Segment { a, b } = segment;
    // SAFETY: what is read are the segment's rows and its panel.
    unsafe {
        asm!(
            steps!(step_of_12, ["a0", "a4", "a8"], "64"),
            a0 = inout(reg) a => _,
            a4 = inout(reg) a.wrapping_add(4 * a_row) => _,
            a8 = inout(reg) a.wrapping_add(8 * a_row) => _,
            b = inout(reg) b => _,
            one = in(reg) 4 * a_row,
            three = in(reg) 12 * a_row,
            fours = inout(reg) depth / 4 => _,
            rest = inout(reg) depth % 4 => _,
            inout("zmm0") s[0][0], inout("zmm1") s[0][1], inout("zmm2") s[1][0], inout("zmm3") s[1][1],
            inout("zmm4") s[2][0], inout("zmm5") s[2][1], inout("zmm6") s[3][0], inout("zmm7") s[3][1],
            inout("zmm8") s[4][0], inout("zmm9") s[4][1], inout("zmm10") s[5][0], inout("zmm11") s[5][1],
            inout("zmm12") s[6][0], inout("zmm13") s[6][1], inout("zmm14") s[7][0], inout("zmm15") s[7][1],
            inout("zmm16") s[8][0], inout("zmm17") s[8][1], inout("zmm18") s[9][0], inout("zmm19") s[9][1],
            inout("zmm20") s[10][0], inout("zmm21") s[10][1], inout("zmm22") s[11][0], inout("zmm23") s[11][1],
            out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _, out("zmm28") _, out("zmm29") _,
            options(readonly, nostack),
        );
    }
}

/// Adds a segment of `depth` values to the sums of 6 rows by two vectors.
///
/// # Safety
/// The segment's rows and panel are readable; the CPU has AVX2 and FMA.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn of_6(segment: Segment, a_row: usize, depth: usize, s: &mut [[__m256; 2]; 6]) {
    let Segment { a, b } = segment;
    // SAFETY: what is read are the segment's rows and its panel.
    unsafe {
        asm!(
            steps!(step_of_6, ["a0", "a4"], "32"),
            a0 = inout(reg) a => _,
            a4 = inout(reg) a.wrapping_add(4 * a_row) => _,
            b = inout(reg) b => _,
            one = in(reg) 4 * a_row,
            three = in(reg) 12 * a_row,
            fours = inout(reg) depth / 4 => _,
            rest = inout(reg) depth % 4 => _,
            inout("ymm0") s[0][0], inout("ymm1") s[0][1], inout("ymm2") s[1][0], inout("ymm3") s[1][1],
            inout("ymm4") s[2][0], inout("ymm5") s[2][1], inout("ymm6") s[3][0], inout("ymm7") s[3][1],
            inout("ymm8") s[4][0], inout("ymm9") s[4][1], inout("ymm10") s[5][0], inout("ymm11") s[5][1],
            out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
            options(readonly, nostack),
        );
    }
}
