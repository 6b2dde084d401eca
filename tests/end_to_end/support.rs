//! A folder with a tiny random model, shards and images, and a way to run `clip` in it.

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    process::Command,
};

use burn::tensor::Device;
use clip_data::Tokenizer;
use clip_model::{ClipConfig, ImageNorm};
use clip_zeroshot::ClipEncoders;
use safetensors::SafeTensors;
use serde_json::Value;

pub(crate) const NAMES: [&str; 3] = ["red", "green", "blue"];

/// What a run of the program printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// The only thing on stdout: a JSON object.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub(crate) struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    /// With a model in `model/`, `a.tar` with six samples, `0.png` to `2.png` and `names.txt`.
    pub(crate) fn new() -> Self {
        let folder = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        encoders().save(&folder.path("model")).unwrap();
        folder.shard("a.tar", 6);
        for sample in 0..3 {
            folder.write(&format!("{sample}.png"), &picture(sample));
        }
        folder.write("names.txt", NAMES.join("\n").as_bytes());
        folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Sample `n` has picture `n`, class and name `n % 3`, a second caption, and the group of its class.
    pub(crate) fn shard(&self, name: &str, samples: usize) {
        let mut tar = tar::Builder::new(Vec::new());
        let mut file = |name: String, body: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(body.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, body).unwrap();
        };
        for sample in 0..samples {
            let name = NAMES[sample % 3];
            let group = if name == "blue" { "cold" } else { "warm" };
            let captions =
                format!(r#"{{"captions": ["{name}", "{name} {sample}"], "group": "{group}"}}"#);
            file(format!("{sample}.png"), &picture(sample));
            file(format!("{sample}.json"), captions.as_bytes());
            file(format!("{sample}.cls"), (sample % 3).to_string().as_bytes());
        }
        self.write(name, &tar.into_inner().unwrap());
    }

    /// The six samples of `a.tar`, their classes in the names of the folders that they lie in alone.
    pub(crate) fn class_folders(&self, name: &str, classes: [&str; 3]) {
        for (sample, class) in (0..6).zip(classes.into_iter().cycle()) {
            fs::create_dir_all(self.path(name).join(class)).unwrap();
            self.write(&format!("{name}/{class}/{sample}.JPEG"), &picture(sample));
        }
    }

    /// Samples of which the first are bad: by turns without a caption, and with an image that isn't one.
    pub(crate) fn broken(&self, name: &str, samples: usize, bad: usize) {
        let mut tar = tar::Builder::new(Vec::new());
        let mut file = |name: String, body: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(body.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, body).unwrap();
        };
        for sample in 0..samples {
            let broken = sample < bad;
            match (broken, sample % 2) {
                (true, 0) => file(format!("{sample}.png"), &picture(sample % 20)),
                (true, _) => {
                    file(format!("{sample}.png"), b"no image");
                    file(format!("{sample}.txt"), b"red");
                }
                (false, _) => {
                    file(format!("{sample}.png"), &picture(sample % 20));
                    // A caption in another script is a caption.
                    file(format!("{sample}.txt"), "красный квадрат".as_bytes());
                }
            }
        }
        self.write(name, &tar.into_inner().unwrap());
    }

    /// A folder that nobody can read, not even root: within, paths become longer than the system takes.
    #[cfg(target_os = "linux")]
    pub(crate) fn unreadable(&self, name: &str) {
        let long = vec!["x".repeat(200); 12].join("/");
        for part in [name, "rest"] {
            fs::create_dir_all(self.path(part).join(&long)).unwrap();
        }
        fs::rename(self.path("rest"), self.path(name).join(&long).join("rest")).unwrap();
    }

    /// `clip` with arguments, to be run in this folder.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.current_dir(self.dir.path()).args(args);
        command
    }

    /// The rows of a matrix in a safetensors file.
    pub(crate) fn rows(&self, file: &str, tensor: &str) -> Vec<Vec<f32>> {
        let bytes = fs::read(self.path(file)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let matrix = tensors.tensor(tensor).unwrap();
        let numbers = matrix.data().as_chunks::<4>().0.iter();
        let numbers: Vec<f32> = numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect();
        numbers
            .chunks(matrix.shape()[1])
            .map(<[f32]>::to_vec)
            .collect()
    }

    /// Runs `clip`. It must not panic, whatever else happens.
    pub(crate) fn clip(&self, args: &[&str]) -> Ran {
        ran(&mut self.command(args))
    }
}

/// Runs a command of `clip` to its end. It must not panic, whatever else happens.
pub(crate) fn ran(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let ran = Ran {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    };
    assert!(!ran.err.contains("panicked"), "{command:?}: {ran:?}");
    ran
}

/// Runs each command, which must fail with 1, print nothing and say all of the words.
pub(crate) fn refused(folder: &Folder, cases: &[(&[&str], &[&str])]) {
    for (args, words) in cases {
        let ran = folder.clip(args);
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (Some(1), ""),
            "{args:?}: {ran:?}"
        );
        assert!(
            ran.err.lines().any(|line| line.starts_with("error: ")),
            "{ran:?}"
        );
        for word in *words {
            assert!(
                ran.err.contains(word),
                "{args:?}: `{word}` is not in {}",
                ran.err
            );
        }
    }
}

/// The model of the folders.
pub(crate) fn encoders() -> ClipEncoders {
    let json = r#"{"embed_dim": 16, "vision_cfg": {"image_size": 16, "layers": 1, "width": 32,
        "head_width": 16, "patch_size": 8}, "text_cfg": {"context_length": 12, "vocab_size": 540,
        "width": 16, "heads": 2, "layers": 1}}"#;
    encoders_of(json)
}

/// A model of random weights, with a vocabulary learned from names.
pub(crate) fn encoders_of(json: &str) -> ClipEncoders {
    let config = ClipConfig::from_json(json, "test").unwrap();
    let captions = NAMES.map(|name| format!("a {name} square"));
    let tokenizer = Tokenizer::train(captions.into_iter(), config.text_cfg.vocab_size).unwrap();
    let model = config.init(1, &Device::flex());
    ClipEncoders::new(&config, &model, tokenizer, ImageNorm::default()).unwrap()
}

/// A square in the colour of its class, a little different for each sample.
pub(crate) fn picture(sample: usize) -> Vec<u8> {
    let mut pixel = [20u8; 3];
    pixel[sample % 3] = 255 - 5 * (sample % 40) as u8;
    let image = image::RgbImage::from_pixel(20, 18, image::Rgb(pixel));
    let mut png = Cursor::new(Vec::new());
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

/// The program that the same `cargo test --workspace` built, beside this one's folder.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let folder = own.parent().and_then(Path::parent).unwrap();
    let program = folder.join(format!("clip{}", std::env::consts::EXE_SUFFIX));
    assert!(
        program.is_file(),
        "{} is missing: run the whole workspace's tests (`cargo xtask test`), which build it",
        program.display()
    );
    program
}
