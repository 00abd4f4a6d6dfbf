//! The stream between what reads text and what makes tokens of it: pieces of documents, and separators between documents.

use super::error::DataError;

/// What comes next in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// Some more of the current document; where pieces are cut has no meaning.
    Text(&'a str),
    /// The document is over and another follows.
    Separator,
}

/// Takes the parts of a source in order.
pub(crate) type Take<'a> = dyn FnMut(Part<'_>) -> Result<(), DataError> + 'a;

/// Puts one separator between any two documents that are not empty, and none before the first or after the last.
pub(crate) struct Documents<'a> {
    take: &'a mut Take<'a>,
    state: State,
}

enum State {
    NothingYet,
    Inside,
    Between,
}

impl<'a> Documents<'a> {
    pub(crate) fn new(take: &'a mut Take<'a>) -> Self {
        Self { take, state: State::NothingYet }
    }

    /// Hands on some more of the current document.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), DataError> {
        if text.is_empty() {
            return Ok(());
        }
        if matches!(std::mem::replace(&mut self.state, State::Inside), State::Between) {
            (self.take)(Part::Separator)?;
        }
        (self.take)(Part::Text(text))
    }

    /// Ends the current document.
    pub(crate) fn end(&mut self) {
        if matches!(self.state, State::Inside) {
            self.state = State::Between;
        }
    }

    /// Whether all documents so far were empty.
    pub(crate) fn are_empty(&self) -> bool {
        matches!(self.state, State::NothingYet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_stand_between_documents_that_are_not_empty() {
        let mut parts = String::new();
        let mut take = |part: Part<'_>| {
            parts.push_str(match part {
                Part::Text(text) => text,
                Part::Separator => "|",
            });
            Ok(())
        };
        let mut documents = Documents::new(&mut take);
        assert!(documents.are_empty());
        for pieces in [&["", ""][..], &["a", "b"], &[], &[""], &["c"], &[]] {
            for piece in pieces {
                documents.text(piece).unwrap();
            }
            documents.end();
        }
        assert!(!documents.are_empty());
        assert_eq!(parts, "ab|c");
    }
}
