//! The matrix product that a vendor's library would do, in plain loops.

use longreel_kernels::gpu::{Address, Element, GpuError, MatMul, Operands};
use longreel_kernels::{DType, dequantize};

use crate::memory::Memory;

fn read(memory: &Memory, at: Address, len: usize, element: Element) -> Result<Vec<f32>, GpuError> {
    let from = memory.range("matmul", at, len * element.bytes())?;
    let value = |i: usize| {
        // SAFETY: the range is in an allocation, aligned to its element.
        unsafe {
            match element {
                Element::F32 => from.cast::<f32>().add(i).read(),
                Element::Bf16 => f32::from_bits(u32::from(from.cast::<u16>().add(i).read()) << 16),
            }
        }
    };
    Ok((0..len).map(value).collect())
}

/// Rows of `len / count` values of e4m3, each by its factor if there are any.
fn read_codes(
    memory: &Memory,
    at: Address,
    len: usize,
    factors: Option<(Address, usize)>,
) -> Result<Vec<f32>, GpuError> {
    let from = memory.range("matmul", at, len)?;
    // SAFETY: the range is in an allocation.
    let codes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), len) };
    let mut values = vec![0.0; len];
    dequantize(DType::F8E4M3, codes, &mut values);
    if let Some((factors, count)) = factors {
        let factors = read(memory, factors, count, Element::F32)?;
        let rows = values.chunks_mut((len / count).max(1));
        rows.zip(factors).for_each(|(row, factor)| row.iter_mut().for_each(|v| *v *= factor));
    }
    Ok(values)
}

fn write(memory: &Memory, at: Address, values: &[f32], element: Element) -> Result<(), GpuError> {
    let to = memory.range("matmul", at, values.len() * element.bytes())?;
    for (i, value) in values.iter().enumerate() {
        // SAFETY: as in `read`.
        unsafe {
            match element {
                Element::F32 => to.cast::<f32>().add(i).write(*value),
                Element::Bf16 => {
                    let bits = value.to_bits();
                    let rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
                    let code = if value.is_nan() { 0x7fff } else { rounded as u16 };
                    to.cast::<u16>().add(i).write(code);
                }
            }
        }
    }
    Ok(())
}

pub(crate) fn run(memory: &Memory, what: &MatMul) -> Result<(), GpuError> {
    let MatMul { rows, inputs, outputs, out_element, .. } = *what;
    let (x, weight) = match what.operands {
        Operands::Plain(element) => (
            read(memory, what.x, rows * inputs, element)?,
            read(memory, what.weight, outputs * inputs, element)?,
        ),
        Operands::E4m3 { factors } => {
            let [x, weight] =
                [0, 1].map(|n| factors.map(|factors| (factors[n], [rows, outputs][n])));
            (
                read_codes(memory, what.x, rows * inputs, x)?,
                read_codes(memory, what.weight, outputs * inputs, weight)?,
            )
        }
    };
    let bias = what.bias.map(|bias| read(memory, bias, outputs, Element::F32)).transpose()?;
    let mut out = match what.add {
        true => read(memory, what.out, rows * outputs, out_element)?,
        false => vec![0.0; rows * outputs],
    };
    for (i, out) in out.iter_mut().enumerate() {
        let (row, column) = (i / outputs, i % outputs);
        let x = &x[row * inputs..][..inputs];
        let w = &weight[column * inputs..][..inputs];
        let product: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
        let mut v = product + bias.as_ref().map_or(0.0, |bias| f64::from(bias[column]));
        if what.gelu {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v * v * v);
            v = 0.5 * v * (1.0 + inner.tanh());
        }
        *out = (f64::from(*out) + v) as f32;
    }
    write(memory, what.out, &out, out_element)
}
