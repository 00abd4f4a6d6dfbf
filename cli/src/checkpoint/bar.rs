//! How far a command is that reads a lot: one living line on a terminal, nothing elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of bytes; it is gone when the value is.
pub(crate) struct Bar(Option<ProgressBar>);

impl Bar {
    /// Begins with `what`, which may be empty.
    pub(crate) fn new(what: &'static str, silent: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if silent || dumb || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new(0).with_message(what);
        let template =
            "{msg}{elapsed_precise} [{bar:30}] {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(Some(bar))
    }

    /// So many bytes of so many are done.
    pub(crate) fn show(&self, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_length(total);
            bar.set_position(done);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
