//! Typed, bounded access to the keys of a JSON object.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::WeightsError;

/// The widest layer of any kind that is believed; the family's widest is 15,360.
pub(crate) const WIDTH_MAX: usize = 1 << 20;
/// The most layers that are believed; the family's deepest network has 40.
pub(crate) const LAYERS_MAX: usize = 512;

/// The keys of one network's configuration. Remembers which were asked for.
pub(crate) struct Fields<'a> {
    component: &'static str,
    map: &'a Map<String, Value>,
    known: RefCell<HashSet<&'static str>>,
}

impl<'a> Fields<'a> {
    pub fn new(component: &'static str, map: &'a Map<String, Value>) -> Self {
        Self { component, map, known: RefCell::default() }
    }

    /// The value of a key; an absent key and `null` mean the same.
    fn value(&self, name: &'static str) -> Option<&'a Value> {
        self.known.borrow_mut().insert(name);
        self.map.get(name).filter(|v| !v.is_null())
    }

    pub fn refuse(&self, name: &str, value: &Value, rule: impl Into<String>) -> WeightsError {
        let mut value = value.to_string();
        if let Some((end, _)) = value.char_indices().nth(80) {
            value.truncate(end);
            value.push('…');
        }
        WeightsError::Config {
            component: self.component,
            field: name.chars().take(80).collect(),
            value,
            rule: rule.into(),
        }
    }

    /// Refuses a key with the value it has in the file.
    pub fn refuse_key(&self, name: &str, rule: impl Into<String>) -> WeightsError {
        self.refuse(name, self.map.get(name).unwrap_or(&Value::Null), rule)
    }

    pub fn maybe_count(
        &self,
        name: &'static str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, WeightsError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| range.contains(n))
            .map(Some)
            .ok_or_else(|| {
                let rule =
                    format!("it must be a whole number from {} to {}", range.start(), range.end());
                self.refuse(name, value, rule)
            })
    }

    pub fn count(
        &self,
        name: &'static str,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> Result<usize, WeightsError> {
        Ok(self.maybe_count(name, range)?.unwrap_or(default))
    }

    pub fn flag(&self, name: &'static str, default: bool) -> Result<bool, WeightsError> {
        let Some(value) = self.value(name) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.refuse(name, value, "it must be true or false"))
    }

    pub fn text(&self, name: &'static str) -> Result<Option<&'a str>, WeightsError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value.as_str() {
            Some(text) if text.len() <= 200 => Ok(Some(text)),
            _ => Err(self.refuse(name, value, "it must be a short text")),
        }
    }

    /// A small positive number such as a norm's epsilon.
    pub fn epsilon(&self, name: &'static str, default: f64) -> Result<f64, WeightsError> {
        let Some(value) = self.value(name) else { return Ok(default) };
        value
            .as_f64()
            .filter(|v| *v > 0.0 && *v <= 1.0)
            .ok_or_else(|| self.refuse(name, value, "it must be above 0 and at most 1"))
    }

    /// A number from 0 to 1.
    pub fn fraction(&self, name: &'static str, default: f64) -> Result<f64, WeightsError> {
        let Some(value) = self.value(name) else { return Ok(default) };
        value
            .as_f64()
            .filter(|v| (0.0..=1.0).contains(v))
            .ok_or_else(|| self.refuse(name, value, "it must be from 0 to 1"))
    }

    /// A list with at most `max` entries, each read by `entry`.
    pub fn list<T>(
        &self,
        name: &'static str,
        max: usize,
        rule: &str,
        entry: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, WeightsError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        value
            .as_array()
            .filter(|list| list.len() <= max)
            .and_then(|list| list.iter().map(entry).collect())
            .map(Some)
            .ok_or_else(|| {
                self.refuse(name, value, format!("it must be a list of up to {max} {rule}"))
            })
    }

    pub fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|v| !v.is_null())
    }

    /// Keys that are known to change nothing at inference.
    pub fn ignore(&self, names: &[&'static str]) {
        self.known.borrow_mut().extend(names);
    }

    /// Refuses the first key that was never asked for. Keys that are off (`null`, `false`) and those
    /// that begin with an underscore (the reference's own notes) are let pass.
    pub fn finish(&self) -> Result<(), WeightsError> {
        let known = self.known.borrow();
        let unknown = self.map.iter().find(|(name, value)| {
            !known.contains(name.as_str())
                && !name.starts_with('_')
                && !matches!(value, Value::Null | Value::Bool(false))
        });
        match unknown {
            None => Ok(()),
            Some((name, value)) => Err(self.refuse(
                name,
                value,
                "no SkyReels-V2 or Wan 2.1 model has this key; this is a model of another family",
            )),
        }
    }
}

pub(crate) fn small_count(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= 4096)
}

pub(crate) fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|v| v.is_finite())
}

/// Gives a config type `from_json` and serde's `Deserialize`, both through `TryFrom<Map>`.
macro_rules! config_from_json {
    ($config:ident, $component:literal) => {
        impl TryFrom<serde_json::Map<String, serde_json::Value>> for $config {
            type Error = $crate::WeightsError;

            fn try_from(
                map: serde_json::Map<String, serde_json::Value>,
            ) -> Result<Self, Self::Error> {
                Self::from_fields(&$crate::config::fields::Fields::new($component, &map))
            }
        }

        impl $config {
            /// Reads a `config.json`. Absent keys have the defaults of the reference's class.
            ///
            /// # Errors
            /// When it is no JSON object, a value is out of range, or a key is not known; the error
            /// names key, value and rule.
            pub fn from_json(json: &str) -> Result<Self, $crate::WeightsError> {
                let map: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json)
                    .map_err(|error| $crate::WeightsError::json($component, &error))?;
                map.try_into()
            }
        }
    };
}
pub(crate) use config_from_json;
