//! The tensors of one network, under canonical names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use longreel_kernels::Weight;

use crate::WeightsError;
use crate::error::some_names;

/// The tensors of one network under their canonical names, whatever the files call them.
///
/// A network takes each tensor with the shape its configuration gives, then calls
/// [`finish`](Self::finish), which fails when any is left over. Taking is cheap: a weight is a view
/// into the mapped file, and its pages are read when they are first used.
#[derive(Debug)]
pub struct TensorSource {
    tensors: BTreeMap<String, Entry>,
    /// The files, for messages.
    origin: Arc<str>,
}

#[derive(Debug)]
struct Entry {
    weight: Weight,
    origin: Arc<str>,
}

impl TensorSource {
    /// Tensors that are in memory already, for tests and for networks made by a program.
    pub fn from_tensors(tensors: HashMap<String, Weight>) -> Self {
        let origin: Arc<str> = "memory".into();
        let entry = |weight| Entry { weight, origin: origin.clone() };
        Self {
            tensors: tensors.into_iter().map(|(name, weight)| (name, entry(weight))).collect(),
            origin: origin.clone(),
        }
    }

    /// Whether there is a tensor of this name that nobody took.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Takes a tensor in its own format. Axes of length 1 may be there or not (layouts differ in
    /// them); the result has exactly the shape asked for.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Weight, WeightsError> {
        self.take_entry(name, shape).map(|entry| entry.weight)
    }

    /// Takes a small tensor (norm, bias, table) as `f32` values, row-major.
    ///
    /// # Errors
    /// When it is missing, has another shape, or holds NaN or infinity.
    pub fn take_f32(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        let entry = self.take_entry(name, shape)?;
        let values = entry.weight.to_f32();
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(index) => Err(WeightsError::NotFinite {
                tensor: name.to_owned(),
                origin: entry.origin.to_string(),
                index,
                value: values[index],
            }),
        }
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

    fn take_entry(&mut self, name: &str, shape: &[usize]) -> Result<Entry, WeightsError> {
        let Some(mut entry) = self.tensors.remove(name) else {
            return Err(WeightsError::Missing {
                tensor: name.to_owned(),
                shape: shape.to_vec(),
                origin: self.origin.to_string(),
            });
        };
        if entry.weight.shape() == shape {
            return Ok(entry);
        }
        let long_axes =
            |shape: &[usize]| -> Vec<usize> { shape.iter().copied().filter(|&n| n != 1).collect() };
        if long_axes(entry.weight.shape()) != long_axes(shape) {
            return Err(WeightsError::Shape {
                tensor: name.to_owned(),
                origin: entry.origin.to_string(),
                expected: shape.to_vec(),
                found: entry.weight.shape().to_vec(),
            });
        }
        entry.weight = entry.weight.reshape(shape).map_err(|source| WeightsError::Bytes {
            tensor: name.to_owned(),
            origin: entry.origin.to_string(),
            source,
        })?;
        Ok(entry)
    }
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
        let nan = source().take_f32("b", &[2]).unwrap_err().to_string();
        assert!(nan.contains("tensor b") && nan.contains("NaN at index 0"), "{nan}");
    }
}
