//! Random weights of given shapes, in a file that is mapped as a model's is.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use longreel_kernels::Tensor;
use longreel_weights::ExpectedTensor;

/// xorshift32.
pub struct Random(pub u32);

impl Random {
    /// Uniform in -1 to 1.
    pub fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        (self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    /// A tensor of values in -2 to 2.
    pub fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let values = (0..shape.iter().product()).map(|_| self.next() * 2.0);
        Tensor::from_vec(shape, values.collect())
    }
}

/// Writes all tensors in bf16, the matrices scaled so that activations keep their size.
pub fn write(tensors: &[ExpectedTensor], path: &Path) -> io::Result<()> {
    let (mut header, mut end) = (String::new(), 0);
    for (name, shape) in tensors {
        let begin = end;
        end += 2 * shape.iter().product::<usize>();
        let comma = if header.is_empty() { '{' } else { ',' };
        header += &format!(
            "{comma}\"{name}\":{{\"dtype\":\"BF16\",\"shape\":{shape:?},\"data_offsets\":[{begin},{end}]}}"
        );
    }
    header.push('}');
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    let mut random = Random(1);
    for (_, shape) in tensors {
        let inputs: usize = shape.iter().skip(1).product();
        let scale = (3.0 / inputs as f32).sqrt();
        for _ in 0..shape.iter().product() {
            let bits = (random.next() * scale).to_bits();
            out.write_all(&((bits >> 16) as u16).to_le_bytes())?;
        }
    }
    out.flush()
}
