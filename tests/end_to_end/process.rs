use std::process::Stdio;

use crate::{runs, support::Folder};

#[test]
fn devices_lists_what_works() {
    let folder = Folder::new();
    let ran = folder.clip(&["devices"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains(":0  "), "{ran:?}");
    let device = folder.clip(&["devices", "--json"]);
    assert!(device.out.starts_with(r#"{"device":""#), "{device:?}");
    let named = folder.clip(&["devices", "--device", "cpu:0"]);
    assert!(named.out.starts_with("cpu:0  "), "{named:?}");
    assert_eq!(named.out.lines().count(), 1, "{named:?}");
    let absent = folder.clip(&["devices", "--device", "cpu:9"]);
    assert_eq!((absent.code, absent.out.as_str()), (Some(1), ""));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let folder = Folder::new();
    for args in [
        &["weights", "inspect", "model"][..],
        &["devices"],
        &["--help"],
    ] {
        let mut clip = folder.command(args);
        let mut clip = clip
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(clip.stdout.take());
        let output = clip.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    }
}

#[test]
fn quiet_leaves_nothing_but_errors_on_stderr() {
    let folder = Folder::new();
    let args = [
        "classify",
        "0.png",
        "--labels",
        "a,b",
        "--model",
        "ViT-Mini-16-96",
    ];
    let said = folder.clip(&args).err;
    assert!(
        said.contains("warning: ") && said.contains("random"),
        "{said}"
    );
    assert_eq!(folder.clip(&[&args[..], &["-q"]].concat()).err, "");
}

#[test]
fn a_quiet_run_says_nothing_on_stderr_and_its_steps_in_its_log() {
    let folder = runs::folder();
    let ran = folder.clip(&runs::pretrain("run", &["--val", "a.tar", "-q"]));
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    let log = std::fs::read_to_string(folder.path("run/log.txt")).unwrap();
    assert!(log.contains("step 10/10"), "{log}");
}

#[cfg(target_os = "linux")]
#[test]
fn results_that_do_not_fit_where_stdout_goes_are_told_with_what_helps_there() {
    let folder = Folder::new();
    let full = std::fs::File::options().write(true).open("/dev/full");
    let mut clip = folder.command(&["weights", "inspect", "model"]);
    let output = clip.stdout(full.unwrap()).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("send it elsewhere"), "{told}");
    assert!(!told.contains("--out"), "{told}");
}

/// Interrupts a command once it waits for what `reached` keeps from it; `begun` is asked then.
#[cfg(unix)]
fn interrupted<W>(
    folder: &Folder,
    args: &[&str],
    reached: impl FnOnce() -> W,
    begun: impl FnOnce(),
) {
    let mut clip = folder.command(args).spawn().unwrap();
    let kept = reached();
    begun();
    let pid = clip.id().to_string();
    let killed = std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status();
    assert!(killed.unwrap().success());
    assert_eq!(clip.wait().unwrap().code(), Some(130));
    drop(kept);
}

#[cfg(unix)]
#[test]
fn an_interruption_ends_with_130() {
    let folder = Folder::new();
    let pipe = folder.path("texts");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let args = [
        "embed", "--model", "model", "--texts", "texts", "--out", "x",
    ];
    // Opened when both ends are.
    let reached = || std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    interrupted(&folder, &args, reached, || ());
}

#[cfg(unix)]
#[test]
fn an_interrupted_pack_leaves_nothing_beside_its_folder() {
    let folder = Folder::new();
    let hidden = [".packed.partial", ".packed.lock"].map(|name| folder.path(name));
    // A server that takes a question and never answers.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/slow.tar", server.local_addr().unwrap());
    let args = ["data", "pack", &address, "--out", "packed"];
    interrupted(
        &folder,
        &args,
        || server.accept().unwrap(),
        || {
            assert!(hidden.iter().all(|path| path.exists()));
        },
    );
    for path in hidden.iter().chain([&folder.path("packed")]) {
        assert!(!path.exists(), "{}", path.display());
    }
}

/// Sends a signal to `clip data shapes` when it has begun a shard; says how it ended.
#[cfg(unix)]
fn shapes_ended_by(folder: &Folder, signal: &str) -> Option<i32> {
    use std::process::Command;
    let mut clip = folder.command(&["data", "shapes", "--out", "shapes"]);
    let mut clip = clip.stderr(Stdio::null()).spawn().unwrap();
    let partial = folder.path(".shapes.partial");
    while !std::fs::read_dir(&partial).is_ok_and(|mut files| files.next().is_some()) {
        assert!(clip.try_wait().unwrap().is_none(), "it ended early");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let pid = clip.id().to_string();
    let killed = Command::new("kill").args([signal, &pid]).status();
    assert!(killed.unwrap().success());
    clip.wait().unwrap().code()
}

#[cfg(unix)]
#[test]
fn shapes_that_are_not_whole_do_not_stay() {
    let folder = Folder::new();
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(folder.path(".")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("shapes")).collect()
    };
    assert_eq!(shapes_ended_by(&folder, "-INT"), Some(130));
    assert_eq!(names(), Vec::<String>::new());
    // Nobody can clean up after this one but the next.
    assert_eq!(shapes_ended_by(&folder, "-KILL"), None);
    assert!(names().contains(&".shapes.partial".to_owned()));
    let few = [
        "--train",
        "10",
        "--val",
        "2",
        "--zeroshot",
        "2",
        "--image-size",
        "32",
    ];
    let made = folder.clip(&[&["data", "shapes", "--out", "shapes"][..], &few].concat());
    assert_eq!(made.code, Some(0), "{made:?}");
    assert_eq!(names(), ["shapes"]);
}
