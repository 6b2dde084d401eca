use crate::support::{Folder, refused};

#[test]
fn wrong_usage_ends_with_2() {
    let folder = Folder::new();
    for args in [
        &[][..],
        &["fly"],
        &["eval", "retrieval"],
        &["classify", "0.png", "--model", "model"],
        &[
            "classify",
            "0.png",
            "--model",
            "model",
            "--labels",
            "a",
            "--classes",
            "names.txt",
        ],
        &["embed", "--model", "model", "--out", "x"],
        &["eval", "zeroshot", "--model", "model", "--data", "a.tar"],
        &[
            "eval",
            "zeroshot",
            "--model",
            "model",
            "--data",
            "a.tar",
            "--labels-from",
            "cls",
        ],
        &["devices", "--device", "abacus"],
        &["devices", "-v", "-q"],
    ] {
        let ran = folder.clip(args);
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (Some(2), ""),
            "{args:?}: {ran:?}"
        );
    }
}

#[test]
fn a_flag_with_a_value_that_it_cannot_have_is_wrong_usage_and_named() {
    let folder = Folder::new();
    let zeroshot = "eval zeroshot --model gone --data a.tar --classes names.txt";
    let probe = "eval probe --model gone --train a.tar --test a.tar";
    let classify = "classify 0.png --model gone";
    for (args, more, words) in [
        ("bench nosuch", &[][..], "there is no benchmark `nosuch`"),
        (zeroshot, &["--corruptions", "fog"], "no corruption `fog`"),
        (zeroshot, &["--corruptions", "all,fog"], "`fog`"),
        (
            zeroshot,
            &["--context", ""],
            "--context: the context is empty",
        ),
        (
            "pretrain --train a.tar",
            &["--precision", "bf16"],
            "`--set precision=bf16`",
        ),
        (zeroshot, &["--template", "a photo"], "--template, line 1"),
        (probe, &["--val", "2"], "--val 2"),
        (classify, &["--labels", "a,a"], "--labels: `a` comes twice"),
        (classify, &["--labels", "a,,b"], "--labels: name 2 is empty"),
        (
            "eval zeroshot --model gone --sets sets.toml",
            &["--allow-duplicates"],
            "--allow-duplicates",
        ),
    ] {
        let args: Vec<&str> = args.split(' ').chain(more.iter().copied()).collect();
        let ran = folder.clip(&args);
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (Some(2), ""),
            "{args:?}: {ran:?}"
        );
        assert!(ran.err.contains(words), "{args:?}: {ran:?}");
    }
    // All among others are all.
    let args = [
        &zeroshot.split(' ').collect::<Vec<_>>()[..],
        &["--corruptions", "all,jpeg"],
    ]
    .concat();
    refused(&folder, &[(&args, &["no model `gone`"])]);
}

#[test]
fn numbers_out_of_range_are_wrong_usage_and_named() {
    let folder = Folder::new();
    let pack = "data pack a.tar --out out";
    let eval = "eval retrieval --model model --data a.tar";
    for (args, flag, value) in [
        ("pretrain --train a.tar", "--lr", "0"),
        ("pretrain --train a.tar", "--epochs", "-1"),
        ("pretrain --train a.tar", "--batch", "1"),
        ("pretrain --train a.tar", "--steps", "0"),
        (eval, "--batch", "0"),
        (eval, "--max-bad-share", "2"),
        ("data doctor a.tar", "--max-bad", "2"),
        (pack, "--shard-mb", "0"),
        (pack, "--shard-samples", "0"),
        (pack, "--resize", "0"),
        (pack, "--name", "a/b"),
        (
            "data curate a.tar --queries names.txt --out out",
            "--per-query",
            "0",
        ),
        (
            "data tokenizer train --text names.txt --out own.json",
            "--vocab-size",
            "20",
        ),
        ("data shapes --out out", "--image-size", "9"),
        ("search check", "--queries", "0"),
    ] {
        let flag_and_value = format!("{flag}={value}");
        let args: Vec<&str> = args.split(' ').chain([flag_and_value.as_str()]).collect();
        let ran = folder.clip(&args);
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (Some(2), ""),
            "{args:?}: {ran:?}"
        );
        assert!(ran.err.contains(flag), "{args:?}: {ran:?}");
    }
    assert!(!folder.path("out").exists());
}

#[test]
fn a_place_that_cannot_be_written_is_told_before_the_work() {
    let folder = Folder::new();
    folder.write("a.txt", b"red\n");
    let labelled = "eval zeroshot --data a.tar --classes names.txt";
    let args = |command: &str, more: &str| -> Vec<String> {
        let line = format!("{command} --model gone {more}");
        line.split(' ').map(str::to_owned).collect()
    };
    for (command, more, place) in [
        (
            "embed --texts a.txt",
            "--out none/x.safetensors",
            "none/x.safetensors",
        ),
        (
            "eval retrieval --data a.tar",
            "--per-query none/q.jsonl",
            "none/q.jsonl",
        ),
        (labelled, "--html none/page.html", "none/page.html"),
    ] {
        let args = args(command, more);
        let ran = folder.clip(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(ran.code, Some(1), "{ran:?}");
        // Not that there is no such model.
        assert!(
            ran.err.contains(&format!("cannot write {place}")),
            "{ran:?}"
        );
    }
}

#[test]
fn a_model_that_is_not_there_or_not_whole_is_named() {
    let folder = Folder::new();
    let eval = |model| ["eval", "retrieval", "--data", "a.tar", "--model", model];
    std::fs::create_dir(folder.path("empty")).unwrap();
    std::fs::create_dir(folder.path("half")).unwrap();
    for file in ["open_clip_config.json", "tokenizer.json"] {
        std::fs::copy(
            folder.path("model").join(file),
            folder.path("half").join(file),
        )
        .unwrap();
    }
    refused(
        &folder,
        &[
            (
                &eval("ViT-B32"),
                &["no model `ViT-B32`", "such as ViT-B-32, "],
            ),
            (
                &eval("ViT-B-32:openai"),
                &["`clip weights import ViT-B-32:openai --out DIR`"],
            ),
            (
                &eval("ViT-Nano-6-36"),
                &["no vocabulary yet", "clip pretrain"],
            ),
            (
                &eval("empty"),
                &["empty is no whole model", "open_clip_config.json"],
            ),
            (&eval("half"), &["half", "open_clip_model.safetensors"]),
            (&eval("."), &["a run's", "whose model is ./model"]),
            (
                &eval("model/open_clip_model.safetensors"),
                &["these are weights", "clip weights import"],
            ),
            (
                &[
                    "weights", "export", "ViT-B-32", "--format", "hf", "--out", "x",
                ],
                &["ViT-B-32 is a preset, which has no weights"],
            ),
            (
                &["weights", "inspect", "half"],
                &["half", "open_clip_model.safetensors"],
            ),
            (
                &["weights", "inspect", "ViT-B32"],
                &["`ViT-B32`", " ViT-B-32, "],
            ),
        ],
    );
    folder.write("half/open_clip_model.safetensors", b"torn");
    refused(
        &folder,
        &[
            (
                &eval("half"),
                &["open_clip_model.safetensors", "not a readable safetensors"],
            ),
            (
                &["weights", "inspect", "half"],
                &["half/open_clip_model.safetensors holds no weights"],
            ),
        ],
    );
    folder.write("half/tokenizer.json", b"{}");
    refused(&folder, &[(&eval("half"), &["tokenizer.json"])]);
    folder.write("half/open_clip_config.json", b"{");
    refused(&folder, &[(&eval("half"), &["open_clip_config.json"])]);
}

#[test]
fn shards_that_cannot_be_read_are_named() {
    let folder = Folder::new();
    folder.write("empty.tar", &[0; 1024]);
    folder.write("failed.tar", b"");
    folder.write("text.tar", &[b'x'; 4096]);
    let eval = |data| ["eval", "retrieval", "--model", "model", "--data", data];
    refused(
        &folder,
        &[
            (&eval(""), &["empty; give tar files"]),
            (&eval("gone.tar"), &["gone.tar does not exist"]),
            (&eval("a.tar::{0..2}.tar"), &["0.tar does not exist"]),
            (&eval("*.zip"), &["no file matches"]),
            (
                &eval("empty.tar"),
                &["no usable sample", "empty.tar (no sample)"],
            ),
            (&eval("failed.tar"), &["failed.tar (1 no tar)"]),
            (&eval("text.tar"), &["text.tar (1 no tar)"]),
        ],
    );
}

#[test]
fn names_and_templates_that_do_not_fit_are_named() {
    let folder = Folder::new();
    folder.write("two.txt", b"red\ngreen\n");
    folder.write("twice.txt", b"red\ngreen\nred\n");
    folder.write("bad.txt", b"a photo\n");
    let eval = |classes| {
        [
            "eval",
            "zeroshot",
            "--model",
            "model",
            "--data",
            "a.tar",
            "--classes",
            classes,
        ]
    };
    let by_name = [&eval("two.txt")[..], &["--labels-from", "caption"]].concat();
    let template = [&eval("names.txt")[..], &["--templates", "bad.txt"]].concat();
    refused(
        &folder,
        &[
            (&eval("gone.txt"), &["cannot read gone.txt"]),
            (
                &eval("two.txt"),
                &["sample `2` has class 2", "only 2 class names"],
            ),
            (&by_name, &["sample `2` has the caption `blue`"]),
            (&eval("twice.txt"), &["twice.txt, line 3"]),
            (&template, &["bad.txt, line 1", "{}"]),
        ],
    );
    let allowed = [&eval("twice.txt")[..], &["--allow-duplicates"]].concat();
    assert_eq!(folder.clip(&allowed).code, Some(0));
    let classify = [
        "classify",
        "0.png",
        "--model",
        "model",
        "--classes",
        "twice.txt",
    ];
    refused(
        &folder,
        &[(&classify, &["twice.txt, line 3", "`--allow-duplicates`"])],
    );
    let allowed = folder.clip(&[&classify[..], &["--allow-duplicates"]].concat());
    assert_eq!(allowed.code, Some(0), "{allowed:?}");
}

#[test]
fn inputs_of_embed_are_checked_before_anything_is_written() {
    let folder = Folder::new();
    folder.write("note.jpg", b"no image");
    folder.write("none.txt", b"");
    let embed = |flag, file| {
        [
            "embed",
            "--model",
            "model",
            "--out",
            "x.safetensors",
            flag,
            file,
        ]
    };
    refused(
        &folder,
        &[
            (
                &embed("--images", "note.jpg"),
                &["note.jpg is not a usable image"],
            ),
            (&embed("--images", "gone.jpg"), &["cannot read gone.jpg"]),
            (&embed("--images", "*.webp"), &["no file matches"]),
            (&embed("--texts", "gone.txt"), &["cannot read gone.txt"]),
            (&embed("--texts", "none.txt"), &["none.txt holds no text"]),
        ],
    );
    assert!(!folder.path("x.safetensors").exists());
    refused(
        &folder,
        &[(
            &[
                "embed",
                "--model",
                "model",
                "--images",
                "0.png",
                "--out",
                "gone/x.safetensors",
            ],
            &["gone/x.safetensors"],
        )],
    );
}

#[test]
fn a_backend_that_this_build_lacks_comes_with_its_remedy() {
    let folder = Folder::new();
    let eval = |device| {
        [
            "eval",
            "retrieval",
            "--model",
            "model",
            "--data",
            "a.tar",
            "--device",
            device,
        ]
    };
    refused(
        &folder,
        &[(&eval("cpu:7"), &["no device `cpu:7`", "clip devices"])],
    );
    if !folder.clip(&["devices"]).out.contains("metal") {
        refused(
            &folder,
            &[(&eval("metal"), &["no metal backend", "--backend metal"])],
        );
    }
}

#[test]
fn a_best_that_no_evaluation_gives_is_refused_before_the_run_begins() {
    let folder = crate::runs::folder();
    let best = |key: &str| {
        let best = format!("checkpoint.best={key}");
        folder.clip(&crate::runs::pretrain(
            "run",
            &["--steps", "2", "--val", "a.tar", "--set", &best],
        ))
    };
    let refused = best("i2t_r2");
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("i2t_r1, i2t_r5"), "{refused:?}");
    let ran = best("i2t_r1");
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn sets_without_a_usable_sample_are_named_before_the_first_step() {
    let folder = crate::runs::folder();
    folder.broken("bad.tar", 4, 4);
    folder.broken("captions.tar", 4, 0);
    folder.write("templates.txt", b"a {}");
    folder.write(
        "pets.toml",
        b"[[data.zeroshot]]\nname = \"pets\"\nshards = \"captions.tar\"\nclasses = \"names.txt\"\n\
          templates = \"templates.txt\"\n",
    );
    for (more, words) in [
        (
            ["--val", "bad.tar"],
            [
                "`data.val` (bad.tar) has no image with a caption",
                "2 no caption",
            ],
        ),
        (
            ["--config", "pets.toml"],
            [
                "\"pets\" (captions.tar) has no image with a class",
                "4 no class",
            ],
        ),
    ] {
        let ran = folder.clip(&crate::runs::pretrain("run", &more));
        assert_eq!(ran.code, Some(1), "{ran:?}");
        for words in words {
            assert!(ran.err.contains(words), "{words}: {ran:?}");
        }
        assert!(!folder.path("run/metrics.jsonl").exists());
    }
}

#[test]
fn a_run_that_cannot_be_read_hides_no_other() {
    let folder = Folder::new();
    for (run, config) in [("sound", "batch = 8"), ("odd", "of_another_version = 1")] {
        std::fs::create_dir_all(folder.path("runs").join(run)).unwrap();
        folder.write(&format!("runs/{run}/config.toml"), config.as_bytes());
    }
    let ran = folder.clip(&["runs", "--json"]);
    assert_eq!(ran.json()["run"], "runs/sound");
    assert!(ran.err.contains("warning: runs/odd left out: "), "{ran:?}");
    assert!(ran.err.contains("of_another_version"), "{ran:?}");
    refused(
        &folder,
        &[(&["runs", "runs/sound", "runs/odd"], &["of_another_version"])],
    );
    std::fs::remove_dir_all(folder.path("runs/sound")).unwrap();
    refused(&folder, &[(&["runs"], &["none of these runs can be read"])]);
}
