//! Text in UTF-16.

use std::io::{self, Read};

/// Which byte of a unit comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteOrder {
    Little,
    Big,
}

/// The byte order of a text in UTF-16: by its BOM, or if most of its characters are ASCII.
pub(super) fn byte_order(head: &[u8]) -> Option<ByteOrder> {
    match head {
        [0xff, 0xfe, ..] => return Some(ByteOrder::Little),
        [0xfe, 0xff, ..] => return Some(ByteOrder::Big),
        _ => {}
    }
    let units = head.chunks_exact(2);
    let total = units.len();
    let (mut first, mut second) = (0, 0);
    for unit in units {
        first += usize::from(unit[0] == 0);
        second += usize::from(unit[1] == 0);
    }
    let most = |count: usize| count > 0 && count * 2 >= total;
    match (first, second) {
        (0, count) if most(count) => Some(ByteOrder::Little),
        (count, 0) if most(count) => Some(ByteOrder::Big),
        _ => None,
    }
}

/// Decodes UTF-16 to UTF-8. A surrogate without its pair becomes the replacement character.
pub(super) struct Utf16<R> {
    input: R,
    order: ByteOrder,
    raw: Vec<u8>,
    /// Bytes of `raw` that are not decoded yet.
    left: usize,
    /// A first surrogate that waits for its second.
    pending: Option<u16>,
    text: Vec<u8>,
    /// Bytes of `text` that were handed out.
    sent: usize,
    is_first: bool,
}

impl<R: Read> Utf16<R> {
    pub(super) fn new(input: R, order: ByteOrder) -> Self {
        Self {
            input,
            order,
            raw: vec![0; 1 << 14],
            left: 0,
            pending: None,
            text: Vec::new(),
            sent: 0,
            is_first: true,
        }
    }

    /// Decodes the next bytes; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        self.text.clear();
        self.sent = 0;
        let count = self.input.read(&mut self.raw[self.left..])?;
        if count == 0 {
            if self.left > 0 {
                return Err(io::Error::other(
                    "the UTF-16 text ends within a character; copy the file again, or save it as UTF-8",
                ));
            }
            if self.pending.take().is_some() {
                self.push(char::REPLACEMENT_CHARACTER);
            }
            return Ok(!self.text.is_empty());
        }
        let end = self.left + count;
        let units: Vec<u16> = self.raw[..end]
            .chunks_exact(2)
            .map(|unit| match self.order {
                ByteOrder::Little => u16::from_le_bytes([unit[0], unit[1]]),
                ByteOrder::Big => u16::from_be_bytes([unit[0], unit[1]]),
            })
            .collect();
        self.left = end % 2;
        self.raw[0] = self.raw[end - 1];
        let mut units: Vec<u16> = self.pending.take().into_iter().chain(units).collect();
        if units.last().is_some_and(|unit| (0xd800..0xdc00).contains(unit)) {
            self.pending = units.pop();
        }
        for decoded in char::decode_utf16(units) {
            let character = decoded.unwrap_or(char::REPLACEMENT_CHARACTER);
            if !(self.is_first && character == '\u{feff}') {
                self.push(character);
            }
            self.is_first = false;
        }
        Ok(true)
    }

    fn push(&mut self, character: char) {
        self.text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

impl<R: Read> Read for Utf16<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.sent == self.text.len() {
            if !self.fill()? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.text.len() - self.sent);
        buffer[..count].copy_from_slice(&self.text[self.sent..self.sent + count]);
        self.sent += count;
        Ok(count)
    }
}
