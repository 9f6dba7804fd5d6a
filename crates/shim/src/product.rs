//! The matrix product that a vendor's library would do, in plain loops.

use longreel_kernels::gpu::{Address, Element, GpuError, MatMul};

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
    let MatMul { rows, inputs, outputs, element, out_element, .. } = *what;
    let x = read(memory, what.x, rows * inputs, element)?;
    let weight = read(memory, what.weight, outputs * inputs, element)?;
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
