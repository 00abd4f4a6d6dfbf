//! Programs for images: one static file that needs nothing of the image, with no path of this machine in it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    paths,
    process::{Process, cargo, output},
};

/// Named even where it is the machine's own, so that the flags do not reach build scripts.
pub(super) const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Longest time for a build; a cold one on a busy machine takes many minutes.
const BUILDING: Duration = Duration::from_hours(1);
const COMPILING: Duration = Duration::from_mins(5);

/// Builds the program of a package, which has the package's name, and gives its place.
///
/// Each package is built alone, so that none has features that only another asks for.
pub(super) fn of_package(package: &str, profile: &str) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--locked", "--quiet", "--profile", profile, "--target", TARGET]);
    command.args(["--package", package, "--bin", package]).env("CARGO_ENCODED_RUSTFLAGS", flags().join("\u{1f}"));
    let mut process = Process::start(package, command.stdin(Stdio::null()))?;
    let status = process.wait(BUILDING, || Ok(()))?;
    ensure!(status.success(), "{package} could not be built: {status}");
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(paths::target().join(TARGET).join(folder).join(package))
}

/// Compiles a program that is one file of the workspace, and gives its place.
pub(super) fn of_file(name: &str, source: &str) -> Result<PathBuf> {
    let folder = paths::target().join("images/build");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let program = folder.join(name);
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.args(["--edition", "2024", "-O", "-C", "panic=abort", "--target", TARGET]).args(flags());
    output(name, command.arg(paths::root().join(source)).arg("-o").arg(&program), COMPILING)?;
    Ok(program)
}

fn flags() -> Vec<String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let remapped = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags: Vec<String> = ["-C", "target-feature=+crt-static", "-C", "strip=symbols"].map(str::to_owned).into();
    flags.extend(home.map(|home| remapped(&home, "/cargo")));
    flags.extend([remapped(&paths::target(), "/target"), remapped(paths::root(), "/atoll")]);
    flags
}
