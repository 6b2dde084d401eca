//! A server that speaks as much of S3 as a mirror needs, and fails as servers do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Result, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::{Arc, Mutex},
};

use sha2::{Digest, Sha256};

/// One in so many requests is answered by 503, and the one after it not at all.
const MOOD: usize = 7;

/// Files that are told at once of those there are: stores tell a thousand.
const PAGE: usize = 3;

#[derive(Default)]
struct State {
    /// By path, the bucket first.
    files: BTreeMap<String, Vec<u8>>,
    /// Parts by their number, of files that are not there yet.
    uploads: Vec<BTreeMap<usize, Vec<u8>>>,
    requests: usize,
    /// How often each file was read from its beginning.
    reads: BTreeMap<String, usize>,
    /// The ways of asking that are refused.
    refused: &'static [&'static str],
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

    /// How often a file was read from its beginning.
    pub(crate) fn reads(&self, name: &str) -> usize {
        let state = self.state.lock().unwrap();
        state.reads.get(name).copied().unwrap_or_default()
    }

    /// Answers these ways of asking, such as `PUT`, by 403 from now on.
    pub(crate) fn refuse(&self, methods: &'static [&'static str]) {
        self.state.lock().unwrap().refused = methods;
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
        let path = &decoded(path.trim_start_matches('/'));
        let asked: BTreeMap<&str, &str> = query
            .split('&')
            .map(|part| part.split_once('=').unwrap_or((part, "")))
            .collect();
        let upload = asked.get("uploadId").map(|id| id.parse::<usize>().unwrap());
        if self.refused.contains(&method) {
            return reply(
                stream,
                "403 Forbidden",
                "",
                b"<Error><Code>AccessDenied</Code></Error>",
            );
        }
        match (method, upload) {
            ("GET", None) if asked.contains_key("list-type") => {
                let list = self.list(path.trim_end_matches('/'), &asked);
                reply(stream, "200 OK", "", list.as_bytes())
            }
            ("GET", None) => match self.files.get(path) {
                None => reply(stream, "404 Not Found", "", b""),
                Some(file) => {
                    let range = field("range").and_then(|range| range.strip_prefix("bytes="));
                    let start = range.and_then(|range| range.split('-').next()?.parse().ok());
                    let (start, all) = (start.unwrap_or(0), file.len());
                    *self.reads.entry(path.clone()).or_default() += usize::from(start == 0);
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
                self.files.insert(path.clone(), body);
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
                    .insert(path.clone(), parts.into_values().flatten().collect());
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

    fn list(&self, bucket: &str, asked: &BTreeMap<&str, &str>) -> String {
        let asked = |name: &str| decoded(asked.get(name).unwrap_or(&""));
        let (prefix, delimiter, after) = (
            asked("prefix"),
            asked("delimiter"),
            asked("continuation-token"),
        );
        let bucket = format!("{bucket}/");
        let keys = self.files.iter().filter_map(|(path, file)| {
            let key = path.strip_prefix(&bucket)?;
            Some((key, key.strip_prefix(&prefix)?, file.len()))
        });
        let mut folders = BTreeSet::new();
        let mut files = keys.filter(|(_, rest, _)| match rest.split_once(&delimiter) {
            Some((folder, _)) if !delimiter.is_empty() => {
                folders.insert(format!("{prefix}{folder}{delimiter}"));
                false
            }
            _ => true,
        });
        let files: Vec<_> = files
            .by_ref()
            .filter(|(key, ..)| *key > after.as_str())
            .collect();
        let mut list = String::from("<ListBucketResult>");
        for (key, _, size) in files.iter().take(PAGE) {
            let key = key.replace('&', "&amp;").replace('<', "&lt;");
            let changed = "2026-11-27T10:00:00.000Z";
            write!(
                list,
                "<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>{changed}</LastModified></Contents>"
            )
            .unwrap();
        }
        for folder in &folders {
            write!(
                list,
                "<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"
            )
            .unwrap();
        }
        if files.len() > PAGE {
            let token = files[PAGE - 1].0;
            write!(
                list,
                "<NextContinuationToken>{token}</NextContinuationToken>"
            )
            .unwrap();
        }
        list + "</ListBucketResult>"
    }
}

/// What `%20` and the like stand for.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits: String = rest.by_ref().take(2).map(char::from).collect();
            bytes.push(u8::from_str_radix(&digits, 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
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
