//! What is wrong with a run file: each problem with its place, its field, and what would be right.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Problems that are printed; the rest is only counted.
const SHOWN: usize = 20;

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the run file; line and column count from 1, columns in characters.
    File {
        /// Line of the file.
        line: usize,
        /// Column of the line.
        column: usize,
    },
    /// On the command line, as `--set path=value`.
    Override {
        /// The path as it was given.
        path: String,
    },
}

/// One problem of a run file. Its text is `FILE:LINE:COLUMN: field.path: what is wrong; what would be right`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The run file.
    pub file: PathBuf,
    /// Where the value was given.
    pub place: Place,
    /// Path of the field, such as `spec.workers.min`; empty when the text as a whole is meant.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File { line, column } => write!(out, "{}:{line}:{column}: ", self.file.display())?,
            Place::Override { path } => write!(out, "--set {path}: ")?,
        }
        if !self.path.is_empty() {
            write!(out, "{}: ", self.path)?;
        }
        write!(out, "{}; {}", self.message, self.help)
    }
}

/// All problems of a run file, in the order of the file, those of the command line last. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.0.iter().take(SHOWN).map(Problem::to_string).collect();
        out.write_str(&shown.join("\n"))?;
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(out, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Problems {}

/// The beginning of a text that may be too long for a line, without the user and password of an address.
pub(crate) fn excerpt(text: &str) -> String {
    const MOST: usize = 60;
    let text = &without_user(text);
    if text.chars().count() <= MOST { text.to_owned() } else { text.chars().take(MOST).collect::<String>() + "..." }
}

/// A password may hold any character, so all up to the last `@` is taken for it.
fn without_user(text: &str) -> String {
    match text.split_once("//").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1))) {
        Some((scheme, host)) => format!("{scheme}//***@{host}"),
        None => text.to_owned(),
    }
}

/// Problems found so far.
pub(crate) struct Report {
    file: PathBuf,
    problems: Vec<Problem>,
}

impl Report {
    pub(crate) fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), problems: Vec::new() }
    }

    pub(crate) fn add(&mut self, place: &Place, path: &str, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem {
            file: self.file.clone(),
            place: place.clone(),
            path: path.to_owned(),
            message: message.into(),
            help: help.into(),
        });
    }

    /// An empty report on the same file.
    pub(crate) fn beside(&self) -> Self {
        Self::new(&self.file)
    }

    /// Takes over the problems of `other`, all as problems at `place`.
    pub(crate) fn absorb(&mut self, other: Self, place: &Place) {
        self.problems.extend(other.problems.into_iter().map(|problem| Problem { place: place.clone(), ..problem }));
    }

    pub(crate) fn len(&self) -> usize {
        self.problems.len()
    }

    /// The value if nothing was found, otherwise all problems, sorted by place.
    pub(crate) fn finish<T>(mut self, value: Option<T>) -> Result<T, Problems> {
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => {
                self.problems.sort_by(|a, b| a.place.cmp(&b.place));
                Err(Problems(self.problems))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_has_no_password_of_an_address() {
        for text in ["http://u:secret@h:1", "http://secret@h:1", "http://u:se/cr@secret@h:1", "http://u:a secret@h:1"] {
            assert_eq!(excerpt(text), "http://***@h:1");
        }
        assert_eq!(excerpt(&format!("http://u:{}@h:1", "secret".repeat(20))), "http://***@h:1");
        assert_eq!(excerpt("registry/image@sha256:0"), "registry/image@sha256:0");
    }

    #[test]
    fn only_twenty_problems_are_shown_and_the_rest_is_counted() {
        let mut report = Report::new(Path::new("run.yaml"));
        for line in (1..=23).rev() {
            report.add(&Place::File { line, column: 1 }, "spec", "found nothing", "give something");
        }
        let text = report.finish::<()>(None).unwrap_err().to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 21);
        assert_eq!(lines[0], "run.yaml:1:1: spec: found nothing; give something");
        assert_eq!(lines[20], "and 3 more");
    }
}
