//! What the library is asked for, and what is known before that it does not have.

use cudarc::cublaslt::sys::cudaDataType_t as DataType;

use crate::gpu::{Element, MatMul, Operands};

/// Values of a bias at most: a feed-forward network's of the largest models is a fourth of it.
pub const BIAS_VALUES: usize = 1 << 16;
/// What addresses need to be a multiple of for the library's fast ways, in bytes.
const ALIGN: u64 = 256;
/// And a bias at least.
const BIAS_ALIGN: u64 = 16;
/// And 8-bit floats, with their factors and what they become, in bytes; their columns too.
const CODES_ALIGN: u64 = 16;

/// What a way depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub operands: Kind,
    pub out_element: Element,
    pub has_bias: bool,
    pub gelu: bool,
    pub add: bool,
    /// What the addresses of weight, x and out are multiples of.
    pub aligned: [u32; 3],
}

/// [`Operands`] without addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Plain(Element),
    Codes { with_factors: bool },
}

impl Kind {
    pub fn data_type(self) -> DataType {
        match self {
            Self::Plain(element) => data_type(element),
            Self::Codes { .. } => DataType::CUDA_R_8F_E4M3,
        }
    }

    /// Of a bias for a result of `out`: 8-bit floats have it in 16 bits always.
    pub fn bias(self, out: Element) -> Element {
        match self {
            Self::Plain(_) => out,
            Self::Codes { .. } => Element::Bf16,
        }
    }
}

pub fn data_type(element: Element) -> DataType {
    match element {
        Element::F32 => DataType::CUDA_R_32F,
        Element::Bf16 => DataType::CUDA_R_16BF,
    }
}

/// What a way for a product depends on; `None` for what the library does not have: f32 operands with a bf16
/// result, GELU of what is added to, a bias that is too long or not aligned, 8-bit floats that are not aligned,
/// and their factors where the library does not take them.
pub fn key(what: &MatMul, takes_factors: bool) -> Option<Key> {
    let operands = match what.operands {
        Operands::Plain(element) => Kind::Plain(element),
        Operands::E4m3 { factors } => Kind::Codes { with_factors: factors.is_some() },
    };
    if let Operands::E4m3 { factors } = what.operands {
        let fits = |n: u64| n.is_multiple_of(CODES_ALIGN);
        let columns = [what.inputs, what.outputs * what.out_element.bytes()];
        let addresses = [what.x, what.weight, what.out].into_iter();
        let aligned = addresses.chain(factors.into_iter().flatten()).all(|at| fits(at.0))
            && columns.into_iter().all(|bytes| fits(bytes as u64));
        if !aligned || (factors.is_some() && !takes_factors) {
            return None;
        }
    }
    let narrows =
        what.operands == Operands::Plain(Element::F32) && what.out_element == Element::Bf16;
    let bias_fits = what
        .bias
        .is_none_or(|bias| bias.0.is_multiple_of(BIAS_ALIGN) && what.outputs <= BIAS_VALUES);
    if narrows || (what.gelu && what.add) || !bias_fits || what.inputs == 0 {
        return None;
    }
    Some(Key {
        rows: what.rows,
        inputs: what.inputs,
        outputs: what.outputs,
        operands,
        out_element: what.out_element,
        has_bias: what.bias.is_some(),
        gelu: what.gelu,
        add: what.add,
        aligned: [what.weight, what.x, what.out]
            .map(|address| 1 << (address.0 | ALIGN).trailing_zeros()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Address;

    fn plain() -> MatMul {
        MatMul {
            x: Address(0x1000),
            weight: Address(0x2010),
            out: Address(0x3001),
            bias: Some(Address(0x4000)),
            rows: 5,
            inputs: 64,
            outputs: 96,
            operands: Operands::Plain(Element::Bf16),
            out_element: Element::Bf16,
            gelu: false,
            add: false,
        }
    }

    fn key(what: &MatMul) -> Option<Key> {
        super::key(what, true)
    }

    #[test]
    fn what_the_library_does_not_have_is_left_to_our_kernels() {
        assert!(key(&plain()).is_some());
        let f32_to_bf16 = MatMul { operands: Operands::Plain(Element::F32), ..plain() };
        let gelu_of_a_sum = MatMul { gelu: true, add: true, ..plain() };
        let bias_anywhere = MatMul { bias: Some(Address(0x4004)), ..plain() };
        let long_bias = MatMul { outputs: BIAS_VALUES + 1, ..plain() };
        for what in [f32_to_bf16, gelu_of_a_sum, bias_anywhere, long_bias] {
            assert_eq!(key(&what), None, "{what:?}");
        }
    }

    #[test]
    fn eight_bits_go_to_the_library_in_whole_sixteens_and_factors_to_those_that_take_them() {
        let codes = MatMul {
            weight: Address(0x2010),
            out: Address(0x3000),
            operands: Operands::E4m3 { factors: None },
            ..plain()
        };
        let by = |x, weight| {
            let factors = Some([Address(x), Address(weight)]);
            MatMul { operands: Operands::E4m3 { factors }, ..codes }
        };
        let with_factors = by(0x5000, 0x6010);
        assert!(key(&codes).is_some() && key(&with_factors).is_some());
        assert_ne!(key(&codes), key(&with_factors));
        assert!(super::key(&codes, false).is_some());
        assert_eq!(super::key(&with_factors, false), None);
        for what in [
            MatMul { x: Address(0x1008), ..codes },
            MatMul { weight: Address(0x2008), ..codes },
            MatMul { out: Address(0x3008), ..codes },
            MatMul { inputs: 72, ..codes },
            MatMul { outputs: 92, ..codes },
            by(0x5004, 0x6010),
            by(0x5000, 0x6008),
        ] {
            assert_eq!(key(&what), None, "{what:?}");
        }
    }

    #[test]
    fn a_way_is_found_anew_where_addresses_are_aligned_otherwise() {
        assert_eq!(key(&plain()).expect("one").aligned, [16, 256, 1]);
    }
}
