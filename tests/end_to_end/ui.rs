use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Stdio},
};

use serde_json::Value;

use crate::support::{Folder, picture};

/// `clip ui` over a folder `album` with one picture, beside which lies one that isn't indexed.
struct Server {
    child: Child,
    address: String,
    _folder: Folder,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Server {
    fn start() -> Self {
        let folder = Folder::new();
        std::fs::create_dir(folder.path("album")).unwrap();
        folder.write("album/red.png", &picture(0));
        // By its codes, which the page searches where there are some.
        let index = ["search", "index", "album", "--model", "model"];
        let made = folder.clip(&[&index[..], &["--approximate"]].concat());
        assert_eq!(made.code, Some(0), "{made:?}");
        folder.write("album/later.png", &picture(1));
        let args = [
            "ui",
            "--model",
            "model",
            "--dir",
            "album",
            "--port",
            "0",
            "--max-upload",
            "1",
        ];
        let mut child = folder
            .command(&args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").unwrap();
        let address = address.trim_end_matches('/').to_owned();
        assert!(address.starts_with("127.0.0.1:"), "{address}");
        Self {
            child,
            address,
            _folder: folder,
        }
    }

    /// Sends a request as it stands, and reads to the end of the answer.
    fn send(&self, head: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        // The server may refuse before it has read the body.
        let _ = stream.write_all(body);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        Answer {
            status: head[9..12].parse().unwrap(),
            head: head.to_lowercase(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    fn get(&self, target: &str) -> Answer {
        let host = &self.address;
        let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        self.send(&head, b"")
    }

    fn post(&self, target: &str, body: &[u8]) -> Answer {
        let (host, length) = (&self.address, body.len());
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        self.send(&head, body)
    }
}

#[test]
fn the_page_classifies_and_searches() {
    let server = Server::start();
    let page = server.get("/");
    let text = String::from_utf8_lossy(&page.body).into_owned();
    assert!(text.contains("Which label fits?"), "{text}");
    assert!(
        page.head
            .contains("content-security-policy: default-src 'self'")
    );
    assert!(!text.contains("http"), "nothing comes from elsewhere");
    // That depends on where the browser is, which only the script knows.
    assert!(!text.contains("stay on this machine"), "{text}");
    // All that the page names is there; a browser asks for an icon of its own where none is named.
    let parts: Vec<&str> = ["href=\"", "src=\""]
        .iter()
        .flat_map(|before| text.split(before).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(parts.contains(&"/icon.svg"), "{parts:?}");
    for part in parts {
        assert_eq!(server.get(part).status, 200, "{part}");
    }
    assert_eq!(server.get("/api/about").json()["images"], 1);

    let found = server.post("/api/classify?labels=red%0Agreen%0A", &picture(0));
    let found = found.json();
    let sum: f64 = [0, 1]
        .map(|at| found[at]["probability"].as_f64().unwrap())
        .iter()
        .sum();
    assert!((sum - 1.0).abs() < 1e-5, "{found}");

    assert_eq!(
        server.get("/api/search?q=a%20red%20square").json()[0]["path"],
        "red.png"
    );
    let by_image = server.post("/api/search", &picture(0)).json();
    assert!(
        by_image[0]["cosine"].as_f64().unwrap() > 0.999,
        "{by_image}"
    );
    let image = server.get("/image/0");
    assert_eq!(image.body, picture(0));
    assert!(
        image.head.contains("content-type: image/png"),
        "{}",
        image.head
    );
}

#[test]
fn nothing_is_served_that_was_not_indexed() {
    let server = Server::start();
    for target in [
        "/image/1",
        "/image/-1",
        "/image/later.png",
        "/image/../album/later.png",
        "/image/..%2F..%2Fetc%2Fpasswd",
        "/../0.png",
        "/album/red.png",
        "/.clip-index.safetensors",
        "//etc/passwd",
    ] {
        let answer = server.get(target);
        assert_eq!(answer.status, 404, "{target}");
        assert!(!answer.body.starts_with(b"\x89PNG"), "{target}");
    }
    let head = "GET / HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n";
    assert_eq!(
        server.send(head, b"").status,
        403,
        "a name that is not this machine's"
    );
}

#[test]
fn bad_uploads_are_refused_by_what_they_are() {
    let server = Server::start();
    let error = |answer: Answer, status| {
        assert_eq!(answer.status, status);
        answer.json()["error"].as_str().unwrap().to_owned()
    };
    let classify = "/api/classify?labels=red%0Agreen";
    assert!(error(server.post(classify, b"no image"), 400).contains("no image that can be read"));
    let twice = server.post("/api/classify?labels=red%0Ared", &picture(0));
    assert!(error(twice, 400).contains("`red` comes twice"));
    let none = server.post("/api/classify", &picture(0));
    assert!(error(none, 400).contains("no class name"));
    assert!(error(server.get("/api/search?q="), 400).contains("query is empty"));
    // Two gigabytes that are announced and never sent.
    let head = format!(
        "POST {classify} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 2147483648\r\n\r\n",
        server.address
    );
    assert!(error(server.send(&head, b""), 413).contains("larger than 1 MiB"));
    // And one that does not say how long it is.
    let head = format!(
        "POST {classify} HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        server.address
    );
    assert!(error(server.send(&head, b""), 411).contains("how long"));
}
