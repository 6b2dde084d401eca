use serde_json::Value;

use crate::support::{Folder, picture};

/// A folder `album` of three pictures, one of them in a folder of its own, and its index.
fn album(folder: &Folder) {
    std::fs::create_dir_all(folder.path("album/deep")).unwrap();
    for (sample, name) in ["red.png", "green.png", "deep/blue.png"].iter().enumerate() {
        folder.write(&format!("album/{name}"), &picture(sample));
    }
}

fn index(folder: &Folder) -> Value {
    folder
        .clip(&["search", "index", "album", "--model", "model", "--json"])
        .json()
}

fn nearest(folder: &Folder, query: &str) -> Vec<String> {
    let ran = folder.clip(&["search", "query", query, "--dir", "album", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let object = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    let path = |line| object(line)["image"].as_str().unwrap().to_owned();
    ran.out.lines().map(path).collect()
}

#[test]
fn an_image_finds_itself_and_a_text_finds_all() {
    let folder = Folder::new();
    album(&folder);
    let made = index(&folder);
    assert_eq!(
        (&made["images"], &made["encoded"]),
        (&3.into(), &3.into()),
        "{made}"
    );
    assert_eq!(nearest(&folder, "album/green.png")[0], "album/green.png");
    assert_eq!(nearest(&folder, "2.png")[0], "album/deep/blue.png");
    assert_eq!(nearest(&folder, "a red square").len(), 3);
    let table = folder.clip(&["search", "query", "red", "--dir", "album", "--top", "1"]);
    assert_eq!(table.out.lines().count(), 1, "{table:?}");
}

#[test]
fn an_index_follows_its_folder() {
    let folder = Folder::new();
    album(&folder);
    index(&folder);
    let again = index(&folder);
    assert_eq!((&again["kept"], &again["encoded"]), (&3.into(), &0.into()));
    std::fs::remove_file(folder.path("album/red.png")).unwrap();
    folder.write("album/new.png", &picture(7));
    folder.write("album/broken.png", b"no image");
    let ran = folder.clip(&["search", "index", "album", "--model", "model", "--json"]);
    assert!(
        ran.err.contains("broken.png is not a usable image"),
        "{ran:?}"
    );
    let changed = ran.json();
    let counts = ["images", "kept", "encoded", "removed", "unreadable"];
    assert_eq!(
        counts.map(|key| changed[key].as_u64().unwrap()),
        [3, 2, 1, 1, 1]
    );
    assert!(!nearest(&folder, "red").contains(&"album/red.png".to_owned()));
}

#[test]
fn what_cannot_be_searched_says_why() {
    let folder = Folder::new();
    album(&folder);
    let query = ["search", "query", "red", "--dir", "album"];
    let refused = |args: &[&str], words: &str| {
        let ran = folder.clip(args);
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:?}");
        assert!(ran.err.contains(words), "{ran:?}");
    };
    refused(&query, "make one with `clip search index`");
    index(&folder);
    refused(
        &[&query[..], &["--model", "ViT-Mini-16-96"]].concat(),
        "was made with another model",
    );
    folder.write("album/.clip-index.safetensors", b"no index");
    refused(&query, "is not a usable index of images");
    refused(
        &["search", "index", "album", "--model", "model"],
        "is not a usable index of images",
    );
    refused(
        &["search", "index", "0.png", "--model", "model"],
        "0.png is no folder",
    );
}
