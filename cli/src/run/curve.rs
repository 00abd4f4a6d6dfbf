//! The loss over the steps, as a table, a picture, and characters.

use anyhow::{Context, Result};
use plotters::prelude::*;
use textplots::{Chart, Plot, Shape};

use super::progress::Point;

/// Size of the picture, in pixels.
const SIZE: (u32, u32) = (800, 450);
/// Size of the curve on a terminal, in dots; a character is two wide and four high.
const DOTS: (u32, u32) = (140, 48);

/// `loss.csv`: one line per round, empty where a loss was not measured.
pub(crate) fn csv(points: &[Point]) -> String {
    let cell = |loss: Option<f64>| loss.map_or(String::new(), |loss| loss.to_string());
    let lines = points
        .iter()
        .map(|point| format!("{},{},{},{}\n", point.round, point.step, cell(point.train_loss), cell(point.held_out_loss)));
    std::iter::once("round,step,trainLoss,heldOutLoss\n".to_owned()).chain(lines).collect()
}

/// `loss.svg`: training loss as a line, held-out loss as circles.
pub(crate) fn svg(run: &str, points: &[Point]) -> Result<String> {
    let mut picture = String::new();
    draw(run, points, &mut picture).context("cannot draw loss.svg")?;
    Ok(picture)
}

fn draw(run: &str, points: &[Point], picture: &mut String) -> Result<()> {
    let train: Vec<_> = points.iter().filter_map(|point| Some((point.step as f64, point.train_loss?))).collect();
    let held_out: Vec<_> = points.iter().filter_map(|point| Some((point.step as f64, point.held_out_loss?))).collect();
    let all = || train.iter().chain(&held_out);
    let steps = all().map(|(step, _)| *step).fold(1.0, f64::max);
    let low = all().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min).min(1e9);
    let high = all().map(|(_, loss)| *loss).fold(0.0, f64::max).max(low + 0.1);
    let area = SVGBackend::with_string(picture, SIZE).into_drawing_area();
    let error = |error: &dyn std::fmt::Display| anyhow::anyhow!("{error}");
    area.fill(&WHITE).map_err(|e| error(&e))?;
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("{run}: loss in nats per token"), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..steps, (low - 0.05)..(high + 0.05))
        .map_err(|e| error(&e))?;
    chart.configure_mesh().x_desc("inner step").y_desc("loss").draw().map_err(|e| error(&e))?;
    chart
        .draw_series(LineSeries::new(train, &BLUE))
        .map_err(|e| error(&e))?
        .label("training")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], BLUE));
    chart
        .draw_series(held_out.into_iter().map(|point| Circle::new(point, 4, RED.filled())))
        .map_err(|e| error(&e))?
        .label("held out")
        .legend(|(x, y)| Circle::new((x + 10, y), 4, RED.filled()));
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw().map_err(|e| error(&e))?;
    area.present().map_err(|e| error(&e))?;
    Ok(())
}

/// The training loss as characters; nothing where there are fewer than two points.
pub(crate) fn text(points: &[Point]) -> String {
    let line: Vec<(f32, f32)> = points.iter().filter_map(|point| Some((point.step as f32, point.train_loss? as f32))).collect();
    let (Some(first), Some(last)) = (line.first(), line.last()) else { return String::new() };
    if line.len() < 2 {
        return String::new();
    }
    let mut chart = Chart::new(DOTS.0, DOTS.1, first.0, last.0);
    let shape = Shape::Lines(&line);
    let chart = chart.lineplot(&shape);
    chart.axis();
    chart.figures();
    format!("training loss (nats per token) over inner steps\n{chart}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> Vec<Point> {
        (1..=5)
            .map(|round| Point {
                round,
                step: round * 20,
                train_loss: Some(4.0 / round as f64),
                held_out_loss: (round == 5).then_some(0.9),
            })
            .collect()
    }

    #[test]
    fn the_table_has_a_line_per_round() {
        let csv = csv(&points());
        assert_eq!(csv.lines().count(), 6);
        assert!(csv.ends_with("5,100,0.8,0.9\n"));
        assert!(csv.contains("1,20,4,\n"));
    }

    #[test]
    fn a_run_without_rounds_has_an_empty_picture() {
        assert!(svg("kjv", &[]).unwrap().contains("<svg"));
        assert_eq!(text(&[]), "");
    }

    #[test]
    fn the_curve_is_drawn_with_its_extremes() {
        assert!(text(&points()).contains("4.0"));
        assert!(svg("kjv", &points()).unwrap().contains("polyline"));
    }
}
