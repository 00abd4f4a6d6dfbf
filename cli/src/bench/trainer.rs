//! `atoll bench trainer`: the training step of this machine, as a median, beside a reference measured in the same minute.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde::Serialize;
use serde_json::Value;

use crate::{Ending, printed};

/// The reference's executable, looked for beside this one: `cargo xtask reference trainer` builds it there.
const REFERENCE: &str = "reference-trainer";

/// Arguments of `atoll bench trainer`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Threads; all processors if not given
    #[arg(long)]
    threads: Option<usize>,
    /// Steps to time in each repeat
    #[arg(long, default_value_t = 10, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    steps: usize,
    /// Repeats, alternating with the reference where its executable stands beside this one
    #[arg(long, default_value_t = 5, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    repeats: usize,
    /// Print JSON alone
    #[arg(long)]
    json: bool,
    /// Measure once, in this process
    #[arg(long, hide = true)]
    once: bool,
}

/// Medians over the repeats.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TrainerReport {
    tokens_per_second: f64,
    /// Null where the reference is not built.
    reference_tokens_per_second: Option<f64>,
    threads: usize,
    peak_rss_bytes: u64,
    parameters: u64,
}

pub(crate) fn bench(arguments: &Arguments) -> Ending {
    let Arguments { threads, steps, repeats, json, once } = arguments;
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let line = if *once { measure(threads, *steps) } else { trainer(threads, *steps, *repeats, *json) };
    match line {
        Ok(line) => printed(&format!("{line}\n")),
        Err(error) => Ending::failed(&error),
    }
}

fn measure(threads: usize, steps: usize) -> Result<String> {
    Ok(serde_json::to_string(&atoll_trainer::bench::trainer(threads, steps)?)?)
}

fn trainer(threads: usize, steps: usize, repeats: usize, json: bool) -> Result<String> {
    ensure!(repeats > 0, "--repeats: give at least 1");
    let own = std::env::current_exe()?;
    let reference = Some(own.with_file_name(REFERENCE)).filter(|path| path.exists());
    let steps = steps.to_string();
    let own_arguments = ["bench", "trainer", "--once", "--threads", &threads.to_string(), "--steps", &steps].map(str::to_owned);
    let (mut reports, mut references) = (Vec::new(), Vec::new());
    for repeat in 1..=repeats {
        if !json {
            eprintln!("repeat {repeat} of {repeats}");
        }
        reports.push(run(&own, &own_arguments, threads)?);
        if let Some(reference) = &reference {
            references.push(run(reference, std::slice::from_ref(&steps), threads)?);
        }
    }
    let report = TrainerReport {
        tokens_per_second: median(&reports, "tokensPerSecond").context("no rate was measured")?,
        reference_tokens_per_second: median(&references, "referenceTokensPerSecond"),
        threads,
        peak_rss_bytes: reports.iter().filter_map(|report| report["peakRssBytes"].as_u64()).max().unwrap_or(0),
        parameters: reports[0]["parameters"].as_u64().unwrap_or(0),
    };
    Ok(if json { serde_json::to_string(&report)? } else { text(&report) })
}

fn text(report: &TrainerReport) -> String {
    let reference = report.reference_tokens_per_second.map_or("no reference built".to_owned(), |rate| {
        format!("{:.2} of the reference's {rate:.0}", report.tokens_per_second / rate)
    });
    format!(
        "{} parameters, {} threads: {:.0} tokens/s ({reference}), peak {} MiB",
        report.parameters,
        report.threads,
        report.tokens_per_second,
        report.peak_rss_bytes >> 20
    )
}

/// Runs a program that prints one line of JSON; each repeat is a process of its own, as users start them.
fn run(program: &Path, arguments: &[String], threads: usize) -> Result<Value> {
    let shown = PathBuf::from(program).display().to_string();
    let output = Command::new(program)
        .args(arguments)
        .env("RAYON_NUM_THREADS", threads.to_string())
        .env("CANDLE_NUM_THREADS", threads.to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {shown}"))?;
    ensure!(output.status.success(), "{shown} ended with {}", output.status);
    let line = String::from_utf8_lossy(&output.stdout);
    let line = line.lines().rfind(|line| line.starts_with('{')).with_context(|| format!("{shown} printed no figures"))?;
    Ok(serde_json::from_str(line)?)
}

/// The middle value of a field; none without values.
fn median(reports: &[Value], field: &str) -> Option<f64> {
    let mut values: Vec<f64> = reports.iter().filter_map(|report| report[field].as_f64()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_of_what_was_measured() {
        let reports: Vec<Value> = [3.0, 1.0, 2.0].iter().map(|rate| serde_json::json!({"rate": rate})).collect();
        assert_eq!(median(&reports, "rate"), Some(2.0));
        assert_eq!(median(&reports, "other"), None);
    }
}
