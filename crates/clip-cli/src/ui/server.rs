//! The page's addresses. Nothing is served but the page itself and indexed images.

use std::{
    io::{self, Read},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use serde_json::Value;

use super::{
    http::{self, Request, Response, Status},
    places::Places,
    state::{Refusal, State},
};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Connections at once: a browser opens six, and a page of found images asks for all.
pub(super) const MOST_CONNECTIONS: usize = 64;

/// Uploads held in memory at once. The model takes one after the other, so more would only wait.
pub(super) const MOST_UPLOADS: usize = 8;

/// Bytes of a refused upload that are taken and thrown away.
const MOST_DRAINED: u64 = 256 << 20;

/// The server of a page.
pub(super) struct Server {
    pub(super) state: State,
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// Most bytes of an upload.
    pub(super) limit: usize,
    pub(super) connections: Places,
    pub(super) uploads: Places,
}

impl Server {
    /// Serves until the program ends.
    pub(super) fn serve(self, listener: &TcpListener) {
        let server = Arc::new(self);
        for stream in listener.incoming() {
            let mut stream = match stream {
                Ok(stream) => stream,
                Err(error) => {
                    log::debug!("a connection has failed: {error}");
                    continue;
                }
            };
            let server = Arc::clone(&server);
            thread::spawn(move || match server.connections.take() {
                Some(_place) => server.connection(&mut stream),
                None => {
                    let _ = http::write(&mut stream, &busy());
                }
            });
        }
    }

    fn connection(&self, stream: &mut TcpStream) {
        let response = self.respond(stream).unwrap_or_else(|refused| refused);
        if let Err(error) = http::write(stream, &response) {
            log::debug!("an answer could not be sent: {error}");
            return;
        }
        // A client that is still sending reads its answer only if what it sends is taken, not refused by the system.
        let _ = stream.shutdown(Shutdown::Write);
        let _ = io::copy(&mut stream.take(MOST_DRAINED), &mut io::sink());
    }

    fn respond(&self, stream: &mut TcpStream) -> Result<Response, Response> {
        let mut request = http::read_head(stream, self.limit)?;
        let uploads = request
            .is_upload()
            .then(|| self.uploads.take().ok_or_else(busy));
        let _place = uploads.transpose()?;
        request.read_body(stream)?;
        Ok(self.answer(&request))
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

fn busy() -> Response {
    Response::refused(Status::Busy, "too many requests at once: try again")
}
