//! What processes say of themselves, on standard error: plain lines for people, JSON where a collector reads them.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Json,
}

/// `ATOLL_LOG_FORMAT` decides, `plain` or `json`; else the place does: a pod has a collector.
fn form(wanted: Option<&str>, in_a_pod: bool) -> Form {
    match wanted {
        Some("json") => Form::Json,
        Some("plain") => Form::Plain,
        _ if in_a_pod => Form::Json,
        _ => Form::Plain,
    }
}

/// Begins logging; `ATOLL_LOG` says what, as in `debug` or `atoll_sidecar=debug`.
pub(crate) fn begin() {
    let filter = EnvFilter::try_from_env("ATOLL_LOG").unwrap_or_else(|_| "info".into());
    let wanted = std::env::var("ATOLL_LOG_FORMAT").ok();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match form(wanted.as_deref(), std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()) {
        Form::Plain => log.with_ansi(std::io::stderr().is_terminal()).init(),
        Form::Json => log.json().flatten_event(true).with_span_list(false).init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_logs_json_and_a_terminal_plain_unless_told_otherwise() {
        assert_eq!([form(None, true), form(None, false)], [Form::Json, Form::Plain]);
        assert_eq!([form(Some("plain"), true), form(Some("json"), false)], [Form::Plain, Form::Json]);
        assert_eq!(form(Some("what"), false), Form::Plain);
    }
}
