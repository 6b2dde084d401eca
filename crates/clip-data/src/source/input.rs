use std::{
    fs::File,
    io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Seek, SeekFrom},
};

use flate2::read::MultiGzDecoder;

use super::Location;

/// Of a stream: large enough that a read costs little, small beside the samples held.
const BUFFER: usize = 1 << 18;

/// Of a file, whose bodies are read past the buffer or sought over: room for the headers between two of them.
const FILE_BUFFER: usize = 1 << 13;

/// Memory that a body is given before its bytes are there, so that a false size costs little.
const FIRST_BYTES: u64 = 1 << 20;

/// Bytes from front to back, decompressed, wherever they are stored.
pub(super) struct Input {
    bytes: Bytes,
    position: u64,
}

enum Bytes {
    /// A file, in which passing over is seeking.
    File {
        file: BufReader<File>,
        length: u64,
    },
    Stream(BufReader<Box<dyn Read + Send>>),
}

impl Input {
    /// What the location holds, from its byte `start` on; gzip and Zstandard are told by their first bytes.
    pub(super) fn open(location: &Location, start: u64) -> Result<Self> {
        let stream: Box<dyn Read + Send> = match location {
            Location::Local(path) => {
                let mut file = File::open(path)?;
                let compression = Compression::of(&first_bytes(&mut file)?);
                file.seek(SeekFrom::Start(0))?;
                if compression.is_none() {
                    return Self::file(file, start);
                }
                decoder(compression, BufReader::with_capacity(BUFFER, file))?
            }
            #[cfg(feature = "object-store")]
            Location::Remote(object) => {
                let mut raw = BufReader::with_capacity(BUFFER, object.open(0)?);
                let compression = Compression::of(first(&mut raw)?);
                if compression.is_none() && start > 0 {
                    return Ok(Self::stream(Box::new(object.open(start)?), start));
                }
                decoder(compression, raw)?
            }
        };
        let mut input = Self::stream(stream, 0);
        input.skip(start)?;
        Ok(input)
    }

    fn file(mut file: File, start: u64) -> Result<Self> {
        let length = file.metadata()?.len();
        let position = file.seek(SeekFrom::Start(start))?;
        let file = BufReader::with_capacity(FILE_BUFFER, file);
        Ok(Self {
            bytes: Bytes::File { file, length },
            position,
        })
    }

    fn stream(stream: Box<dyn Read + Send>, position: u64) -> Self {
        Self {
            bytes: Bytes::Stream(BufReader::with_capacity(BUFFER, stream)),
            position,
        }
    }

    /// Bytes before the next one.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Fills the block as far as there are bytes; says how many there were.
    pub(super) fn fill(&mut self, block: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        self.pieces(block.len() as u64, |bytes| {
            block[filled..filled + bytes.len()].copy_from_slice(bytes);
            filled += bytes.len();
        })?;
        Ok(filled)
    }

    /// The next `size` bytes; `None` if there are fewer.
    pub(super) fn read_body(&mut self, size: u64) -> Result<Option<Vec<u8>>> {
        if let Bytes::File { file, length } = &mut self.bytes {
            if size > length.saturating_sub(self.position) {
                return Ok(None);
            }
            let mut body = vec![0; size as usize];
            file.read_exact(&mut body)?;
            self.position += size;
            return Ok(Some(body));
        }
        let mut body = Vec::with_capacity(size.min(FIRST_BYTES) as usize);
        let read = self.pieces(size, |bytes| body.extend_from_slice(bytes))?;
        Ok((read == size).then_some(body))
    }

    /// Passes over `size` bytes; `false` if there are fewer.
    pub(super) fn skip(&mut self, size: u64) -> Result<bool> {
        if let Bytes::File { file, length } = &mut self.bytes {
            let there = size.min(length.saturating_sub(self.position));
            file.seek_relative(there as i64)?;
            self.position += there;
            return Ok(there == size);
        }
        Ok(self.pieces(size, |_| ())? == size)
    }

    /// Hands over at most `size` bytes piece by piece.
    ///
    /// Always through the buffer: then a damaged stream fails at the same byte whether it is read or passed over.
    fn pieces(&mut self, size: u64, mut each: impl FnMut(&[u8])) -> Result<u64> {
        let mut taken = 0;
        while taken < size {
            let bytes = match self.buffered().fill_buf() {
                Ok([]) => break,
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let piece = bytes.len().min((size - taken) as usize);
            each(&bytes[..piece]);
            self.buffered().consume(piece);
            taken += piece as u64;
            self.position += piece as u64;
        }
        Ok(taken)
    }

    fn buffered(&mut self) -> &mut dyn BufRead {
        match &mut self.bytes {
            Bytes::File { file, .. } => file,
            Bytes::Stream(stream) => stream,
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = self.buffered().read(buffer)?;
        self.position += read as u64;
        Ok(read)
    }
}

#[derive(Clone, Copy)]
enum Compression {
    Gzip,
    Zstandard,
}

impl Compression {
    /// RFC 1952, section 2.3.1; RFC 8878, section 3.1.1.
    fn of(first: &[u8]) -> Option<Self> {
        if first.starts_with(&[0x1f, 0x8b]) {
            Some(Self::Gzip)
        } else if first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Some(Self::Zstandard)
        } else {
            None
        }
    }
}

/// Whether the location's bytes can be read from any place as fast as from the first.
pub(super) fn is_seekable(location: &Location) -> bool {
    match location {
        Location::Local(path) => {
            let first = File::open(path).and_then(|mut file| first_bytes(&mut file));
            first.is_ok_and(|first| Compression::of(&first).is_none())
        }
        #[cfg(feature = "object-store")]
        Location::Remote(_) => false,
    }
}

fn first_bytes(file: &mut File) -> Result<Vec<u8>> {
    let mut first = Vec::new();
    file.take(4).read_to_end(&mut first)?;
    Ok(first)
}

#[cfg(feature = "object-store")]
fn first(stream: &mut impl BufRead) -> Result<&[u8]> {
    stream.fill_buf()
}

fn decoder<R: BufRead + Send + 'static>(
    compression: Option<Compression>,
    raw: R,
) -> Result<Box<dyn Read + Send>> {
    Ok(match compression {
        None => Box::new(raw),
        Some(Compression::Gzip) => Box::new(MultiGzDecoder::new(raw)),
        Some(Compression::Zstandard) => {
            Box::new(Zstandard(zstd::stream::read::Decoder::with_buffer(raw)?))
        }
    })
}

/// Zstandard's decoder gives all its complaints the kind `Other`; these are about the data.
struct Zstandard<R>(zstd::stream::read::Decoder<'static, R>);

impl<R: BufRead> Read for Zstandard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            ErrorKind::Other => Error::new(ErrorKind::InvalidData, error),
            _ => error,
        })
    }
}
