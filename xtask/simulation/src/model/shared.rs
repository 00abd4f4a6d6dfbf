//! Values that many states have in common: each is kept once, and told apart by a fingerprint of its stored form.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use serde::Serialize;

/// One of the values of a [`Pool`]. Copies cost nothing; equal values have equal fingerprints.
#[derive(Debug)]
pub(super) struct Shared<T> {
    value: Arc<T>,
    fingerprint: u64,
}

/// All values of one type.
pub(super) struct Pool<T> {
    values: Mutex<HashMap<u64, Kept<T>>>,
}

/// A value, and its stored form.
type Kept<T> = (Vec<u8>, Shared<T>);

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { values: Mutex::default() }
    }
}

impl<T: Serialize> Pool<T> {
    /// The one copy of `value`. Fingerprints that collide stop the model: two states must not be taken for one.
    pub(super) fn share(&self, value: T) -> Shared<T> {
        let stored = serde_json::to_vec(&value).unwrap();
        let mut hasher = DefaultHasher::new();
        stored.hash(&mut hasher);
        let fingerprint = hasher.finish();
        let mut values = self.values.lock().unwrap();
        let (known, shared) =
            values.entry(fingerprint).or_insert_with(|| (stored.clone(), Shared { value: Arc::new(value), fingerprint }));
        assert!(*known == stored, "two values have one fingerprint");
        shared.clone()
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), fingerprint: self.fingerprint }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl<T> Eq for Shared<T> {}

impl<T> PartialOrd for Shared<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Shared<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.fingerprint.cmp(&other.fingerprint)
    }
}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.fingerprint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_others_are_told_apart() {
        let pool = Pool::default();
        let [one, same, other] = ["a", "a", "b"].map(|text| pool.share(text.to_owned()));
        assert!(one == same && Arc::ptr_eq(&one.value, &same.value));
        assert!(one != other);
    }
}
