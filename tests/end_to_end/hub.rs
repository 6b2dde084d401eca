//! `clip weights import hf-hub:...` against a server that speaks the hub's paths.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use serde_json::json;

use crate::{
    support::{Folder, Ran},
    weights::fixture,
};

const COMMIT: &str = "0123456789012345678901234567890123456789";

/// What a server was asked for: path, and the first byte of the range.
type Asked = Arc<Mutex<Vec<(String, usize)>>>;

/// A hub with one model, `org/tiny`, whose weights break off in the middle `broken` times.
struct Hub {
    endpoint: String,
    asked: Asked,
}

impl Hub {
    fn start(broken: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Asked::default();
        let log = asked.clone();
        // Ends with the test program.
        std::thread::spawn(move || {
            let mut left = broken;
            for stream in listener.incoming() {
                // A client that goes away in the middle is its own affair.
                let _ = answer(&mut stream.unwrap(), &log, &mut left);
            }
        });
        Self { endpoint, asked }
    }

    fn import(&self, folder: &Folder, source: &str) -> Ran {
        let mut clip = folder.command(&["weights", "import", source, "--out", "in"]);
        clip.env("HF_ENDPOINT", &self.endpoint)
            .env("HF_HOME", folder.path("cache"))
            .env_remove("HF_TOKEN");
        let output = clip.output().unwrap();
        let ran = Ran {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        };
        assert!(!ran.err.contains("panicked"), "{ran:?}");
        ran
    }

    /// First bytes of the weights' ranges, of those that asked for more than their size.
    fn starts(&self) -> Vec<usize> {
        let asked = self.asked.lock().unwrap();
        let weights = asked
            .iter()
            .filter(|(path, _)| path.ends_with("00001-of-00002.safetensors"));
        weights.map(|(_, start)| *start).collect()
    }
}

/// Answers one request, as the hub does for a file: in part, with its digest and the commit in the header.
fn answer(stream: &mut TcpStream, log: &Asked, broken: &mut usize) -> std::io::Result<()> {
    let mut request = String::new();
    let mut reader = BufReader::new(stream.try_clone()?);
    while !request.ends_with("\r\n\r\n") && reader.read_line(&mut request)? > 0 {}
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let lower = request.to_lowercase();
    let range = lower
        .split("range: bytes=")
        .nth(1)
        .and_then(|rest| rest.lines().next());
    let (start, end) = range
        .and_then(|range| range.split_once('-'))
        .unwrap_or(("0", ""));
    let start: usize = start.parse().unwrap_or(0);
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    let body = match path.strip_prefix("/org/tiny/resolve/") {
        Some(_) => fs::read(fixture("hugging_face").join(&name)).unwrap_or_default(),
        None if path.starts_with("/api/models/org/tiny/revision/") => {
            let names = fs::read_dir(fixture("hugging_face"))?;
            let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let files: Vec<_> = names.map(|name| json!({"rfilename": name})).collect();
            json!({"siblings": files, "sha": COMMIT})
                .to_string()
                .into_bytes()
        }
        None => Vec::new(),
    };
    if body.is_empty() {
        return stream.write_all(
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    }
    let last = end
        .parse()
        .map_or(body.len(), |end: usize| (end + 1).min(body.len()));
    let part = &body[start.min(last)..last];
    let status = if range.is_some() {
        "206 Partial Content"
    } else {
        "200 OK"
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{}\r\nETag: \"{}-etag\"\r\n\
         X-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        part.len(),
        last - 1,
        body.len(),
        name
    )?;
    if end.is_empty() && range.is_some() {
        log.lock().unwrap().push((path.clone(), start));
        if *broken > 0 && path.ends_with("00001-of-00002.safetensors") {
            *broken -= 1;
            return stream.write_all(&part[..part.len() / 2]);
        }
    }
    stream.write_all(part)
}

#[test]
fn a_model_of_the_hub_is_imported_and_cached() {
    let folder = Folder::new();
    let hub = Hub::start(0);
    let ran = hub.import(&folder, "hf-hub:org/tiny");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(folder.path("in/open_clip_model.safetensors").is_file());
    fs::remove_dir_all(folder.path("in")).unwrap();
    let before = hub.asked.lock().unwrap().len();
    assert_eq!(hub.import(&folder, "hf-hub:org/tiny").code, Some(0));
    assert_eq!(hub.asked.lock().unwrap().len(), before);
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_stopped() {
    let folder = Folder::new();
    let hub = Hub::start(1);
    let ran = hub.import(&folder, "hf-hub:org/tiny@main");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let size = fs::metadata(fixture("hugging_face/model-00001-of-00002.safetensors"))
        .unwrap()
        .len();
    assert_eq!(hub.starts(), [0, size as usize / 2]);
}

#[test]
fn what_the_hub_does_not_have_is_named() {
    let folder = Folder::new();
    let hub = Hub::start(0);
    let ran = hub.import(&folder, "hf-hub:org/other");
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err
            .contains("cannot find org/other at http://127.0.0.1"),
        "{ran:?}"
    );
    let ran = hub.import(&folder, "hf-hub:other");
    assert!(ran.err.contains("ORGANISATION/NAME"), "{ran:?}");
    // As on a broken network: again and again.
    let hub = Hub::start(100);
    let ran = hub.import(&folder, "hf-hub:org/tiny");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("goes on where it stopped"), "{ran:?}");
    assert!(!folder.path("in").exists());
}
