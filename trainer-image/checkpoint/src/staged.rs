//! What writers that were killed leave in a folder of this machine: a file is written under another name first, which ends with `#`
//! and a number.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

/// Folders below the one of the run that files are written to: shards are one deeper.
const DEEPEST: usize = 2;

/// Removes the files that are older than `since` and were never put in their place. What cannot be removed stays.
pub(crate) fn forget(folder: &Path, since: SystemTime) {
    forget_below(folder, since, 0);
}

fn forget_below(folder: &Path, since: SystemTime, depth: usize) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < DEEPEST => forget_below(&path, since, depth + 1),
            Ok(kind) if kind.is_file() && is_staged(&path) => {
                let old = entry.metadata().and_then(|found| found.modified()).is_ok_and(|written| written < since);
                if old {
                    let _another_time = fs::remove_file(&path);
                }
            }
            _ => {}
        }
    }
}

fn is_staged(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = name.rsplit_once('#').map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;

    #[test]
    fn files_that_were_never_put_in_their_place_go_once_they_are_old() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("shards/1f")).unwrap();
        let (now, day) = (fs::metadata(folder.path()).unwrap().modified().unwrap(), Duration::from_hours(24));
        let names = ["LATEST#1", "LATEST", "shards/1f/a.safetensors#12", "shards/1f/a.safetensors", "shards/1f/b#x", "c#3"];
        for name in names {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(if name == "c#3" { now } else { now - 2 * day }).unwrap();
        }
        forget(folder.path(), now - day);
        let left: Vec<_> = names.into_iter().filter(|name| folder.path().join(name).exists()).collect();
        assert_eq!(left, ["LATEST", "shards/1f/a.safetensors", "shards/1f/b#x", "c#3"]);
        forget(&folder.path().join("nowhere"), now);
    }
}
