//! `hf-hub:ORG/NAME` against a server that speaks the hub's paths.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    support::{Folder, Ran, ran},
    weights::fixture,
};

/// The commits of every model, one after the other.
const COMMITS: [&str; 2] = [
    "0123456789012345678901234567890123456789",
    "9876543210987654321098765432109876543210",
];
/// What opens `org/gated`.
const TOKEN: &str = "hf_secret";
/// The file that is broken off.
const SHARD: &str = "model-00001-of-00002.safetensors";

/// The models of a hub, and how many more downloads of [`SHARD`] stop half-way.
struct State {
    endpoint: String,
    commit: &'static str,
    models: HashMap<&'static str, PathBuf>,
    breaks: usize,
    /// Files that were sent, with the first byte that was asked for.
    sent: Vec<(String, usize)>,
}

struct Hub {
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// With `org/tiny` and `org/gated` in transformers' layout, `org/open` in OpenCLIP's, and `org/empty`; and what OpenCLIP
    /// means by a tag, of another model's size here.
    fn start(folder: &Folder, breaks: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        fs::create_dir(folder.path("empty")).unwrap();
        folder.write("empty/README.md", b"No weights yet.");
        let state = Arc::new(Mutex::new(State {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            commit: COMMITS[0],
            models: HashMap::from([
                ("org/tiny", fixture("hugging_face")),
                ("org/gated", fixture("hugging_face")),
                ("org/open", folder.path("model")),
                (
                    "timm/vit_base_patch32_clip_224.openai",
                    folder.path("model"),
                ),
                ("org/empty", folder.path("empty")),
            ]),
            breaks,
            sent: Vec::new(),
        }));
        let shared = Arc::clone(&state);
        // Ends with the test program.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that goes away in the middle is its own affair.
                let _ = shared.lock().unwrap().answer(&mut stream.unwrap());
            }
        });
        Self { state }
    }

    /// Runs `clip` in the folder, with this hub and a cache of the folder's own.
    fn clip(&self, folder: &Folder, token: Option<&str>, args: &[&str]) -> Ran {
        self.clip_with(folder, token.map(|token| ("HF_TOKEN", token)), args)
    }

    /// As [`clip`](Self::clip), with an environment variable.
    fn clip_with(&self, folder: &Folder, variable: Option<(&str, &str)>, args: &[&str]) -> Ran {
        let mut clip = folder.command(args);
        clip.env("HF_ENDPOINT", &self.state.lock().unwrap().endpoint)
            .env("HF_HOME", folder.path("cache"))
            .env("NO_PROXY", "127.0.0.1")
            .env_remove("HF_HUB_OFFLINE")
            .env_remove("HF_TOKEN")
            .envs(variable);
        ran(&mut clip)
    }

    fn import(&self, folder: &Folder, source: &str, out: &str) -> Ran {
        self.clip(folder, None, &["weights", "import", source, "--out", out])
    }

    /// First bytes of what was asked of a file.
    fn starts(&self, name: &str) -> Vec<usize> {
        let state = self.state.lock().unwrap();
        let sent = state.sent.iter().filter(|(file, _)| file == name);
        sent.map(|(_, start)| *start).collect()
    }
}

impl State {
    /// Answers one request: `/api/models/NAME/revision/main`, `/NAME/resolve/main/FILE`, or `/store/NAME/FILE`, where
    /// the hub sends those who want a large file.
    fn answer(&mut self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut request = String::new();
        let mut reader = BufReader::new(stream.try_clone()?);
        while !request.ends_with("\r\n\r\n") && reader.read_line(&mut request)? > 0 {}
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match parts[..] {
            ["api", "models", org, name, "revision", "main"] => {
                let Some(folder) = self.models.get(format!("{org}/{name}").as_str()) else {
                    return status(stream, "404 Not Found");
                };
                let files: Vec<_> = names(folder)
                    .into_iter()
                    .map(|name| json!({"rfilename": name}))
                    .collect();
                let body = json!({"siblings": files, "sha": self.commit}).to_string();
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                )
            }
            [org, name, "resolve", "main", file] => {
                if name == "gated" && !request.contains(&format!("Bearer {TOKEN}")) {
                    return status(stream, "401 Unauthorized");
                }
                let model = format!("{org}/{name}");
                let Some(body) = self.read(&model, file) else {
                    return status(stream, "404 Not Found");
                };
                if Path::new(file)
                    .extension()
                    .is_none_or(|kind| kind != "safetensors")
                {
                    let headers = format!("ETag: \"{file}\"\r\nX-Repo-Commit: {}\r\n", self.commit);
                    return self.send(stream, &request, file, &body, &headers);
                }
                write!(
                    stream,
                    "HTTP/1.1 302 Found\r\nLocation: {}/store/{model}/{file}\r\nX-Linked-Etag: \"{:x}\"\r\n\
                     X-Repo-Commit: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                    self.endpoint,
                    Sha256::digest(&body),
                    self.commit
                )
            }
            ["store", org, name, file] => match self.read(&format!("{org}/{name}"), file) {
                Some(body) => self.send(stream, &request, file, &body, ""),
                None => status(stream, "404 Not Found"),
            },
            _ => status(stream, "404 Not Found"),
        }
    }

    fn read(&self, model: &str, file: &str) -> Option<Vec<u8>> {
        fs::read(self.models.get(model)?.join(file)).ok()
    }

    /// The range that is asked for, which all of hf-hub's requests for files have.
    fn send(
        &mut self,
        stream: &mut TcpStream,
        request: &str,
        file: &str,
        body: &[u8],
        headers: &str,
    ) -> std::io::Result<()> {
        let lower = request.to_lowercase();
        let range = lower.split("range: bytes=").nth(1).unwrap();
        let (start, end) = range.lines().next().unwrap().split_once('-').unwrap();
        let start: usize = start.parse().unwrap();
        if start >= body.len() {
            return status(stream, "416 Range Not Satisfiable");
        }
        let last = end.parse().unwrap_or(body.len() - 1);
        let mut part = &body[start..=last];
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{last}/{}\r\n\
             {headers}Connection: close\r\n\r\n",
            part.len(),
            body.len(),
        )?;
        if end.is_empty() {
            self.sent.push((file.to_owned(), start));
            if file == SHARD && self.breaks > 0 {
                self.breaks -= 1;
                part = &part[..part.len() / 2];
            }
        }
        stream.write_all(part)
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn status(stream: &mut TcpStream, status: &str) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

/// The weights of a model directory.
fn weights(folder: &Folder, dir: &str) -> Vec<u8> {
    fs::read(folder.path(dir).join("open_clip_model.safetensors")).unwrap()
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_stopped_and_nothing_is_lost() {
    let folder = Folder::new();
    let hub = Hub::start(&folder, 1);
    let ran = hub.import(&folder, "hf-hub:org/tiny@main", "in");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let size = fs::metadata(fixture("hugging_face").join(SHARD))
        .unwrap()
        .len() as usize;
    assert_eq!(hub.starts(SHARD), [0, size / 2]);
    let local = fixture("hugging_face");
    let ran = folder.clip(&[
        "weights",
        "import",
        local.to_str().unwrap(),
        "--out",
        "local",
    ]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(weights(&folder, "in"), weights(&folder, "local"));
}

#[test]
fn the_cache_serves_again_and_without_a_network() {
    let folder = Folder::new();
    let hub = Hub::start(&folder, 0);
    assert_eq!(hub.import(&folder, "hf-hub:org/tiny", "in").code, Some(0));
    assert_eq!(
        hub.import(&folder, "hf-hub:org/tiny", "again").code,
        Some(0)
    );
    assert_eq!(hub.starts(SHARD), [0]);
    // Nobody listens there.
    "http://127.0.0.1:9".clone_into(&mut hub.state.lock().unwrap().endpoint);
    let ran = hub.import(&folder, "hf-hub:org/tiny", "offline");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains("from the cache"), "{ran:?}");
    assert_eq!(weights(&folder, "offline"), weights(&folder, "in"));
    let ran = hub.import(&folder, "hf-hub:org/open", "other");
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err.contains("cannot reach http://127.0.0.1:9") && ran.err.contains("network"),
        "{ran:?}"
    );
}

#[test]
fn a_tag_of_open_clips_is_a_model_of_the_hub() {
    let folder = Folder::new();
    let hub = Hub::start(&folder, 0);
    let ran = hub.import(&folder, "ViT-B-32:openai", "tagged");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(weights(&folder, "tagged") == weights(&folder, "model"));
    let listed = folder.clip(&["weights", "list", "ViT-B-32", "--json"]);
    let sources: Vec<String> = listed
        .out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| format!("{} {}", line["source"], line["hub"]))
        .collect();
    let openai = "\"ViT-B-32:openai\" \"timm/vit_base_patch32_clip_224.openai\"";
    assert!(sources.iter().any(|source| source == openai), "{sources:?}");
    assert!(
        sources
            .iter()
            .all(|source| source.starts_with("\"ViT-B-32:"))
    );
    // OpenCLIP knows the architecture of a tag, so that weights need none beside them; those here have another.
    std::fs::remove_file(folder.path("model").join("open_clip_config.json")).unwrap();
    std::fs::remove_dir_all(folder.path("cache")).unwrap();
    let bare = hub.import(&folder, "ViT-B-32:openai", "bare");
    assert!(
        bare.err.contains("describes 151277313 parameters"),
        "{bare:?}"
    );
    let bare = hub.import(&folder, "hf-hub:org/open", "bare");
    assert!(
        bare.err.contains("holds no model that can be imported"),
        "{bare:?}"
    );
    let unknown = folder.clip(&["weights", "list", "ViT-B-33"]);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
}

#[test]
fn where_downloads_are_forbidden_the_cache_is_all_there_is() {
    let folder = Folder::new();
    let hub = Hub::start(&folder, 0);
    let offline = |model: &str, out: &str, value: &str| {
        let args = ["weights", "import", model, "--out", out];
        hub.clip_with(&folder, Some(("HF_HUB_OFFLINE", value)), &args)
    };
    let ran = offline("hf-hub:org/tiny", "in", "1");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for words in ["cache/hub", "org/tiny", "HF_HUB_OFFLINE forbids"] {
        assert!(ran.err.contains(words), "{words}: {ran:?}");
    }
    assert_eq!(offline("hf-hub:org/tiny", "in", "0").code, Some(0));
    // It is another by now, and nobody asks.
    hub.state.lock().unwrap().commit = COMMITS[1];
    let ran = offline("hf-hub:org/tiny", "again", "yes");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(hub.starts(SHARD), [0]);
    assert_eq!(weights(&folder, "again"), weights(&folder, "in"));
}

#[test]
fn a_model_that_changed_is_downloaded_again() {
    let folder = Folder::new();
    let hub = Hub::start(&folder, 0);
    let ran = hub.import(&folder, "hf-hub:org/tiny", "in");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    hub.state.lock().unwrap().commit = COMMITS[1];
    let ran = hub.import(&folder, "hf-hub:org/tiny", "again");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(hub.starts(SHARD), [0, 0]);
}

#[test]
fn what_an_earlier_download_left_is_thrown_away_where_it_does_not_fit() {
    let folder = Folder::new();
    let hub = Hub::start(&folder, 0);
    let body = fs::read(fixture("hugging_face").join(SHARD)).unwrap();
    let blobs = folder.path("cache/hub/models--org--tiny/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{:x}.part", Sha256::digest(&body)));
    // Longer than the file; and as long, which leaves nothing to ask for.
    for length in [body.len() + 1, body.len()] {
        fs::write(&part, vec![7; length]).unwrap();
        let ran = hub.import(&folder, "hf-hub:org/tiny", &format!("in-{length}"));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        fs::remove_dir_all(folder.path("cache/hub/models--org--tiny/snapshots")).unwrap();
    }
    // Of another file: found out by its digest, and whole the next time.
    fs::write(&part, [7; 100]).unwrap();
    let ran = hub.import(&folder, "hf-hub:org/tiny", "damaged");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("is damaged (SHA-256"), "{ran:?}");
    assert!(!folder.path("damaged").exists());
    assert_eq!(
        hub.import(&folder, "hf-hub:org/tiny", "whole").code,
        Some(0)
    );
}

#[test]
fn a_gated_model_asks_for_a_token() {
    let folder = Folder::new();
    let hub = Hub::start(&folder, 0);
    let ran = hub.import(&folder, "hf-hub:org/gated", "in");
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err.contains("gated") && ran.err.contains("HF_TOKEN"),
        "{ran:?}"
    );
    let args = ["weights", "import", "hf-hub:org/gated", "--out", "in"];
    let ran = hub.clip(&folder, Some(TOKEN), &args);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn what_the_hub_does_not_have_is_named() {
    let folder = Folder::new();
    // As on a broken network: again and again.
    let hub = Hub::start(&folder, 100);
    for (source, expected) in [
        ("hf-hub:org/other", "no model org/other (revision main)"),
        ("hf-hub:org/tiny@v2", "no model org/tiny (revision v2)"),
        ("hf-hub:org/empty", "it has README.md"),
        ("hf-hub:other", "ORGANISATION/NAME"),
        ("hf-hub:org/tiny", "goes on where it stopped"),
    ] {
        let ran = hub.import(&folder, source, "in");
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains(expected), "{expected}: {ran:?}");
        assert!(!folder.path("in").exists());
    }
}

#[test]
fn a_run_begins_with_a_model_of_the_hub() {
    let folder = Folder::new();
    let hub = Hub::start(&folder, 0);
    let args = [
        "pretrain",
        "--init",
        "hf-hub:org/open",
        "--train",
        "a.tar",
        "--steps",
        "1",
        "--batch",
        "4",
        "--lr",
        "1e-30",
        "--json",
    ];
    // Of the model's architecture, and called as it is.
    let ran = hub.clip(&folder, None, &args);
    assert_eq!(ran.json()["model_dir"], "runs/open-0001/model");
    // Such a learning rate moves nothing, but for zeros.
    let [before, after] = ["model", "runs/open-0001/model"].map(|model| weights(&folder, model));
    let header = |bytes: &[u8]| 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    assert!(
        before[..header(&before)] == after[..header(&after)],
        "the same tensors"
    );
    let numbers = |bytes: &[u8]| -> Vec<f32> {
        let numbers = bytes[header(bytes)..].as_chunks::<4>().0;
        numbers
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect()
    };
    let pairs = numbers(&before).into_iter().zip(numbers(&after));
    assert!(
        pairs
            .into_iter()
            .all(|(before, after)| (before - after).abs() < 1e-20)
    );
}
