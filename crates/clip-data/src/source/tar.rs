use std::io::Result;

use super::{Input, Location};

/// Bytes of a tar block.
const BLOCK: usize = 512;

/// Longest name record that is read: no file system has longer paths.
const MAX_NAME_BYTES: u64 = 1 << 20;

/// A tar read member by member, whose damage is a value and not an error.
pub(super) struct Members {
    input: Input,
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
    /// What stands at the archive's start is no header.
    NoTar,
    Damaged,
}

impl Members {
    /// Begins at the header at `start`.
    pub(super) fn open(location: &Location, start: u64) -> Result<Self> {
        Input::open(location, start).map(|input| Self { input })
    }

    pub(super) fn next(&mut self) -> Result<Next> {
        let mut long_name: Option<String> = None;
        let mut start = self.input.position();
        loop {
            let header_at = self.input.position();
            let mut block = [0_u8; BLOCK];
            match self.input.fill(&mut block)? {
                BLOCK => {}
                // Not even an end marker: a download that failed, as an empty tar has two blocks.
                0 if header_at == 0 => return Ok(Next::NoTar),
                // No end marker: some writers leave it out, but none leaves a block unfinished.
                0 if header_at.is_multiple_of(BLOCK as u64) => return Ok(Next::End),
                _ if header_at == 0 => return Ok(Next::NoTar),
                _ => return Ok(Next::Damaged),
            }
            if block.iter().all(|byte| *byte == 0) {
                return Ok(Next::End);
            }
            let header = ::tar::Header::from_byte_slice(&block);
            let sound = header.cksum().is_ok_and(|sum| sum == checksum(&block));
            let size = match header.entry_size() {
                // No archive is so large; and sizes can be added without overflow.
                Ok(size) if sound && size <= i64::MAX as u64 / 2 => size,
                _ if header_at == 0 => return Ok(Next::NoTar),
                _ => return Ok(Next::Damaged),
            };
            let kind = header.entry_type();
            if kind.is_gnu_longname() || kind.is_pax_local_extensions() {
                if size > MAX_NAME_BYTES {
                    return Ok(Next::Damaged);
                }
                let Some(body) = self.read_body(size)? else {
                    return Ok(Next::Damaged);
                };
                long_name = if kind.is_gnu_longname() {
                    let name = String::from_utf8_lossy(&body);
                    Some(name.trim_end_matches('\0').to_owned())
                } else {
                    pax_path(&body)
                };
            } else if kind.is_file() {
                let own_name = || String::from_utf8_lossy(&header.path_bytes()).into_owned();
                let name = long_name.unwrap_or_else(own_name);
                return Ok(Next::Member(Member { name, size, start }));
            } else {
                long_name = None;
                if !self.skip_body(size)? {
                    return Ok(Next::Damaged);
                }
                start = self.input.position();
            }
        }
    }

    /// `None` if the archive ends within the body.
    pub(super) fn read_body(&mut self, size: u64) -> Result<Option<Vec<u8>>> {
        let body = self.input.read_body(size)?;
        self.skip_padding(size)?;
        Ok(body)
    }

    /// `false` if the archive ends within the body.
    pub(super) fn skip_body(&mut self, size: u64) -> Result<bool> {
        let whole = self.input.skip(size)?;
        self.skip_padding(size)?;
        Ok(whole)
    }

    fn skip_padding(&mut self, size: u64) -> Result<()> {
        // The last member of a cut-off archive may lack its padding.
        self.input
            .skip(size.next_multiple_of(BLOCK as u64) - size)?;
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
