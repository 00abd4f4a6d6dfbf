//! What the processes of a pod have in common: what they log, and what they leave for whoever asks why they ended.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Where Kubernetes looks for the last words of a container, unless the environment names another file.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// The variable that does.
const ELSEWHERE: &str = "ATOLL_TERMINATION_LOG";
/// Longest last words, in bytes: what Kubernetes reads.
const LONGEST: usize = 4096;

/// Begins logging on standard error, as lines of JSON, or plain where a person reads them; `ATOLL_LOG` says what, as in `debug` or
/// `atoll_sidecar=debug`.
pub fn begin_logging() {
    let filter = EnvFilter::try_from_env("ATOLL_LOG").unwrap_or_else(|_| "info".into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.init();
    } else {
        log.json().flatten_event(true).with_span_list(false).init();
    }
}

/// Leaves `text` for whoever asks why the container ended; of one that is too long, its beginning.
pub fn leave_last_words(text: &str) {
    let place = std::env::var_os(ELSEWHERE).map(std::path::PathBuf::from);
    let wanted = place.is_some();
    let place = place.unwrap_or_else(|| TERMINATION_LOG.into());
    if wanted || place.exists() {
        let _nobody_asks = std::fs::write(place, beginning(text, LONGEST));
    }
}

/// As much of `text` as fits into so many bytes.
#[must_use]
pub fn beginning(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_between_two_characters() {
        assert_eq!((beginning("öl", 1), beginning("öl", 2), beginning("öl", 9)), ("", "ö", "öl"));
    }
}
