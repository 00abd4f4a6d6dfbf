//! The bill of materials of a program: which packages are in it, of which licences, as `CycloneDX` 1.6.
//!
//! It is read from `cargo tree`, which knows what this program alone takes; `cargo metadata` adds what others of the workspace ask for.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::program::TARGET;
use crate::process::{cargo, output};

const LIMIT: Duration = Duration::from_mins(2);
/// Follows a package whose own dependencies were shown before.
const SHOWN_BEFORE: &str = " (*)";

/// A package in a program.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Package {
    name: String,
    version: String,
    /// An SPDX expression.
    licence: String,
    /// Places in the list of the packages that it takes.
    takes: Vec<usize>,
}

/// The bill of a package of the workspace.
pub(super) fn of_package(package: &str, lock: &str) -> Result<Vec<u8>> {
    let mut command = cargo();
    command.args(["tree", "--locked", "--package", package, "--target", TARGET, "--edges", "normal,no-proc-macro"]);
    let tree = output("cargo tree", command.args(["--prefix", "depth", "--format", "|{p}|{l}"]), LIMIT)?;
    Ok(bill(&packages(&tree).with_context(|| format!("cannot read the tree of {package}"))?, &checksums(lock)))
}

/// The bill of a program without packages.
pub(super) fn of_program(name: &str, version: &str) -> Vec<u8> {
    let alone = Package { name: name.into(), version: version.into(), licence: "Apache-2.0".into(), takes: Vec::new() };
    bill(&[alone], &BTreeMap::new())
}

/// Reads lines such as `2|serde v1.0.0 (proc-macro)|MIT OR Apache-2.0 (*)`; the first is the program itself.
fn packages(tree: &str) -> Option<Vec<Package>> {
    let mut packages: Vec<Package> = Vec::new();
    let mut known = BTreeMap::new();
    let mut above: Vec<usize> = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let (depth, rest) = line.split_once('|')?;
        let (package, licence) = rest.split_once('|')?;
        let mut words = package.split(' ');
        let (name, version) = (words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned());
        let place = *known.entry((name.clone(), version.clone())).or_insert_with(|| {
            let licence = licence.strip_suffix(SHOWN_BEFORE).unwrap_or(licence).replace('/', " OR ");
            packages.push(Package { name, version, licence, takes: Vec::new() });
            packages.len() - 1
        });
        above.truncate(depth.parse().ok()?);
        if let Some(taker) = above.last().and_then(|taker| packages.get_mut(*taker))
            && !taker.takes.contains(&place)
        {
            taker.takes.push(place);
        }
        above.push(place);
    }
    (!packages.is_empty()).then_some(packages)
}

/// Hashes of the packages of a lock file, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"'));
        line.map(str::to_owned)
    };
    let blocks = lock.split("[[package]]");
    blocks.filter_map(|block| Some(((value(block, "name")?, value(block, "version")?), value(block, "checksum")?))).collect()
}

fn bill(packages: &[Package], checksums: &BTreeMap<(String, String), String>) -> Vec<u8> {
    let mut components: Vec<Value> = packages.iter().skip(1).map(|package| component(package, "library", checksums)).collect();
    components.sort_by_key(|component| component["bom-ref"].to_string());
    let mut takes: Vec<Value> = packages.iter().map(|package| edges(package, packages)).collect();
    takes.sort_by_key(|taker| taker["ref"].to_string());
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": packages.first().map(|package| component(package, "application", checksums))},
        "components": components,
        "dependencies": takes,
    });
    format!("{bill:#}\n").into_bytes()
}

fn component(package: &Package, kind: &str, checksums: &BTreeMap<(String, String), String>) -> Value {
    let Package { name, version, licence, .. } = package;
    let mut component = json!({
        "type": kind,
        "bom-ref": address(package),
        "name": name,
        "version": version,
        "purl": address(package),
    });
    if !licence.is_empty() {
        component["licenses"] = json!([{"expression": licence}]);
    }
    if let Some(hash) = checksums.get(&(name.clone(), version.clone())) {
        component["hashes"] = json!([{"alg": "SHA-256", "content": hash}]);
    }
    component
}

fn edges(package: &Package, packages: &[Package]) -> Value {
    let mut taken: Vec<String> = package.takes.iter().filter_map(|place| packages.get(*place)).map(address).collect();
    taken.sort();
    json!({"ref": address(package), "dependsOn": taken})
}

/// <https://github.com/package-url/purl-spec/blob/main/types-doc/cargo-definition.md>
fn address(Package { name, version, .. }: &Package) -> String {
    format!("pkg:cargo/{name}@{version}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "0|atoll v0.1.0 (/work)|Apache-2.0\n1|a v1.0.0|MIT/Apache-2.0\n2|b v2.0.0|MIT\n1|b v2.0.0|MIT (*)\n";
    const LOCK: &str = "[[package]]\nname = \"b\"\nversion = \"2.0.0\"\nsource = \"registry\"\nchecksum = \"ab12\"\n";

    #[test]
    fn packages_and_what_they_take_are_read_from_the_tree() {
        let packages = packages(TREE).unwrap();
        let names: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["atoll", "a", "b"]);
        assert_eq!(packages[0].takes, [1, 2]);
        assert_eq!(packages[1].takes, [2]);
        assert_eq!(packages[1].licence, "MIT OR Apache-2.0");
        assert_eq!(packages[2].licence, "MIT");
        assert_eq!(super::packages(""), None);
        assert_eq!(super::packages("0 a v1"), None);
    }

    #[test]
    fn the_bill_has_licences_hashes_and_edges_and_no_path_of_this_machine() {
        let bytes = bill(&packages(TREE).unwrap(), &checksums(LOCK));
        let bill: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(bill["metadata"]["component"]["purl"], "pkg:cargo/atoll@0.1.0");
        assert_eq!(bill["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(bill["components"][1]["hashes"][0]["content"], "ab12");
        assert_eq!(bill["dependencies"][1]["dependsOn"], json!(["pkg:cargo/a@1.0.0", "pkg:cargo/b@2.0.0"]));
        assert!(!String::from_utf8(bytes).unwrap().contains("/work"));
    }
}
