//! What the lab needs of a machine, and what to install where it is missing.

use std::{env, path::PathBuf};

/// Programs that the lab calls, and the Debian packages that they come from.
const PROGRAMS: [(&str, &str); 12] = [
    ("runc", "runc"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("openssl", "openssl"),
    ("socat", "socat"),
    ("jq", "jq"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("pgrep", "procps"),
];
const GO: &str = "Go 1.26 or newer (https://go.dev/dl)";
/// Where administrators' programs are, which not everybody's PATH has.
const ADMINISTRATION: [&str; 2] = ["/usr/sbin", "/sbin"];

/// What a task of the lab does to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Reads files.
    Reads,
    /// Compiles programs.
    Builds,
    /// Makes namespaces, mounts and processes.
    Runs,
}

/// What a machine is and has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine<F> {
    pub(super) linux: bool,
    pub(super) root: bool,
    pub(super) has: F,
}

impl<F: Fn(&str) -> bool> Machine<F> {
    /// What is missing, each with what mends it.
    pub(super) fn lacks(&self, reach: Reach) -> Vec<String> {
        if !self.linux {
            return vec!["Linux: elsewhere use kind (e2e/kind/run.sh)".to_owned()];
        }
        let mut lacks = Vec::new();
        if reach == Reach::Builds && !(self.has)("go") {
            lacks.push(GO.to_owned());
        }
        if reach == Reach::Runs {
            if !self.root {
                lacks.push("root: run it with sudo".to_owned());
            }
            let mut packages: Vec<&str> =
                PROGRAMS.iter().filter(|(program, _)| !(self.has)(program)).map(|(_, package)| *package).collect();
            packages.dedup();
            if !packages.is_empty() {
                lacks.push(format!("packages: apt-get install {}", packages.join(" ")));
            }
        }
        lacks
    }
}

/// Whether a program of this name is on the PATH, or where administrators' programs are.
pub(super) fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = env::split_paths(&path).chain(ADMINISTRATION.map(PathBuf::from));
    folders.any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_has_everything_lacks_nothing() {
        let machine = Machine { linux: true, root: true, has: |_: &str| true };
        assert!([Reach::Reads, Reach::Builds, Reach::Runs].iter().all(|reach| machine.lacks(*reach).is_empty()));
    }

    #[test]
    fn what_is_missing_is_named_with_what_mends_it() {
        let machine = Machine { linux: true, root: false, has: |program: &str| !["nft", "ip", "tc", "go"].contains(&program) };
        assert_eq!(machine.lacks(Reach::Reads), [""; 0]);
        assert_eq!(machine.lacks(Reach::Builds), [GO]);
        assert_eq!(machine.lacks(Reach::Runs), ["root: run it with sudo", "packages: apt-get install nftables iproute2"]);
        let other = Machine { linux: false, root: true, has: |_: &str| true };
        assert_eq!(other.lacks(Reach::Reads), ["Linux: elsewhere use kind (e2e/kind/run.sh)"]);
    }
}
