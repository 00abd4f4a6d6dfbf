//! What the lab's own checks run in pods: holds, ends, takes memory, listens, dials. Compiled by `rustc` alone.

use std::{
    env,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::ExitCode,
    thread,
    time::Duration,
};

const USAGE: &str = "probe hold SECONDS | end CODE | take MEBIBYTES | listen ADDRESS | dial ADDRESS";

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["hold", seconds] => thread::sleep(Duration::from_secs(seconds.parse().unwrap_or(u64::MAX))),
        ["end", code] => return ExitCode::from(code.parse::<u8>().unwrap_or(u8::MAX)),
        ["take", mebibytes] => take(mebibytes.parse().unwrap_or(usize::MAX)),
        ["listen", address] => return said(listen(address)),
        ["dial", address] => return said(dial(address)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn said(result: std::io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes to each page, one mebibyte after another, so that the memory is really taken.
fn take(mebibytes: usize) {
    let mut taken = Vec::new();
    for number in 0..mebibytes {
        taken.push(vec![number as u8 | 1; 1 << 20]);
    }
    println!("took {} MiB", taken.len());
}

/// Greets everybody who connects.
fn listen(address: &str) -> std::io::Result<()> {
    for guest in TcpListener::bind(address)?.incoming() {
        guest?.write_all(b"hello\n")?;
    }
    Ok(())
}

fn dial(address: &str) -> std::io::Result<()> {
    let mut greeting = String::new();
    TcpStream::connect(address)?.read_to_string(&mut greeting)?;
    print!("{greeting}");
    Ok(())
}
