//! Every form of weights against one model's (`tests/reference/weights.py`), and what is not weights.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::Device;
use safetensors::SafeTensors;

use super::{
    FileKind, FloatType, ImportedWeights, ModelDir, ReadOptions, TextTokens, WEIGHTS_FILE,
    WeightsFile, parameter_shapes,
    resize::{resize_image_positions, resize_text_positions},
    weights_bytes,
};
use crate::{ClipConfig, ModelError};

/// Sums of up to 16 products in another order than PyTorch's.
const ROUNDING: f32 = 1e-5;

fn fixture(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/weights");
    folder.join(name)
}

fn config() -> ClipConfig {
    let json = r#"{"embed_dim": 4, "quick_gelu": true, "vision_cfg": {"image_size": 8, "layers": 2,
        "width": 8, "head_width": 4, "patch_size": 4}, "text_cfg": {"context_length": 6,
        "vocab_size": 20, "width": 8, "heads": 2, "layers": 1}}"#;
    ClipConfig::from_json(json, "test").unwrap()
}

fn options() -> ReadOptions {
    ReadOptions {
        config: Some(config()),
        ..ReadOptions::default()
    }
}

fn read(path: &Path) -> Result<ImportedWeights, ModelError> {
    ImportedWeights::read(path, &options(), &Device::flex())
}

/// The numbers that every form holds.
fn reference() -> Vec<u8> {
    weights_bytes(
        &read(&fixture("reference.safetensors"))
            .unwrap()
            .model(&Device::flex()),
    )
}

fn save(checkpoint: &ImportedWeights, out: &Path, dtype: FloatType) {
    fs::create_dir(out).unwrap();
    checkpoint.save_open_clip(out, dtype).unwrap();
}

const TOKENS: TextTokens = TextTokens { start: 18, end: 19 };

#[test]
fn every_form_gives_the_same_model() {
    for (name, kind) in [
        ("reference.safetensors", FileKind::Safetensors),
        ("state_dict.pt", FileKind::PyTorch),
        ("checkpoint.pt", FileKind::PyTorch),
        ("torchscript.pt", FileKind::TorchScript),
        (
            "hugging_face/model.safetensors.index.json",
            FileKind::Safetensors,
        ),
    ] {
        assert_eq!(WeightsFile::open(&fixture(name)).unwrap().kind(), kind);
        let model = read(&fixture(name)).unwrap().model(&Device::flex());
        assert_eq!(weights_bytes(&model), reference(), "{name}");
    }
}

/// The name of a file says nothing.
#[test]
fn files_are_recognised_by_their_content() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("open_clip_pytorch_model.bin");
    fs::copy(fixture("reference.safetensors"), &path).unwrap();
    assert_eq!(
        weights_bytes(&read(dir.path()).unwrap().model(&Device::flex())),
        reference()
    );
    fs::copy(fixture("state_dict.pt"), dir.path().join("x.safetensors")).unwrap();
    let error = read(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("open_clip_pytorch_model.bin, x.safetensors"),
        "{error}"
    );
}

#[test]
fn a_folder_of_hugging_faces_says_what_its_model_is() {
    let read = |options: &ReadOptions| {
        ImportedWeights::read(&fixture("hugging_face"), options, &Device::flex()).unwrap()
    };
    let checkpoint = read(&ReadOptions::default());
    assert_eq!(checkpoint.config, config());
    let notes = checkpoint.notes.join("\n");
    assert!(notes.contains("QuickGELU"), "{notes}");
}

#[test]
fn a_round_trip_changes_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    let first = read(&fixture("torchscript.pt")).unwrap();
    let ours = dir.path().join("ours");
    save(&first, &ours, FloatType::F32);
    let opened = ModelDir::open(&ours).unwrap();
    assert_eq!(
        weights_bytes(&opened.load(&Device::flex()).unwrap()),
        reference()
    );

    let again = ImportedWeights::read(&ours, &ReadOptions::default(), &Device::flex()).unwrap();
    let theirs = dir.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    again
        .save_hugging_face(&theirs, FloatType::F32, TOKENS)
        .unwrap();
    let back = ImportedWeights::read(&theirs, &ReadOptions::default(), &Device::flex()).unwrap();
    assert_eq!(
        (&back.config, back.preprocess),
        (&again.config, again.preprocess)
    );
    let last = dir.path().join("last");
    save(&back, &last, FloatType::F32);
    let file = |folder: &Path| fs::read(folder.join(WEIGHTS_FILE)).unwrap();
    assert_eq!(file(&last), file(&ours));
}

/// As in `small_resnet.py`: batch norms' counts are integers, and stay so at any width of the floats.
#[test]
fn residual_networks_and_siglips_towers_survive_a_round_trip() {
    let resnet = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 4,
        "head_width": 16}, "text_cfg": {"context_length": 6, "vocab_size": 20, "width": 8, "heads": 2,
        "layers": 1}}"#;
    let siglip = r#"{"embed_dim": 8, "init_logit_bias": -10, "custom_text": true, "vision_cfg": {"image_size": 8,
        "layers": 1, "width": 8, "head_width": 4, "patch_size": 4}, "text_cfg": {"context_length": 6,
        "vocab_size": 20, "width": 8, "heads": 2, "layers": 1, "no_causal_mask": true, "pool_type": "last",
        "proj_bias": true}}"#;
    for json in [resnet, siglip] {
        let config = ClipConfig::from_json(json, "test").unwrap();
        let model = config.init(3, &Device::flex());
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join("ours");
        ModelDir::save(&ours, &config, crate::Preprocess::default(), &model).unwrap();
        let read = |path: &Path| {
            ImportedWeights::read(path, &ReadOptions::default(), &Device::flex()).unwrap()
        };
        let checkpoint = read(&ours);
        assert_eq!(checkpoint.config, config);
        let again = dir.path().join("again");
        save(&checkpoint, &again, FloatType::F32);
        let back = read(&again).model(&Device::flex());
        assert_eq!(weights_bytes(&back), weights_bytes(&model));
        let half = dir.path().join("half");
        save(&checkpoint, &half, FloatType::F16);
        let file = WeightsFile::open(&half).unwrap();
        for (name, dtype, _) in file.tensors() {
            let count = name.ends_with("num_batches_tracked");
            assert_eq!(
                format!("{dtype:?}"),
                if count { "I64" } else { "F16" },
                "{name}"
            );
        }
        let refused = checkpoint.save_hugging_face(dir.path(), FloatType::F32, TOKENS);
        assert!(matches!(refused, Err(ModelError::NotHuggingFace { .. })));
        assert!(!dir.path().join("config.json").exists());
    }
}

/// The reference's numbers fit 11 bits, so half precision keeps them and bfloat16 is off by less than 2^-8.
#[test]
fn narrow_weights_are_half_as_large_and_close() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = read(&fixture("reference.safetensors")).unwrap();
    let values = |folder: &str, dtype| {
        let out = dir.path().join(folder);
        save(&checkpoint, &out, dtype);
        let back = ImportedWeights::read(&out, &ReadOptions::default(), &Device::flex()).unwrap();
        let bytes = weights_bytes(&back.model(&Device::flex()));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (values, _) = file.tensor("visual.proj").unwrap().data().as_chunks::<4>();
        values
            .iter()
            .map(|value| f32::from_le_bytes(*value))
            .collect::<Vec<_>>()
    };
    let exact = values("f32", FloatType::F32);
    assert_eq!(values("f16", FloatType::F16), exact);
    let brain = values("bf16", FloatType::Bf16);
    assert_ne!(brain, exact);
    for (got, want) in brain.iter().zip(&exact) {
        assert!((got - want).abs() <= want.abs() / 256.0, "{got} {want}");
    }
}

#[test]
fn a_mismatch_names_every_difference() {
    let mut other = config();
    other.embed_dim = 5;
    other.text_cfg.layers = 2;
    other.vision_cfg.layers = crate::Layers::Blocks(1);
    let options = ReadOptions {
        config: Some(other),
        ..ReadOptions::default()
    };
    let error =
        ImportedWeights::read(&fixture("checkpoint.pt"), &options, &Device::flex()).unwrap_err();
    let ModelError::WeightsMismatch {
        missing,
        unexpected,
        misshapen,
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(missing.len(), 12);
    assert!(
        missing
            .iter()
            .all(|name| name.starts_with("transformer.resblocks.1."))
    );
    assert_eq!(unexpected.len(), 12);
    assert!(
        unexpected
            .iter()
            .all(|name| name.starts_with("visual.transformer.resblocks.1."))
    );
    let misshapen: Vec<_> = misshapen
        .iter()
        .map(|(name, want, got)| (name.as_str(), &want[..], &got[..]))
        .collect();
    assert_eq!(
        misshapen,
        [
            ("visual.proj", &[8, 5][..], &[8, 4][..]),
            ("text_projection", &[8, 5], &[8, 4]),
        ]
    );
}

#[test]
fn another_image_size_resizes_the_positions_and_says_so() {
    let options = ReadOptions {
        config: Some(config()),
        image_size: Some(16),
        ..ReadOptions::default()
    };
    let read = ImportedWeights::read(&fixture("state_dict.pt"), &options, &Device::flex()).unwrap();
    assert_eq!(read.config.vision_cfg.image_size, 16);
    let notes = read.notes.join("\n");
    assert!(notes.contains("from a 2x2 grid to 4x4 (bicubic"), "{notes}");
    let shapes = parameter_shapes(&read.model(&Device::flex()));
    assert!(shapes.contains(&("visual.positional_embedding".to_owned(), vec![17, 8])));
}

#[test]
fn resized_positions_are_open_clips() {
    let bytes = fs::read(fixture("resized.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let golden = |name: &str| {
        let (values, _) = file.tensor(name).unwrap().data().as_chunks::<4>();
        values
            .iter()
            .map(|value| f32::from_le_bytes(*value))
            .collect::<Vec<f32>>()
    };
    let close = |got: &[f32], name: &str| {
        let want = golden(name);
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() < ROUNDING, "{name}: {got} {want}");
        }
    };
    for side in [2, 3, 7] {
        let got = resize_image_positions(&golden("image"), 3, 5, side);
        close(&got, &format!("image_{side}"));
        let without_class = resize_image_positions(&golden("image")[3..], 3, 5, side);
        assert_eq!(without_class, got[3..]);
    }
    for length in [4, 9] {
        let got = resize_text_positions(&golden("text"), 3, 6, length);
        close(&got, &format!("text_{length}"));
    }
}

#[test]
fn shapes_tell_the_architecture() {
    let infer = |preset: &str, quick_gelu| {
        let config = ClipConfig::load(preset).unwrap();
        let shapes = parameter_shapes(&config.init_blank(&Device::flex()));
        let shapes = shapes
            .iter()
            .map(|(name, shape)| (name.as_str(), shape.as_slice()));
        super::architecture::infer(Path::new("x"), shapes, quick_gelu).unwrap()
    };
    let (config, note) = infer("ViT-S-32", false);
    assert_eq!(config, ClipConfig::load("ViT-S-32").unwrap());
    assert!(note.contains("ViT-S-32"), "{note}");
    let (config, note) = infer("ViT-B-32", true);
    assert_eq!(config, ClipConfig::load("ViT-B-32-quickgelu").unwrap());
    assert!(note.contains("ViT-B-32-quickgelu"), "{note}");
    let (config, note) = infer("RN50", true);
    assert_eq!(config, ClipConfig::load("RN50-quickgelu").unwrap());
    assert!(note.contains("RN50-quickgelu"), "{note}");
    let (config, _) = infer("RN50x4", false);
    assert_eq!(config, ClipConfig::load("RN50x4").unwrap());
    // Heads of less than 64 can't be told from shapes.
    let error = ImportedWeights::read(
        &fixture("state_dict.pt"),
        &ReadOptions::default(),
        &Device::flex(),
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("too little for heads of 64") && error.contains("give it by"),
        "{error}"
    );
}

/// A zip archive whose pickle is `pickle`, with a storage of four numbers.
fn archive(pickle: &[u8]) -> Vec<u8> {
    archive_of(pickle, &[0; 16])
}

fn archive_of(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    let (mut files, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in [("archive/data.pkl", pickle), ("archive/data/0", storage)] {
        // From the extraction's version to the length of the extra field, which both headers hold alike.
        let size = (content.len() as u32).to_le_bytes();
        let length = (name.len() as u16).to_le_bytes();
        let common = [
            &[20, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[0; 4],
            &size,
            &size,
            &length,
            &[0; 2],
        ]
        .concat();
        let at = (files.len() as u32).to_le_bytes();
        directory.extend(
            [
                &b"PK\x01\x02\x14\x00"[..],
                &common,
                &[0; 10],
                &at,
                name.as_bytes(),
            ]
            .concat(),
        );
        files.extend([&b"PK\x03\x04"[..], &common, name.as_bytes(), content].concat());
    }
    let (size, start) = (
        (directory.len() as u32).to_le_bytes(),
        (files.len() as u32).to_le_bytes(),
    );
    let end = [
        &b"PK\x05\x06\0\0\0\0\x02\0\x02\0"[..],
        &size,
        &start,
        &[0; 2],
    ]
    .concat();
    [files, directory, end].concat()
}

/// A dictionary with one tensor of a storage of four numbers.
fn tensor_pickle(key: &[u8], shape: &[u8]) -> Vec<u8> {
    dictionary(&[tensor_item(b'w', key, b"K\x04", shape)])
}

fn dictionary(items: &[Vec<u8>]) -> Vec<u8> {
    [b"\x80\x02}", &items.concat()[..], b"."].concat()
}

/// A name of one letter, and a tensor of a storage that is said to have so many numbers.
fn tensor_item(name: u8, key: &[u8], elements: &[u8], shape: &[u8]) -> Vec<u8> {
    [
        b"X\x01\x00\x00\x00",
        &[name][..],
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX",
        &(key.len() as u32).to_le_bytes(),
        key,
        b"X\x03\x00\x00\x00cpu",
        elements,
        b"tQK\x00",
        shape,
        b"K\x01\x85\x89ccollections\nOrderedDict\n)RtRs",
    ]
    .concat()
}

fn refusal(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pt");
    fs::write(&path, bytes).unwrap();
    let error = WeightsFile::open(&path).map(|file| file.read(|_| true));
    match error {
        Err(error) | Ok(Err(error)) => error.to_string(),
        Ok(Ok(state)) => panic!("{:?}", state.keys()),
    }
}

#[test]
fn what_a_pickle_would_run_is_named_and_not_run() {
    let call = b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.";
    for bytes in [archive(call), call.to_vec()] {
        let error = refusal(&bytes);
        assert!(
            error.contains("`posix.system`") && error.contains("nothing was run"),
            "{error}"
        );
    }
}

#[test]
fn tensors_that_are_not_there_are_refused() {
    let fine = archive(&tensor_pickle(b"0", b"K\x04\x85"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pt");
    fs::write(&path, fine).unwrap();
    assert!(
        WeightsFile::open(&path).unwrap().read(|_| true).unwrap()["w"]
            .to_f32()
            .is_some()
    );
    let (whole, larger) = (
        tensor_item(b'w', b"0", b"K\x04", b"K\x04\x85"),
        tensor_item(b'x', b"0", b"K\x05", b"K\x05\x85"),
    );
    for (pickle, reason) in [
        (
            dictionary(&[whole, larger]),
            "has 16 bytes, but its tensors need 20",
        ),
        (
            tensor_pickle(b"0", b"K\x05\x85"),
            "its storage has 4 elements",
        ),
        (
            tensor_pickle(b"0", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85"),
            "its storage has 4 elements",
        ),
        (tensor_pickle(b"0", b"\x8a\x01\xff\x85"), "no whole number"),
        (tensor_pickle(b"0", b"N"), "no tuple"),
        (tensor_pickle(b"1", b"K\x04\x85"), "archive/data/1"),
        (tensor_pickle(b"../data.pkl", b"K\x04\x85"), "data.pkl"),
        (b"\x80\x02}.".to_vec(), "holds no tensors"),
        (b"\x80\x02K\x01.".to_vec(), "neither a dictionary"),
    ] {
        let error = refusal(&archive(&pickle));
        assert!(error.contains(reason), "{error}");
    }
    // Ten tensors of the same 16,384 numbers.
    let shared = (b'a'..=b'j').map(|name| tensor_item(name, b"0", b"M\0\x40", b"M\0\x40\x85"));
    let shared = dictionary(&shared.collect::<Vec<_>>());
    let error = refusal(&archive_of(&shared, &vec![0; 4 << 14]));
    assert!(error.contains("many times as large as the file"), "{error}");
    assert!(refusal(b"PK\x03\x04 and no more").contains("zip archive"));
    assert!(refusal(b"just text").contains("holds no weights"));
    assert!(refusal(b"").contains("holds no weights"));
    assert!(refusal(br#"{"weight_map": {"a": "../b"}}"#).contains("not a file beside it"));
    // The index itself.
    assert!(refusal(br#"{"weight_map": {"a": "x.pt"}}"#).contains("holds no weights"));
    let before = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    assert!(refusal(before).contains("before 1.6"));
}

/// Downloads break off and disks rot: any error will do, and no panic.
#[test]
fn damaged_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    for name in ["torchscript.pt", "reference.safetensors"] {
        let whole = fs::read(fixture(name)).unwrap();
        for length in (0..whole.len()).step_by(997) {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(read(&path).is_err(), "{name} of {length} bytes");
        }
        for at in (0..whole.len()).step_by(211) {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            fs::write(&path, &changed).unwrap();
            let _ = WeightsFile::open(&path).map(|file| file.read(|_| true));
        }
    }
}
