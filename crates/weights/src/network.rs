//! The four networks: which tensors each needs, and what sizes tensors imply when there is no
//! configuration.

mod clip;
mod text;
mod transformer;
mod vae;

use std::collections::BTreeMap;

use crate::WeightsError;
use crate::config::{ClipVisionConfig, TextConfig, TransformerConfig, VaeConfig};
use crate::names::{Component, Named};
use crate::source::same_shape;

/// Canonical name and shape of a tensor.
pub type ExpectedTensor = (String, Vec<usize>);

/// What is common to the configurations.
pub(crate) trait Network: Sized {
    const COMPONENT: Component;

    /// Reads a `config.json` of Diffusers or transformers.
    fn parse(json: &str) -> Result<Self, WeightsError>;

    /// The sizes that the tensors imply. Where they leave a choice, the family's published one is taken;
    /// where there is none, the error asks for a `config.json`.
    fn infer(shapes: &Shapes<'_>) -> Result<Self, WeightsError>;

    /// Every tensor of the network, in no particular order.
    fn expected(&self) -> Vec<ExpectedTensor>;
}

macro_rules! network {
    ($config:ident, $component:ident, $module:ident) => {
        impl Network for $config {
            const COMPONENT: Component = Component::$component;

            fn parse(json: &str) -> Result<Self, WeightsError> {
                Self::from_json(json)
            }

            fn infer(shapes: &Shapes<'_>) -> Result<Self, WeightsError> {
                $module::infer(shapes)
            }

            fn expected(&self) -> Vec<ExpectedTensor> {
                $module::expected(self)
            }
        }

        impl $config {
            /// Canonical name and shape of every tensor of a network of these sizes.
            pub fn expected_tensors(&self) -> Vec<ExpectedTensor> {
                $module::expected(self)
            }
        }
    };
}

network!(TransformerConfig, Transformer, transformer);
network!(VaeConfig, Vae, vae);
network!(TextConfig, TextEncoder, text);
network!(ClipVisionConfig, ImageEncoder, clip);

/// Collects expected tensors.
#[derive(Default)]
struct List(Vec<ExpectedTensor>);

impl List {
    fn tensor(&mut self, name: String, shape: &[usize]) {
        self.0.push((name, shape.to_vec()));
    }

    /// `{name}.weight` and `{name}.bias`, whose length is the weight's first axis.
    fn layer(&mut self, name: &str, weight: &[usize]) {
        self.tensor(format!("{name}.weight"), weight);
        self.tensor(format!("{name}.bias"), &weight[..1]);
    }
}

/// Shapes by canonical name, to infer sizes from.
pub(crate) struct Shapes<'a> {
    component: Component,
    shapes: BTreeMap<&'a str, &'a [usize]>,
}

impl<'a> Shapes<'a> {
    pub fn of(component: Component, tensors: &'a [Named]) -> Self {
        let shapes = tensors.iter().map(|t| (t.name.as_str(), t.stored.shape.as_slice()));
        Self { component, shapes: shapes.collect() }
    }

    fn has(&self, name: &str) -> bool {
        self.shapes.contains_key(name)
    }

    fn get(&self, name: &str) -> Option<&'a [usize]> {
        self.shapes.get(name).copied()
    }

    /// The length of one axis of a tensor that every network of the kind has.
    fn axis(&self, name: &str, axis: usize) -> Result<usize, WeightsError> {
        self.get(name).and_then(|shape| shape.get(axis).copied()).ok_or_else(|| {
            WeightsError::Missing {
                tensor: name.to_owned(),
                shape: vec![],
                origin: format!("the {}'s files", self.component.name()),
            }
        })
    }

    /// Width of the image embeddings that a transformer takes, when it takes any.
    pub fn image_dim(&self) -> Option<usize> {
        self.axis("condition_embedder.image_embedder.norm1.weight", 0).ok()
    }

    /// Image tokens for which a transformer has learned positions.
    pub fn image_positions(&self) -> Option<usize> {
        let shape = self.get("condition_embedder.image_embedder.pos_embed")?;
        // Axes of length 1 before it may be missing.
        shape.get(shape.len().checked_sub(2)?).copied()
    }

    /// How many blocks there are: one more than the highest number behind `prefix`.
    fn count(&self, prefix: &str) -> usize {
        let numbers = self.shapes.keys().filter_map(|name| {
            let rest = name.strip_prefix(prefix)?;
            rest.split('.').next()?.parse::<usize>().ok()
        });
        numbers.max().map_or(0, |n| n.saturating_add(1))
    }

    /// For sizes that tensors do not tell.
    fn ask(&self, field: &str, value: impl std::fmt::Display) -> WeightsError {
        WeightsError::Config {
            component: self.component.name(),
            field: field.to_owned(),
            value: value.to_string(),
            rule:
                "the tensors do not tell what follows from it; put the model's config.json beside \
                   the file"
                    .into(),
        }
    }
}

/// What does not fit between the tensors of the files and those a configuration asks for: missing ones,
/// wrong shapes, surplus.
pub(crate) fn compare(
    expected: &[ExpectedTensor],
    tensors: &[Named],
    origin: &str,
) -> Vec<WeightsError> {
    let mut left: BTreeMap<&str, &Named> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut problems = Vec::new();
    for (name, shape) in expected {
        match left.remove(name.as_str()) {
            None => problems.push(WeightsError::Missing {
                tensor: name.clone(),
                shape: shape.clone(),
                origin: origin.to_owned(),
            }),
            Some(named) if !same_shape(&named.stored.shape, shape) => {
                problems.push(WeightsError::Shape {
                    tensor: named.both_names(),
                    origin: named.file.display().to_string(),
                    expected: shape.clone(),
                    found: named.stored.shape.clone(),
                });
            }
            Some(_) => {}
        }
    }
    if !left.is_empty() {
        let names: Vec<String> = left.values().map(|t| t.both_names()).collect();
        problems.push(WeightsError::Unused {
            count: names.len(),
            names: crate::error::some_names(&names, 5),
            origin: origin.to_owned(),
        });
    }
    problems
}
