//! The data of a run: from a text that the user names to the windows of tokens that a model sees.
//!
//! [`Source`] finds the text and reads it in bounded memory; a [`Tokenizer`] turns it into tokens, which are written once to a
//! [`TokenStore`] that all trainers of the machine map; a [`Corpus`] cuts them into a training part and a held-out part; a
//! [`SampleOrder`] says which sample comes when.
//!
//! A **sample** is one training window: `context_length` inputs and the `context_length` targets that follow them by one token.
//! Windows begin at the multiples of the context length, so in one pass every training token is a target once, except the very
//! first and the few at the end that fill no window. Samples are numbered from 0 in the order of the text.
//!
//! Preparing reads everything once, so all that can be wrong with the data is found before training begins. Source files are
//! read and never mapped, since a file that somebody shortens under a mapping would kill the process; what is mapped is the file
//! of tokens, which has no name and belongs to the run alone.

mod builtin;
mod characters;
mod corpus;
mod documents;
mod error;
mod json_lines;
mod map;
mod permutation;
mod source;
mod store;
mod text;
mod tokenizer;
mod tokenizer_file;
mod writer;

pub use corpus::{Corpus, Split};
pub use error::DataError;
pub use permutation::{Permutation, SampleOrder};
pub use source::Source;
pub use store::TokenStore;
pub use tokenizer::Tokenizer;
