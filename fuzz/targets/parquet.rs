//! A Parquet file as img2dataset writes it, with some bytes changed; or, of bytes that begin as one does, that file. The
//! library catches its reader's panics.

#![no_main]

use std::sync::{Arc, LazyLock};

use clip_data::ShardSet;
use libfuzzer_sys::fuzz_target;
use parquet::{
    basic::Compression,
    data_type::ByteArrayType,
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};

const MAGIC: &[u8] = b"PAR1";
const PIXEL: &[u8] = include_bytes!("pixel.png");

/// Three groups of four rows, of which every other has a caption.
static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let schema = "message m { required binary key (UTF8); required binary jpg; optional binary caption (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
    let mut bytes = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties.build())).expect("a file");
    for _ in 0..3 {
        let mut group = writer.next_row_group().expect("a group");
        let captions = ["a dog", "a cat"].map(Into::into);
        let columns = [
            (["a", "b", "c", "d"].map(Into::into).to_vec(), None),
            (vec![PIXEL.to_vec().into(); 4], None),
            (captions.to_vec(), Some([1, 0, 1, 0])),
        ];
        for (values, levels) in columns {
            let mut column = group.next_column().expect("a column").expect("a column");
            let levels = levels.as_ref().map(|levels| &levels[..]);
            let typed = column.typed::<ByteArrayType>();
            typed.write_batch(&values, levels, None).expect("values");
            column.close().expect("a column");
        }
        group.close().expect("a group");
    }
    writer.close().expect("a file");
    bytes
});

/// The sound file with a byte changed by each three of these: where, and how.
fn changed(changes: &[u8]) -> Vec<u8> {
    let mut bytes = SOUND.clone();
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % bytes.len();
        bytes[at] ^= change[2];
    }
    bytes
}

fuzz_target!(init: clip_fuzz::allow_caught_panics(), |bytes: &[u8]| {
    let path = if bytes.starts_with(MAGIC) {
        clip_fuzz::file("a.parquet", bytes)
    } else {
        clip_fuzz::file("a.parquet", &changed(bytes))
    };
    let Ok(set) = ShardSet::parse(&path.display().to_string()) else {
        return;
    };
    for shard in 0..set.len() {
        if let Ok(reader) = set.open(shard) {
            // A damaged footer may claim any number of rows; each is an item until one can't be read.
            let items = reader.take(1000).count();
            assert!(!bytes.is_empty() || items == 4, "{items} of a sound group");
        }
    }
});
