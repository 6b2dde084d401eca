//! Shards made in tests.

use std::path::PathBuf;

/// A tar in memory.
#[derive(Default)]
pub(crate) struct Tar {
    members: Vec<(String, Vec<u8>)>,
}

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn file(mut self, name: &str, body: &[u8]) -> Self {
        self.members.push((name.to_owned(), body.to_vec()));
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, body) in &self.members {
            let mut header = tar::Header::new_gnu();
            header.set_size(body.len() as u64);
            header.set_mode(0o644);
            header.set_entry_type(tar::EntryType::Regular);
            builder
                .append_data(&mut header, name, body.as_slice())
                .unwrap();
        }
        builder.into_inner().unwrap()
    }
}

/// Writes a file of a temporary folder.
pub(crate) fn write(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A picture whose first pixel says which one it is.
pub(crate) fn png(number: u8) -> Vec<u8> {
    let image = image::RgbImage::from_pixel(9, 8, image::Rgb([number, 100, 200]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Shards `s-0.tar`, ... of `samples` samples each; sample `n` of all is `k<n>`, captioned `<n>` and `<n>b`.
pub(crate) fn shards(dir: &tempfile::TempDir, samples: &[usize]) -> crate::ShardSet {
    let mut number = 0;
    let mut paths = Vec::new();
    for (shard, count) in samples.iter().enumerate() {
        let mut tar = Tar::new();
        for _ in 0..*count {
            let captions = format!(r#"{{"captions": ["{number}", "{number}b"]}}"#);
            tar = tar
                .file(&format!("k{number}.png"), &png(number as u8))
                .file(&format!("k{number}.json"), captions.as_bytes());
            number += 1;
        }
        paths.push(write(dir, &format!("s-{shard}.tar"), &tar.bytes()));
    }
    crate::ShardSet::from_paths(paths)
}

/// Every kind of source, a name each, in a folder; sample `n` of all has the picture and the caption `<n>`.
pub(crate) fn sources(dir: &tempfile::TempDir) -> Vec<String> {
    let tar = |numbers: std::ops::Range<u8>| {
        let add = |tar: Tar, number: u8| {
            tar.file(&format!("k{number}.png"), &png(number))
                .file(&format!("k{number}.txt"), number.to_string().as_bytes())
        };
        numbers.fold(Tar::new(), add).bytes()
    };
    let mut paths = vec![
        write(dir, "plain.tar", &tar(0..11)),
        write(dir, "small.tar.gz", &compressed::gzip(&tar(11..30))),
        write(dir, "small.tar.zst", &compressed::zstandard(&tar(30..45))),
    ];
    let images = dir.path().join("images/inner");
    std::fs::create_dir_all(&images).unwrap();
    let mut table = "filepath\ttitle\n".to_owned();
    for number in 45..70 {
        std::fs::write(images.join(format!("{number}.png")), png(number)).unwrap();
        if number < 58 {
            // Only these have a caption beside them.
            std::fs::write(images.join(format!("{number}.txt")), number.to_string()).unwrap();
        } else {
            let row = [format!("tabled/{number}.png\t\"{number}\"\n")];
            table.extend(row);
        }
    }
    let tabled = dir.path().join("tabled");
    std::fs::create_dir_all(&tabled).unwrap();
    for number in 58..70 {
        let name = format!("{number}.png");
        std::fs::rename(images.join(&name), tabled.join(&name)).unwrap();
    }
    paths.push(dir.path().join("images"));
    paths.push(write(dir, "table.csv", table.as_bytes()));
    #[cfg(feature = "parquet")]
    {
        let rows: Vec<_> = (70..97_u8)
            .map(|number| (format!("k{number}"), png(number), Some(number.to_string())))
            .collect();
        paths.push(write(dir, "rows.parquet", &parquet(&rows, 10)));
    }
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect()
}

/// A Parquet file as img2dataset writes it: key, image and caption, some rows a group.
#[cfg(feature = "parquet")]
pub(crate) fn parquet(rows: &[(String, Vec<u8>, Option<String>)], a_group: usize) -> Vec<u8> {
    use std::sync::Arc;

    use parquet::{
        basic::Compression,
        data_type::{ByteArray, ByteArrayType},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };

    let schema = "message m { required binary key (UTF8); required binary jpg; optional binary caption (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
    let properties = Arc::new(properties.build());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
    for rows in rows.chunks(a_group) {
        let mut group = writer.next_row_group().unwrap();
        let mut column = |values: Vec<ByteArray>, levels: Option<Vec<i16>>| {
            let mut column = group.next_column().unwrap().unwrap();
            let typed = column.typed::<ByteArrayType>();
            typed.write_batch(&values, levels.as_deref(), None).unwrap();
            column.close().unwrap();
        };
        column(rows.iter().map(|row| row.0.as_str().into()).collect(), None);
        column(rows.iter().map(|row| row.1.clone().into()).collect(), None);
        let captions = rows.iter().filter_map(|row| row.2.as_deref());
        let levels = rows.iter().map(|row| i16::from(row.2.is_some())).collect();
        column(captions.map(Into::into).collect(), Some(levels));
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

/// Compressed as shards are.
pub(crate) mod compressed {
    use std::io::Write;

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    pub(crate) fn zstandard(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).unwrap()
    }
}
