//! A server that speaks as much of S3 as a mirror needs, and fails as servers do.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Result, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::{Arc, Mutex},
};

use sha2::{Digest, Sha256};

/// One in so many requests is answered by 503, and the one after it not at all.
const MOOD: usize = 7;

#[derive(Default)]
struct State {
    /// By path, the bucket first.
    files: BTreeMap<String, Vec<u8>>,
    /// Parts by their number, of files that are not there yet.
    uploads: Vec<BTreeMap<usize, Vec<u8>>>,
    requests: usize,
    /// Whether anything may be written.
    refuses: bool,
}

pub(crate) struct ObjectStore {
    address: String,
    state: Arc<Mutex<State>>,
}

impl ObjectStore {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let store = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            state: Arc::default(),
        };
        let state = Arc::clone(&store.state);
        // Ends with the test program.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that goes away in the middle is its own affair.
                let _ = state.lock().unwrap().answer(&mut stream.unwrap());
            }
        });
        store
    }

    /// Lets a program find this store at `s3://`.
    pub(crate) fn known_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("AWS_ENDPOINT", &self.address)
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "eu-north-1")
            .env("AWS_ACCESS_KEY_ID", "somebody")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("NO_PROXY", "127.0.0.1")
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.state.lock().unwrap().files.keys().cloned().collect()
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        self.state.lock().unwrap().files[name].clone()
    }

    pub(crate) fn change(&self, name: &str, bytes: Option<Vec<u8>>) {
        let files = &mut self.state.lock().unwrap().files;
        match bytes {
            Some(bytes) => files.insert(name.to_owned(), bytes),
            None => files.remove(name),
        };
    }

    /// Parts that were sent and never became a file.
    pub(crate) fn parts(&self) -> usize {
        let state = self.state.lock().unwrap();
        state.uploads.iter().map(BTreeMap::len).sum()
    }

    pub(crate) fn refuse(&self, refuses: bool) {
        self.state.lock().unwrap().refuses = refuses;
    }
}

impl State {
    fn answer(&mut self, stream: &mut TcpStream) -> Result<()> {
        let mut head = String::new();
        let mut reader = BufReader::new(stream.try_clone()?);
        while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
        let field = |name: &str| {
            head.lines().find_map(|line| {
                let (own, value) = line.split_once(": ")?;
                own.eq_ignore_ascii_case(name).then_some(value)
            })
        };
        let length = field("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        self.requests += 1;
        match self.requests % MOOD {
            0 => return reply(stream, "503 Slow Down", "", b""),
            1 if self.requests > 1 => return Ok(()),
            _ => {}
        }
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = path.trim_start_matches('/');
        let asked: BTreeMap<&str, &str> = query
            .split('&')
            .map(|part| part.split_once('=').unwrap_or((part, "")))
            .collect();
        let upload = asked.get("uploadId").map(|id| id.parse::<usize>().unwrap());
        if self.refuses && method != "GET" {
            return reply(
                stream,
                "403 Forbidden",
                "",
                b"<Error><Code>AccessDenied</Code></Error>",
            );
        }
        match (method, upload) {
            ("GET", None) if asked.contains_key("list-type") => {
                let prefix = asked["prefix"].replace("%2F", "/");
                let list = self.list(path.trim_end_matches('/'), &prefix);
                reply(stream, "200 OK", "", list.as_bytes())
            }
            ("GET", None) => match self.files.get(path) {
                None => reply(stream, "404 Not Found", "", b""),
                Some(file) => {
                    let range = field("range").and_then(|range| range.strip_prefix("bytes="));
                    let start = range.and_then(|range| range.split('-').next()?.parse().ok());
                    let (start, all) = (start.unwrap_or(0), file.len());
                    let mut more = tag(file);
                    more += "Last-Modified: Fri, 27 Nov 2026 10:00:00 GMT\r\n";
                    if range.is_none() {
                        return reply(stream, "200 OK", &more, file);
                    }
                    write!(more, "Content-Range: bytes {start}-{}/{all}\r\n", all - 1).unwrap();
                    reply(stream, "206 Partial Content", &more, &file[start..])
                }
            },
            ("PUT", Some(id)) => {
                let more = tag(&body);
                self.uploads[id].insert(asked["partNumber"].parse().unwrap(), body);
                reply(stream, "200 OK", &more, b"")
            }
            ("PUT", None) => {
                let more = tag(&body);
                self.files.insert(path.to_owned(), body);
                reply(stream, "200 OK", &more, b"")
            }
            ("POST", None) => {
                self.uploads.push(BTreeMap::new());
                let id = self.uploads.len() - 1;
                let result = "InitiateMultipartUploadResult";
                let result = format!("<{result}><UploadId>{id}</UploadId></{result}>");
                reply(stream, "200 OK", "", result.as_bytes())
            }
            ("POST", Some(id)) => {
                let parts = std::mem::take(&mut self.uploads[id]);
                self.files
                    .insert(path.to_owned(), parts.into_values().flatten().collect());
                let result = "CompleteMultipartUploadResult";
                let result = format!("<{result}><ETag>\"whole\"</ETag></{result}>");
                reply(stream, "200 OK", "", result.as_bytes())
            }
            ("DELETE", None) => {
                self.files.remove(path);
                reply(stream, "204 No Content", "", b"")
            }
            ("DELETE", Some(id)) => {
                self.uploads[id].clear();
                reply(stream, "204 No Content", "", b"")
            }
            _ => reply(stream, "405 Method Not Allowed", "", b""),
        }
    }

    fn list(&self, bucket: &str, prefix: &str) -> String {
        let mut list = String::from("<ListBucketResult>");
        for (path, file) in &self.files {
            let Some(key) = path.strip_prefix(&format!("{bucket}/")) else {
                continue;
            };
            if key.starts_with(prefix) {
                let size = file.len();
                let changed = "2026-11-27T10:00:00.000Z";
                write!(
                    list,
                    "<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>{changed}</LastModified></Contents>"
                )
                .unwrap();
            }
        }
        list + "</ListBucketResult>"
    }
}

fn tag(file: &[u8]) -> String {
    format!("ETag: \"{:x}\"\r\n", Sha256::digest(file))
}

fn reply(stream: &mut TcpStream, status: &str, more: &str, body: &[u8]) -> Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n"
    )?;
    stream.write_all(body)
}
