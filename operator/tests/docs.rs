//! What the operator says of objects is explained to whoever reads it.

use std::path::Path;

fn read(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Values of the constants in the module `name` of a source.
fn constants<'a>(source: &'a str, name: &str) -> Vec<&'a str> {
    let module = source.split_once(&format!("pub mod {name} {{")).expect("the module").1.split_once("\n}").expect("its end").0;
    let value = |line: &'a str| line.trim().strip_prefix("pub const ")?.split('"').nth(1);
    module.lines().filter_map(value).collect()
}

/// Those that the page does not have as code.
fn unexplained<'a>(page: &str, words: &[&'a str]) -> Vec<&'a str> {
    words.iter().filter(|word| !page.contains(&format!("`{word}`"))).copied().collect()
}

#[test]
fn every_condition_and_every_reason_is_explained() {
    let (source, page) = (read("src/conditions.rs"), read("../docs/src/troubleshooting.md"));
    let (types, reasons) = (constants(&source, "types"), constants(&source, "reasons"));
    assert!(types.len() >= 12 && reasons.len() >= 30, "{types:?} {reasons:?}");
    assert_eq!(unexplained(&page, &types), [""; 0]);
    assert_eq!(unexplained(&page, &reasons), [""; 0]);
}

#[test]
fn a_reason_that_is_explained_nowhere_is_named() {
    let source = "pub mod reasons {\n    /// It is so.\n    pub const IT_IS_SO: &str = \"ItIsSo\";\n}\n";
    assert_eq!(constants(source, "reasons"), ["ItIsSo"]);
    assert_eq!(unexplained("ItIsSo, which is no code", &["ItIsSo"]), ["ItIsSo"]);
    assert_eq!(unexplained("`ItIsSo`", &["ItIsSo"]), [""; 0]);
}
