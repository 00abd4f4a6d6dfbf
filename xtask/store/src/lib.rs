//! An S3 server in the process of a test: buckets are folders, and every request is judged first, so that any of them can fail in any
//! way at the moment of the test's choosing.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;

/// The one key that the server knows, and its secret.
pub const KEY: (&str, &str) = ("a-key-for-tests", "a-secret/for+tests");
/// The one bucket that there is.
pub const BUCKET: &str = "bucket";

/// A request that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its method.
    pub method: Method,
    /// The object in the bucket, without the bucket's name; the prefix of a list; the first object of a POST that removes some.
    pub key: String,
    /// Bytes of its body, where it says so.
    pub bytes: u64,
    /// The port of this machine from which it came: it tells which process asks.
    pub port: u16,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is answered.
    Pass,
    /// It is answered with this status and is not carried out.
    Answer(u16),
    /// It is answered after this time.
    Wait(Duration),
    /// The connection ends before it is carried out.
    Drop,
    /// Half of its body is read, or of a GET half of the answer is sent; then the connection ends.
    Cut,
    /// It is carried out, and the connection ends before the answer.
    Withhold,
}

type Judge = Box<dyn FnMut(&Seen) -> Verdict + Send>;
type Strike = Box<dyn FnMut(&Seen) + Send>;

/// A server of one bucket; it ends with the value.
pub struct Server {
    address: SocketAddr,
    judge: Arc<Mutex<Judge>>,
    strike: Arc<Mutex<Strike>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Serves [`BUCKET`], kept under `folder`, on a free port of this machine.
    ///
    /// # Errors
    /// Where the folder cannot be made, or no port is free.
    pub async fn start(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder.join(BUCKET))?;
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let buckets = s3s_fs::FileSystem::new(folder).map_err(|error| io::Error::other(format!("{error:?}")))?;
        let mut builder = S3ServiceBuilder::new(buckets);
        builder.set_auth(s3s::auth::SimpleAuth::from_single(KEY.0, KEY.1));
        let judge: Arc<Mutex<Judge>> = Arc::new(Mutex::new(Box::new(|_| Verdict::Pass)));
        let strike: Arc<Mutex<Strike>> = Arc::new(Mutex::new(Box::new(|_| ())));
        let seen = Arc::default();
        let gate = Gate {
            inner: builder.build(),
            judge: judge.clone(),
            strike: strike.clone(),
            seen: Arc::clone(&seen),
            conditional: Arc::default(),
        };
        let serving = tokio::spawn(async move {
            while let Ok((connection, client)) = listener.accept().await {
                let gate = gate.clone();
                tokio::spawn(async move {
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let judged = hyper::service::service_fn(move |request| gate.clone().answer(client.port(), request));
                    let _ended = server.serve_connection(TokioIo::new(connection), judged).await;
                });
            }
        });
        Ok(Self { address, judge, strike, seen, serving })
    }

    /// Where it is, as in `http://127.0.0.1:9000`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What a client reads in its environment to use it.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let set = [
            ("AWS_ACCESS_KEY_ID", KEY.0.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", KEY.1.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL", self.endpoint()),
        ];
        set.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// Has every request judged by `judge` from now on.
    pub fn judge(&self, judge: impl FnMut(&Seen) -> Verdict + Send + 'static) {
        *self.judge.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(judge);
    }

    /// Has `strike` called when a request that ends otherwise than with its answer has come as far as its verdict says: just before its
    /// connection ends.
    pub fn strike(&self, strike: impl FnMut(&Seen) + Send + 'static) {
        *self.strike.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(strike);
    }

    /// Has every request pass from now on.
    pub fn pass(&self) {
        self.judge(|_| Verdict::Pass);
    }

    /// What has arrived since the last question.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[derive(Clone)]
struct Gate {
    inner: S3Service,
    judge: Arc<Mutex<Judge>>,
    strike: Arc<Mutex<Strike>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Held alone by a request with a condition: between its look and its write nobody else writes, as in every real store.
    conditional: Arc<tokio::sync::RwLock<()>>,
}

impl Gate {
    async fn answer(self, port: u16, request: http::Request<Incoming>) -> io::Result<Response<s3s::Body>> {
        let mut seen = seen(port, &request);
        let mut request = request.map(Body::Arriving);
        if seen.method == Method::POST && request.uri().query().is_some_and(|query| query.starts_with("delete")) {
            let (head, body) = request.into_parts();
            let body = body.whole().await?;
            first_key(&body).clone_into(&mut seen.key);
            request = http::Request::from_parts(head, Body::Whole(body));
        }
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen.clone());
        let verdict = (self.judge.lock().unwrap_or_else(PoisonError::into_inner))(&seen);
        match verdict {
            Verdict::Pass => {}
            Verdict::Answer(503) => return Ok(refusal(503, "SlowDown")),
            Verdict::Answer(status) => return Ok(refusal(status, "InternalError")),
            Verdict::Wait(time) => tokio::time::sleep(time).await,
            Verdict::Drop => return Err(self.end(&seen)),
            Verdict::Cut if seen.method == Method::GET => {
                let (head, body) = self.carry_out(request).await?.into_parts();
                let body = BodyExt::collect(body).await.map_err(|error| io::Error::other(format!("{error:?}")))?.to_bytes();
                let half = body.slice(..body.len() / 2);
                let ends = async move {
                    // While this waits, what there is by then is sent.
                    tokio::task::yield_now().await;
                    Err(self.end(&seen))
                };
                let frames = futures::stream::iter([Ok(Frame::data(half))]).chain(futures::stream::once(ends));
                return Ok(Response::from_parts(head, s3s::Body::http_body_unsync(StreamBody::new(frames))));
            }
            Verdict::Cut => {
                request.into_body().read_half().await;
                return Err(self.end(&seen));
            }
            Verdict::Withhold => {
                self.carry_out(request).await?;
                return Err(self.end(&seen));
            }
        }
        self.carry_out(request).await
    }

    fn end(&self, seen: &Seen) -> io::Error {
        (self.strike.lock().unwrap_or_else(PoisonError::into_inner))(seen);
        io::ErrorKind::ConnectionAborted.into()
    }

    async fn carry_out(&self, request: http::Request<Body>) -> io::Result<Response<s3s::Body>> {
        if !request.uri().path().trim_start_matches('/').starts_with(BUCKET) {
            return Ok(refusal(404, "NoSuchBucket"));
        }
        let has = |name: header::HeaderName| request.headers().contains_key(name);
        let has_condition = has(header::IF_NONE_MATCH) || has(header::IF_MATCH);
        let _alone = if has_condition { Some(self.conditional.write().await) } else { None };
        let _with_others = if has_condition { None } else { Some(self.conditional.read().await) };
        self.inner.call(request.map(Body::into)).await.map_err(|error| io::Error::other(format!("{error:?}")))
    }
}

fn seen(port: u16, request: &http::Request<Incoming>) -> Seen {
    let path = request.uri().path().trim_start_matches('/');
    let key = path.strip_prefix(BUCKET).unwrap_or(path).trim_start_matches('/').to_owned();
    let query = request.uri().query().unwrap_or_default();
    let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).unwrap_or_default();
    let key = if key.is_empty() { prefix.replace("%2F", "/") } else { key };
    Seen { method: request.method().clone(), key, bytes: request.body().size_hint().exact().unwrap_or(0), port }
}

/// The body of a request.
enum Body {
    Arriving(Incoming),
    /// It had to be read first.
    Whole(Bytes),
}

impl Body {
    async fn whole(self) -> io::Result<Bytes> {
        match self {
            Self::Arriving(body) => Ok(BodyExt::collect(body).await.map_err(io::Error::other)?.to_bytes()),
            Self::Whole(body) => Ok(body),
        }
    }

    async fn read_half(self) {
        let Self::Arriving(mut body) = self else { return };
        let half = body.size_hint().exact().unwrap_or(0) / 2;
        let mut read = 0;
        while read < half {
            let Some(Ok(frame)) = body.frame().await else { return };
            read += frame.data_ref().map_or(0, Bytes::len) as u64;
        }
    }
}

impl From<Body> for s3s::Body {
    fn from(body: Body) -> Self {
        match body {
            Body::Arriving(body) => body.into(),
            Body::Whole(body) => body.into(),
        }
    }
}

/// The first object that the body of a request to remove objects names.
fn first_key(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let key = text.split_once("<Key>").and_then(|(_, rest)| rest.split_once("</Key>"));
    key.map_or_else(String::new, |(key, _)| key.to_owned())
}

fn refusal(status: u16, code: &str) -> Response<s3s::Body> {
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as the test wants it</Message></Error>");
    let mut response = Response::new(s3s::Body::from(text));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    /// Sends a request without a signature, which is answered with a refusal; gives all that comes back.
    async fn answer(server: &Server, request: &str) -> String {
        let mut connection = TcpStream::connect(server.address).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn of_an_answer_that_is_cut_half_arrives() {
        let files = tempfile::tempdir().unwrap();
        let server = Server::start(files.path()).await.unwrap();
        let struck = Arc::new(Mutex::new(Vec::new()));
        let strikes = struck.clone();
        server.strike(move |seen| strikes.lock().unwrap().push(seen.key.clone()));
        let get = "GET /bucket/run/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let whole = answer(&server, get).await;
        assert!(whole.ends_with("</Error>") && struck.lock().unwrap().is_empty(), "{whole}");
        server.judge(|_| Verdict::Cut);
        let half = answer(&server, get).await;
        assert!(half.contains("<Error>") && !half.contains("</Error>"), "{half}");
        assert_eq!(*struck.lock().unwrap(), ["run/x"]);
    }

    #[test]
    fn a_removal_is_known_by_its_first_object() {
        assert_eq!(first_key(b"<Delete><Object><Key>run/shards/a</Key></Object></Delete>"), "run/shards/a");
        assert_eq!(first_key(b"<Delete>"), "");
    }
}
