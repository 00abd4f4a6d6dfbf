//! Which process is at the other end of a connection on this machine: the kernel finds the socket by its two addresses, as `ss`
//! asks it to. Its table in `/proc` would be walked whole for every connection, and grows with those that have ended.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `SOCK_DIAG_BY_FAMILY`, of `linux/sock_diag.h`, and `NLM_F_REQUEST`.
const BY_FAMILY: u16 = 20;
const REQUEST: u16 = 1;
const IPV4: u8 = 2;
const TCP: u8 = 6;
/// Bytes before each message, and where an answer has the socket's other end and its inode.
const HEADER: usize = 16;
const REMOTE_PORT: usize = 22;
const INODE: usize = 84;

/// The slot whose process dialled `to` from `from`; none where it has ended, or is none of `processes`.
pub(crate) fn find(from: SocketAddr, to: SocketAddr, processes: &BTreeMap<u32, u32>) -> Option<u32> {
    let socket = format!("socket:[{}]", inode(from, to).ok()??);
    processes.iter().find(|(_, process)| has(**process, &socket)).map(|(slot, _)| *slot)
}

/// Of the socket with these addresses; none where there is none, or it has no process any more.
fn inode(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    let Some(question) = question(local, remote) else { return Ok(None) };
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let kernel = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    rustix::net::sendto(&kernel, &question, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 512];
    let (length, _) = rustix::net::recv(&kernel, &mut answer, RecvFlags::empty())?;
    // Where no connection is found, the kernel answers with who would listen for it: that one has no other end.
    let about_it = answer[4..6] == BY_FAMILY.to_ne_bytes() && answer[REMOTE_PORT..][..2] == remote.port().to_be_bytes();
    let inode = answer[..length].get(INODE..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_ne_bytes(*bytes));
    Ok(inode.filter(|inode| about_it && *inode > 0))
}

/// `inet_diag_req_v2` for one socket, in any state, with its header.
fn question(local: SocketAddr, remote: SocketAddr) -> Option<Vec<u8>> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (local.ip(), remote.ip()) else { return None };
    let mut asked = vec![IPV4, TCP, 0, 0];
    asked.extend(u32::MAX.to_ne_bytes());
    asked.extend(local.port().to_be_bytes());
    asked.extend(remote.port().to_be_bytes());
    for host in [from, to] {
        asked.extend(host.octets());
        asked.extend([0; 12]);
    }
    // Any interface, and no cookie of the kernel's.
    asked.extend(0u32.to_ne_bytes());
    asked.extend([u8::MAX; 8]);
    let mut question = Vec::from(((HEADER + asked.len()) as u32).to_ne_bytes());
    question.extend(BY_FAMILY.to_ne_bytes());
    question.extend(REQUEST.to_ne_bytes());
    question.extend([0; 8]);
    question.extend(asked);
    Some(question)
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
