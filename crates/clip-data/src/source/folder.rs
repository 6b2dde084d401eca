use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    ShardItem,
    class_folders::ClassFolders,
    location::read_file,
    sample::{Group, Part, is_image_extension},
    shard::{Bodies, Items, SAMPLES_A_SHARD},
};
use crate::{DataError, FaultKind};

/// Images in a folder and its subfolders, each beside the files of the same name that say what it shows, or in the
/// sub-folder of its class.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Paths from the root, those of a key together, keys in order.
    files: Vec<String>,
    /// Where each key's files begin, and the number of files.
    starts: Vec<usize>,
    /// Its sub-folders, where they are what says what images show.
    classes: Option<ClassFolders>,
}

impl Folder {
    /// Lists the folder.
    pub(super) fn open(root: &Path) -> Result<Self, DataError> {
        let mut files = Vec::new();
        list(root, "", &mut files).map_err(clip_files::io("read", root))?;
        files.sort_by(|a, b| key_and_extension(a).cmp(&key_and_extension(b)));
        let key = |place: usize| key_and_extension(&files[place]).0;
        let begins = |place: &usize| *place == 0 || key(*place) != key(*place - 1);
        let mut starts: Vec<usize> = (0..files.len()).filter(begins).collect();
        starts.push(files.len());
        let samples = starts.windows(2).map(|range| &files[range[0]..range[1]]);
        let classes = ClassFolders::of(samples);
        if let Some(classes) = &classes {
            log::info!(
                "{}: no image has a text, so its {} sub-folders are classes",
                root.display(),
                classes.names().len()
            );
        }
        let folder = Self {
            root: root.to_owned(),
            files,
            starts,
            classes,
        };
        if let Some((number, first)) = folder.second_images() {
            log::warn!(
                "{}: {number} keys have several images, such as {first}; of each, the first of jpg, png, jpeg and webp \
                 is read. Rename the others if they are samples of their own",
                root.display()
            );
        }
        Ok(folder)
    }

    /// How many keys have more than one image, and one of those images.
    fn second_images(&self) -> Option<(usize, &str)> {
        let second = |range: &[usize]| {
            let files = self.files[range[0]..range[1]].iter();
            let mut images = files.map(String::as_str).filter(|file| is_image(file));
            images.nth(1)
        };
        let mut found = self.starts.windows(2).filter_map(second);
        let first = found.next()?;
        Some((1 + found.count(), first))
    }

    pub(super) fn name(&self) -> String {
        self.root.display().to_string()
    }

    /// Its sub-folders, where each is a class.
    pub(super) fn class_folders(&self) -> Option<&ClassFolders> {
        self.classes.as_ref()
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder whose sub-folders are numbered as `classes` are; `None` where they are no classes.
    ///
    /// # Errors
    /// [`DataError::ClassFolders`] where the list can't be theirs.
    pub(super) fn numbered_by(&self, classes: &[String]) -> Result<Option<Self>, DataError> {
        let Some(own) = &self.classes else {
            return Ok(None);
        };
        let numbered = own.numbered_by(classes);
        let numbered = numbered.map_err(|reason| DataError::ClassFolders {
            path: self.root.clone(),
            reason,
        })?;
        Ok(Some(Self {
            classes: Some(numbered),
            ..self.clone()
        }))
    }

    /// Whether any of its files is an image. A folder of shards has JSON files alone.
    pub(super) fn has_images(&self) -> bool {
        self.files.iter().any(|file| is_image(file))
    }

    pub(super) fn parts(&self) -> usize {
        (self.starts.len() - 1).div_ceil(SAMPLES_A_SHARD)
    }

    /// The samples of a part, from the `start`th of the folder on, or all for 0.
    pub(super) fn files(self: &Arc<Self>, part: usize, shard: usize, start: u64) -> Files {
        let first = part * SAMPLES_A_SHARD;
        let end = (first + SAMPLES_A_SHARD).min(self.starts.len() - 1);
        Files {
            folder: Arc::clone(self),
            keys: first.max(start as usize)..end,
            shard,
            bodies: Bodies::All,
        }
    }
}

/// Adds the files below `root`/`inner` that can be part of a sample. Linked folders are left out and named, as they may
/// form rings. So is what can't be read below the folder, as another user's.
fn list(root: &Path, inner: &str, files: &mut Vec<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(root.join(inner))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            log::warn!(
                "{} left out: its name is not Unicode",
                entry.path().display()
            );
            continue;
        };
        let path = if inner.is_empty() {
            name
        } else {
            format!("{inner}/{name}")
        };
        let listed = entry.file_type().and_then(|kind| {
            if kind.is_dir() {
                list(root, &path, files)?;
            } else if kind.is_symlink() && entry.path().is_dir() {
                log::warn!(
                    "{} left out: links to folders aren't followed; name it as a source of its own",
                    entry.path().display()
                );
            } else if split_name(&path).is_some_and(|(_, extension)| Part::of(extension).is_some())
            {
                files.push(path);
            }
            Ok(())
        });
        if let Err(error) = listed {
            log::warn!("{} left out: {error}", entry.path().display());
        }
    }
    Ok(())
}

/// Whether a listed file is an image.
pub(super) fn is_image(file: &str) -> bool {
    is_image_extension(key_and_extension(file).1)
}

/// Of a file that is listed, which has both.
fn key_and_extension(file: &str) -> (&str, &str) {
    split_name(file).unwrap_or((file, ""))
}

/// At the last dot of the file name: in a folder, names have dots that part nothing, as `v1.0 photo.jpg` has. `None` for
/// hidden files, such as macOS's `._a.jpg`, and where there is no dot.
fn split_name(path: &str) -> Option<(&str, &str)> {
    let file = path.rfind('/').map_or(0, |slash| slash + 1);
    if path[file..].starts_with('.') {
        return None;
    }
    let dot = file + path[file..].rfind('.')?;
    Some((&path[..dot], &path[dot + 1..]))
}

/// Some samples of a folder.
pub(super) struct Files {
    folder: Arc<Folder>,
    keys: Range<usize>,
    shard: usize,
    bodies: Bodies,
}

impl Items for Files {
    fn next_located(&mut self) -> Option<(u64, ShardItem)> {
        let number = self.keys.next()?;
        let folder = &self.folder;
        let files = &folder.files[folder.starts[number]..folder.starts[number + 1]];
        let mut group = Group::new(self.shard, key_and_extension(&files[0]).0, number as u64);
        let classes = folder.classes.as_ref();
        group.sample.class = classes.and_then(|classes| classes.class_of(&files[0]));
        for file in files {
            let (_, extension) = key_and_extension(file);
            let part = Part::of(extension).filter(|_| group.wants(extension));
            let wanted = part.is_some_and(|part| part.is_read(self.bodies));
            let read = wanted.then(|| read_file(&folder.root.join(file)));
            let body = read.transpose().unwrap_or_else(|kind| {
                group.fail(kind);
                None
            });
            group.add(extension, body);
        }
        let item = group.into_item(self.bodies != Bodies::None);
        // Only files that can be part of a sample are listed.
        let item = item.unwrap_or(ShardItem::Fault(FaultKind::NoImage, String::new()));
        Some((number as u64, item))
    }

    fn read_bodies(&mut self, bodies: Bodies) {
        self.bodies = bodies;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::write;

    #[test]
    fn of_several_images_of_a_key_the_first_kind_is_read_and_the_others_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Arc::new(Folder::open(dir.path()).unwrap());
        for name in ["a.jpeg", "a.txt", "b.png", "b.txt", "c.webp", "c.png"] {
            write(&dir, name, name.as_bytes());
        }
        let folder = open();
        assert_eq!(folder.second_images(), Some((1, "c.webp")));
        write(&dir, "a.JPG", b"a.JPG");
        let folder = open();
        assert_eq!(folder.second_images(), Some((2, "a.jpeg")));
        let (_, first) = folder.files(0, 0, 0).next_located().unwrap();
        assert!(
            matches!(&first, ShardItem::Sample(sample) if sample.image == b"a.JPG"),
            "{first:?}"
        );
    }

    #[test]
    fn the_sub_folder_of_an_image_without_text_is_its_class() {
        let dir = tempfile::tempdir().unwrap();
        for class in ["b", "a"] {
            std::fs::create_dir(dir.path().join(class)).unwrap();
            write(&dir, &format!("{class}/{class}1.jpg"), b"image");
        }
        let classes = |folder: Folder| {
            let folder = Arc::new(folder);
            let items = std::iter::from_fn({
                let mut files = folder.files(0, 0, 0);
                move || files.next_located()
            });
            let class = |item| match item {
                (_, ShardItem::Sample(sample)) => (sample.key, sample.class),
                (_, ShardItem::Fault(kind, key)) => panic!("{key}: {kind}"),
            };
            items.map(class).collect::<Vec<_>>()
        };
        let expected = |[a, b]: [usize; 2]| {
            [("a/a1", a), ("b/b1", b)].map(|(key, class)| (key.to_owned(), Some(class)))
        };
        let folder = Folder::open(dir.path()).unwrap();
        let numbered = folder.numbered_by(&["b".to_owned(), "a".to_owned()]);
        assert_eq!(classes(folder), expected([0, 1]));
        assert_eq!(classes(numbered.unwrap().unwrap()), expected([1, 0]));
        // A caption beside one of them, and the folder is read as ever.
        write(&dir, "a/a1.txt", b"a cat");
        let folder = Arc::new(Folder::open(dir.path()).unwrap());
        assert!(folder.class_folders().is_none());
        let mut files = folder.files(0, 0, 0);
        let (_, first) = files.next_located().unwrap();
        assert!(
            matches!(&first, ShardItem::Sample(sample) if sample.captions == ["a cat"] && sample.class.is_none()),
            "{first:?}"
        );
        let (_, second) = files.next_located().unwrap();
        let lacking = ShardItem::Fault(FaultKind::NoCaption, "b/b1".to_owned());
        assert_eq!(second, lacking);
    }

    #[test]
    fn a_name_is_split_at_its_last_dot() {
        assert_eq!(split_name("d.x/a.b.jpg"), Some(("d.x/a.b", "jpg")));
        assert_eq!(split_name("v1.0 pic.jpg"), Some(("v1.0 pic", "jpg")));
        for none in ["d.x/readme", ".hidden", "d/._a.jpg"] {
            assert_eq!(split_name(none), None, "{none}");
        }
    }
}
