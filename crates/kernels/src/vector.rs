//! Small parameters.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use crate::gpu::{Address, Array, Gpu};

/// A small parameter in `f32` (the weight of a norm, a bias, a table), which is brought to a GPU once.
#[derive(Debug, Default)]
pub struct Vector {
    values: Vec<f32>,
    device: Mutex<Option<Arc<Array>>>,
}

impl Vector {
    /// The values on a GPU.
    pub(crate) fn on(&self, gpu: &Arc<Gpu>) -> Arc<Array> {
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(array) = device.as_ref().filter(|array| Arc::ptr_eq(array.gpu(), gpu)) {
            return array.clone();
        }
        let array = Arc::new(Array::kept(gpu, &self.values));
        if array.address() != Address(0) {
            *device = Some(array.clone());
        }
        array
    }
}

impl From<Vec<f32>> for Vector {
    fn from(values: Vec<f32>) -> Self {
        Self { values, device: Mutex::default() }
    }
}

impl Clone for Vector {
    fn clone(&self) -> Self {
        self.values.clone().into()
    }
}

impl Deref for Vector {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}
