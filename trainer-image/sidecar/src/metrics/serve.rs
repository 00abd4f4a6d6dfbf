//! One plain page for Prometheus, and two for whoever asks whether this process lives and has started: HTTP/1.1, without TLS, nothing
//! secret.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use atoll_collective::lane::Lanes;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::Metrics;

/// Most connections at a time; the oldest gives way to one more. Answers are there at once, so it is idle.
const CONNECTIONS: usize = 16;
/// Bytes of a request's head.
const HEAD: usize = 8 << 10;
/// How long a connection may take to ask, also for the next time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after a connection could not be accepted: file descriptors may be short.
const PAUSE: Duration = Duration::from_millis(100);

/// Media type of all other answers.
const PLAIN: &str = "text/plain; charset=utf-8";

/// What the pages are made of: nothing, before the sidecar knows who it is.
#[derive(Clone, Default)]
pub(crate) struct Pages {
    sources: Arc<OnceLock<(Arc<Metrics>, Lanes)>>,
    started: Arc<AtomicBool>,
}

impl Pages {
    /// It knows who it is. Only the first time counts.
    pub(crate) fn fill(&self, metrics: Arc<Metrics>, lanes: Lanes) {
        let _filled_already = self.sources.set((metrics, lanes));
    }

    /// Its trainer may be started.
    pub(crate) fn start(&self) {
        self.started.store(true, Ordering::Relaxed);
    }
}

/// Serves until the sidecar ends.
pub(crate) async fn serve(listener: TcpListener, pages: Pages) {
    let mut open = VecDeque::<AbortHandle>::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let pages = pages.clone();
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let serving = tokio::spawn(async move {
            let answer = service_fn(move |request| std::future::ready(Ok::<_, Infallible>(answer(&request, &pages))));
            let mut connection = http1::Builder::new();
            connection.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(HEAD);
            // Whoever speaks something else is hung up on.
            let _ended = connection.serve_connection(TokioIo::new(stream), answer).await;
        });
        open.push_back(serving.abort_handle());
    }
}

fn answer<B>(request: &Request<B>, pages: &Pages) -> Response<Full<Bytes>> {
    let page = |status, kind: &'static str, text: String| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "GET and HEAD\n".into());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/metrics" => match pages.sources.get().map(|(metrics, lanes)| metrics.text(lanes)) {
            Some(Ok(text)) => page(StatusCode::OK, prometheus::TEXT_FORMAT, text),
            Some(Err(error)) => page(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{error}\n")),
            None => page(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "it does not know yet who it is\n".into()),
        },
        "/healthz" => page(StatusCode::OK, PLAIN, "ok\n".into()),
        "/started" if pages.started.load(Ordering::Relaxed) => page(StatusCode::OK, PLAIN, "ok\n".into()),
        "/started" => page(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "the trainer has to wait\n".into()),
        _ => page(StatusCode::NOT_FOUND, PLAIN, "there are /metrics, /healthz and /started\n".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use atoll_collective::lane::Meter;
    use atoll_collective::secret::Secret;
    use atoll_collective::transport::Transport;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// A server, and where it listens.
    async fn server() -> (SocketAddr, AbortHandle) {
        let transport = Transport::new(None, Arc::new(Meter::default()));
        let lanes = Lanes::new("kjv", 0, Secret::new("secret"), transport);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pages = Pages::default();
        pages.fill(Arc::new(Metrics::new("kjv", "w0").unwrap()), lanes);
        let serving = tokio::spawn(serve(listener, pages));
        (address, serving.abort_handle())
    }

    /// What a server answers to `request`, until it hangs up.
    async fn ask(request: &str) -> String {
        let (address, serving) = server().await;
        let answer = ask_at(address, request).await;
        serving.abort();
        answer
    }

    async fn ask_at(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _reset_by_a_server_that_hung_up = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    fn get(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")
    }

    #[tokio::test]
    async fn metrics_are_text_of_prometheus() {
        let answer = ask(&get("/metrics")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        assert!(answer.contains("\natoll_wire_bytes_total{direction=\"sent\"} 0\n"), "{answer}");
    }

    #[tokio::test]
    async fn before_it_knows_who_it_is_it_lives_and_has_not_started() {
        let (listener, pages) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Pages::default());
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, pages.clone()));
        let status = async |path| ask_at(address, &get(path)).await[9..12].to_owned();
        assert_eq!([status("/healthz").await, status("/started").await, status("/metrics").await], ["200", "503", "503"]);
        pages.start();
        assert_eq!(status("/started").await, "200");
        serving.abort();
    }

    #[tokio::test]
    async fn who_lives_says_so_and_nothing_else_is_there() {
        assert!(ask(&get("/healthz")).await.ends_with("\r\n\r\nok\n"));
        assert!(ask(&get("/")).await.starts_with("HTTP/1.1 404 "));
        let post = ask("POST /metrics HTTP/1.1\r\nhost: here\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("allow: GET, HEAD"), "{post}");
    }

    #[tokio::test]
    async fn who_asks_is_answered_whoever_asks_nothing() {
        let (address, _serving) = server().await;
        let mut idle = Vec::new();
        for _ in 0..2 * CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let answer = tokio::time::timeout(PATIENCE / 2, ask_at(address, &get("/healthz"))).await.unwrap();
        assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
        let closed = tokio::time::timeout(PATIENCE / 2, idle[0].read(&mut [0])).await;
        assert!(matches!(closed, Ok(Ok(0) | Err(_))), "the oldest gave way");
        let newest = idle.last_mut().unwrap();
        newest.write_all(get("/healthz").as_bytes()).await.unwrap();
        assert_ne!(newest.read(&mut [0]).await.unwrap(), 0, "the newest did not");
    }

    #[tokio::test]
    async fn a_head_without_end_is_cut_off() {
        let endless = format!("GET /metrics HTTP/1.1\r\nhost: {}", "x".repeat(4 * HEAD));
        assert!(!ask(&endless).await.starts_with("HTTP/1.1 200 "));
        assert_eq!(ask("\u{16}\u{3}\u{1} not a request\r\n\r\n").await.find("200 OK"), None);
    }
}
