//! Seconds that a suite may take, cold or warm.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::PathBuf,
};

use anyhow::Result;

use crate::{paths, process::cargo};

/// Seconds that a suite may take on two cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// With nothing built.
    pub(crate) cold: u64,
    /// With the dependencies built.
    pub(crate) warm: u64,
}

impl Budget {
    /// The budget that counts now: the warm one if the suite has passed here before, with these dependencies and this compiler.
    pub(crate) fn seconds(self, suite: &str) -> u64 {
        let warm = fs::read_to_string(stamp(suite)).is_ok_and(|before| fingerprint().is_ok_and(|now| before == now));
        if warm { self.warm } else { self.cold }
    }
}

/// Remembers that a suite has passed here.
pub(crate) fn passed(suite: &str) -> Result<()> {
    let file = stamp(suite);
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(fs::write(file, fingerprint()?)?)
}

fn stamp(suite: &str) -> PathBuf {
    paths::target().join("xtask").join(suite)
}

/// Changes with the compiler and with the dependencies.
fn fingerprint() -> Result<String> {
    let mut hasher = DefaultHasher::new();
    cargo().arg("--version").output()?.stdout.hash(&mut hasher);
    fs::read(paths::root().join("Cargo.lock"))?.hash(&mut hasher);
    Ok(format!("{:016x}\n", hasher.finish()))
}
