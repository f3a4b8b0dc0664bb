//! The text of a file as UTF-8 with `\n` at the end of each line: unpacks gzip and decodes UTF-16.

use std::io::{self, Cursor, Read};

use flate2::read::MultiGzDecoder;

use super::{
    foreign::{self, Foreign},
    utf16::{self, Utf16},
};

/// How many bytes are looked at to tell a format.
const HEAD: u64 = 1 << 16;

/// A last row of its own: if it does not come out as one, a quote was not closed before it.
pub(super) const END: &[u8] = b"\x03end of input\x03";

/// Why there is no text to read.
pub(super) enum TextError {
    /// The file is of another format.
    Foreign(Foreign),
    /// The file cannot be read.
    Io(io::Error),
}

impl From<io::Error> for TextError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A text, and its beginning.
pub(super) struct Text<'a> {
    pub(super) head: Vec<u8>,
    /// Whether `head` is all of it.
    pub(super) is_whole: bool,
    /// All of it, from its beginning, and [`END`].
    pub(super) content: Box<dyn Read + 'a>,
}

/// Opens the text in a file.
pub(super) fn open<'a>(input: impl Read + 'a) -> Result<Text<'a>, TextError> {
    let (mut head, mut input) = peek(Box::new(input))?;
    if is_gzip(&head) {
        (head, input) = peek(Box::new(Gunzip(MultiGzDecoder::new(input))))?;
        if is_gzip(&head) {
            let remedy = "use `gzip -dc FILE | ethtally backfill --from-csv -`";
            return Err(TextError::Foreign(Foreign { name: "compressed by gzip twice", remedy }));
        }
    }
    if let Some(foreign) = foreign::binary(&head) {
        return Err(TextError::Foreign(foreign));
    }
    let decoded: Box<dyn Read + 'a> = match utf16::byte_order(&head) {
        Some(order) => Box::new(Utf16::new(input, order)),
        None => input,
    };
    let mut text = peek(Box::new(Lines { input: decoded, after_return: false }))?;
    if text.0.starts_with(b"\xef\xbb\xbf") {
        text.1.read_exact(&mut [0; 3])?;
        text.0.drain(..3);
    }
    let (head, content) = text;
    if let Some(foreign) = foreign::text(&head) {
        return Err(TextError::Foreign(foreign));
    }
    let is_whole = (head.len() as u64) < HEAD - 3;
    let end = [b"\n", END, b"\n"].concat();
    Ok(Text { head, is_whole, content: Box::new(content.chain(Cursor::new(end))) })
}

fn is_gzip(head: &[u8]) -> bool {
    head.starts_with(b"\x1f\x8b")
}

/// The first bytes, and everything from the beginning.
fn peek<'a>(mut input: Box<dyn Read + 'a>) -> io::Result<(Vec<u8>, Box<dyn Read + 'a>)> {
    let mut head = Vec::new();
    input.by_ref().take(HEAD).read_to_end(&mut head)?;
    Ok((head.clone(), Box::new(Cursor::new(head).chain(input))))
}

/// Unpacks gzip and says what is wrong with it.
struct Gunzip<R>(MultiGzDecoder<R>);

impl<R: Read> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::other(
                "the gzip data is cut off; nothing was stored; copy the file again, `gzip -t FILE` checks it",
            ),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => io::Error::other(format!(
                "the gzip data is damaged ({error}); nothing was stored; copy the file again, `gzip -t FILE` checks it"
            )),
            _ => error,
        })
    }
}

/// Turns every line end, `\r\n` and `\r` too, into `\n`, so that lines can be counted.
struct Lines<R> {
    input: R,
    after_return: bool,
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.input.read(buffer)?;
            let mut kept = 0;
            for at in 0..count {
                let byte = buffer[at];
                let is_rest = byte == b'\n' && self.after_return;
                self.after_return = byte == b'\r';
                if !is_rest {
                    buffer[kept] = if byte == b'\r' { b'\n' } else { byte };
                    kept += 1;
                }
            }
            if kept > 0 || count == 0 {
                return Ok(kept);
            }
        }
    }
}
