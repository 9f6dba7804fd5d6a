//! Adding a change to a tensor.

use longreel_kernels::Weight;
use rayon::prelude::*;

use super::product::{Factor, Pair, Product};
use crate::container::{Format, StoredTensor};

/// A change with its weight, ready to be added. Its shape fits the tensor's.
#[derive(Debug, Clone)]
pub(crate) struct Delta(pub(super) Kind);

#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// `factor * product`.
    Product { product: Box<Product>, columns: usize, factor: f32 },
    /// `weight` of the way to the sum with `factor * product`, brought to the lengths in `magnitude`.
    Decomposed {
        product: Box<Product>,
        columns: usize,
        factor: f32,
        magnitude: StoredTensor,
        axis: Axis,
        weight: f32,
    },
    /// `factor * tensor`.
    Full { tensor: StoredTensor, factor: f32 },
}

/// Of what DoRA's magnitudes are the lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    /// Of what gives an output: one for each row.
    Outputs,
    /// Of what an input gives: one for each column, of a convolution for all its `kernel` places together.
    Inputs { kernel: usize },
}

impl Delta {
    /// Adds itself to the flattened tensor.
    pub fn add_to(&self, target: &mut [f32]) {
        match &self.0 {
            Kind::Full { tensor, factor } => {
                for (t, d) in target.iter_mut().zip(values(tensor)) {
                    *t += factor * d;
                }
            }
            Kind::Product { product, columns, factor } => {
                Rows::of(product).add_to(target, *columns, *factor);
            }
            Kind::Decomposed { product, columns, factor, magnitude, axis, weight } => {
                let mut changed = target.to_vec();
                Rows::of(product).add_to(&mut changed, *columns, *factor);
                let scales = scales(&values(magnitude), &changed, *columns, *axis);
                let rows = target.par_chunks_mut((*columns).max(1)).enumerate();
                rows.zip(changed.par_chunks((*columns).max(1))).for_each(|((row, t), changed)| {
                    for (column, (t, changed)) in t.iter_mut().zip(changed).enumerate() {
                        let scale = match axis {
                            Axis::Outputs => scales[row],
                            Axis::Inputs { kernel } => scales[column / kernel],
                        };
                        *t += weight * (scale * changed - *t);
                    }
                });
            }
        }
    }
}

/// What rows or columns of `matrix` are multiplied by to have the lengths in `magnitude`.
fn scales(magnitude: &[f32], matrix: &[f32], columns: usize, axis: Axis) -> Vec<f32> {
    let mut squares = vec![0f64; magnitude.len()];
    for (row, values) in matrix.chunks_exact(columns.max(1)).enumerate() {
        match axis {
            Axis::Outputs => {
                squares[row] = values.iter().map(|&v| f64::from(v).powi(2)).sum();
            }
            Axis::Inputs { kernel } => {
                for (square, values) in squares.iter_mut().zip(values.chunks_exact(kernel)) {
                    *square += values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
                }
            }
        }
    }
    // LyCORIS adds an epsilon, so that what is nothing stays nothing.
    let norms = squares.iter().map(|square| square.sqrt() as f32 + f32::EPSILON);
    magnitude.iter().zip(norms).map(|(magnitude, norm)| magnitude / norm).collect()
}

/// A product whose rows are made one at a time, so that a matrix takes no memory but its own.
enum Rows {
    LowRank(Matrix),
    Hadamard([Matrix; 2]),
    Kronecker { left: Matrix, right: Matrix },
}

/// A matrix, whole or as a low-rank product.
struct Matrix {
    /// `[rows, rank]`, nothing where `down` is the matrix itself.
    up: Option<Vec<f32>>,
    /// `[rank, columns]`.
    down: Vec<f32>,
    rows: usize,
    columns: usize,
}

impl Rows {
    fn of(product: &Product) -> Self {
        match product {
            Product::LowRank(pair) => Self::LowRank(Matrix::of_pair(pair)),
            Product::Hadamard(pairs) => Self::Hadamard(pairs.each_ref().map(Matrix::of_pair)),
            // Whole: every row of the one meets every row of the other.
            Product::Kronecker(left, right) => Self::Kronecker {
                left: Matrix::of_factor(left).whole(),
                right: Matrix::of_factor(right).whole(),
            },
        }
    }

    fn add_to(&self, target: &mut [f32], columns: usize, factor: f32) {
        let rows = target.par_chunks_mut(columns.max(1)).enumerate();
        match self {
            Self::LowRank(matrix) => {
                rows.for_each(|(row, target)| matrix.add_row(row, factor, target));
            }
            Self::Hadamard(both) => rows.for_each_init(
                || [vec![0.0; columns], vec![0.0; columns]],
                |[first, second], (row, target)| {
                    for (matrix, values) in both.iter().zip([&mut *first, &mut *second]) {
                        values.fill(0.0);
                        matrix.add_row(row, 1.0, values);
                    }
                    for ((t, a), b) in target.iter_mut().zip(first).zip(second) {
                        *t += factor * (*a * *b);
                    }
                },
            ),
            Self::Kronecker { left, right } => rows.for_each(|(row, target)| {
                let (upper, lower) = (row / right.rows, row % right.rows);
                for (l, target) in
                    left.row(upper).iter().zip(target.chunks_exact_mut(right.columns))
                {
                    let l = l * factor;
                    target.iter_mut().zip(right.row(lower)).for_each(|(t, r)| *t += l * r);
                }
            }),
        }
    }
}

impl Matrix {
    fn of_factor(factor: &Factor) -> Self {
        match factor {
            Factor::Whole(tensor) => {
                let [rows, columns] = factor.size();
                Self { up: None, down: values(tensor), rows, columns }
            }
            Factor::Pair(pair) => Self::of_pair(pair),
        }
    }

    fn of_pair(pair: &Pair) -> Self {
        let [rows, columns] = pair.size();
        let Some(core) = &pair.core else {
            return Self { up: Some(values(&pair.up)), down: values(&pair.down), rows, columns };
        };
        // Tucker: `core` [r, s, places] between `up` and `down` [s, inputs]. Its product with `down` is
        // [r, inputs, places].
        let [r, s] = [core.shape[0], core.shape[1]];
        let (inputs, places) = (pair.down.values() / s, core.values() / (r * s));
        let (values_of_core, down) = (values(core), values(&pair.down));
        let mut joined = vec![0f32; r * inputs * places];
        for (joined, core) in
            joined.chunks_exact_mut(inputs * places).zip(values_of_core.chunks_exact(s * places))
        {
            for (core, down) in core.chunks_exact(places).zip(down.chunks_exact(inputs)) {
                for (joined, d) in joined.chunks_exact_mut(places).zip(down) {
                    joined.iter_mut().zip(core).for_each(|(j, c)| *j += c * d);
                }
            }
        }
        let up = values(&pair.up);
        // LyCORIS keeps the outputs of LoHa's and LoKr's convolutions along the second axis.
        let up = match pair.up_is_transposed {
            true => (0..rows * r).map(|i| up[i % r * rows + i / r]).collect(),
            false => up,
        };
        Self { up: Some(up), down: joined, rows, columns }
    }

    /// Adds `factor` times a row.
    fn add_row(&self, row: usize, factor: f32, target: &mut [f32]) {
        let rank = self.down.len() / self.columns.max(1);
        // One value of `up` against a row of `down`: contiguous, so it is vectorised.
        let up = self.up.as_ref().map(|up| &up[row * rank..(row + 1) * rank]);
        for (u, down) in up.unwrap_or_default().iter().zip(self.down.chunks_exact(self.columns)) {
            let u = u * factor;
            target.iter_mut().zip(down).for_each(|(t, d)| *t += u * d);
        }
    }

    fn whole(self) -> Self {
        if self.up.is_none() {
            return self;
        }
        let mut whole = vec![0.0; self.rows * self.columns];
        let rows = whole.par_chunks_mut(self.columns.max(1)).enumerate();
        rows.for_each(|(row, target)| self.add_row(row, 1.0, target));
        Self { up: None, down: whole, ..self }
    }

    /// A row of one that is whole.
    fn row(&self, row: usize) -> &[f32] {
        &self.down[row * self.columns..(row + 1) * self.columns]
    }
}

/// The values of a tensor. Opening a LoRA has refused formats that have none.
pub(super) fn values(tensor: &StoredTensor) -> Vec<f32> {
    match &tensor.format {
        Format::Known(dtype) => Weight::new(&tensor.shape, *dtype, tensor.bytes.to_bytes())
            .map(|weight| weight.to_f32())
            .unwrap_or_default(),
        Format::Other(_) => vec![],
    }
}
