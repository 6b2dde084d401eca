//! As much of HTTP/1.1 as a local page needs: one request a connection, its body of a known length.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// Longest head of a request; browsers send a few kilobytes.
const MOST_HEAD: usize = 32 << 10;
const MOST_HEADERS: usize = 64;
/// A client that sends or takes nothing for so long has gone.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A request.
pub(super) struct Request {
    pub(super) method: String,
    /// As it was sent, before the `?`.
    pub(super) path: String,
    /// What follows the `?`, decoded.
    pub(super) query: HashMap<String, String>,
    /// The name, without its port, that the client knows this server by.
    pub(super) host: String,
    pub(super) body: Vec<u8>,
    /// Bytes of the whole body.
    length: usize,
}

/// An answer.
pub(super) struct Response {
    pub(super) status: Status,
    pub(super) kind: &'static str,
    pub(super) body: Vec<u8>,
}

/// The statuses that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    BadRequest,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    LengthRequired,
    TooLarge,
    Failure,
    Busy,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::Forbidden => "403 Forbidden",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::LengthRequired => "411 Length Required",
            Self::TooLarge => "413 Content Too Large",
            Self::Failure => "500 Internal Server Error",
            Self::Busy => "503 Service Unavailable",
        }
    }
}

impl Response {
    pub(super) fn new(kind: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: Status::Ok,
            kind,
            body: body.into(),
        }
    }

    /// A refusal, as the page shows it.
    pub(super) fn refused(status: Status, reason: &str) -> Self {
        Self {
            status,
            kind: "application/json",
            body: serde_json::json!({ "error": reason }).to_string().into(),
        }
    }
}

/// Reads a request up to its body, and what of the body came with that. A body of more than `limit` bytes is refused.
pub(super) fn read_head(stream: &mut TcpStream, limit: usize) -> Result<Request, Response> {
    stream.set_read_timeout(Some(TIMEOUT)).map_err(gone)?;
    stream.set_write_timeout(Some(TIMEOUT)).map_err(gone)?;
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if bytes.len() > MOST_HEAD {
            return Err(bad("the request's head is too long"));
        }
        match stream.read(&mut part).map_err(gone)? {
            0 => return Err(bad("the request breaks off")),
            read => bytes.extend_from_slice(&part[..read]),
        }
    };
    let body = bytes.split_off(end);
    let (mut request, length) =
        head(&bytes).map_err(|(status, reason)| Response::refused(status, reason))?;
    if length > limit as u64 {
        let reason = format!("the upload is larger than {} MiB", limit >> 20);
        return Err(Response::refused(Status::TooLarge, &reason));
    }
    request.length = length as usize;
    request.body = body;
    request.body.truncate(request.length);
    Ok(request)
}

impl Request {
    /// Whether it has a body.
    pub(super) fn is_upload(&self) -> bool {
        self.length > 0
    }

    /// Reads what is left of the body.
    pub(super) fn read_body(&mut self, stream: &mut TcpStream) -> Result<(), Response> {
        let rest = (self.length - self.body.len()) as u64;
        stream
            .take(rest)
            .read_to_end(&mut self.body)
            .map_err(gone)?;
        if self.body.len() < self.length {
            return Err(bad("the upload breaks off"));
        }
        Ok(())
    }
}

fn bad(reason: &str) -> Response {
    Response::refused(Status::BadRequest, reason)
}

fn gone(_: std::io::Error) -> Response {
    bad("the request breaks off")
}

/// The request of a head, without its body, and the body's length.
fn head(bytes: &[u8]) -> Result<(Request, u64), (Status, &'static str)> {
    let bad = |reason| (Status::BadRequest, reason);
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let complete = parsed.parse(bytes).map(|status| status.is_complete());
    if complete != Ok(true) {
        return Err(bad("this is no HTTP request"));
    }
    let target = parsed.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect(),
        host: String::new(),
        body: Vec::new(),
        length: 0,
    };
    let mut length = None;
    for header in &*parsed.headers {
        let value = std::str::from_utf8(header.value).unwrap_or_default().trim();
        if header.name.eq_ignore_ascii_case("host") {
            // The colon before a port, not one within an IPv6 address.
            let port = value
                .rfind(':')
                .filter(|&colon| !value[colon..].contains(']'));
            value[..port.unwrap_or(value.len())].clone_into(&mut request.host);
        } else if header.name.eq_ignore_ascii_case("content-length") {
            let known = value.parse().map_err(|_| bad("the length is no number"))?;
            if length.replace(known).is_some() {
                return Err(bad("two lengths"));
            }
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err((Status::LengthRequired, "say how long the upload is"));
        }
    }
    Ok((request, length.unwrap_or(0)))
}

/// Sends an answer, with what every one says to the browser: nothing may be loaded or run but what this server gives,
/// and no other page may show what it gives.
pub(super) fn write(stream: &mut TcpStream, response: &Response) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
         Cross-Origin-Resource-Policy: same-origin\r\n\
         Content-Security-Policy: default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'; \
         base-uri 'none'; form-action 'none'\r\n\r\n",
        response.status.line(),
        response.kind,
        response.body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&response.body)?;
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(Request, u64), (Status, &'static str)> {
        head(text.replace('\n', "\r\n").as_bytes())
    }

    #[test]
    fn a_head_is_taken_apart() {
        let text = "POST /api?q=a%20b%0Ac&q2=1 HTTP/1.1\nhost: [::1]:80\nContent-Length: 12\n\n";
        let (request, length) = parse(text).ok().unwrap();
        assert_eq!(
            (request.method.as_str(), request.path.as_str()),
            ("POST", "/api")
        );
        assert_eq!(request.query["q"], "a b\nc");
        assert_eq!((request.host.as_str(), length), ("[::1]", 12));
        let (request, length) = parse("GET / HTTP/1.1\nHost: localhost\n\n").ok().unwrap();
        assert_eq!((request.host.as_str(), length), ("localhost", 0));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let status = |text: &str| parse(text).err().map(|(status, _)| status);
        let start = "POST / HTTP/1.1\n";
        let twice = format!("{start}Content-Length: 1\nContent-Length: 2\n\n");
        assert_eq!(status(&twice), Some(Status::BadRequest));
        let chunked = format!("{start}Transfer-Encoding: chunked\n\n");
        assert_eq!(status(&chunked), Some(Status::LengthRequired));
        let negative = format!("{start}Content-Length: -1\n\n");
        assert_eq!(status(&negative), Some(Status::BadRequest));
        assert_eq!(status("SSH-2.0-x\n\n"), Some(Status::BadRequest));
    }
}
