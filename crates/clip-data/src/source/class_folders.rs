use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    sync::Arc,
};

use super::{
    ShardSet,
    folder::{Folder, is_image},
    shard::Shard,
};
use crate::DataError;

/// The sub-folders of a folder of images, each of which holds the images of a class, as torchvision's `ImageFolder` has
/// them: what else would say what an image shows, there isn't.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClassFolders {
    /// Sorted by code points, as Python sorts.
    names: Vec<String>,
    /// The class of each.
    numbers: Vec<usize>,
}

impl ClassFolders {
    /// Those of samples, each the paths of its files from the folder: `None` if an image lies in no sub-folder or has
    /// anything else of its name beside it, or all lie in one sub-folder, which tells nothing apart. Each is numbered by
    /// its place, or by its name where the names are the numbers from 0.
    pub(super) fn of<'a>(samples: impl Iterator<Item = &'a [String]>) -> Option<Self> {
        let mut names = BTreeSet::new();
        for files in samples {
            let images = files.iter().filter(|file| is_image(file)).count();
            // No sample is what has no image, such as a list of the classes beside their folders.
            if images > 0 {
                let (folder, _) = files[0].split_once('/').filter(|_| images == files.len())?;
                names.insert(folder);
            }
        }
        (names.len() > 1).then(|| {
            let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            let numbers = own_numbers(&names);
            Self { names, numbers }
        })
    }

    /// Their names, in the order of their numbers.
    pub(super) fn names(&self) -> Vec<String> {
        let mut numbered: Vec<_> = self.numbers.iter().zip(&self.names).collect();
        numbered.sort();
        numbered.into_iter().map(|(_, name)| name.clone()).collect()
    }

    /// The class of a file, by its path from the folder.
    pub(super) fn class_of(&self, path: &str) -> Option<usize> {
        let (folder, _) = path.split_once('/')?;
        let place = self
            .names
            .binary_search_by(|name| name.as_str().cmp(folder));
        place.ok().map(|place| self.numbers[place])
    }

    /// Whether a list of classes has all of their names.
    pub(super) fn are_in(&self, classes: &[String]) -> bool {
        self.places_in(classes).iter().all(Option::is_some)
    }

    /// Where a list of classes has each of their names.
    fn places_in(&self, classes: &[String]) -> Vec<Option<usize>> {
        let mut places = HashMap::new();
        for (place, class) in classes.iter().enumerate() {
            // Of two classes with one name the first counts, as it does in an evaluation.
            places.entry(class.as_str()).or_insert(place);
        }
        let place = |folder: &String| {
            let named = places.get(folder.as_str());
            // Published lists write names with spaces that folders have as `_`.
            named
                .or_else(|| places.get(folder.replace('_', " ").as_str()))
                .copied()
        };
        self.names.iter().map(place).collect()
    }

    /// Numbers them as a list of classes has them: by their names, where all are in it, or else by their places.
    ///
    /// # Errors
    /// Why the list can't be theirs.
    pub(super) fn numbered_by(&self, classes: &[String]) -> Result<Self, String> {
        let found = self.places_in(classes);
        if let Some(numbers) = found.iter().copied().collect::<Option<Vec<usize>>>() {
            return Ok(Self {
                numbers,
                ..self.clone()
            });
        }
        let (folders, listed) = (self.names.len(), classes.len());
        let remedy = "a list that doesn't have the folders' names has a name for each, in their sorted order";
        if folders != listed {
            let (first, last) = (&self.names[0], &self.names[folders - 1]);
            return Err(format!(
                "there are {folders}, from `{first}` to `{last}`, but {listed} classes are named: {remedy}"
            ));
        }
        let own = own_numbers(&self.names);
        let elsewhere =
            |(at, place): &(usize, &Option<usize>)| place.is_some_and(|place| place != own[*at]);
        if let Some((at, Some(place))) = found.iter().enumerate().find(elsewhere) {
            let folder = &self.names[at];
            return Err(format!(
                "`{folder}` is number {} of them and number {} of the classes: {remedy}, or all of the folders' names",
                own[at] + 1,
                place + 1
            ));
        }
        Ok(Self {
            numbers: own,
            ..self.clone()
        })
    }
}

/// What folders are numbered as without a list of classes.
fn own_numbers(names: &[String]) -> Vec<usize> {
    let places = 0..names.len();
    // ImageNet-V2's, among which `10` is sorted before `2`.
    let told: Option<Vec<usize>> = names.iter().map(|name| name.parse().ok()).collect();
    let all: BTreeSet<usize> = told.iter().flatten().copied().collect();
    told.filter(|_| all.into_iter().eq(places.clone()))
        .unwrap_or_else(|| places.collect())
}

impl ShardSet {
    /// The set in which class folders are numbered as a list of classes has them: by their names, where the list has all
    /// of these (`_` may be a space there), or else in their sorted order, or by names that are the numbers from 0. What has
    /// its class in a `cls` keeps it.
    ///
    /// # Errors
    /// [`DataError::ClassFolders`] where the list can't be theirs: by number, or by the place of a name, or because several
    /// folders have other classes and the list hasn't the names of all.
    pub fn with_classes(mut self, classes: &[String]) -> Result<Self, DataError> {
        if !self.folders().all(|(_, folders)| folders.are_in(classes)) {
            self.class_folders()?;
        }
        // The parts of a folder share it, and come one after the other.
        let mut last: Option<[Arc<Folder>; 2]> = None;
        for shard in &mut self.shards {
            let Shard::Files { folder, .. } = shard else {
                continue;
            };
            let numbered = match last.take() {
                Some([own, numbered]) if Arc::ptr_eq(&own, folder) => numbered,
                _ => match folder.numbered_by(classes)? {
                    Some(numbered) => Arc::new(numbered),
                    None => Arc::clone(folder),
                },
            };
            last = Some([std::mem::replace(folder, Arc::clone(&numbered)), numbered]);
        }
        Ok(self)
    }

    /// The names of the sources' class folders, in the order of their numbers, if there are any.
    ///
    /// # Errors
    /// [`DataError::ClassFolders`] if two sources have different ones: the same number would mean another class in each.
    pub fn class_folders(&self) -> Result<Option<Vec<String>>, DataError> {
        let mut folders = self.folders();
        let Some((first, classes)) = folders.next() else {
            return Ok(None);
        };
        match folders.find(|(_, others)| *others != classes) {
            None => Ok(Some(classes.names())),
            Some((other, _)) => Err(DataError::ClassFolders {
                path: other.to_owned(),
                reason: format!(
                    "they are others than those of {}: give a list of classes that has the names of both",
                    first.display()
                ),
            }),
        }
    }

    /// Each folder of class folders, for as many parts as it has.
    fn folders(&self) -> impl Iterator<Item = (&Path, &ClassFolders)> {
        self.shards.iter().filter_map(|shard| match shard {
            Shard::Files { folder, .. } => Some((folder.root(), folder.class_folders()?)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn of(samples: &[&[&str]]) -> Option<ClassFolders> {
        let samples: Vec<Vec<String>> = samples.iter().map(|files| list(files)).collect();
        ClassFolders::of(samples.iter().map(Vec::as_slice))
    }

    #[test]
    fn folders_are_sorted_as_python_sorts_them() {
        let found = of(&[
            &["b/1.JPEG"],
            &["a/x/2.jpg", "a/x/2.png"],
            &["classes.txt"],
            &["a-b/3.jpg"],
            &["Z/4.jpg"],
            &["\u{e9}/5.webp"],
        ]);
        let found = found.unwrap();
        // sorted(["b", "a", "a-b", "Z", "é"]) of Python 3.
        assert_eq!(found.names(), ["Z", "a", "a-b", "b", "\u{e9}"]);
        assert_eq!(found.class_of("a-b/3.jpg"), Some(2));
        assert_eq!(found.class_of("a/x/2.jpg"), Some(1));
        assert_eq!(found.class_of("classes.txt"), None);
    }

    #[test]
    fn where_images_have_texts_or_no_folders_these_are_no_classes() {
        let plain: &[&[&str]] = &[&["a/1.jpg"], &["b/2.jpg"]];
        assert!(of(plain).is_some());
        for more in [
            &["b/3.jpg", "b/3.txt"][..],
            &["b/3.cls", "b/3.jpg"],
            &["b/3.jpg", "b/3.json"],
            &["3.jpg"],
        ] {
            assert_eq!(of(&[plain, &[more]].concat()), None, "{more:?}");
        }
        assert_eq!(of(&[&["a/1.jpg"], &["a/2.jpg"]]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn names_that_are_the_numbers_from_0_are_the_classes() {
        let class = |from: usize, file| {
            let sample = |class| vec![format!("{class}/1.jpg")];
            let samples: Vec<Vec<String>> = (from..from + 12).map(sample).collect();
            let found = ClassFolders::of(samples.iter().map(Vec::as_slice)).unwrap();
            let names: Vec<String> = ('a'..='l').map(String::from).collect();
            assert_eq!(found.numbered_by(&names), Ok(found.clone()));
            found.class_of(file).unwrap()
        };
        assert_eq!((class(0, "2/1.jpg"), class(0, "10/1.jpg")), (2, 10));
        // From 1 on they are sorted as torchvision sorts them.
        assert_eq!((class(1, "2/1.jpg"), class(1, "10/1.jpg")), (4, 1));
    }

    #[test]
    fn a_list_numbers_them_by_name_or_by_place() {
        let found = of(&[&["bull_frog/1.jpg"], &["cat/2.jpg"]]).unwrap();
        let classes = |names: &[&str]| {
            let numbered = found.numbered_by(&list(names))?;
            let class = |path| numbered.class_of(path).unwrap();
            Ok::<_, String>([class("bull_frog/1.jpg"), class("cat/2.jpg")])
        };
        assert_eq!(classes(&["dog", "cat", "bull frog"]), Ok([2, 1]));
        assert_eq!(classes(&["a frog", "a cat"]), Ok([0, 1]));
        assert_eq!(classes(&["a frog", "cat"]), Ok([0, 1]));
        let error = classes(&["a frog", "a cat", "a dog"]).unwrap_err();
        let numbers = "there are 2, from `bull_frog` to `cat`, but 3 classes are named";
        assert!(error.starts_with(numbers), "{error}");
        let error = classes(&["cat", "dog"]).unwrap_err();
        let order = "`cat` is number 2 of them and number 1 of the classes";
        assert!(error.starts_with(order), "{error}");
    }
}
