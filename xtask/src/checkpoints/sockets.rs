//! Which process has a connection.

use std::fs;

/// The kernel's number of the IPv4 socket of this machine that is bound to `port` and connected.
pub(super) fn inode(port: u16) -> Option<u64> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| inode_of(line, port))
}

/// Of a line of `/proc/net/tcp`: number, local address, remote address, state, queues, timers, retransmissions, user, timeout, inode.
fn inode_of(line: &str, port: u16) -> Option<u64> {
    let mut columns = line.split_whitespace();
    let (_, local) = columns.nth(1)?.split_once(':')?;
    if u16::from_str_radix(local, 16).ok()? != port {
        return None;
    }
    columns.nth(7)?.parse().ok().filter(|inode| *inode > 0)
}

/// Whether process `id` has this socket open.
pub(super) fn has(id: i32, inode: u64) -> bool {
    let wanted = format!("socket:[{inode}]");
    let descriptors = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|link| link.as_os_str() == wanted.as_str())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_process_that_has_a_connection_is_found_by_its_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let inode = inode(client.local_addr().unwrap().port()).unwrap();
        let own = std::process::id() as i32;
        assert!(has(own, inode) && !has(own, inode + 1_000_000_000));
        drop(client);
        assert!(!has(own, inode));
    }
}
