//! Figures, spans of time and tables as people read them.

/// Heights of a sparkline.
const BARS: [char; 8] = ['\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}', '\u{2588}'];

/// Rows below a head, each column as wide as its widest cell and three spaces from the next.
pub(super) fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    let head = head.iter().map(|cell| (*cell).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let width = |column: usize| all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in all {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += cells.join("   ").trim_end();
        text.push('\n');
    }
    text
}

/// Seconds in at most two units, as in `3m12s`.
pub(super) fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (days, hours, minutes, rest) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m{rest}s"),
        (0, ..) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// With a comma after each three digits.
pub(super) fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = if number < 0 { "-".to_owned() } else { String::new() };
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the unit that leaves at most four digits.
pub(super) fn bytes(count: f64) -> String {
    let (mut count, mut unit) = (count, 0);
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    while count >= 1024.0 && unit + 1 < units.len() {
        count /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0);
    format!("{count:.digits$} {}", units[unit])
}

/// At most `cells` bars from the least of `values` to the greatest; each is the mean of its part. Empty for fewer than two values.
pub(super) fn sparkline(values: &[f64], cells: usize) -> String {
    let values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    if values.len() < 2 || cells == 0 {
        return String::new();
    }
    let cells = cells.min(values.len());
    let part = |cell: usize| &values[cell * values.len() / cells..(cell + 1) * values.len() / cells];
    let means: Vec<f64> = (0..cells).map(part).map(|part| part.iter().sum::<f64>() / part.len() as f64).collect();
    let least = means.iter().copied().fold(f64::INFINITY, f64::min);
    let range = means.iter().copied().fold(f64::NEG_INFINITY, f64::max) - least;
    let height = |mean: f64| if range > 0.0 { ((mean - least) / range * 7.0).round() as usize } else { 0 };
    means.into_iter().map(|mean| BARS[height(mean).min(7)]).collect()
}

/// On one line, without anything that a terminal would take for an order: messages come from pods.
pub(super) fn plain(text: &str) -> String {
    let clean: String = text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    clean.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The first `most` characters of a text that has more.
pub(super) fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(3)).collect::<String>() + "..."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        let shown = [-3, 0, 59, 192, 3600, 18_180, 187_200].map(span);
        assert_eq!(shown, ["0s", "0s", "59s", "3m12s", "1h0m", "5h3m", "2d4h"]);
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!([0, 999, 1000, 3_440_640, -12_345].map(grouped), ["0", "999", "1,000", "3,440,640", "-12,345"]);
        assert_eq!([0.0, 1023.0, 1024.0, 5_242_880.0, 3e12].map(bytes), ["0 B", "1023 B", "1.0 KiB", "5.0 MiB", "2.7 TiB"]);
    }

    #[test]
    fn a_sparkline_goes_from_the_least_to_the_greatest() {
        assert_eq!(sparkline(&[4.0, 3.0, 2.0, 1.0], 10), "\u{2588}\u{2586}\u{2583}\u{2581}");
        assert_eq!(sparkline(&[4.0, 2.0, 1.0, 1.0, f64::NAN], 2), "\u{2588}\u{2581}");
        assert_eq!(sparkline(&[1.0, 1.0], 10), "\u{2581}\u{2581}");
        assert_eq!([sparkline(&[], 10), sparkline(&[1.0], 10)], ["", ""]);
    }

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows = [vec!["kjv".to_owned(), "Running".to_owned()], vec!["a-longer-name".to_owned(), String::new()]];
        assert_eq!(columns(&["NAME", "STATE"], &rows), "NAME            STATE\nkjv             Running\na-longer-name\n");
    }

    #[test]
    fn what_a_pod_says_gives_a_terminal_no_orders() {
        assert_eq!(plain("one\n\ttwo\u{1b}[2J  three\u{9b}"), "one two [2J three");
        assert_eq!([shortened("abcdef", 6), shortened("abcdefg", 6)], ["abcdef", "abc..."]);
    }
}
