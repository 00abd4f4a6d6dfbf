//! The fuzzer of one target, named by `ATOLL_FUZZ_TARGET`; its arguments are libFuzzer's.
//!
//! The target's own seeds are written into the folder `ATOLL_FUZZ_SEEDS` first, where it is given.

#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use atoll_fuzz::Target;
use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fn begin() {
    let name = std::env::var("ATOLL_FUZZ_TARGET").expect("ATOLL_FUZZ_TARGET names the target");
    let target = atoll_fuzz::target(&name).unwrap_or_else(|| panic!("there is no target called {name}"));
    if let Some(folder) = std::env::var_os("ATOLL_FUZZ_SEEDS") {
        for (index, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(Path::new(&folder).join(format!("seed-{index}")), seed).expect("the seeds are written");
        }
    }
    TARGET.set(target).expect("the fuzzer begins once");
}

fuzz_target!(init: begin(), |bytes: &[u8]| {
    if let Some(target) = TARGET.get() {
        target.check(bytes);
    }
});
