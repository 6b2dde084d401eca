use std::fs;

use serde_json::Value;

use crate::support::Folder;

fn report(folder: &Folder) -> Value {
    serde_json::from_slice(&fs::read(folder.path("x.json")).unwrap()).unwrap()
}

#[test]
fn what_is_measured_alone_is_printed_and_written() {
    let folder = Folder::new();
    let args = [
        "bench",
        "train-nano",
        "loader",
        "tokenizer",
        "--quick",
        "--json",
        "x.json",
    ];
    let ran = folder.clip(&args);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.starts_with("work"), "{ran:?}");
    let report = report(&folder);
    for key in [
        "command",
        "machine",
        "threads",
        "versions",
        "load_before",
        "load_after",
    ] {
        assert!(report.get(key).is_some(), "{key}: {report}");
    }
    let benchmarks = report["benchmarks"].as_array().unwrap();
    let names: Vec<_> = benchmarks.iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["matmul", "train-nano", "loader", "tokenizer"]);
    for one in benchmarks {
        assert!(one["ours"]["median"].as_f64() > Some(0.0), "{one}");
        assert!(one["ours"]["peak_bytes"].as_u64() > Some(0), "{one}");
        assert_eq!(one["ours"]["rounds"].as_array().unwrap().len(), 1);
        assert_eq!(one["peer"], Value::Null);
    }
    let step = &benchmarks[1];
    assert_eq!(step["unit"], "images/s");
    assert_eq!(step["limit"]["name"], "matmul");
    assert!(step["limit"]["share"].as_f64() > Some(0.0), "{step}");
}

#[cfg(unix)]
#[test]
fn a_run_is_measured_by_turns_with_its_steps_alone() {
    let folder = Folder::new();
    let args = [
        "bench", "run-nano", "--batch", "16", "--quick", "--json", "x.json",
    ];
    let ran = folder.clip(&args);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let report = report(&folder);
    let [run] = &report["benchmarks"].as_array().unwrap()[..] else {
        panic!("{report}");
    };
    for side in ["ours", "peer"] {
        assert!(run[side]["median"].as_f64() > Some(0.0), "{run}");
    }
    assert!(run["ratio"]["median"].as_f64() > Some(0.0), "{run}");
}

/// A program that answers as OpenCLIP's side does, at two captions a second.
#[cfg(unix)]
#[test]
fn a_peer_is_measured_beside_it() {
    use std::os::unix::fs::PermissionsExt;

    let folder = Folder::new();
    let script = r#"#!/bin/sh
while read -r line; do case $line in
    *setup*) echo '{"ready": {"versions": {"torch": "9.9"}}}' ;;
    *run*) echo '{"ran": {"seconds": 2.0, "count": 4}}' ;;
    *end*) echo '{"ended": {"peak_bytes": 1024}}' ;;
esac; done
"#;
    folder.write("peer", script.as_bytes());
    let peer = folder.path("peer");
    fs::set_permissions(&peer, fs::Permissions::from_mode(0o755)).unwrap();
    let args = [
        "bench",
        "tokenizer",
        "--quick",
        "--rounds",
        "2",
        "--json",
        "x.json",
        "--peer",
    ];
    let ran = folder.clip(&[&args[..], &[peer.to_str().unwrap()]].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let report = report(&folder);
    assert_eq!(report["versions"]["torch"], "9.9");
    let one = &report["benchmarks"][0];
    assert_eq!(one["peer"]["rounds"], serde_json::json!([2.0, 2.0]));
    assert_eq!(one["peer"]["peak_bytes"], 1024);
    assert!(one["ratio"]["median"].as_f64() > Some(0.0), "{one}");

    folder.write("peer", b"#!/bin/sh\nexit 7\n");
    let ran = folder.clip(&[&args[..], &[peer.to_str().unwrap()]].concat());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("exit status: 7"), "{ran:?}");
}

#[test]
fn a_benchmark_that_is_not_there_is_refused() {
    let ran = Folder::new().clip(&["bench", "tokeniser"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("clip bench --list"), "{ran:?}");
}
