//! TensorBoard event files, written without protobuf or TensorFlow: a file is a sequence of
//! records, a record a length, its checksum, an `Event` message and its checksum.
//!
//! The formats: `tensorflow/core/lib/io/record_writer.h`, `tensorflow/core/util/event.proto`.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use clip_files::IoError;

use crate::progress::{EvalOutput, StepOutput};

/// Castagnoli's polynomial, reflected.
const CRC32C: u32 = 0x82f6_3b78;
/// Keeps the checksum of data that holds checksums from being degenerate.
const CRC_MASK_DELTA: u32 = 0xa282_ead8;

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ CRC32C
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// Writes the scalars of a run where TensorBoard finds them: `events.out.tfevents.*` in the run's
/// directory.
#[derive(Debug)]
pub(crate) struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Starts an event file in `folder`; every start of a run has its own, as TensorBoard expects.
    ///
    /// TensorBoard is told to forget the points that an earlier, killed start wrote after
    /// `resume_step`, or all of them for a run that begins anew.
    ///
    /// # Errors
    ///
    /// The file can't be written; the message names it.
    pub(crate) fn create(folder: &Path, resume_step: Option<u64>) -> Result<Self, IoError> {
        let now = wall_time();
        let process = std::process::id();
        // The number says which start is the latest; two starts may share a second.
        let mut start = 0;
        let (path, file) = loop {
            let name = format!(
                "events.out.tfevents.{:010}.clip.{process}.{start}",
                now as u64
            );
            let path = folder.join(name);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => break (path, file),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => start += 1,
                Err(error) => return Err(clip_files::io("write", path)(error)),
            }
        };
        let mut writer = Self { path, file };
        writer.write(&version_event(now))?;
        // Points of the step itself stay: only those after it are trained again.
        writer.write(&restart_event(now, resume_step.unwrap_or(0) + 1))?;
        Ok(writer)
    }

    /// Writes values by tag, such as `train/loss`, at a step.
    ///
    /// # Errors
    ///
    /// The file can't be written; the message names it.
    pub(crate) fn scalars<'a>(
        &mut self,
        step: u64,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<(), IoError> {
        self.write(&scalar_event(wall_time(), step, values))
    }

    /// Writes a training step under `train/`.
    ///
    /// # Errors
    ///
    /// The file can't be written; the message names it.
    pub(crate) fn step(&mut self, step: u64, output: &StepOutput) -> Result<(), IoError> {
        let values = [
            ("train/loss", output.loss),
            ("train/logit_scale", output.logit_scale),
            ("train/lr", output.lr),
            ("train/images_per_s", output.images_per_s),
            ("train/data_wait", output.data_wait),
            ("train/grad_norm", output.grad_norm),
        ];
        let distill = output.distill_loss.map(|loss| ("train/distill_loss", loss));
        let caption = output.caption_loss.map(|loss| ("train/caption_loss", loss));
        self.scalars(step, values.into_iter().chain(distill).chain(caption))
    }

    /// Writes an evaluation under `eval/`.
    ///
    /// # Errors
    ///
    /// The file can't be written; the message names it.
    pub(crate) fn eval(&mut self, step: u64, output: &EvalOutput) -> Result<(), IoError> {
        let values: Vec<_> = output
            .named()
            .map(|found| (format!("eval/{}", found.key), found.value))
            .collect();
        self.scalars(
            step,
            values.iter().map(|(tag, value)| (tag.as_str(), *value)),
        )
    }

    /// One write a record, so that a reader of the growing file sees whole records or a short end.
    fn write(&mut self, event: &[u8]) -> Result<(), IoError> {
        self.file
            .write_all(&record(event))
            .map_err(clip_files::io("write", &self.path))
    }
}

/// Seconds since 1970, the clock of TensorBoard's wall-time axis.
fn wall_time() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |duration| duration.as_secs_f64())
}

/// `event` in the framing of a `TFRecord` file.
fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(event.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(event);
    record.extend(masked_crc(event).to_le_bytes());
    record
}

fn masked_crc(bytes: &[u8]) -> u32 {
    let crc = !bytes.iter().fold(u32::MAX, |crc, byte| {
        CRC_TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8)
    });
    crc.rotate_right(15).wrapping_add(CRC_MASK_DELTA)
}

/// `Event { wall_time: 1, file_version: 3 }`, the first of every file.
fn version_event(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    fixed64(&mut event, 1, wall_time);
    bytes(&mut event, 3, b"brain.Event:2");
    event
}

/// `Event { wall_time: 1, step: 2, session_log: 7 { status: 1 = START } }`.
fn restart_event(wall_time: f64, step: u64) -> Vec<u8> {
    let mut session = Vec::new();
    varint_field(&mut session, 1, 1);
    let mut event = Vec::new();
    fixed64(&mut event, 1, wall_time);
    varint_field(&mut event, 2, step);
    bytes(&mut event, 7, &session);
    event
}

/// `Event { wall_time: 1, step: 2, summary: 5 { value: 1 { tag: 1, simple_value: 2 } .. } }`.
fn scalar_event<'a>(
    wall_time: f64,
    step: u64,
    values: impl IntoIterator<Item = (&'a str, f64)>,
) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, number) in values {
        let mut value = Vec::new();
        bytes(&mut value, 1, tag.as_bytes());
        key(&mut value, 2, 5);
        value.extend((number as f32).to_le_bytes());
        bytes(&mut summary, 1, &value);
    }
    let mut event = Vec::new();
    fixed64(&mut event, 1, wall_time);
    varint_field(&mut event, 2, step);
    bytes(&mut event, 5, &summary);
    event
}

fn key(message: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(message, field << 3 | wire_type);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// Zero is proto3's default and isn't written.
fn varint_field(message: &mut Vec<u8>, field: u64, value: u64) {
    if value != 0 {
        key(message, field, 0);
        varint(message, value);
    }
}

fn fixed64(message: &mut Vec<u8>, field: u64, value: f64) {
    key(message, field, 1);
    message.extend(value.to_le_bytes());
}

fn bytes(message: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(message, field, 2);
    varint(message, value.len() as u64);
    message.extend(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by `tests/reference/tensorboard_golden.py` with tensorboard's own writer.
    const GOLDEN: &[u8] = include_bytes!("../tests/reference/tensorboard_golden.bin");

    #[test]
    fn bytes_equal_those_of_tensorboards_own_writer() {
        let mut file = Vec::new();
        file.extend(record(&version_event(1_700_000_000.25)));
        file.extend(record(&restart_event(1_700_000_000.5, 301)));
        let values = [("train/loss", 3.5), ("eval/i2t_r1", 0.016)];
        file.extend(record(&scalar_event(1_700_000_001.0, 0, values)));
        file.extend(record(&scalar_event(
            1_700_000_002.0,
            70_000,
            [("train/lr", 9.8e-4)],
        )));
        assert_eq!(file, GOLDEN);
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        // "123456789" has the check value 0xe3069283 in every catalogue of CRCs.
        let unmasked = masked_crc(b"123456789")
            .wrapping_sub(CRC_MASK_DELTA)
            .rotate_left(15);
        assert_eq!(unmasked, 0xe306_9283);
    }

    #[test]
    fn two_starts_in_one_second_have_two_files() {
        let folder = tempfile::tempdir().unwrap();
        let first = EventWriter::create(folder.path(), None).unwrap();
        let second = EventWriter::create(folder.path(), Some(4)).unwrap();
        assert_ne!(first.path, second.path);
    }

    #[test]
    fn a_start_takes_back_the_points_after_where_it_begins() {
        let folder = tempfile::tempdir().unwrap();
        for (resume_step, first) in [(None, 1), (Some(300), 301)] {
            let writer = EventWriter::create(folder.path(), resume_step).unwrap();
            let file = std::fs::read(&writer.path).unwrap();
            // All but the time, which is the first nine bytes of an event.
            let restart = restart_event(0.0, first).split_off(9);
            let has_restart = file.windows(restart.len()).any(|part| part == restart);
            assert!(has_restart, "{resume_step:?}");
        }
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = EventWriter::create(Path::new("gone/nowhere"), None).unwrap_err();
        assert!(error.to_string().contains("gone/nowhere"), "{error}");
    }
}
