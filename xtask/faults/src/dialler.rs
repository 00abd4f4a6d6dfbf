//! Which process is at the other end of a connection on this machine: by the kernel's table of sockets.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};

/// Columns of `/proc/net/tcp`.
const LOCAL: usize = 1;
const REMOTE: usize = 2;
const INODE: usize = 9;

/// The slot whose process dialled `to` from `from`; none where it has ended, or is none of `processes`.
pub(crate) fn find(from: SocketAddr, to: SocketAddr, processes: &BTreeMap<u32, u32>) -> Option<u32> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let socket = format!("socket:[{}]", inode(&table, &written(from)?, &written(to)?)?);
    processes.iter().find(|(_, process)| has(**process, &socket)).map(|(slot, _)| *slot)
}

/// Address and port as the kernel writes them: as numbers of its own byte order.
fn written(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(host) = address.ip() else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(host.octets()), address.port()))
}

fn inode<'a>(table: &'a str, local: &str, remote: &str) -> Option<&'a str> {
    table.lines().find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let wanted = columns.get(LOCAL) == Some(&local) && columns.get(REMOTE) == Some(&remote);
        columns.get(INODE).copied().filter(|_| wanted)
    })
}

fn has(process: u32, socket: &str) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| target.as_os_str() == socket)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_process_that_dialled_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let stream = TcpStream::connect(to).unwrap();
        let from = stream.local_addr().unwrap();
        let own = BTreeMap::from([(0, 1), (3, std::process::id())]);
        assert_eq!(find(from, to, &own), Some(3));
        assert_eq!(find(from, to, &BTreeMap::new()), None);
        assert_eq!(find(to, to, &own), None);
    }
}
