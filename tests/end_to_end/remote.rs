//! Training over several machines: each a process, in a network of its own where the system lets one be made.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    machines::{Machine, Network, TOKEN, signal},
    runs::{PRESET, checkpoint, folder, pretrain, weights},
    support::{Folder, Ran},
};

/// Rounding of sums in another order, after five steps of AdamW, relative to a parameter's own norm.
const ROUNDING_OF_WEIGHTS: f32 = 1e-5;

/// With these, devices here and elsewhere round alike. In f32 and bf16, a block is one operation on a processor here, and of
/// Burn's operations elsewhere.
const ALIKE: [&str; 2] = ["--set", "precision=f16"];

/// A run that has many steps left after its first checkpoint, when something happens to a machine.
const LONG: [&str; 4] = ["--steps", "60", ALIKE[0], ALIKE[1]];

#[test]
fn devices_of_other_processes_give_the_weights_of_devices_here() {
    let folder = folder();
    let network = Network::loopback();
    let [a, b] = [1, 2].map(|place| Machine::serve(&folder, &network, place));
    let (a, b) = (a.address(), b.address());
    // Its batch norms' running statistics are no parameters, and go to the devices too.
    let resnet = PRESET
        .replace(
            "\"image_size\": 16, \"layers\": 2, \"width\": 32",
            "\"image_size\": 32, \"layers\": [1, 1, 1, 1], \"width\": 8",
        )
        .replace("\"patch_size\": 8", "\"patch_size\": null");
    folder.write("resnet.json", resnet.as_bytes());
    let train = |preset: &str, out: &str, devices: &str, settings: &[&str]| {
        let args = [
            "pretrain",
            "--train",
            "train-{0..1}.tar",
            "--preset",
            preset,
            "--batch",
            "64",
            "--steps",
            "5",
            "--set",
            "warmup_steps=1",
            "--out",
            out,
            "--devices",
            devices,
        ];
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        let args: Vec<&str> = args.into_iter().chain(settings).collect();
        let ran = network.trains(&folder, &args);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        weights(&folder, out)
    };
    let run =
        |out: &str, devices: &str, settings: &[&str]| train("tiny.json", out, devices, settings);
    let all = format!("cpu,{a},{b}");
    let both = format!("cpu,{b}");
    let elsewhere = format!("{a},{b}");
    let one = run("one", "cpu", &["chunk=64", "threads=1"]);
    for (devices, names) in [(1, a), (2, both.as_str()), (3, all.as_str())] {
        for chunk in [64, 16, 4] {
            let out = format!("{devices}-of-{chunk}");
            let got = run(&out, names, &[&format!("chunk={chunk}")]);
            agree(&out, &one, &got);
        }
    }
    // In this precision a block is of the same operations everywhere.
    let two = run("two-alike", "cpu,cpu", &[ALIKE[1]]);
    for (out, devices) in [("elsewhere-alike", &elsewhere), ("both-alike", &both)] {
        assert!(
            run(out, devices, &[ALIKE[1]]) == two,
            "{devices} are not two here"
        );
    }
    let resnet = |out, devices| train("resnet.json", out, devices, &[ALIKE[1]]);
    assert!(
        resnet("resnet", "cpu,cpu") == resnet("resnet-both", &both),
        "{both} are not two here"
    );
}

/// Every parameter of two model files, but for keys' biases: their true gradient is zero, and of rounding alone Adam
/// makes steps.
fn agree(devices: &str, want: &[u8], got: &[u8]) {
    let [want, got] = [want, got].map(|file| safetensors::SafeTensors::deserialize(file).unwrap());
    let floats = |bytes: &[u8]| -> Vec<f32> {
        let four = bytes.chunks_exact(4);
        four.map(|four| f32::from_le_bytes(four.try_into().unwrap()))
            .collect()
    };
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
    for (name, tensor) in want.tensors() {
        let [mut want, mut got] = [tensor.data(), got.tensor(&name).unwrap().data()].map(floats);
        if name.ends_with("attn.in_proj_bias") {
            let third = want.len() / 3;
            for values in [&mut want, &mut got] {
                values.drain(third..2 * third);
            }
        }
        let off = norm(&mut want.iter().zip(&got).map(|(a, b)| a - b));
        let norm = norm(&mut want.iter().copied());
        assert!(
            off <= ROUNDING_OF_WEIGHTS * norm,
            "{devices} {name}: {off} of {norm}"
        );
    }
}

#[test]
fn a_machine_that_is_killed_stops_the_run_with_a_checkpoint_to_go_on_from() {
    let folder = folder();
    let network = Network::of_machines();
    let [a, b] = [1, 2].map(|place| Machine::serve(&folder, &network, place));
    let straight = folder.clip(&pretrain(
        "straight",
        &[&LONG[..], &["--devices", "cpu,cpu"]].concat(),
    ));
    assert_eq!(straight.code, Some(0), "{straight:?}");

    let devices = format!("{},{}", a.address(), b.address());
    let args = pretrain("killed", &[&LONG[..], &["--devices", &devices]].concat());
    let lost = b.address().to_owned();
    let ran = interrupted(&folder, &network, "killed", &args, |_| drop(b));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let named = format!("device {lost} stopped in step");
    for words in [
        named.as_str(),
        "stopped; checkpoint killed",
        "--resume",
        "--elastic",
    ] {
        assert!(ran.err.contains(words), "{words}: {ran:?}");
    }
    assert!(!folder.path("killed/model").exists());

    // No step is lost, and devices that round alike leave no trace.
    let resumed = folder.clip(&["pretrain", "--resume", "killed", "--devices", "cpu,cpu"]);
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    assert!(weights(&folder, "killed") == weights(&folder, "straight"));
}

#[test]
fn an_elastic_run_goes_on_without_the_machines_that_are_killed_or_go_silent() {
    let folder = folder();
    let network = Network::of_machines();
    let [a, b] = [1, 2].map(|place| Machine::serve(&folder, &network, place));
    let more = [&LONG[..], &["--set", "threads=3"]].concat();
    let straight = folder.clip(&pretrain("straight", &more));
    assert_eq!(straight.code, Some(0), "{straight:?}");

    let devices = format!("cpu,{},{}", a.address(), b.address());
    let more = [&more[..], &["--elastic", "--devices", &devices]].concat();
    let (killed, silent) = (a.address().to_owned(), b.address().to_owned());
    let ran = interrupted(
        &folder,
        &network,
        "elastic",
        &pretrain("elastic", &more),
        |_| {
            drop(a);
            // Its connections stay open, and nobody answers.
            signal(b.id(), "STOP");
        },
    );
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for lost in [killed, silent] {
        let said = format!("device {lost} stopped in step");
        assert!(ran.err.contains(&said), "{said}: {ran:?}");
    }
    assert!(weights(&folder, "elastic") == weights(&folder, "straight"));
}

#[test]
fn ctrl_c_stops_a_run_and_leaves_its_machine_to_the_next() {
    let folder = folder();
    let network = Network::loopback();
    let machine = Machine::serve(&folder, &network, 1);
    let devices = ["--devices", machine.address()];
    let straight = network.trains(
        &folder,
        &pretrain("straight", &[&LONG[..], &devices].concat()),
    );
    assert_eq!(straight.code, Some(0), "{straight:?}");

    let args = pretrain("stopped", &[&LONG[..], &devices].concat());
    let ran = interrupted(&folder, &network, "stopped", &args, |run| {
        signal(run, "INT");
    });
    assert_eq!(ran.code, Some(130), "{ran:?}");
    assert!(
        ran.err.contains("clip pretrain --resume stopped"),
        "{ran:?}"
    );

    let args = [&["pretrain", "--resume", "stopped"], &devices[..]].concat();
    let resumed = network.trains(&folder, &args);
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    assert!(weights(&folder, "stopped") == weights(&folder, "straight"));
}

/// A run to which something happens after its first checkpoint. It must end by itself within minutes.
fn interrupted(
    folder: &Folder,
    network: &Network,
    out: &str,
    args: &[&str],
    happens: impl FnOnce(u32),
) -> Ran {
    let said = fs::File::create(folder.path("said")).unwrap();
    let mut clip = network.command(folder, 0, args);
    let mut clip = clip.stdout(Stdio::null()).stderr(said).spawn().unwrap();
    checkpoint(folder, out, &mut clip);
    happens(clip.id());
    let code = Machine::end(&mut clip, Duration::from_mins(5)).code();
    let err = fs::read_to_string(folder.path("said")).unwrap();
    assert!(!err.contains("panicked"), "{err}");
    Ran {
        code,
        out: String::new(),
        err,
    }
}

#[test]
fn a_device_elsewhere_is_refused_with_the_reason() {
    let folder = folder();
    let network = Network::loopback();
    let machine = Machine::serve(&folder, &network, 1);
    let address = machine.address();
    folder.write("wrong", b"another token");
    folder.write("empty", b"\n");
    // Whatever listens here, it offers no devices.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in other.incoming().map(Result::unwrap) {
            let _ = std::io::Write::write_all(
                &mut stream,
                b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            );
        }
    });
    let other = format!("remote://127.0.0.1:{port}");
    let second = format!("{address}/1");
    for (devices, more, code, words) in [
        (
            address,
            &["--token-file", "wrong"][..],
            1,
            "refuses the token",
        ),
        (
            address,
            &["--token-file", "empty"],
            1,
            "the token in empty is empty",
        ),
        (
            address,
            &["--token-file", "missing"],
            1,
            "cannot read the token in missing",
        ),
        (second.as_str(), &[], 1, "offers 1 devices"),
        (
            other.as_str(),
            &[],
            1,
            "not as `clip serve-device` of this version",
        ),
        (
            "remote://127.0.0.1:1",
            &[],
            1,
            "nothing answers at remote://127.0.0.1:1",
        ),
        (
            "remote://no-such-host.invalid:1",
            &[],
            1,
            "no machine of that name",
        ),
        ("remote://127.0.0.1", &[], 2, "remote://HOST:PORT"),
    ] {
        let ran = network.trains(
            &folder,
            &pretrain("refused", &[&["--devices", devices][..], more].concat()),
        );
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert!(ran.err.contains(words), "{words}: {ran:?}");
        assert!(!ran.err.contains(TOKEN), "{ran:?}");
        assert!(!folder.path("refused").exists(), "{devices}");
    }
    let mut without = folder.command(&pretrain("refused", &["--devices", address]));
    let without = without.env_remove("CLIP_DEVICE_TOKEN").output().unwrap();
    let said = String::from_utf8(without.stderr).unwrap();
    assert_eq!(without.status.code(), Some(1), "{said}");
    assert!(said.contains("openssl rand -hex 32"), "{said}");
}

#[test]
fn a_machine_offers_its_devices_only_with_a_token_and_ends_with_ctrl_c() {
    let folder = folder();
    let serve = |args: &[&str]| -> Command {
        let mut command = folder.command(&[&["serve-device", "--device", "cpu"], args].concat());
        command.env_remove("CLIP_DEVICE_TOKEN");
        command
    };
    let ran = serve(&["--listen", "127.0.0.1:0"]).output().unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(
        (ran.status.code(), ran.stdout.len()),
        (Some(1), 0),
        "{said}"
    );
    assert!(said.contains("CLIP_DEVICE_TOKEN"), "{said}");

    let machine = Machine::serve(&folder, &Network::loopback(), 1);
    let place = machine.address().strip_prefix("remote://").unwrap();
    let mut taken = serve(&["--listen", place]);
    let taken = taken.env("CLIP_DEVICE_TOKEN", TOKEN).output().unwrap();
    let said = String::from_utf8(taken.stderr).unwrap();
    assert_eq!(taken.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot listen on 127.0.0.1"), "{said}");

    let (code, said) = machine.interrupt();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("offering cpu"), "{said}");
    assert!(!said.contains("NOT encrypted"), "{said}");
    for never in [TOKEN, "panicked"] {
        assert!(!said.contains(never), "{said}");
    }

    let open = Machine::listen(&folder, &Network::loopback(), 1, "0.0.0.0:0");
    let (_, said) = open.interrupt();
    assert!(said.contains("NOT encrypted"), "{said}");
}
