//! What can be wrong with the slices that a method is given.

/// Why a method's function did nothing. The slices are untouched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    /// A slice has another length than the parameters (or, for a state vector that the method does not keep, than zero).
    #[error("{vector} has {found} elements where {expected} are needed")]
    Length {
        /// Which slice.
        vector: &'static str,
        /// Elements it has.
        found: usize,
        /// Elements it needs.
        expected: usize,
    },
}

/// Checks that the slice called `vector` has `expected` elements.
pub(crate) fn require_length(vector: &'static str, slice: &[f32], expected: usize) -> Result<(), MethodError> {
    if slice.len() == expected {
        return Ok(());
    }
    Err(MethodError::Length { vector, found: slice.len(), expected })
}
