//! HTTP/2 (RFC 9113) as far as it has to be understood: where the data of a stream lies, and the path of a request.

use std::ops::Range;

/// Bytes with which a client begins a connection.
const PREFACE: usize = 24;
/// Bytes of a frame's header.
const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
/// Flag of a frame of headers: five bytes of priority come first.
const PRIORITY: u8 = 0x20;

/// Something found in the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Bytes of the body of this stream, as a range of what was read.
    Data(u32, Range<usize>),
    /// A block of headers is complete.
    Headers(Vec<u8>),
}

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Frames {
    preface: usize,
    head: Vec<u8>,
    /// Kind, stream and bytes left of the frame that is being read.
    kind: u8,
    stream: u32,
    left: usize,
    skip: usize,
    block: Vec<u8>,
}

impl Frames {
    /// From a client, or from a server.
    pub(super) fn new(client: bool) -> Self {
        let preface = if client { PREFACE } else { 0 };
        Self { preface, head: Vec::new(), kind: u8::MAX, stream: 0, left: 0, skip: 0, block: Vec::new() }
    }

    /// The next piece in `bytes` from `at` on; none when they are used up.
    pub(super) fn next(&mut self, bytes: &[u8], at: &mut usize) -> Option<Piece> {
        let skipped = self.preface.min(bytes.len() - *at);
        self.preface -= skipped;
        *at += skipped;
        while *at < bytes.len() {
            if self.left == 0 {
                self.begin(bytes, at);
                continue;
            }
            let range = *at..*at + self.left.min(bytes.len() - *at);
            *at = range.end;
            self.left -= range.len();
            match self.kind {
                DATA => return Some(Piece::Data(self.stream, range)),
                HEADERS => {
                    let skipped = self.skip.min(range.len());
                    self.skip -= skipped;
                    self.block.extend_from_slice(&bytes[range.start + skipped..range.end]);
                    if self.left == 0 {
                        return Some(Piece::Headers(std::mem::take(&mut self.block)));
                    }
                }
                _ => {}
            }
        }
        None
    }

    fn begin(&mut self, bytes: &[u8], at: &mut usize) {
        let take = (HEADER - self.head.len()).min(bytes.len() - *at);
        self.head.extend_from_slice(&bytes[*at..*at + take]);
        *at += take;
        if let [a, b, c, kind, flags, s, t, u, v] = self.head[..] {
            self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            self.kind = kind;
            self.stream = u32::from_be_bytes([s, t, u, v]) & 0x7fff_ffff;
            self.skip = if kind == HEADERS && flags & PRIORITY != 0 { 5 } else { 0 };
            self.head.clear();
        }
    }
}

/// Number of `:path` in the static table of HPACK (RFC 7541, appendix A); the one after it is another value of the same name.
const PATH: [usize; 2] = [4, 5];
/// Characters by the length of their Huffman code, 5 bits to 8, in the order of their codes (RFC 7541, appendix B).
const CODES: [&[u8]; 4] = [b"012aceiost", b" %-./3456789=A_bdfghlmnpru", b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz", b"&*,;XZ"];

/// The path in a block of request headers that is the first of its connection.
pub(super) fn path(block: &[u8]) -> Option<String> {
    let mut at = 0;
    while let Some(first) = block.get(at).copied() {
        if first & 0x80 != 0 {
            integer(block, &mut at, 7)?;
            continue;
        }
        if first & 0xe0 == 0x20 {
            integer(block, &mut at, 5)?;
            continue;
        }
        let name = integer(block, &mut at, if first & 0x40 == 0 { 4 } else { 6 })?;
        if name == 0 {
            text(block, &mut at)?;
        }
        let value = text(block, &mut at)?;
        if PATH.contains(&name) {
            return Some(value);
        }
    }
    None
}

/// RFC 7541, 5.1.
fn integer(block: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let most = (1 << bits) - 1;
    let mut value = usize::from(*block.get(*at)?) & most;
    *at += 1;
    if value < most {
        return Some(value);
    }
    for shift in (0..28).step_by(7) {
        let next = usize::from(*block.get(*at)?);
        *at += 1;
        value += (next & 0x7f) << shift;
        if next & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// RFC 7541, 5.2; characters with codes of more than 8 bits end the text.
fn text(block: &[u8], at: &mut usize) -> Option<String> {
    let coded = block.get(*at)? & 0x80 != 0;
    let length = integer(block, at, 7)?;
    let bytes = block.get(*at..*at + length)?;
    *at += length;
    if coded { Some(huffman(bytes)) } else { Some(String::from_utf8_lossy(bytes).into_owned()) }
}

fn huffman(bytes: &[u8]) -> String {
    let mut text = String::new();
    let (mut code, mut length) = (0usize, 0);
    for bit in bytes.iter().flat_map(|byte| (0..8).rev().map(move |shift| usize::from(byte >> shift & 1))) {
        (code, length) = (code << 1 | bit, length + 1);
        if length > 8 {
            break;
        }
        if let Some(character) = character(code, length) {
            text.push(char::from(character));
            (code, length) = (0, 0);
        }
    }
    text
}

fn character(code: usize, length: usize) -> Option<u8> {
    let mut first = 0;
    for (characters, bits) in CODES.iter().zip(5..) {
        if bits == length {
            return characters.get(code.checked_sub(first)?).copied();
        }
        first = (first + characters.len()) << 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, body: &[u8]) -> Vec<u8> {
        [&[0, 0, body.len() as u8, kind, flags, 0, 0, 0, stream], body].concat()
    }

    #[test]
    fn bodies_are_found_behind_the_preface_however_the_bytes_are_cut() {
        let bytes = [vec![b'P'; PREFACE], frame(4, 0, 0, &[1; 6]), frame(DATA, 0, 3, b"hello"), frame(DATA, 1, 5, b"x")].concat();
        for cut in 1..bytes.len() {
            let mut frames = Frames::new(true);
            let mut bodies = vec![String::new(); 6];
            for chunk in bytes.chunks(cut) {
                let mut at = 0;
                while let Some(piece) = frames.next(chunk, &mut at) {
                    let Piece::Data(stream, range) = piece else { panic!("{piece:?}") };
                    bodies[stream as usize] += std::str::from_utf8(&chunk[range]).unwrap();
                }
            }
            assert_eq!((bodies[3].as_str(), bodies[5].as_str()), ("hello", "x"));
        }
    }

    #[test]
    fn headers_are_given_as_one_block_without_priority() {
        let bytes = frame(HEADERS, PRIORITY, 1, b"12345block");
        let (mut frames, mut at) = (Frames::new(false), 0);
        assert_eq!(frames.next(&bytes, &mut at), Some(Piece::Headers(b"block".to_vec())));
    }

    #[test]
    fn the_path_of_a_request_is_read_plain_or_coded() {
        // RFC 7541, C.4.1 and C.4.3, with the path of C.2.2.
        let plain = [&[0x82, 0x86, 0x04, 0x0c][..], b"/sample/path"].concat();
        assert_eq!(path(&plain).unwrap(), "/sample/path");
        let domain = [0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(path(&[&[0x44][..], &domain].concat()).unwrap(), "www.example.com");
        assert_eq!(path(&[&[0x41][..], &domain].concat()), None);
    }
}
