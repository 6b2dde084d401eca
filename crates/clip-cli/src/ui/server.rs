//! The page's addresses. Nothing is served but the page itself and indexed images.

use std::{
    io::{self, Read},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use serde_json::Value;

use super::{
    http::{self, Request, Response, Status},
    state::{Refusal, State},
};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Connections at once: a browser opens six, and a page of found images asks for all.
const MOST_CONNECTIONS: usize = 64;

/// Bytes of a refused upload that are taken and thrown away.
const MOST_DRAINED: u64 = 256 << 20;

/// The server of a page.
pub(super) struct Server {
    pub(super) state: State,
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// Most bytes of an upload.
    pub(super) limit: usize,
}

impl Server {
    /// Serves until the program ends.
    pub(super) fn serve(self, listener: &TcpListener) {
        let server = Arc::new(self);
        let connections = Arc::new(AtomicUsize::new(0));
        for stream in listener.incoming() {
            let mut stream = match stream {
                Ok(stream) => stream,
                Err(error) => {
                    log::debug!("a connection has failed: {error}");
                    continue;
                }
            };
            let (server, connections) = (Arc::clone(&server), Arc::clone(&connections));
            if connections.fetch_add(1, Ordering::Relaxed) >= MOST_CONNECTIONS {
                connections.fetch_sub(1, Ordering::Relaxed);
                let busy = Response::refused(Status::Busy, "too many connections");
                let _ = http::write(&mut stream, &busy);
                continue;
            }
            thread::spawn(move || {
                server.connection(&mut stream);
                connections.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }

    fn connection(&self, stream: &mut TcpStream) {
        let response = match http::read(stream, self.limit) {
            Ok(request) => self.answer(&request),
            Err(refused) => refused,
        };
        if let Err(error) = http::write(stream, &response) {
            log::debug!("an answer could not be sent: {error}");
            return;
        }
        // A client that is still sending reads its answer only if what it sends is taken, not refused by the system.
        let _ = stream.shutdown(Shutdown::Write);
        let _ = io::copy(&mut stream.take(MOST_DRAINED), &mut io::sink());
    }

    fn answer(&self, request: &Request) -> Response {
        if !self.is_named(&request.host) {
            let reason = format!(
                "this server is not `{}`: open http://{}/",
                request.host, self.address
            );
            return Response::refused(Status::Forbidden, &reason);
        }
        let query = |key: &str| request.query.get(key).map_or("", String::as_str);
        let state = &self.state;
        let found = match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/") => Ok(Response::new("text/html; charset=utf-8", PAGE)),
            ("GET", "/page.css") => Ok(Response::new("text/css; charset=utf-8", STYLE)),
            ("GET", "/page.js") => Ok(Response::new("text/javascript; charset=utf-8", SCRIPT)),
            ("GET", "/api/about") => Ok(json(&state.about())),
            ("POST", "/api/classify") => {
                let found = state.classify(query("labels"), &request.body);
                found.map(|found| json(&found))
            }
            ("GET", "/api/search") => state.search_text(query("q")).map(|found| json(&found)),
            ("POST", "/api/search") => {
                let found = state.search_image(&request.body);
                found.map(|found| json(&found))
            }
            ("GET", path) => match path.strip_prefix("/image/") {
                Some(position) => {
                    let image = state.image(position);
                    image.map(|(bytes, kind)| Response::new(kind, bytes))
                }
                None => Err(Refusal::NotFound("there is nothing here".to_owned())),
            },
            _ => return Response::refused(Status::MethodNotAllowed, "there is nothing here"),
        };
        found.unwrap_or_else(|refusal| match refusal {
            Refusal::Request(reason) => Response::refused(Status::BadRequest, &reason),
            Refusal::NotFound(reason) => Response::refused(Status::NotFound, &reason),
            Refusal::Failure(error) => {
                log::error!("{error:#}");
                Response::refused(Status::Failure, &error.to_string())
            }
        })
    }

    /// On loopback, whether a name is this machine's: another is used by a page elsewhere alone (DNS rebinding).
    fn is_named(&self, host: &str) -> bool {
        let ip = self.address.ip();
        !ip.is_loopback()
            || matches!(host, "127.0.0.1" | "localhost" | "[::1]")
            || host == ip.to_string()
    }
}

fn json(value: &Value) -> Response {
    Response::new("application/json", value.to_string())
}
