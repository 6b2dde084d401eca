/// Columns that hold the path of an image, the first of which a table has is taken: `OpenCLIP`'s, then others' names.
pub(super) const IMAGE_PATHS: &[&str] = &["filepath", "image_path", "path", "file_name", "image"];

/// Columns that hold a caption: `OpenCLIP`'s, then img2dataset's and others' names.
pub(super) const CAPTIONS: &[&str] = &["title", "caption", "text", "TEXT"];

/// Where a table keeps what; `None` is what the usual names say.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    pub(super) image: Option<String>,
    pub(super) caption: Option<String>,
    pub(super) key: Option<String>,
    pub(super) separator: Option<u8>,
}

/// The place of the wanted column, or of the first usual one.
pub(super) fn find(names: &[&str], wanted: Option<&str>, usual: &[&str]) -> Result<usize, String> {
    let place = |name: &str| names.iter().position(|own| *own == name);
    let found = match wanted {
        Some(name) => place(name),
        None => usual.iter().find_map(|name| place(name)),
    };
    found.ok_or_else(|| {
        let missing = match wanted {
            Some(name) => format!("it has no column `{name}`"),
            None => format!("it has no column named {}", usual.join(", ")),
        };
        format!(
            "{missing}, only {}; name the columns after the file: `#image=NAME&caption=NAME`, and `&separator=tab` \
             if the columns are not told apart",
            names.join(", ")
        )
    })
}
