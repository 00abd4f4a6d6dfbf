//! A sidecar as a process of its own: its configuration is one line of JSON on standard input, and it ends with that input.

use std::error::Error;
use std::io::{self, BufRead};

fn main() -> Result<(), Box<dyn Error>> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let config = serde_json::from_str(&line)?;
    std::thread::spawn(|| {
        let _ended = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
    Ok(atoll_sidecar::run(config)?)
}
