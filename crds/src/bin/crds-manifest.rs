//! Writes the CRD manifest from the API types; with `--check` only says whether the file has drifted.

use std::{path::Path, process::ExitCode};

use atoll_crds::{TRAINING_RUN_CRD, TRAINING_RUN_CRD_FILE, training_run_manifest};

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let manifest = training_run_manifest()?;
    match arguments {
        [] => {
            std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(TRAINING_RUN_CRD_FILE), manifest)?;
            Ok(ExitCode::SUCCESS)
        }
        [flag] if flag == "--check" => {
            if manifest == TRAINING_RUN_CRD {
                return Ok(ExitCode::SUCCESS);
            }
            eprintln!("crds/{TRAINING_RUN_CRD_FILE} has drifted from the API types; run crds-manifest without --check");
            Ok(ExitCode::FAILURE)
        }
        _ => Err("usage: crds-manifest [--check]".into()),
    }
}
