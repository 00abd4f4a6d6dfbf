//! The suite's figures as tables of a page, with what others recorded beside them.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use super::figures::{Implementation, Line, short};
use super::recorded;
use super::suite::{Compared, Section};
use super::theory;

/// Lines of the page between which the tables are.
const BEGIN: &str = "<!-- collectives begin -->\n";
const END: &str = "<!-- collectives end -->";

/// A page that cannot take the tables.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    /// It cannot be read or written.
    #[error("--page {}: {source}; run this in the project's folder, or give another page", page.display())]
    File {
        /// Its path.
        page: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It has no place for them.
    #[error("--page {}: has no lines {} and {END} for the tables to go between", .0.display(), BEGIN.trim())]
    NoPlace(PathBuf),
}

/// A page with a place for the tables.
#[derive(Debug)]
pub(crate) struct Page {
    path: PathBuf,
}

impl Page {
    /// # Errors
    /// [`PageError`] when there is no such page, or it has no place for tables.
    pub(crate) fn open(path: &Path) -> Result<Self, PageError> {
        around(path)?;
        Ok(Self { path: path.to_owned() })
    }

    /// Puts `tables` in their place, in the page as it is now.
    ///
    /// # Errors
    /// [`PageError`].
    pub(crate) fn write(&self, tables: &str) -> Result<(), PageError> {
        let [before, after] = around(&self.path)?;
        let page = format!("{before}{BEGIN}\n{}\n\n{END}{after}", tables.trim());
        fs::write(&self.path, page).map_err(|source| PageError::File { page: self.path.clone(), source })
    }
}

/// What stands before the place of the tables in the page at `path`, and after it.
fn around(path: &Path) -> Result<[String; 2], PageError> {
    let page = fs::read_to_string(path).map_err(|source| PageError::File { page: path.to_owned(), source })?;
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| Some([before, rest.split_once(END)?.1].map(str::to_owned)));
    parts.ok_or_else(|| PageError::NoPlace(path.to_owned()))
}

/// All tables, a section each.
pub(crate) fn tables(compared: &[Compared]) -> String {
    let mut text = String::new();
    for section in Section::ALL {
        let rows: Vec<String> = compared.iter().filter(|compared| compared.section == section).map(row).collect();
        // Writing to a string does not fail.
        let _written = write!(text, "### {}\n\n{HEAD}{}\n", section.title(), rows.concat());
    }
    text
}

const HEAD: &str =
    "| case | links | least by theory | PCCL, recorded | Gloo, recorded | reference | Gloo | Atoll | Atoll CPU per peer |
|---|---|---|---|---|---|---|---|---|
";

fn row(compared: &Compared) -> String {
    let line = |implementation| compared.lines.iter().find(|line: &&Line| line.implementation == implementation);
    let time = |implementation| cell(line(implementation).map(|line| line.p50_ms));
    let theory = theory::least(&compared.case).map(|least| least.as_secs_f64() * 1e3);
    let recorded = recorded::of(&compared.case);
    let cells = [
        format!("`{}`", compared.case),
        compared.lines.first().map_or("-".to_owned(), |line| line.links.to_string()),
        cell(theory),
        or_nothing(recorded.pccl),
        or_nothing(recorded.gloo),
        time(Implementation::Reference),
        time(Implementation::Gloo),
        time(Implementation::Atoll),
        cell(line(Implementation::Atoll).map(|line| line.cpu_ms_per_operation)),
    ];
    format!("| {} |\n", cells.join(" | "))
}

fn cell(milliseconds: Option<f64>) -> String {
    milliseconds.map_or("-".to_owned(), short)
}

fn or_nothing(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::collective::case::tests::shaped;
    use crate::bench::collective::figures::tests::line;

    #[test]
    fn a_row_has_the_theory_what_others_recorded_and_what_was_measured() {
        let lines = vec![
            line(Implementation::Atoll, Duration::from_millis(1_070)),
            line(Implementation::Gloo, Duration::from_millis(1_068)),
        ];
        let compared = Compared { section: Section::Rates, case: shaped("16MiB", "200mbit", None), lines };
        assert_eq!(row(&compared), "| `tcp-f32-4x16MiB-200mbit` | namespaces | 1053 | 1103 | 1067 | - | 1068 | 1070 | 30.0 |\n");
        let tables = tables(&[compared]);
        let rates = tables.find("### Links of one rate").unwrap();
        assert!(tables[rates..].contains("1070"));
        assert_eq!(tables.matches("| case |").count(), Section::ALL.len());
    }

    #[test]
    fn only_the_text_between_the_markers_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.md");
        assert!(matches!(Page::open(&path), Err(PageError::File { .. })));
        fs::write(&path, "# A\n").unwrap();
        assert!(matches!(Page::open(&path), Err(PageError::NoPlace(_))));
        fs::write(&path, format!("# A\n{BEGIN}old\n{END}\nB\n")).unwrap();
        for _ in 0..2 {
            Page::open(&path).unwrap().write("new\n").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("# A\n{BEGIN}\nnew\n\n{END}\nB\n"));
        }
    }
}
