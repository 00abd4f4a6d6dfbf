//! Training methods as pure functions on flat f32 slices.
