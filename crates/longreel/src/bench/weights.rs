//! Random weights of whole networks.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result};
use longreel_weights::{ExpectedTensor, TensorSource};

use super::random::write;

/// Bytes of the layers that differ, at least: more than a processor's cache holds.
const DISTINCT_BYTES: usize = 1 << 30;

/// Random weights by name.
///
/// # Errors
/// The file cannot be written.
pub fn source(tensors: &[ExpectedTensor], folder: &Path) -> Result<TensorSource> {
    let file = folder.join("random.safetensors");
    // The one before may still be mapped.
    let _ = std::fs::remove_file(&file);
    write(tensors, &file).with_context(|| {
        format!(
            "random weights cannot be written to {}; TMPDIR chooses another place",
            file.display()
        )
    })?;
    Ok(TensorSource::open_file(&file)?)
}

/// As [`source`], for a network whose layers are `blocks.N`: only so many layers are written that no cache holds them,
/// and the others have the weights of these. A model of 14 billion values needs 2 GB of disk and no more memory then.
///
/// # Errors
/// As [`source`].
pub fn source_of_blocks(tensors: &[ExpectedTensor], folder: &Path) -> Result<TensorSource> {
    let of_first = tensors.iter().filter(|(name, _)| name.starts_with("blocks.0."));
    let layer: usize = of_first.map(|(_, shape)| 2 * shape.iter().product::<usize>()).sum();
    let distinct = DISTINCT_BYTES.div_ceil(layer.max(1));
    let written = |name: &'_ str| -> String { written_name(name, distinct).into_owned() };
    let mut seen = HashSet::new();
    let unique: Vec<ExpectedTensor> = tensors
        .iter()
        .map(|(name, shape)| (written(name), shape.clone()))
        .filter(|(name, _)| seen.insert(name.clone()))
        .collect();
    let mut source = source(&unique, folder)?;
    let taken = unique.iter().map(|(name, shape)| Ok((name.clone(), source.take(name, shape)?)));
    let taken = taken.collect::<Result<HashMap<_, _>>>()?;
    let named = tensors.iter().map(|(name, _)| (name.clone(), taken[&written(name)].clone()));
    Ok(TensorSource::from_tensors(named.collect()))
}

/// The tensor whose values one has.
fn written_name(name: &str, distinct: usize) -> Cow<'_, str> {
    let layer = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
    let layer = layer.and_then(|(layer, rest)| Some((layer.parse::<usize>().ok()?, rest)));
    match layer {
        Some((layer, rest)) => Cow::Owned(format!("blocks.{}.{rest}", layer % distinct)),
        None => Cow::Borrowed(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Layers that have the same weights have them in the same place, so that the file stays small; each is complete.
    #[test]
    fn layers_beyond_what_a_cache_holds_have_the_weights_of_earlier_ones() {
        assert_eq!(written_name("blocks.7.attn1.to_q.weight", 3), "blocks.1.attn1.to_q.weight");
        assert_eq!(written_name("patch_embedding.weight", 3), "patch_embedding.weight");
        let folder = tempfile::tempdir().expect("a folder");
        // Half a gibibyte each would be two layers; these are small, so that all of them are written.
        let tensors: Vec<ExpectedTensor> = (0..3)
            .map(|layer| (format!("blocks.{layer}.w.weight"), vec![4, 8]))
            .chain([("proj.weight".to_owned(), vec![8, 8])])
            .collect();
        let mut source = source_of_blocks(&tensors, folder.path()).expect("a source");
        let mut values = Vec::new();
        for (name, shape) in &tensors {
            values.push(source.take(name, shape).expect(name).to_f32());
        }
        assert!(values[0] != values[1] && values[1] != values[2]);
        assert!(source.finish().is_ok());
    }
}
