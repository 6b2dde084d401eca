use std::{
    fs::File,
    io::{BufReader, Read, Result, Seek, SeekFrom},
};

/// Bytes of a tar block.
const BLOCK: usize = 512;

/// Longest name record that is read: no file system has longer paths.
const MAX_NAME_BYTES: u64 = 1 << 20;

/// A tar read member by member, whose damage is a value and not an error.
#[derive(Debug)]
pub(super) struct Members {
    file: BufReader<File>,
    length: u64,
    position: u64,
}

/// A regular file of the archive; its body comes next.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) size: u64,
    /// Where its first header stands, from the archive's start.
    pub(super) start: u64,
}

pub(super) enum Next {
    Member(Member),
    End,
    /// A whole header whose body runs past the file's end, and its name.
    Cut(String),
    Damaged,
}

impl Members {
    pub(super) fn new(file: File, length: u64) -> Self {
        Self {
            // Large enough that a read costs little, small beside the samples held.
            file: BufReader::with_capacity(1 << 18, file),
            length,
            position: 0,
        }
    }

    /// Continues at a header.
    pub(super) fn seek(&mut self, start: u64) -> Result<()> {
        self.position = self.file.seek(SeekFrom::Start(start))?;
        Ok(())
    }

    pub(super) fn next(&mut self) -> Result<Next> {
        let mut long_name: Option<String> = None;
        let mut start = self.position;
        loop {
            if self.position == self.length {
                // No end marker: some writers leave it out, but none leaves a block unfinished.
                let whole = self.length.is_multiple_of(BLOCK as u64);
                return Ok(if whole { Next::End } else { Next::Damaged });
            }
            if self.position + BLOCK as u64 > self.length {
                return Ok(Next::Damaged);
            }
            let mut block = [0_u8; BLOCK];
            self.file.read_exact(&mut block)?;
            self.position += BLOCK as u64;
            if block.iter().all(|byte| *byte == 0) {
                return Ok(Next::End);
            }
            let header = ::tar::Header::from_byte_slice(&block);
            let (Ok(size), Ok(sum)) = (header.entry_size(), header.cksum()) else {
                return Ok(Next::Damaged);
            };
            if sum != checksum(&block) {
                return Ok(Next::Damaged);
            }
            let kind = header.entry_type();
            let own_name = || String::from_utf8_lossy(&header.path_bytes()).into_owned();
            if size > self.length - self.position {
                return Ok(if kind.is_file() {
                    Next::Cut(long_name.unwrap_or_else(own_name))
                } else {
                    Next::Damaged
                });
            }
            if kind.is_gnu_longname() || kind.is_pax_local_extensions() {
                if size > MAX_NAME_BYTES {
                    return Ok(Next::Damaged);
                }
                let body = self.read_body(size)?;
                long_name = if kind.is_gnu_longname() {
                    let name = String::from_utf8_lossy(&body);
                    Some(name.trim_end_matches('\0').to_owned())
                } else {
                    pax_path(&body)
                };
            } else if kind.is_file() {
                let name = long_name.unwrap_or_else(own_name);
                return Ok(Next::Member(Member { name, size, start }));
            } else {
                long_name = None;
                self.skip_body(size)?;
                start = self.position;
            }
        }
    }

    pub(super) fn read_body(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut body = vec![0; size as usize];
        self.file.read_exact(&mut body)?;
        self.position += size;
        self.skip_padding(size)?;
        Ok(body)
    }

    pub(super) fn skip_body(&mut self, size: u64) -> Result<()> {
        self.file.seek_relative(size as i64)?;
        self.position += size;
        self.skip_padding(size)
    }

    fn skip_padding(&mut self, size: u64) -> Result<()> {
        // The last member of a cut-off archive may lack its padding.
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        let padding = padding.min(self.length - self.position);
        self.file.seek_relative(padding as i64)?;
        self.position += padding;
        Ok(())
    }
}

/// The header's sum, its own field counted as spaces.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let field = 148..156;
    block
        .iter()
        .enumerate()
        .map(|(index, byte)| {
            if field.contains(&index) {
                32
            } else {
                u32::from(*byte)
            }
        })
        .sum()
}

/// The `path` record of a pax header, `LENGTH path=VALUE\n`.
fn pax_path(body: &[u8]) -> Option<String> {
    String::from_utf8_lossy(body)
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find_map(|(_, record)| record.strip_prefix("path=").map(str::to_owned))
}
