//! `atoll install-plugin`: this program as `kubectl-atoll` in a folder where kubectl looks for plugins.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{PLUGIN, show};
use crate::{Ending, say};

/// Folders that are taken first where they are in PATH, below the home folder.
const OWN: [&str; 3] = [".local/bin", "bin", ".cargo/bin"];

/// Arguments of `atoll install-plugin`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Folder to put it into; a folder of PATH that you may write to, your own first, where none is given
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Link to this program instead of copying it
    #[arg(long)]
    link: bool,
}

pub(super) fn install(arguments: &Arguments) -> Result<(), Ending> {
    let failed = |what: &str, error: &io::Error| Ending::Failed(format!("{what}: {error}"));
    let program = std::env::current_exe().and_then(fs::canonicalize);
    let program = program.map_err(|error| failed("this program cannot be found", &error))?;
    let path: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let folder = match &arguments.dir {
        Some(folder) if folder.is_dir() => folder.clone(),
        Some(folder) => return Err(Ending::BadInput(format!("{} is no folder", folder.display()))),
        None => preferred(&path, home.as_deref())
            .into_iter()
            .find(|folder| is_writable(folder))
            .ok_or_else(|| Ending::BadInput("you may write to no folder of PATH; give --dir DIR".to_owned()))?,
    };
    let place = folder.join(PLUGIN);
    let how = put(&program, &place, arguments.link).map_err(|error| failed(&place.display().to_string(), &error))?;
    if !path.contains(&folder) {
        say(&format!("{} is not in PATH: kubectl will not find it there", folder.display()));
    }
    show(&format!("{how} {}; now: kubectl atoll status\n", place.display()))
}

/// The folders of PATH, a person's own first, and none that is relative.
fn preferred(path: &[PathBuf], home: Option<&Path>) -> Vec<PathBuf> {
    let own: Vec<PathBuf> = home.into_iter().flat_map(|home| OWN.map(|folder| home.join(folder))).collect();
    let first = own.iter().filter(|folder| path.contains(folder)).cloned();
    first.chain(path.iter().filter(|folder| folder.is_absolute() && !own.contains(folder)).cloned()).collect()
}

fn is_writable(folder: &Path) -> bool {
    folder.is_dir() && rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Puts `program` at `place`, whole or not at all; what is there already is replaced.
fn put(program: &Path, place: &Path, link: bool) -> io::Result<&'static str> {
    if fs::canonicalize(place).is_ok_and(|there| there == program) {
        return Ok("it is there already:");
    }
    let beside = place.with_extension(std::process::id().to_string());
    let made = if link { std::os::unix::fs::symlink(program, &beside) } else { fs::copy(program, &beside).map(|_| ()) };
    if let Err(error) = made.and_then(|()| fs::rename(&beside, place)) {
        let _nothing_to_remove = fs::remove_file(&beside);
        return Err(error);
    }
    Ok(if link { "linked as" } else { "copied to" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_persons_own_folders_come_first_and_relative_ones_never() {
        let path = ["/usr/bin", "bin", "/people/a/bin", "/people/a/.local/bin"].map(PathBuf::from);
        let preferred = preferred(&path, Some(Path::new("/people/a")));
        assert_eq!(preferred, ["/people/a/.local/bin", "/people/a/bin", "/usr/bin"].map(PathBuf::from));
    }

    #[test]
    fn an_older_plugin_is_replaced_and_the_same_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(folder.path()).unwrap();
        let (program, place) = (folder.join("atoll"), folder.join(PLUGIN));
        fs::write(&program, "new").unwrap();
        fs::write(&place, "old").unwrap();
        assert_eq!(put(&program, &place, false).unwrap(), "copied to");
        assert_eq!(fs::read_to_string(&place).unwrap(), "new");
        assert_eq!(put(&program, &place, true).unwrap(), "linked as");
        assert_eq!(put(&program, &place, true).unwrap(), "it is there already:");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "nothing else is left");
    }
}
