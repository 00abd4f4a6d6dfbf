use std::time::Duration;

use atoll_checkpoint::error::Kind;
use atoll_checkpoint::{Access, Address, Folder, Store, StoreError};
use atoll_test_store::{KEY, Server, Verdict};

use super::ground::{access, cut, place, published, s3_address, written};

async fn server() -> (Server, tempfile::TempDir) {
    let files = tempfile::tempdir().unwrap();
    (Server::start(files.path()).await.unwrap(), files)
}

fn impatient(mut access: Access) -> Access {
    access.patience = Duration::from_millis(300);
    access
}

fn shown(error: &StoreError, kind: Kind, said: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind, kind, "{text}");
    for part in said {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains(KEY.1) && !text.contains(&KEY.1.replace('/', "%2F").replace('+', "%2B")), "{text}");
    assert!(text.len() < 900, "{text}");
}

#[tokio::test]
async fn a_missing_bucket_and_refused_credentials_are_told() {
    let (server, _files) = server().await;
    let other = Address::parse("s3://nobodys/run", std::path::Path::new("/")).unwrap();
    let missing = Store::open(&other, &access(&server)).unwrap();
    shown(&missing.put("a", &["x".into()]).await.unwrap_err(), Kind::NoBucket, &["s3://nobodys/run/a", "make the bucket"]);
    shown(&missing.get("a", 10).await.unwrap_err(), Kind::NoBucket, &["s3://nobodys/run/a"]);
    let wrong = [("AWS_SECRET_ACCESS_KEY".to_owned(), "another-secret/+".to_owned())];
    let refused = Store::open(&s3_address("run"), &access(&server).with(wrong)).unwrap();
    for error in [refused.put("a", &["x".into()]).await.unwrap_err(), refused.list("", None).await.unwrap_err()] {
        shown(&error, Kind::Denied, &["s3://bucket/run", "check the credentials"]);
        assert!(!error.to_string().contains("another-secret"), "{error}");
    }
}

#[tokio::test]
async fn a_store_that_fails_for_a_while_is_asked_again() {
    let (server, _files) = server().await;
    let folder = Folder::new(Store::open(&s3_address("run"), &access(&server)).unwrap());
    for verdict in [Verdict::Answer(500), Verdict::Answer(503), Verdict::Drop, Verdict::Cut, Verdict::Withhold] {
        let mut count = 0;
        server.judge(move |_| {
            count += 1;
            if count % 2 == 1 { verdict } else { Verdict::Pass }
        });
        let round = folder.entries().await.unwrap().len() as u64 + 1;
        let manifest = written(&folder, place(round), &[cut("parameters", round, 1_000)]).await;
        // One whose answer was lost finds its own checkpoint there.
        folder.publish(&manifest).await.unwrap();
        server.pass();
        assert_eq!(folder.newest().await.unwrap(), Some(place(round)), "{verdict:?}");
    }
}

#[tokio::test]
async fn a_store_that_stays_away_is_given_up() {
    let (server, _files) = server().await;
    let store = Store::open(&s3_address("run"), &impatient(access(&server))).unwrap();
    server.judge(|_| Verdict::Answer(503));
    shown(&store.put("a", &["x".into()]).await.unwrap_err(), Kind::Failing, &["503", "the store fails"]);
    server.judge(|_| Verdict::Drop);
    shown(&store.put("a", &["x".into()]).await.unwrap_err(), Kind::Unreachable, &["whether the store is up"]);
    let endpoint = server.endpoint();
    drop(server);
    let error = store.get("a", 10).await.unwrap_err();
    shown(&error, Kind::Unreachable, &[endpoint.trim_start_matches("http://")]);
}

#[tokio::test]
async fn over_http_checkpoints_are_read_and_never_written() {
    let (server, files) = server().await;
    let folder = Folder::new(Store::open(&s3_address("run"), &access(&server)).unwrap());
    let manifest = published(&folder, place(2), &[cut("parameters", 1, 100)]).await;
    let pages = pages(files.path().join("bucket/run")).await;
    let address = Address::parse(&pages, std::path::Path::new("/")).unwrap();
    let web = Folder::new(Store::open(&address, &impatient(Access::default())).unwrap());
    assert_eq!(web.newest().await.unwrap(), Some(place(2)));
    let found = web.newest_whole(|_, _| ()).await.unwrap();
    assert_eq!((found.manifest, found.skipped), (Some(manifest), vec![]));
    let refused = web.store().put("a", &["x".into()]).await.unwrap_err();
    shown(&refused, Kind::ReadOnly, &["over HTTP checkpoints are read only"]);
}

/// A plain web server of a folder: it knows GET and HEAD, and no lists.
async fn pages(folder: std::path::PathBuf) -> String {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let (read, mut write) = connection.split();
            let mut lines = BufReader::new(read).lines();
            let first = lines.next_line().await.unwrap().unwrap_or_default();
            while lines.next_line().await.unwrap().is_some_and(|line| !line.is_empty()) {}
            let mut words = first.split(' ');
            let (method, path) = (words.next().unwrap(), words.next().unwrap_or_default().trim_start_matches('/'));
            let (status, body) = match std::fs::read(folder.join(path)) {
                _ if method != "GET" => ("405 Method Not Allowed", Vec::new()),
                Ok(body) => ("200 OK", body),
                Err(_) => ("404 Not Found", Vec::new()),
            };
            let when = "Thu, 01 Jan 2026 00:00:00 GMT";
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nlast-modified: {when}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            write.write_all(head.as_bytes()).await.unwrap();
            write.write_all(&body).await.unwrap();
        }
    });
    format!("http://{address}")
}
