//! Measured figures beside the bounds that they must keep.

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};

use crate::tally::Tally;

/// One figure and its bound.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figure {
    name: String,
    value: String,
    bound: String,
    holds: bool,
}

impl Figure {
    /// A number that must not exceed `most`. What is not a number falls short.
    pub(crate) fn at_most(name: impl Into<String>, value: f64, most: f64) -> Self {
        Self { name: name.into(), value: short(value), bound: format!("<= {}", short(most)), holds: value <= most }
    }

    /// A number that must reach `least`. What is not a number falls short.
    pub(crate) fn at_least(name: impl Into<String>, value: f64, least: f64) -> Self {
        Self { name: name.into(), value: short(value), bound: format!(">= {}", short(least)), holds: value >= least }
    }

    /// A finding that is right or not.
    pub(crate) fn that(name: impl Into<String>, value: impl Into<String>, bound: impl Into<String>, holds: bool) -> Self {
        Self { name: name.into(), value: value.into(), bound: bound.into(), holds }
    }

    /// A list of faults that must be empty.
    pub(crate) fn none(name: impl Into<String>, faults: &[String]) -> Self {
        let value = if faults.is_empty() { "none".to_owned() } else { faults.join("\n") };
        Self { name: name.into(), value, bound: "none".to_owned(), holds: faults.is_empty() }
    }
}

/// The figures of one task, in the order in which they were taken.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Figures(pub(crate) Vec<Figure>);

impl Figures {
    pub(crate) fn tally(&self) -> Tally {
        self.0.iter().map(|figure| Tally::of(figure.holds)).sum()
    }

    /// Names of the figures that fall short.
    pub(crate) fn short_of(&self) -> Vec<&str> {
        self.0.iter().filter(|figure| !figure.holds).map(|figure| figure.name.as_str()).collect()
    }

    /// Name, value, bound and verdict of each figure.
    pub(crate) fn rows(&self) -> impl Iterator<Item = [&str; 4]> {
        self.0.iter().map(|figure| {
            let verdict = if figure.holds { "holds" } else { "FALLS SHORT" };
            [figure.name.as_str(), &figure.value, &figure.bound, verdict]
        })
    }

    /// One row per figure.
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header(["figure", "measured", "must be", ""]);
        table.add_rows(self.rows());
        table
    }

    /// `task: name value, name value; ...`, with what falls short at its end.
    pub(crate) fn line(&self, task: &str) -> String {
        let all: Vec<String> =
            self.0.iter().map(|figure| format!("{} {}", figure.name, figure.value.replace('\n', " "))).collect();
        let verdict = match self.short_of() {
            short if short.is_empty() => "all hold".to_owned(),
            short => format!("FALLS SHORT: {}", short.join(", ")),
        };
        format!("{task}: {}; {verdict}", all.join(", "))
    }

    /// Prints table and line, and gives the counts.
    pub(crate) fn conclude(&self, task: &str) -> Tally {
        println!("{}\n{}", self.table(), self.line(task));
        self.tally()
    }
}

/// At most three decimals, whole numbers without.
fn short(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_at_their_edge_and_fall_short_beyond_it() {
        assert!(Figure::at_most("wall", 60.0, 60.0).holds);
        assert!(!Figure::at_most("wall", 60.001, 60.0).holds);
        assert!(Figure::at_least("rate", 0.95, 0.95).holds);
        assert!(!Figure::at_least("rate", 0.949, 0.95).holds);
    }

    #[test]
    fn what_is_not_a_number_falls_short_of_every_bound() {
        assert!(!Figure::at_most("loss", f64::NAN, 1.75).holds);
        assert!(!Figure::at_least("rate", f64::NAN, 0.95).holds);
    }

    #[test]
    fn the_closing_line_names_what_falls_short() {
        let figures = Figures(vec![
            Figure::at_most("wall s", 31.25, 60.0),
            Figure::at_most("loss", 1.8, 1.75),
            Figure::none("left over", &[]),
        ]);
        assert_eq!(figures.tally(), Tally { passed: 2, failed: 1, skipped: 0 });
        assert_eq!(figures.line("example"), "example: wall s 31.250, loss 1.800, left over none; FALLS SHORT: loss");
        assert!(Figures(figures.0[..1].to_vec()).line("example").ends_with("; all hold"));
    }
}
