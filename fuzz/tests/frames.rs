//! Today's code understands what earlier releases sent, and this release is recorded.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use atoll_fuzz::frames;

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("frames")
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_frames_of_every_release_mean_what_they_meant() {
    let mut checked = 0;
    for release in names(&recorded()) {
        for name in names(&recorded().join(&release)) {
            let file = recorded().join(&release).join(&name);
            println!("{}", file.display());
            let frame = frames::all().find(|frame| frame.name == name).expect("a frame that was sent is known for ever");
            (frame.check)(&fs::read(&file).unwrap());
            checked += 1;
        }
    }
    assert!(checked >= frames::all().count());
}

#[test]
fn this_release_is_recorded_and_still_sends_the_same() {
    let folder = recorded().join(env!("CARGO_PKG_VERSION"));
    for frame in frames::all() {
        let file = folder.join(frame.name);
        assert_eq!((frame.bytes)(), fs::read(&file).unwrap(), "{}", file.display());
    }
    assert_eq!(names(&folder), frames::all().map(|frame| frame.name.to_owned()).collect());
}
