//! Records the frames of a release: `record FOLDER`, which must not be there yet. By `cargo xtask frames --record RELEASE`.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder: PathBuf = std::env::args_os().nth(1).expect("a folder").into();
    std::fs::create_dir(&folder)?;
    for frame in atoll_fuzz::frames::all() {
        std::fs::write(folder.join(frame.name), (frame.bytes)())?;
    }
    Ok(())
}
