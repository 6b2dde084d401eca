use std::{process::Stdio, thread, time::Instant};

use clip_zeroshot::{ApproximateIndex, ImageIndex};
use serde_json::Value;

use crate::support::{Folder, picture};

/// Makes the album's index, with codes, or brings it up to date.
const APPROXIMATE: [&str; 6] = [
    "search",
    "index",
    "album",
    "--model",
    "model",
    "--approximate",
];

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
    // As `clip embed`: what can be indexed is, and what can't makes it fail.
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.err.contains("1 images or folders could not be"),
        "{ran:?}"
    );
    let changed: Value = serde_json::from_str(&ran.out).unwrap();
    let counts = ["images", "kept", "encoded", "removed", "unreadable"];
    assert_eq!(
        counts.map(|key| changed[key].as_u64().unwrap()),
        [3, 2, 1, 1, 1]
    );
    assert!(!nearest(&folder, "red").contains(&"album/red.png".to_owned()));
}

#[cfg(target_os = "linux")]
#[test]
fn images_below_a_folder_that_cannot_be_read_for_now_stay_indexed() {
    let folder = Folder::new();
    album(&folder);
    // Nearly as long as the system takes, and too long by a detour.
    let deep = format!("album/{}", vec!["x".repeat(200); 19].join("/"));
    std::fs::create_dir_all(folder.path(&deep)).unwrap();
    folder.write(&format!("{deep}/deep.png"), &picture(5));
    assert_eq!(index(&folder)["images"], 4);
    let detour = format!("{}album", "./".repeat(150));
    let ran = folder.clip(&["search", "index", &detour, "--model", "model", "--json"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    let counts = ["images", "kept", "removed", "unreadable"].map(|key| &found[key]);
    assert_eq!(counts, [4, 4, 0, 1].map(Value::from).each_ref());
}

#[cfg(target_os = "linux")]
#[test]
fn a_subfolder_that_cannot_be_read_costs_only_itself() {
    let folder = Folder::new();
    album(&folder);
    folder.write("album/red.txt", b"red");
    folder.unreadable("album/gone");
    let ran = folder.clip(&["search", "index", "album", "--model", "model", "--json"]);
    assert!(ran.err.contains("warning: left out: "), "{ran:?}");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (&found["images"], &found["unreadable"]),
        (&3.into(), &1.into())
    );
    let doctor = ["data", "doctor", "album", "--max-bad", "1", "--json"];
    let ran = folder.clip(&doctor);
    assert!(ran.err.contains("album/gone"), "{ran:?}");
    assert!(ran.err.contains(" left out: "), "{ran:?}");
    // Two have no caption.
    assert_eq!(ran.json()["samples"], 3);
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
    refused(
        &["search", "query", "gone.png", "--dir", "album"],
        "there is no image gone.png: check its path, or add --text",
    );
    let text = folder.clip(&["search", "query", "gone.png", "--text", "--dir", "album"]);
    assert_eq!(text.out.lines().count(), 3, "{text:?}");
    let none = folder.clip(&[&query[..], &["--top", "0"]].concat());
    assert_eq!(none.code, Some(2), "{none:?}");
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
    refused(
        &["search", "check", "album"],
        "delete it and make it again with `clip search index`",
    );
    std::fs::remove_file(folder.path("album/.clip-index.safetensors")).unwrap();
    refused(
        &["search", "check", "album"],
        "make one with `clip search index`",
    );
    assert_eq!(folder.clip(&APPROXIMATE).code, Some(0));
    refused(
        &[&query[..], &["--model", "ViT-Mini-16-96"]].concat(),
        "was made with another model",
    );
}

#[test]
fn an_approximate_index_follows_its_folder_and_finds_what_an_exact_one_does() {
    let folder = Folder::new();
    album(&folder);
    let update = |flags: &[&str]| -> Value {
        let args = ["search", "index", "album", "--model", "model", "--json"];
        folder.clip(&[&args[..], flags].concat()).json()
    };
    assert_eq!(update(&[])["approximate"], false);
    let check = ["search", "check", "album", "--json"];
    let refused = folder.clip(&check);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("--approximate"), "{refused:?}");
    let made = update(&["--approximate"]);
    let counts = |made: &Value| ["images", "kept", "encoded"].map(|key| made[key].as_u64());
    assert_eq!(counts(&made), [Some(3), Some(3), Some(0)], "{made}");
    std::fs::remove_file(folder.path("album/red.png")).unwrap();
    folder.write("album/new.png", &picture(7));
    folder.write("album/green.png", &picture(11));
    let made = update(&[]);
    assert_eq!(counts(&made), [Some(3), Some(1), Some(2)], "{made}");
    assert_eq!(made["approximate"], true);
    for query in ["album/green.png", "1.png", "a red square"] {
        let query = ["search", "query", query, "--dir", "album", "--json"];
        let found = folder.clip(&query);
        let exact = folder.clip(&[&query[..], &["--exact"]].concat());
        assert_eq!(found.out.lines().count(), 3, "{found:?}");
        assert_eq!(found.out, exact.out);
    }
    let checked = folder.clip(&check).json();
    assert_eq!(
        (&checked["recall"], &checked["queries"]),
        (&1.0.into(), &3.into())
    );
    assert_eq!(update(&["--exact"])["approximate"], false);
    assert_eq!(folder.clip(&check).code, Some(1));
}

#[test]
fn an_index_is_brought_up_to_date_by_one_process_at_a_time() {
    let folder = Folder::new();
    album(&folder);
    let lock = folder.path("album/.clip-index.safetensors.lock");
    let other = std::fs::File::create(&lock).unwrap();
    other.lock().unwrap();
    let args = ["search", "index", "album", "--model", "model"];
    // Who has to wait is told before a model is looked for.
    let gone = ["search", "index", "album", "--model", "gone"];
    for args in [args, gone] {
        let ran = folder.clip(&args);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains("another process is bringing"), "{ran:?}");
    }
    assert!(!folder.path("album/.clip-index.safetensors").exists());
    drop(other);
    assert_eq!(folder.clip(&args).code, Some(0));
    // Neither the other's nor its own stays among the images.
    assert!(!lock.exists() || !cfg!(unix));
}

#[test]
fn a_killed_update_leaves_the_old_index_or_the_new_one() {
    let folder = Folder::new();
    album(&folder);
    let begun = Instant::now();
    assert_eq!(folder.clip(&APPROXIMATE).code, Some(0));
    let whole = begun.elapsed();
    let file = folder.path("album/.clip-index.safetensors");
    let (mut sizes, mut killed) = (Vec::new(), 0);
    for round in 0..24 {
        // Three images and four by turns, so that every update has something to write.
        let fourth = folder.path("album/fourth.png");
        if round % 2 == 0 {
            folder.write("album/fourth.png", &picture(5));
        } else {
            std::fs::remove_file(&fourth).unwrap();
        }
        let mut clip = folder.command(&APPROXIMATE);
        let mut clip = clip
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // From its beginning to beyond its end.
        thread::sleep(whole * round / 20);
        // SIGKILL: nothing in the program can answer it. It may have ended by itself.
        let _ = clip.kill();
        killed += usize::from(!clip.wait().unwrap().success());
        let exact = ImageIndex::load(&file).unwrap();
        let approximate = ApproximateIndex::open(&file).unwrap().unwrap();
        assert!([3, 4].contains(&exact.images().len()));
        assert_eq!(exact.images(), approximate.images());
        let query = exact.feature(0);
        assert_eq!(
            approximate.search(query, 4).unwrap(),
            exact.search(query, 4)
        );
        sizes.push(exact.images().len());
    }
    // Of the twenty whose time had come before an update's end, as that was measured.
    assert!(killed >= 5, "{killed} updates were killed: {sizes:?}");
    assert_eq!(folder.clip(&APPROXIMATE).code, Some(0));
    assert_eq!(
        ImageIndex::load(&file).unwrap().images().len(),
        3,
        "{sizes:?}"
    );
}
