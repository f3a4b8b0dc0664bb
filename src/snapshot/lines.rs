//! Lines in a file that may be compressed, so that the same lines are the same bytes.
//!
//! A compressed file is one member (gzip) or frame (zstd) for each [`SEGMENT`] lines, with nothing in it that depends on
//! when it was written. So a file that was cut off can be continued where a segment ends.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use flate2::{Compression as Level, GzBuilder, read::MultiGzDecoder};
use sha2::{Digest, Sha256};

/// Lines in a segment.
const SEGMENT: u32 = 10_000;
/// The level of zstd.
const ZSTD_LEVEL: i32 = 3;
/// Bytes of text that are written at once to a file that is not compressed.
const BUFFER: usize = 256 << 10;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// By the end of the file's name.
    pub(super) fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => Self::Gzip,
            Some("zst") => Self::Zstd,
            _ => Self::None,
        }
    }

    fn segment(self, text: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::None => Ok(text.to_vec()),
            Self::Gzip => {
                let mut packed = GzBuilder::new().write(Vec::new(), Level::default());
                packed.write_all(text)?;
                packed.finish()
            }
            Self::Zstd => zstd::bulk::compress(text, ZSTD_LEVEL),
        }
    }
}

/// Writes lines.
pub(super) struct LineWriter {
    file: File,
    compression: Compression,
    text: Vec<u8>,
    lines_in_segment: u32,
    written: Sha256,
    bytes: u64,
}

impl LineWriter {
    /// Writes to a file from here on; `written` and `bytes` are of what it holds already.
    pub(super) fn new(file: File, compression: Compression, written: Sha256, bytes: u64) -> Self {
        Self { file, compression, text: Vec::new(), lines_in_segment: 0, written, bytes }
    }

    /// Adds a line. True if everything is in the file now.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn push(&mut self, line: std::fmt::Arguments<'_>) -> io::Result<bool> {
        self.text.write_fmt(line)?;
        self.text.push(b'\n');
        self.lines_in_segment += 1;
        let is_full = match self.compression {
            Compression::None => self.text.len() >= BUFFER,
            Compression::Gzip | Compression::Zstd => self.lines_in_segment == SEGMENT,
        };
        if is_full {
            self.end_segment()?;
        }
        Ok(is_full)
    }

    /// Writes what is not in the file yet, where that does not change the bytes; true if everything is in the file now.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        if self.compression == Compression::None {
            self.end_segment()?;
        }
        Ok(self.text.is_empty())
    }

    fn end_segment(&mut self) -> io::Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        let segment = self.compression.segment(&self.text)?;
        self.file.write_all(&segment)?;
        self.written.update(&segment);
        self.bytes += segment.len() as u64;
        self.text.clear();
        self.lines_in_segment = 0;
        Ok(())
    }

    /// Bytes in the file.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes what was written survive a loss of power.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Writes the rest; returns the SHA-256 of the file in hexadecimal.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn finish(&mut self) -> io::Result<String> {
        self.end_segment()?;
        self.file.sync_all()?;
        Ok(hex_of(self.written.clone()))
    }
}

/// Reads a text that may be compressed, and computes the SHA-256 of the file on the way.
pub(super) struct LineReader {
    text: Box<dyn BufRead + Send>,
    read: Arc<Mutex<Sha256>>,
}

/// Bytes of a line, at most.
const LONGEST_LINE: u64 = 64 << 10;

impl LineReader {
    pub(super) fn open(path: &Path, compression: Compression) -> io::Result<Self> {
        let read = Arc::new(Mutex::new(Sha256::new()));
        let file = Hashed { file: File::open(path)?, read: Arc::clone(&read) };
        let text: Box<dyn BufRead + Send> = match compression {
            Compression::None => Box::new(BufReader::with_capacity(BUFFER, file)),
            Compression::Gzip => {
                let file = BufReader::with_capacity(BUFFER, file);
                Box::new(BufReader::new(MultiGzDecoder::new(file)))
            }
            Compression::Zstd => Box::new(BufReader::new(zstd::Decoder::new(file)?)),
        };
        Ok(Self { text, read })
    }

    /// The next line without its end; `None` behind the last one.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let count = (&mut self.text).take(LONGEST_LINE).read_until(b'\n', &mut line)?;
        if line.pop_if(|last| *last == b'\n').is_none() && count as u64 == LONGEST_LINE {
            return Err(io::Error::other(format!("a line is longer than {LONGEST_LINE} bytes")));
        }
        Ok((count > 0).then_some(line))
    }

    /// The SHA-256 of the file, in hexadecimal, once the last line was read.
    pub(super) fn sha256(self) -> String {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        hex_of(read.clone())
    }
}

/// A file whose bytes are hashed as they are read.
struct Hashed {
    file: File,
    read: Arc<Mutex<Sha256>>,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.update(&buffer[..count]);
        Ok(count)
    }
}

/// The hash of the first `bytes` of a file, which is left behind them.
///
/// # Errors
/// If the file cannot be read, or is shorter.
pub(super) fn hash_of_start(file: &mut File, bytes: u64) -> io::Result<Sha256> {
    let mut hash = Sha256::new();
    let mut left = bytes;
    let mut buffer = vec![0; BUFFER];
    while left > 0 {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = file.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hash.update(&buffer[..count]);
        left -= count as u64;
    }
    Ok(hash)
}

fn hex_of(hash: Sha256) -> String {
    alloy::primitives::hex::encode(hash.finalize())
}
