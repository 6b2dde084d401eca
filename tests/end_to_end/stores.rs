//! Shards in an object store.

use std::{fs, path::Path};

use crate::{
    object_store::ObjectStore,
    support::{Folder, Ran, ran},
};

/// A store with two shards in a folder, a third beside it, and others around them.
fn filled() -> (Folder, ObjectStore) {
    let (folder, store) = (Folder::new(), ObjectStore::start());
    for (name, samples) in [
        ("train-0.tar", 4),
        ("train-1 #50%.tar", 5),
        ("other.tar", 1),
        ("deep/train-2.tar", 3),
    ] {
        fs::create_dir_all(folder.path("deep")).unwrap();
        folder.shard(name, samples);
        let bytes = fs::read(folder.path(name)).unwrap();
        store.change(&format!("bucket/data/{name}"), Some(bytes));
    }
    store.change("bucket/data/", Some(Vec::new()));
    store.change("bucket/database/train-9.tar", Some(Vec::new()));
    (folder, store)
}

fn clip(folder: &Folder, store: &ObjectStore, args: &[&str]) -> Ran {
    ran(store.known_to(&mut folder.command(args)))
}

#[test]
fn names_in_a_store_match_as_those_of_files_do() {
    let (folder, store) = filled();
    for (names, samples) in [
        ("train-*.tar", 9),
        ("train-[0-9].tar", 4),
        ("{train,other}*.tar", 10),
        ("*/train-?.tar", 3),
        ("train-1 %2350%25.tar", 5),
    ] {
        let shards = format!("s3://bucket/data/{names}");
        let found = clip(&folder, &store, &["data", "doctor", &shards, "--json"]).json();
        assert_eq!(found["samples"].as_u64(), Some(samples), "{names}: {found}");
    }
    for (names, words) in [
        ("data/val-*.tar", "no file matches"),
        (
            "data/val-0.tar",
            "there is no such file (404 Not Found); check the address",
        ),
    ] {
        let found = clip(
            &folder,
            &store,
            &["data", "doctor", &format!("s3://bucket/{names}")],
        );
        assert_eq!(found.code, Some(1), "{found:?}");
        assert!(found.err.contains(words), "{found:?}");
    }
}

#[test]
fn a_shard_that_is_scored_comes_from_its_store_once() {
    let (folder, store) = filled();
    let score = |data: &str, out: &str| {
        let args = ["data", "score", data, "--model", "model", "--out", out];
        let scored = clip(&folder, &store, &args);
        assert_eq!(scored.code, Some(0), "{scored:?}");
    };
    score("s3://bucket/data/train-0.tar", "there");
    score("train-0.tar", "here");
    assert_eq!(store.reads("bucket/data/train-0.tar"), 1);
    let tensors = |out: &str| {
        let file = fs::read(folder.path(out).join("000000.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        tensors.tensor("scores").unwrap().data().to_vec()
    };
    assert_eq!(tensors("there"), tensors("here"));
    assert!(!Path::new(&folder.path("there/.copy")).exists());
}
