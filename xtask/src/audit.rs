//! What can be read off the tree: the lock file, sizes, words, links, and what depends on what.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    figures::{Figure, Figures},
    paths,
    process::{cargo, output},
    tally::Tally,
};

/// Lines of a source file; a longer one holds two concepts.
const MOST_LINES: usize = 600;
/// Folders that are not sources.
const PASSED_OVER: [&str; 4] = ["target", ".git", "atoll-out", "book"];
/// Packages that need a C library or a second implementation of TLS.
const BANNED: [&str; 6] = ["aws-lc-fips-sys", "aws-lc-rs", "aws-lc-sys", "native-tls", "openssl", "openssl-sys"];
const KUBERNETES: [&str; 4] = ["kube", "kube-client", "kube-core", "k8s-openapi"];
const NUMERICS: [&str; 1] = ["candle-core"];
const RUNTIMES: [&str; 3] = ["tokio", "tonic", "hyper"];
/// They bring a clock that tests turn.
const SIMULATORS: [&str; 1] = ["turmoil"];
/// Packages, and what must not be below them.
const EDGES: [(&str, &[&str]); 13] = [
    ("atoll-trainer", &KUBERNETES),
    ("atoll-sidecar", &KUBERNETES),
    ("atoll-sdk", &KUBERNETES),
    ("atoll-methods", &KUBERNETES),
    ("atoll-collective", &KUBERNETES),
    ("atoll-sidecar", &NUMERICS),
    ("atoll-collective", &NUMERICS),
    ("atoll-methods", &NUMERICS),
    ("atoll-methods", &RUNTIMES),
    ("atoll-checkpoint", &KUBERNETES),
    ("atoll-checkpoint", &NUMERICS),
    ("atoll-operator", &NUMERICS),
    ("atoll", &SIMULATORS),
];
/// Words of unfinished work, and beginnings of paths of one person's machine. In pieces, so that this file has none.
const WORDS: [&str; 9] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("db", "g!("),
    concat!("allow(dead", "_code)"),
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
];

/// Checks the tree.
pub(crate) fn perform() -> Result<Tally> {
    let lock = fs::read_to_string(paths::root().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let files = texts(paths::root())?;
    let mut figures = Figures(vec![
        Figure::none("banned packages", &banned(&lock)),
        Figure::none("packages from elsewhere", &from_elsewhere(&lock)),
        Figure::none(format!("files over {MOST_LINES} lines"), &each(&files, too_long)),
        Figure::none("words of unfinished work, paths of a machine", &each(&files, words)),
        Figure::none("links to nothing", &each(&files, broken_links)),
    ]);
    for (package, without) in EDGES {
        figures.0.push(Figure::none(format!("{package} over {}", without.join(", ")), &below(package, without)?));
    }
    let files = Figure::at_least("files read", files.len() as f64, 1.0);
    figures.0.push(files);
    println!("{}", figures.table());
    let short = figures.short_of();
    println!("audit: {} checks, {} fall short{}", figures.0.len(), short.len(), names(&short));
    Ok(figures.tally())
}

fn names(short: &[&str]) -> String {
    if short.is_empty() { String::new() } else { format!(": {}", short.join("; ")) }
}

/// A text file: its path in the workspace, and its text.
type Text = (PathBuf, String);

fn each(files: &[Text], check: fn(&Path, &str) -> Vec<String>) -> Vec<String> {
    files
        .iter()
        .flat_map(|(path, text)| check(path, text).into_iter().map(|fault| format!("{}: {fault}", path.display())))
        .collect()
}

/// Sources, manifests and documents of the tree.
fn texts(root: &Path) -> Result<Vec<Text>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.extend((!PASSED_OVER.contains(&name.as_str())).then_some(path));
            } else if path.extension().is_some_and(|kind| ["rs", "md", "toml", "yaml", "proto"].iter().any(|text| kind == *text))
            {
                files.push((path.strip_prefix(root)?.to_owned(), fs::read_to_string(&path)?));
            }
        }
    }
    files.sort();
    Ok(files)
}

fn quoted<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"')
}

fn banned(lock: &str) -> Vec<String> {
    let names = lock.lines().filter_map(|line| quoted(line, "name"));
    names.filter(|name| BANNED.contains(name)).map(str::to_owned).collect()
}

/// Packages that come neither from the workspace nor from the one registry that most come from.
fn from_elsewhere(lock: &str) -> Vec<String> {
    let mut sources: Vec<&str> = lock.lines().filter_map(|line| quoted(line, "source")).collect();
    sources.sort_unstable();
    sources.dedup();
    let registries = sources.iter().filter(|source| source.starts_with("registry+")).count();
    let foreign = |source: &&&str| !source.starts_with("registry+") || registries > 1;
    sources.iter().filter(foreign).map(|source| (*source).to_owned()).collect()
}

fn too_long(path: &Path, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let source = path.extension().is_some_and(|kind| kind == "rs" || kind == "proto");
    if source && lines > MOST_LINES { vec![format!("{lines} lines")] } else { Vec::new() }
}

fn words(_: &Path, text: &str) -> Vec<String> {
    let lines = text.lines().enumerate();
    lines
        .flat_map(|(number, line)| {
            let found = WORDS.iter().filter(move |word| line.contains(**word));
            found.map(move |word| format!("line {}: {word}", number + 1))
        })
        .collect()
}

/// Links of a Markdown page to files that are not there.
fn broken_links(path: &Path, text: &str) -> Vec<String> {
    if path.extension().is_none_or(|kind| kind != "md") {
        return Vec::new();
    }
    let folder = paths::root().join(path.parent().unwrap_or(Path::new("")));
    // Between back quotes nothing is a link.
    let prose: String = text.lines().flat_map(|line| line.split('`').step_by(2).chain(["\n"])).collect();
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets
        .filter(|target| !target.contains("://"))
        .filter_map(|target| target.split('#').next().filter(|file| !file.is_empty()))
        .filter(|file| !folder.join(file).exists())
        .map(str::to_owned)
        .collect()
}

/// Which of the packages `without` are below `package`, by what it needs to be built and run.
fn below(package: &str, without: &[&str]) -> Result<Vec<String>> {
    let mut command = cargo();
    command.args(["tree", "--package", package, "--edges", "normal,build", "--prefix", "none", "--format", "{p}"]);
    let tree = output("cargo tree", &mut command, Duration::from_mins(2))?;
    Ok(among(&tree, without))
}

fn among(tree: &str, without: &[&str]) -> Vec<String> {
    let mut found: Vec<&str> =
        tree.lines().filter_map(|line| line.split(' ').next()).filter(|name| without.contains(name)).collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str =
        "[[package]]\nname = \"ring\"\nversion = \"1\"\nsource = \"registry+one\"\n\n[[package]]\nname = \"xtask\"\n";

    #[test]
    fn a_banned_package_is_named() {
        assert_eq!(banned(LOCK), [""; 0]);
        assert_eq!(banned(&LOCK.replace("ring", "openssl-sys")), ["openssl-sys"]);
    }

    #[test]
    fn a_second_source_of_packages_is_named() {
        assert_eq!(from_elsewhere(LOCK), [""; 0]);
        assert_eq!(from_elsewhere(&LOCK.replace("registry+one", "git+other")), ["git+other"]);
        let two = format!("{LOCK}\n[[package]]\nname = \"b\"\nsource = \"registry+two\"\n");
        assert_eq!(from_elsewhere(&two), ["registry+one", "registry+two"]);
    }

    #[test]
    fn long_sources_and_unfinished_work_are_named() {
        let path = Path::new("a.rs");
        assert_eq!(too_long(path, &"line\n".repeat(600)), [""; 0]);
        assert_eq!(too_long(path, &"line\n".repeat(601)), ["601 lines"]);
        assert_eq!(words(path, "fine\n"), [""; 0]);
        for word in WORDS {
            assert_eq!(words(path, &format!("fine\n// {word}")), [format!("line 2: {word}")]);
        }
    }

    #[test]
    fn links_to_nothing_are_named() {
        let page = "[a](Cargo.toml) [b](Cargo.toml#c) [d](#e) [f](https://example.org/g) [h](no-such.md) `[i](j)`";
        assert_eq!(broken_links(Path::new("README.md"), page), ["no-such.md"]);
        assert_eq!(broken_links(Path::new("a.rs"), page), [""; 0]);
    }

    #[test]
    fn a_dependency_that_must_not_be_is_found_in_the_tree() {
        let tree = "atoll-trainer v0.1.0 (path)\nserde v1.0.0\nkube v5.0.0\nkube v5.0.0 (*)\n";
        assert_eq!(among(tree, &KUBERNETES), ["kube"]);
        assert_eq!(among(tree, &RUNTIMES), [""; 0]);
    }

    #[test]
    fn the_same_packages_are_banned_for_cargo_deny() {
        let deny = fs::read_to_string(paths::root().join("deny.toml")).unwrap();
        for package in BANNED {
            assert!(deny.contains(&format!("\"{package}\"")), "{package}");
        }
    }
}
