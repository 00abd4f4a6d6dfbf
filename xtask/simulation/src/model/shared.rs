//! A value that many states share, told apart by a fingerprint.

use std::fmt::{Debug, Write};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// Compares and hashes as its text; copies cost nothing.
#[derive(Debug, Clone)]
pub(super) struct Shared<T> {
    value: Arc<T>,
    fingerprint: u64,
}

/// Hashes what is written.
struct Text(DefaultHasher);

impl Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl<T: Debug> Shared<T> {
    pub(super) fn new(value: T) -> Self {
        let mut text = Text(DefaultHasher::new());
        write!(text, "{value:?}").unwrap();
        Self { value: Arc::new(value), fingerprint: text.0.finish() }
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

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.fingerprint);
    }
}
