//! Tensors in a file that proves whole: a safetensors blob, and the SHA-256 of it behind.

use std::collections::HashMap;
use std::io;

use longreel_kernels::Tensor;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest, Sha256};

const DIGEST_BYTES: usize = 32;

/// What such a file holds.
#[derive(Debug, Default)]
pub(crate) struct TensorFile {
    /// By name.
    pub tensors: Vec<(String, Tensor)>,
    /// Plain bytes, by name.
    pub bytes: Vec<(String, Vec<u8>)>,
    /// Texts in the header.
    pub texts: HashMap<String, String>,
}

impl TensorFile {
    /// The bytes of the file.
    ///
    /// # Errors
    /// When two things have one name.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let floats: Vec<(&str, Vec<u8>, &[usize])> = self
            .tensors
            .iter()
            .map(|(name, t)| {
                let bytes = t.data().iter().flat_map(|v| v.to_le_bytes()).collect();
                (name.as_str(), bytes, t.shape())
            })
            .collect();
        let floats = floats.iter().map(|(name, bytes, shape)| {
            TensorView::new(Dtype::F32, shape.to_vec(), bytes).map(|view| (name.to_string(), view))
        });
        let bytes = self.bytes.iter().map(|(name, bytes)| {
            TensorView::new(Dtype::U8, vec![bytes.len()], bytes).map(|view| (name.clone(), view))
        });
        let views = floats.chain(bytes).collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
        let mut blob =
            safetensors::serialize(views, Some(self.texts.clone())).map_err(io::Error::other)?;
        let digest = Sha256::digest(&blob);
        blob.extend_from_slice(&digest);
        Ok(blob)
    }

    /// Reads the bytes of a file; what is wrong with them otherwise.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let split = bytes.len().checked_sub(DIGEST_BYTES).ok_or("it is cut short")?;
        let (blob, digest) = bytes.split_at(split);
        if Sha256::digest(blob).as_slice() != digest {
            return Err("its checksum does not match".into());
        }
        let (_, header) = SafeTensors::read_metadata(blob).map_err(|e| e.to_string())?;
        let texts = header.metadata().clone().unwrap_or_default();
        let file = SafeTensors::deserialize(blob).map_err(|e| e.to_string())?;
        let (mut tensors, mut bytes) = (Vec::new(), Vec::new());
        for (name, view) in file.tensors() {
            match view.dtype() {
                Dtype::F32 => {
                    let values = view.data().chunks_exact(4);
                    let values =
                        values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
                    tensors.push((name, Tensor::from_vec(view.shape(), values)));
                }
                Dtype::U8 => bytes.push((name, view.data().to_vec())),
                other => return Err(format!("{name} is {other:?}")),
            }
        }
        Ok(Self { tensors, bytes, texts })
    }

    /// Takes a tensor out by name.
    pub fn take(&mut self, name: &str) -> Option<Tensor> {
        let index = self.tensors.iter().position(|(n, _)| n == name)?;
        Some(self.tensors.swap_remove(index).1)
    }
}
