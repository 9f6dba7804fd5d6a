//! Of what tensors the change of a matrix is made, and whether they fit each other.

use std::collections::BTreeMap;

use super::keys::Part;
use crate::container::StoredTensor;

/// The change of a matrix, or of a convolution's weight as one of `[outputs, inputs * places]`.
#[derive(Debug, Clone)]
pub(super) enum Product {
    /// LoRA: `up * down`.
    LowRank(Pair),
    /// LoHa (Hyeon-Woo et al. 2022): two of those, multiplied value by value.
    Hadamard(Box<[Pair; 2]>),
    /// LoKr: each value of the first times all of the second.
    Kronecker(Factor, Factor),
}

/// A low-rank product.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    /// `[outputs, rank]`, or `[rank, outputs]`.
    pub up: StoredTensor,
    /// `[rank, inputs * places]`; `[rank, inputs]` where there is a core.
    pub down: StoredTensor,
    /// `[rank, rank of down, places...]`: Tucker's form for convolutions.
    pub core: Option<StoredTensor>,
    pub up_is_transposed: bool,
}

/// One side of a Kronecker product.
#[derive(Debug, Clone)]
pub(super) enum Factor {
    Whole(StoredTensor),
    Pair(Box<Pair>),
}

/// What a file holds of one module's weight, by part.
#[derive(Default)]
pub(super) struct Parts {
    tensors: BTreeMap<Part, StoredTensor>,
    /// A key of it, for messages.
    pub key: String,
}

impl Parts {
    /// Adds a tensor. False when there is one in its place.
    pub fn add(&mut self, part: Part, tensor: &StoredTensor) -> bool {
        self.key.clone_from(&tensor.name);
        self.tensors.insert(part, tensor.clone()).is_none()
    }

    pub fn take(&mut self, part: Part) -> Option<StoredTensor> {
        self.tensors.remove(&part)
    }

    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The product that the parts make, and the rank that an alpha is divided by, where it has one.
    ///
    /// # Errors
    /// What is missing, is too much, or does not fit.
    pub fn product(&mut self) -> Result<(Product, Option<usize>), String> {
        let is_kronecker = |part: &Part| *part >= Part::Lokr1;
        let is_hadamard = |part: &Part| *part >= Part::Hada1Up && !is_kronecker(part);
        let made = if self.tensors.keys().any(is_kronecker) {
            let (left, _) = self.factor(Part::Lokr1, [Part::Lokr1Up, Part::Lokr1Down], None)?;
            let whole = [Part::Lokr2Up, Part::Lokr2Down];
            let (right, rank) = self.factor(Part::Lokr2, whole, Some(Part::Lokr2Core))?;
            // ComfyUI and LyCORIS: that of the second, where both have one.
            let rank = rank.or(left.rank());
            (Product::Kronecker(left, right), rank)
        } else if self.tensors.keys().any(is_hadamard) {
            let first = self.pair(Part::Hada1Up, Part::Hada1Down, Some(Part::Hada1Core), true)?;
            let second = self.pair(Part::Hada2Up, Part::Hada2Down, Some(Part::Hada2Core), true)?;
            if first.size() != second.size() {
                return Err(format!(
                    "the two products of {} have the sizes {:?} and {:?}",
                    self.key,
                    first.size(),
                    second.size()
                ));
            }
            let rank = first.rank_of_down();
            (Product::Hadamard(Box::new([first, second])), Some(rank))
        } else {
            let pair = self.pair(Part::Up, Part::Down, Some(Part::Mid), false)?;
            let rank = pair.rank_of_down();
            (Product::LowRank(pair), Some(rank))
        };
        match self.tensors.values().next() {
            None => Ok(made),
            Some(left) => Err(format!(
                "{} is of another kind of adapter than {}; a module is changed by one kind",
                left.name, self.key
            )),
        }
    }

    fn factor(
        &mut self,
        whole: Part,
        [up, down]: [Part; 2],
        core: Option<Part>,
    ) -> Result<(Factor, Option<usize>), String> {
        if let Some(tensor) = self.take(whole) {
            if tensor.values() == 0 || tensor.shape.len() < 2 {
                return Err(format!(
                    "{} has shape {:?}, which is no matrix",
                    tensor.name, tensor.shape
                ));
            }
            return Ok((Factor::Whole(tensor), None));
        }
        let pair = self.pair(up, down, core, true)?;
        let rank = pair.rank_of_down();
        Ok((Factor::Pair(Box::new(pair)), Some(rank)))
    }

    /// `transposed`: whether `up` lies the other way round where there is a core.
    fn pair(
        &mut self,
        up: Part,
        down: Part,
        core: Option<Part>,
        transposed: bool,
    ) -> Result<Pair, String> {
        let (Some(up), Some(down)) = (self.take(up), self.take(down)) else {
            return Err(format!("{} has no counterpart (both down and up are needed)", self.key));
        };
        let core = core.and_then(|core| self.take(core));
        let up_is_transposed = transposed && core.is_some();
        let axis = usize::from(!up_is_transposed);
        let (up_rank, down_rank) = (up.shape.get(axis).copied(), down.shape.first().copied());
        let (left, right) = match &core {
            Some(core) => (core.shape.first().copied(), core.shape.get(1).copied()),
            None => (down_rank, down_rank),
        };
        let is_empty = up.values() == 0 || down.values() == 0;
        if is_empty || up_rank != left || down_rank != right || up_rank.is_none() {
            let core = core.map_or(String::new(), |core| format!(", the core {:?}", core.shape));
            return Err(format!(
                "the ranks of {} differ: down has shape {:?} and up {:?}{core}",
                self.key, down.shape, up.shape
            ));
        }
        Ok(Pair { up, down, core, up_is_transposed })
    }
}

impl Product {
    /// Rows and columns of the matrix; saturating, since a file may claim anything.
    pub fn size(&self) -> [usize; 2] {
        match self {
            Self::LowRank(pair) => pair.size(),
            Self::Hadamard(pairs) => pairs[0].size(),
            Self::Kronecker(left, right) => {
                let (left, right) = (left.size(), right.size());
                [0, 1].map(|axis| left[axis].saturating_mul(right[axis]))
            }
        }
    }
}

impl Factor {
    /// Rows and columns of the matrix.
    pub fn size(&self) -> [usize; 2] {
        match self {
            Self::Whole(tensor) => [tensor.shape[0], tensor.values() / tensor.shape[0]],
            Self::Pair(pair) => pair.size(),
        }
    }

    fn rank(&self) -> Option<usize> {
        match self {
            Self::Whole(_) => None,
            Self::Pair(pair) => Some(pair.rank_of_down()),
        }
    }
}

impl Pair {
    /// Rows and columns of the product.
    pub fn size(&self) -> [usize; 2] {
        let rank = self.up.shape[usize::from(!self.up_is_transposed)];
        let down_rank = self.rank_of_down();
        let columns = self.down.values() / down_rank;
        let places = self.core.as_ref().map_or(1, |core| core.values() / rank / down_rank);
        [self.up.values() / rank, columns.saturating_mul(places)]
    }

    fn rank_of_down(&self) -> usize {
        self.down.shape[0]
    }
}
