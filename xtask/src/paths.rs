//! Where things are.

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// This executable, as it was found at the start: a later build may replace the file.
static EXECUTABLE: LazyLock<PathBuf> = LazyLock::new(|| std::env::current_exe().unwrap_or_default());

/// Root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// This executable. First asked before anything is built.
pub(crate) fn executable() -> &'static Path {
    &EXECUTABLE
}

/// Cargo's target directory, found from this executable, which is in one of its profile directories.
pub(crate) fn target() -> PathBuf {
    executable().ancestors().nth(2).map_or_else(|| root().join("target"), Path::to_owned)
}

/// A program of the release profile.
pub(crate) fn release(program: &str) -> PathBuf {
    target().join("release").join(program)
}
