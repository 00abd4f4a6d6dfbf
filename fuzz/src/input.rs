//! How a target cuts its input into what it needs: any bytes give something.

/// Bytes that have not been used yet.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte; 0 after the end.
    pub(crate) fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    /// The next two bytes as a number.
    pub(crate) fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// The next bytes; zeros after the end.
    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let (now, rest) = self.0.split_at(N.min(self.0.len()));
        array[..now.len()].copy_from_slice(now);
        self.0 = rest;
        array
    }

    /// Two bytes of length, and so many bytes as far as there are.
    pub(crate) fn chunk(&mut self) -> &'a [u8] {
        let length = usize::from(self.short());
        let (chunk, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        chunk
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The bytes of [`Input::chunk`], for seeds.
pub(crate) fn chunk(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_le_bytes()[..], bytes].concat()
}
