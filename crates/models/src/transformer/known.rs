//! What steps of one shape share, made once.

use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Values by what they were made for. The last one is kept, since most steps of a segment share it; others are
/// found as long as somebody has them, as the graphs of a device do.
#[derive(Debug)]
pub(super) struct Known<K, V>(Mutex<Values<K, V>>);

#[derive(Debug)]
struct Values<K, V> {
    last: Option<Arc<V>>,
    /// All that somebody has, the last one among them.
    there: Vec<(K, Weak<V>)>,
}

impl<K, V> Default for Known<K, V> {
    fn default() -> Self {
        Self(Mutex::new(Values { last: None, there: Vec::new() }))
    }
}

/// Another network's lie on another device.
impl<K, V> Clone for Known<K, V> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<K: PartialEq, V> Known<K, V> {
    /// The value for `key`, made by `make` where nobody has it.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn of<E>(&self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<Arc<V>, E> {
        // A panic elsewhere while the lock was held cannot leave half a value behind.
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = values.there.iter().find(|(other, _)| *other == key);
        let value = match found.and_then(|(_, value)| value.upgrade()) {
            Some(value) => value,
            None => {
                let value = Arc::new(make()?);
                values.there.retain(|(_, value)| value.strong_count() > 0);
                values.there.push((key, Arc::downgrade(&value)));
                value
            }
        };
        values.last = Some(value.clone());
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn a_value_is_made_once_while_somebody_has_it_and_the_last_one_stays() {
        let known = Known::default();
        let of = |key: u32| known.of(key, || Ok::<_, Infallible>(key)).expect("made");
        let one = of(1);
        let one_again = Arc::downgrade(&of(1));
        assert!(std::ptr::eq(one_again.as_ptr(), &*one), "made twice");
        let two = Arc::downgrade(&of(2));
        assert!(two.upgrade().is_some(), "the last one is gone");
        assert!(Arc::ptr_eq(&of(1), &one), "somebody has it");
        assert!(two.upgrade().is_none(), "nobody has it");
        assert!(known.of(3, || Err("why")).is_err());
        assert!(one_again.upgrade().is_some(), "a failure loses the last one");
    }
}
