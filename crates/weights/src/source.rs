//! The tensors of one network, under canonical names.

mod stored;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use longreel_kernels::{DType, Products, Weight};

use crate::WeightsError;
use crate::container::{self, Container};
use crate::dtype::WeightDtype;
use crate::error::some_names;
use crate::lora::Delta;
use crate::names::{Component, Named};
use crate::quantize::choose::is_matrix;
use stored::Stored;

/// The tensors of one network under their canonical names, whatever the files call them.
///
/// A network takes each tensor with the shape its configuration gives, then calls
/// [`finish`](Self::finish), which fails when any is left over. Taking is cheap: a weight is a view
/// into the mapped file, and its pages are read when they are first used. Only tensors that must be
/// computed (converted formats, merged LoRAs, PyTorch views with gaps) are written to memory, when taken.
#[derive(Debug)]
pub struct TensorSource {
    tensors: BTreeMap<String, Stored>,
    /// What weights are converted to when they are taken, where that is not the file's own format.
    dtype: Option<WeightDtype>,
    /// Whether every tensor is searched for values that are not finite when it is taken.
    searched: bool,
    /// The files, for messages.
    origin: Arc<str>,
}

impl TensorSource {
    /// Tensors that are in memory already, for tests and for networks made by a program.
    pub fn from_tensors(tensors: HashMap<String, Weight>) -> Self {
        let origin: Arc<str> = "memory".into();
        let stored = |weight| Stored::in_memory(weight, origin.clone());
        Self {
            tensors: tensors.into_iter().map(|(name, weight)| (name, stored(weight))).collect(),
            dtype: None,
            searched: false,
            origin: origin.clone(),
        }
    }

    /// The tensors of one file of any known format (safetensors, PyTorch, GGUF), under the names that
    /// the file gives them.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn open_file(path: &Path) -> Result<Self, WeightsError> {
        Ok(Self::from_container(container::open(path)?))
    }

    pub(crate) fn from_container(container: Container) -> Self {
        let origin: Arc<str> = container.path.display().to_string().into();
        let tensors = container.tensors.into_iter().map(|tensor| {
            let name = tensor.name.clone();
            (name, Stored::in_file(tensor, None, origin.clone()))
        });
        Self { tensors: tensors.collect(), dtype: None, searched: false, origin: origin.clone() }
    }

    /// The tensors of a network found in files.
    pub(crate) fn from_named(tensors: &[Named], origin: &str) -> Self {
        let mut files: HashMap<&Path, Arc<str>> = HashMap::new();
        let tensors = tensors.iter().map(|named| {
            let label =
                files.entry(&named.file).or_insert_with(|| named.file.display().to_string().into());
            let stored = Stored::in_file(named.stored.clone(), named.scale.clone(), label.clone());
            (named.name.clone(), stored)
        });
        Self { tensors: tensors.collect(), dtype: None, searched: false, origin: origin.into() }
    }

    /// The same tensors, taken as `dtype` instead of in their own formats. As `Fp8` only the matrices of a
    /// transformer's blocks are taken; those that are e4m3 already are taken as they are.
    #[must_use]
    pub fn in_dtype(self, dtype: WeightDtype) -> Self {
        Self { dtype: Some(dtype), ..self }
    }

    /// The same tensors, each read and searched for NaN and infinity when it is taken: for networks
    /// whose results nobody looks at before hours of work.
    #[must_use]
    pub fn searched(self) -> Self {
        Self { searched: true, ..self }
    }

    /// What the layers and the attention of a transformer's blocks are to multiply, by what their weights are
    /// converted to.
    pub fn products(&self) -> Products {
        self.dtype.map_or(Products::default(), Products::from)
    }

    /// Whether there is a tensor of this name that nobody took.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The shape that the file gives a tensor, when it is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(Stored::shape)
    }

    /// The names of all tensors that nobody took, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Takes a tensor in its own format, or in that of [`in_dtype`](Self::in_dtype). Axes of length 1 may be there or not (layouts differ in
    /// them); the result has exactly the shape asked for.
    ///
    /// # Errors
    /// When it is missing, has another shape, or is in a format that networks do not compute with; when
    /// the source is [`searched`](Self::searched), also when it holds NaN or infinity.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Weight, WeightsError> {
        let stored = self.take_stored(name, shape)?;
        let dtype = match self.dtype {
            Some(WeightDtype::Fp8) if !is_matrix(Component::Transformer, name) => None,
            dtype => dtype.map(DType::from),
        };
        if !self.searched {
            return stored.weight(name, shape, dtype);
        }
        let origin = stored.origin().to_owned();
        let weight = stored.weight(name, shape, dtype)?;
        all_finite(name, &origin, &weight.to_f32())?;
        Ok(weight)
    }

    /// Takes a small tensor (norm, bias, table) as `f32` values, row-major.
    ///
    /// # Errors
    /// As [`take`](Self::take), and when it holds NaN or infinity.
    pub fn take_f32(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        let stored = self.take_stored(name, shape)?;
        let origin = stored.origin().to_owned();
        let values = stored.values(name)?;
        all_finite(name, &origin, &values)?;
        Ok(values)
    }

    /// Reads all tensors that nobody took, one at a time.
    ///
    /// # Errors
    /// The first that holds NaN or infinity, or cannot be taken.
    pub fn search(self) -> Result<(), WeightsError> {
        let mut source = self.searched();
        let all: Vec<(String, Vec<usize>)> =
            source.tensors.iter().map(|(n, stored)| (n.clone(), stored.shape().to_vec())).collect();
        all.iter().try_for_each(|(name, shape)| source.take(name, shape).map(drop))
    }

    /// Drops a tensor that the files hold but this network has no use for. Absent ones are fine.
    pub fn skip(&mut self, name: &str) {
        self.tensors.remove(name);
    }

    /// Ends the taking.
    ///
    /// # Errors
    /// When tensors are left over; the error names the first of them.
    pub fn finish(self) -> Result<(), WeightsError> {
        if self.tensors.is_empty() {
            return Ok(());
        }
        let names: Vec<&String> = self.tensors.keys().collect();
        Err(WeightsError::Unused {
            count: names.len(),
            names: some_names(&names, 5),
            origin: self.origin.to_string(),
        })
    }

    /// Adds to a tensor when it is taken. The caller has checked that it is there and fits.
    pub(crate) fn add(&mut self, name: &str, delta: Delta) {
        if let Some(stored) = self.tensors.get_mut(name) {
            stored.add(delta);
        }
    }

    fn take_stored(&mut self, name: &str, shape: &[usize]) -> Result<Stored, WeightsError> {
        let Some(stored) = self.tensors.remove(name) else {
            return Err(WeightsError::Missing {
                tensor: name.to_owned(),
                shape: shape.to_vec(),
                origin: self.origin.to_string(),
            });
        };
        if !same_shape(stored.shape(), shape) {
            return Err(WeightsError::Shape {
                tensor: name.to_owned(),
                origin: stored.origin().to_owned(),
                expected: shape.to_vec(),
                found: stored.shape().to_vec(),
            });
        }
        Ok(stored)
    }
}

fn all_finite(name: &str, origin: &str, values: &[f32]) -> Result<(), WeightsError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => Err(WeightsError::NotFinite {
            tensor: name.to_owned(),
            origin: origin.to_owned(),
            index,
            value: values[index],
        }),
    }
}

/// Whether two shapes are equal but for axes of length 1.
pub(crate) fn same_shape(a: &[usize], b: &[usize]) -> bool {
    let long = |&&n: &&usize| n != 1;
    a.iter().filter(long).eq(b.iter().filter(long))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> TensorSource {
        TensorSource::from_tensors(HashMap::from([
            ("a".to_owned(), Weight::from_f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
            ("b".to_owned(), Weight::from_f32(&[2], &[f32::NAN, 1.0])),
        ]))
    }

    #[test]
    fn a_taken_tensor_is_gone_and_the_rest_is_named_at_the_end() {
        let mut source = source();
        assert_eq!(source.take_f32("a", &[2, 3]).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert!(!source.has("a") && source.has("b"));
        assert!(source.finish().unwrap_err().to_string().contains("1 tensors of memory"));
    }

    #[test]
    fn axes_of_length_one_do_not_matter() {
        assert_eq!(source().take("a", &[2, 3, 1, 1]).unwrap().shape(), [2, 3, 1, 1]);
        let message = source().take("a", &[3, 2]).unwrap_err().to_string();
        assert!(message.contains("[2, 3]") && message.contains("[3, 2]"), "{message}");
    }

    #[test]
    fn a_missing_tensor_and_a_nan_are_named() {
        let missing = source().take("c", &[7]).unwrap_err().to_string();
        assert!(missing.contains("tensor c of shape [7] is missing"), "{missing}");
        for nan in [source().take_f32("b", &[2]).err(), source().searched().take("b", &[2]).err()] {
            let nan = nan.expect("refused").to_string();
            assert!(nan.contains("tensor b") && nan.contains("NaN at index 0"), "{nan}");
        }
        assert!(source().search().unwrap_err().to_string().contains("tensor b"));
        assert!(source().take("b", &[2]).is_ok() && source().searched().take("a", &[2, 3]).is_ok());
    }
}
