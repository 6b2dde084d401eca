//! The page's addresses. Nothing is served but the page itself and indexed images.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, Request, State as Shared},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::StreamExt;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task,
    time::{sleep, timeout},
};

use super::state::{Refusal, State};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// From here, as the policy below forbids `data:`.
const ICON: &str = include_str!("icon.svg");

/// Connections at once: a browser opens six, and a page of found images asks for all. Further ones wait.
const MOST_CONNECTIONS: usize = 64;

/// Uploads held in memory at once. The model takes one after the other, so more would only wait.
const MOST_UPLOADS: usize = 8;

/// Bytes of a refused upload that are taken and thrown away: a client that is still sending reads its answer only if what
/// it sends is taken, not refused by the system.
const MOST_DRAINED: usize = 256 << 20;

/// A client that sends nothing for so long has gone.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A connection that takes longer is cut off, or clients that never read their answers would hold all places for good. The
/// largest image that can be indexed has arrived by then at 1 Mbit/s.
const LONGEST: Duration = Duration::from_mins(10);

/// What every answer says to the browser: nothing may be loaded or run but what this server gives, and no other page may
/// show what it gives.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
];

/// The server of a page.
pub(super) struct Server {
    state: State,
    /// Where it listens.
    address: SocketAddr,
    /// Most bytes of an upload.
    limit: usize,
    uploads: Arc<Semaphore>,
}

impl Server {
    pub(super) fn new(state: State, address: SocketAddr, limit: usize) -> Self {
        Self {
            state,
            address,
            limit,
            uploads: Arc::new(Semaphore::new(MOST_UPLOADS)),
        }
    }

    /// Serves until the program ends.
    pub(super) async fn serve(self, listener: TcpListener) {
        let service = TowerToHyperService::new(routes(Arc::new(self)));
        let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            // invariant: nothing closes the semaphore.
            let place = Arc::clone(&connections).acquire_owned().await;
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    log::debug!("a connection has failed: {error}");
                    // Out of file descriptors, perhaps: others have to end first.
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let service = service.clone();
            task::spawn(async move {
                answer(stream, service, LONGEST).await;
                drop(place);
            });
        }
    }

    /// On loopback, whether a name is this machine's: another is used by a page elsewhere alone (DNS rebinding).
    fn is_named(&self, host: &str) -> bool {
        let ip = self.address.ip();
        !ip.is_loopback()
            || matches!(host, "127.0.0.1" | "localhost" | "[::1]")
            || host == ip.to_string()
    }

    /// The body of a request, for as long as the place that it takes is held.
    async fn upload(&self, request: Request) -> Result<(Vec<u8>, OwnedSemaphorePermit), Response> {
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let body = request.into_body();
        let refuse = |body, status, reason: &str| {
            task::spawn(drain(body));
            refused(status, reason)
        };
        let Some(length) = length else {
            let reason = "say how long the upload is";
            return Err(refuse(body, StatusCode::LENGTH_REQUIRED, reason));
        };
        if length > self.limit as u64 {
            let reason = format!("the upload is larger than {} MiB", self.limit >> 20);
            return Err(refuse(body, StatusCode::PAYLOAD_TOO_LARGE, &reason));
        }
        let Ok(place) = Arc::clone(&self.uploads).try_acquire_owned() else {
            let reason = "too many requests at once: try again";
            return Err(refuse(body, StatusCode::SERVICE_UNAVAILABLE, reason));
        };
        match received(body, self.limit, TIMEOUT).await {
            Some(bytes) => Ok((bytes, place)),
            None => Err(refused(StatusCode::BAD_REQUEST, "the upload breaks off")),
        }
    }
}

/// Answers the request of a connection, or gives up after so long.
async fn answer(stream: TcpStream, service: TowerToHyperService<Router>, longest: Duration) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(longest, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("a request has failed: {error}"),
        Err(_) => log::debug!("a request has taken too long"),
    }
}

fn routes(server: Arc<Server>) -> Router {
    let nothing = |status| async move { refused(status, "there is nothing here") };
    let text = |kind, text: &'static str| get(move || async move { of_kind(kind, text) });
    Router::new()
        .route("/", text("text/html; charset=utf-8", PAGE))
        .route("/page.css", text("text/css; charset=utf-8", STYLE))
        .route("/page.js", text("text/javascript; charset=utf-8", SCRIPT))
        .route("/icon.svg", text("image/svg+xml", ICON))
        .route("/api/about", get(about))
        .route("/api/classify", post(classify))
        .route("/api/search", get(search_text).post(search_image))
        .route("/image/{position}", get(image))
        .fallback(move || nothing(StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(move || nothing(StatusCode::METHOD_NOT_ALLOWED))
        .layer(middleware::from_fn_with_state(Arc::clone(&server), guard))
        .with_state(server)
}

/// What comes before and after every request.
async fn guard(Shared(server): Shared<Arc<Server>>, request: Request, next: Next) -> Response {
    let host = host(request.headers());
    let mut response = if server.is_named(host) {
        next.run(request).await
    } else {
        let reason = format!(
            "this server is not `{host}`: open http://{}/",
            server.address
        );
        refused(StatusCode::FORBIDDEN, &reason)
    };
    let headers = HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value)));
    response.headers_mut().extend(headers);
    response
}

/// The name, without its port, that the client knows this server by.
fn host(headers: &HeaderMap) -> &str {
    let host = headers.get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    // The colon before a port, not one within an IPv6 address.
    let port = host
        .rfind(':')
        .filter(|&colon| !host[colon..].contains(']'));
    &host[..port.unwrap_or(host.len())]
}

#[derive(Deserialize)]
struct Labels {
    /// One a line.
    #[serde(default)]
    labels: String,
}

#[derive(Deserialize)]
struct Words {
    #[serde(default)]
    q: String,
}

async fn about(Shared(server): Shared<Arc<Server>>) -> Response {
    json(&server.state.about())
}

async fn classify(
    Shared(server): Shared<Arc<Server>>,
    Query(query): Query<Labels>,
    request: Request,
) -> Result<Response, Response> {
    let (image, _place) = server.upload(request).await?;
    found(move || server.state.classify(&query.labels, &image)).await
}

async fn search_text(
    Shared(server): Shared<Arc<Server>>,
    Query(query): Query<Words>,
) -> Result<Response, Response> {
    found(move || server.state.search_text(&query.q)).await
}

async fn search_image(
    Shared(server): Shared<Arc<Server>>,
    request: Request,
) -> Result<Response, Response> {
    let (image, _place) = server.upload(request).await?;
    found(move || server.state.search_image(&image)).await
}

async fn image(
    Shared(server): Shared<Arc<Server>>,
    Path(position): Path<String>,
) -> Result<Response, Response> {
    let (bytes, kind) = computed(move || server.state.image(&position)).await?;
    Ok(of_kind(kind, bytes))
}

async fn found(
    work: impl FnOnce() -> Result<Value, Refusal> + Send + 'static,
) -> Result<Response, Response> {
    computed(work).await.map(|found| json(&found))
}

/// Work that takes its time, on a thread of its own.
async fn computed<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Response> {
    match task::spawn_blocking(work).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(Refusal::Request(reason))) => Err(refused(StatusCode::BAD_REQUEST, &reason)),
        Ok(Err(Refusal::NotFound(reason))) => Err(refused(StatusCode::NOT_FOUND, &reason)),
        Ok(Err(Refusal::Failure(error))) => {
            let reason = clip_files::one_line(error.as_ref());
            log::error!("{reason}");
            Err(refused(StatusCode::INTERNAL_SERVER_ERROR, &reason))
        }
        Err(panicked) => {
            let reason = format!("the request has failed: {panicked}");
            Err(refused(StatusCode::INTERNAL_SERVER_ERROR, &reason))
        }
    }
}

fn of_kind(kind: &'static str, body: impl IntoResponse) -> Response {
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

/// A refusal, as the page shows it.
fn refused(status: StatusCode, reason: &str) -> Response {
    (status, json(&serde_json::json!({ "error": reason }))).into_response()
}

fn json(value: &Value) -> Response {
    of_kind("application/json", value.to_string())
}

/// A body of at most `limit` bytes, however long it takes; `None` if it breaks off, or nothing of it comes for
/// `patience`.
async fn received(body: Body, limit: usize, patience: Duration) -> Option<Vec<u8>> {
    let mut parts = body.into_data_stream();
    let mut bytes = Vec::new();
    loop {
        match timeout(patience, parts.next()).await {
            Ok(Some(Ok(part))) if bytes.len() + part.len() <= limit => {
                bytes.extend_from_slice(&part);
            }
            Ok(None) => return Some(bytes),
            _ => return None,
        }
    }
}

async fn drain(body: Body) {
    let mut body = body.into_data_stream();
    let mut taken = 0;
    while let Ok(Some(Ok(part))) = timeout(TIMEOUT, body.next()).await {
        taken += part.len();
        if taken > MOST_DRAINED {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, io::Write};

    use futures_util::stream;

    use super::*;

    #[test]
    fn a_client_that_never_reads_loses_its_connection() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client
                .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            // More than the system keeps for a client.
            let large = get(|| async { vec![0; 64 << 20] });
            let service = TowerToHyperService::new(Router::new().route("/", large));
            let answered = answer(stream, service, Duration::from_millis(200));
            assert!(timeout(TIMEOUT, answered).await.is_ok());
            drop(client);
        });
    }

    #[test]
    fn an_upload_may_take_its_time_but_not_stop() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        // Parts that come every 0.4 s: longer in all than the server waits for one.
        let patience = Duration::from_secs(3);
        let slow = || {
            let parts = stream::unfold(0, |part| async move {
                sleep(Duration::from_millis(400)).await;
                (part < 8).then(|| (Ok::<_, Infallible>(vec![0; 10]), part + 1))
            });
            Body::from_stream(parts)
        };
        runtime.block_on(async {
            let whole = received(slow(), 80, patience).await;
            assert_eq!(whole.map(|bytes| bytes.len()), Some(80));
            let stopped = Body::from_stream(stream::pending::<Result<Vec<u8>, Infallible>>());
            assert_eq!(received(stopped, 80, Duration::from_millis(1)).await, None);
            let large = Body::from(vec![0; 81]);
            assert_eq!(received(large, 80, patience).await, None);
        });
    }

    #[test]
    fn a_host_is_known_without_its_port() {
        let name = |text| {
            let headers: HeaderMap = [(header::HOST, HeaderValue::from_static(text))]
                .into_iter()
                .collect();
            host(&headers).to_owned()
        };
        assert_eq!(name("localhost:7860"), "localhost");
        assert_eq!(name("localhost"), "localhost");
        assert_eq!(name("[::1]:80"), "[::1]");
        assert_eq!(name("[::1]"), "[::1]");
        assert_eq!(host(&HeaderMap::new()), "");
    }
}
