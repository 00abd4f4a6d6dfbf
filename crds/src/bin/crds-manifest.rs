//! Writes the CRD manifests from the API types; with `--check` only says whether the files have drifted.

use std::{path::Path, process::ExitCode};

use atoll_crds::{CRDS, manifests};

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
    let written = CRDS.iter().zip(manifests()?);
    match arguments {
        [] => {
            for (crd, manifest) in written {
                std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(crd.file), manifest)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        [flag] if flag == "--check" => {
            let drifted: Vec<&str> = written.filter(|(crd, manifest)| crd.text != manifest).map(|(crd, _)| crd.file).collect();
            for file in &drifted {
                eprintln!("crds/{file} has drifted from the API types; run crds-manifest without --check");
            }
            Ok(if drifted.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        _ => Err("usage: crds-manifest [--check]".into()),
    }
}
