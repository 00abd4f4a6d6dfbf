//! The Dockerfiles of the tree: no engine builds them here, so what can be read off them is checked.

use std::{fs, path::Path};

use crate::paths;

const FILES: [&str; 4] =
    ["operator/Dockerfile", "trainer-image/Dockerfile", "trainer-image/sidecar.Dockerfile", "trainer-image/cuda.Dockerfile"];

/// What is wrong with a Dockerfile whose context is `root`.
fn faults(text: &str, root: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    let mut stages: Vec<&str> = Vec::new();
    let mut user = "root";
    let joined = text.replace("\\\n", " ");
    for line in joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["FROM", image, ref rest @ ..] => {
                if !image.contains([':', '/']) && image != "scratch" && !stages.contains(&image) {
                    faults.push(format!("no stage or tag: {image}"));
                }
                stages.extend(rest.get(1));
                user = "root";
            }
            ["COPY", ref rest @ ..] => faults.extend(copied(rest, &stages, root)),
            ["USER", name] => user = name,
            ["ARG" | "ENV" | "RUN" | "WORKDIR" | "ENTRYPOINT" | "LABEL", ..] => {}
            _ => faults.push(format!("not understood: {line}")),
        }
    }
    if ["root", "0"].contains(&user.split(':').next().unwrap_or(user)) {
        faults.push("runs as root".to_owned());
    }
    faults
}

fn copied(words: &[&str], stages: &[&str], root: &Path) -> Vec<String> {
    let (options, places): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.starts_with("--"));
    if let Some(stage) = options.iter().find_map(|option| option.strip_prefix("--from=")) {
        return if stages.contains(&stage) { Vec::new() } else { vec![format!("no stage {stage}")] };
    }
    let sources = places.split_last().map_or(&[][..], |(_, sources)| sources);
    sources.iter().filter(|source| !root.join(source).exists()).map(|source| format!("nothing to copy: {source}")).collect()
}

#[test]
fn the_dockerfiles_copy_what_is_there_name_their_stages_and_do_not_run_as_root() {
    for file in FILES {
        let text = fs::read_to_string(paths::root().join(file)).unwrap();
        assert_eq!(faults(&text, paths::root()), [""; 0], "{file}");
    }
}

#[test]
fn each_fault_is_named() {
    let text = "FROM rust AS build\nCOPY no-such-file \\\n  Cargo.toml /work\nFROM scratch\nCOPY --from=built /a /a\nEXPOSE 1\n";
    let wanted =
        ["no stage or tag: rust", "nothing to copy: no-such-file", "no stage built", "not understood: EXPOSE 1", "runs as root"];
    assert_eq!(faults(text, paths::root()), wanted);
    assert_eq!(faults("FROM debian:12-slim\nUSER 0:0\n", paths::root()), ["runs as root"]);
}
