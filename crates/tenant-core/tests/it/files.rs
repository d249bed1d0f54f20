//! The tenant's files through the core: lists, downloads, uploads in parts, moves and deletions.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use hyper::{Method, StatusCode};
use protocol::files::MAX_PART_BYTES;
use rustix::fs::{FileType, Mode};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::SmallDisk;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::harness::{Core, TestResponse, ask_with, code, header};
use crate::history::{AT_CORE, sign_in, sign_in_as};
use crate::tokens::KEY;

/// Runs the file server of this core on an empty volume.
pub(crate) fn serve_files(core: &Core) -> TempDir {
    let volume = tempfile::tempdir().unwrap();
    serve_volume(core, volume.path());
    volume
}

fn listen(core: &Core) -> UnixListener {
    UnixListener::bind(core.dir.path().join("files.sock")).unwrap()
}

fn serve_volume(core: &Core, volume: &Path) {
    let (listener, top) = (listen(core), volume.to_owned());
    std::thread::spawn(move || tenant_files::serve(&listener, &top));
}

struct Files {
    core: Core,
    cookie: String,
    volume: TempDir,
}

impl Files {
    async fn start() -> Self {
        let core = Core::start(&[("sso-key", &KEY)]);
        let volume = serve_files(&core);
        Self::on(core, volume).await
    }

    async fn on(core: Core, volume: TempDir) -> Self {
        let cookie = sign_in(&core, "member").await;
        Self { core, cookie, volume }
    }

    /// The same files for another person.
    async fn for_person(mut self, person: &str) -> Self {
        self.cookie = sign_in_as(&self.core, "member", Some(person)).await;
        self
    }

    /// Sends the beginning of a request on a connection of its own.
    async fn send(&self, head: &str, body: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(self.core.socket()).await.unwrap();
        stream.write_all(&self.request(head, body)).await.unwrap();
        stream
    }

    fn request(&self, head: &str, body: &[u8]) -> Vec<u8> {
        let (method, rest) = head.split_once(' ').unwrap();
        let (path, headers) = rest.split_once('\n').unwrap_or((rest, ""));
        let head = format!(
            "{method} /v1/files{path} HTTP/1.1\r\nHost: acme.localhost\r\nx-cial-site: core\r\n\
             cookie: {}\r\n{headers}\r\n\r\n",
            self.cookie
        );
        [head.as_bytes(), body].concat()
    }

    async fn offset(&self, upload: &str) -> u64 {
        self.ok(Method::GET, upload, &Value::Null).await["offset"].as_u64().unwrap()
    }

    async fn finish(&self, upload: &str, path: &str, size: usize) -> TestResponse {
        let finish = json!({ "path": path, "size": size }).to_string();
        self.call(Method::POST, &format!("{upload}/finish"), finish).await
    }

    async fn call(&self, method: Method, path: &str, body: impl Into<String>) -> TestResponse {
        self.call_with(method, path, &[], body).await
    }

    async fn call_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<String>,
    ) -> TestResponse {
        let headers = [headers, &[("cookie", self.cookie.as_str()), AT_CORE]].concat();
        let path = format!("/v1/files{path}");
        ask_with(&self.core.socket(), method, &path, &headers, body.into()).await
    }

    async fn ok(&self, method: Method, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let response = self.call(method, path, body).await;
        assert!(response.status().is_success(), "{path}: {}", response.body());
        serde_json::from_str(response.body()).unwrap_or_default()
    }

    async fn begin(&self) -> String {
        let upload = self.ok(Method::POST, "/uploads", &Value::Null).await;
        assert_eq!(upload["max_part_bytes"], MAX_PART_BYTES);
        format!("/uploads/{}", upload["id"].as_str().unwrap())
    }

    async fn upload(&self, path: &str, content: &str) {
        let upload = self.begin().await;
        let part = self.call(Method::PUT, &format!("{upload}?offset=0"), content).await;
        assert_eq!(part.status(), StatusCode::OK, "{}", part.body());
        let finish = json!({ "path": path, "size": content.len() });
        self.ok(Method::POST, &format!("{upload}/finish"), &finish).await;
    }

    async fn names(&self, query: &str) -> Vec<String> {
        let list = self.ok(Method::GET, query, &Value::Null).await;
        let names = list["items"].as_array().unwrap().iter();
        names.map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn a_file_is_uploaded_in_parts_listed_downloaded_moved_and_deleted() {
    let files = Files::start().await;
    files.ok(Method::POST, "/folders", &json!({ "path": "notes" })).await;
    let upload = files.begin().await;
    for (offset, part) in [(0, "Hello, "), (7, "world"), (12, "")] {
        let arrived = files.call(Method::PUT, &format!("{upload}?offset={offset}"), part).await;
        let arrived: Value = serde_json::from_str(arrived.body()).unwrap();
        assert_eq!(arrived["offset"], offset + part.len());
    }
    assert_eq!(files.ok(Method::GET, &upload, &Value::Null).await["offset"], 12);
    assert_eq!(files.names("").await, ["notes"], "nothing is there before the end");
    let finish = json!({ "path": "notes/grüße 1.txt", "size": 12 });
    files.ok(Method::POST, &format!("{upload}/finish"), &finish).await;

    let list = files.ok(Method::GET, "?path=notes", &Value::Null).await;
    assert_eq!(
        (&list["items"][0]["name"], &list["items"][0]["size"]),
        (&json!("grüße 1.txt"), &json!(12))
    );
    let path = "/content?path=notes/gr%C3%BC%C3%9Fe%201.txt";
    let whole = files.call(Method::GET, path, "").await;
    assert_eq!(whole.body(), "Hello, world");
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        ("content-length", "12"),
        ("content-security-policy", "default-src 'none'; sandbox"),
        ("x-content-type-options", "nosniff"),
        ("content-disposition", "attachment; filename*=UTF-8''gr%C3%BC%C3%9Fe%201%2Etxt"),
    ] {
        assert_eq!(header(&whole, name), Some(value), "{name}");
    }
    let tag = header(&whole, "etag").unwrap();
    for (headers, status, body) in [
        (vec![("range", "bytes=7-")], 206, "world"),
        (vec![("range", "bytes=-5"), ("if-range", tag)], 206, "world"),
        (vec![("range", "bytes=-5"), ("if-range", "\"another\"")], 200, "Hello, world"),
    ] {
        let part = files.call_with(Method::GET, path, &headers, "").await;
        assert_eq!((part.status().as_u16(), part.body().as_str()), (status, body), "{headers:?}");
    }
    let behind = files.call_with(Method::GET, path, &[("range", "bytes=12-")], "").await;
    assert_eq!(code(&behind), "range_not_satisfiable");

    files.ok(Method::POST, "/move", &json!({ "from": "notes", "to": "old" })).await;
    assert_eq!(files.names("?path=old").await, ["grüße 1.txt"]);
    assert_eq!(code(&files.call(Method::DELETE, "?path=old", "").await), "file_conflict");
    files.ok(Method::DELETE, "?path=old/gr%C3%BC%C3%9Fe%201.txt", &Value::Null).await;
    files.ok(Method::DELETE, "?path=old", &Value::Null).await;
    assert_eq!(files.names("").await, [""; 0]);
}

#[tokio::test]
async fn what_is_in_the_place_is_replaced_on_request_alone() {
    let files = Files::start().await;
    files.upload("a", "one").await;
    files.upload("b", "two").await;
    let move_it = |replace: bool| json!({ "from": "b", "to": "a", "replace": replace }).to_string();
    let refused = files.call(Method::POST, "/move", move_it(false)).await;
    assert_eq!(code(&refused), "file_conflict");
    assert_eq!(files.call(Method::GET, "/content?path=a", "").await.body(), "one");
    assert_eq!(files.call(Method::POST, "/move", move_it(true)).await.status(), 204);
    assert_eq!(files.call(Method::GET, "/content?path=a", "").await.body(), "two");
}

#[tokio::test]
async fn a_part_that_does_not_follow_is_refused() {
    let files = Files::start().await;
    let upload = files.begin().await;
    let put = async |offset: u64, part: &str| {
        files.call(Method::PUT, &format!("{upload}?offset={offset}"), part).await
    };
    assert_eq!(put(0, "abc").await.status(), StatusCode::OK);
    for offset in [0, 2, 4, u64::MAX] {
        assert_eq!(code(&put(offset, "x").await), "file_conflict", "{offset}");
    }
    for query in ["", "?offset=", "?offset=-1", "?offset=3x", "?offset=99999999999999999999999"] {
        let refused = files.call(Method::PUT, &format!("{upload}{query}"), "x").await;
        assert_eq!(code(&refused), "invalid_query", "{query}");
    }
    for size in [0, 2, 4] {
        assert_eq!(code(&files.finish(&upload, "whole", size).await), "file_conflict", "{size}");
    }
    assert_eq!(files.finish(&upload, "whole", 3).await.status(), StatusCode::NO_CONTENT);
    assert_eq!(code(&put(3, "x").await), "resource_not_found", "it is finished");

    let abandoned = files.begin().await;
    files.ok(Method::DELETE, &abandoned, &Value::Null).await;
    let gone = files.call(Method::GET, &abandoned, "").await;
    assert_eq!(code(&gone), "resource_not_found");
    let unknown = files.call(Method::GET, "/uploads/..%2F..%2Fx", "").await;
    assert_eq!(code(&unknown), "resource_not_found");
}

/// More than is written at once, so that some cuts lie between two writes.
const LONG: usize = 300_000;

#[tokio::test]
async fn an_upload_that_is_cut_at_any_byte_goes_on() {
    let files = Files::start().await;
    let content: String = (0..LONG).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
    for (kind, framing) in
        [("length", "Content-Length: 300000"), ("chunks", "Transfer-Encoding: chunked")]
    {
        let body = match kind {
            "length" => content.clone(),
            _ => format!("{LONG:x}\r\n{content}\r\n0\r\n\r\n"),
        };
        let head =
            files.request(&format!("PUT /uploads/{}?offset=0\n{framing}", uuid_text(0)), b"").len();
        let whole = head + body.len();
        let cuts =
            [0, 1, head - 1, head, head + 1, head + 7, head + 131_072, head + 200_001, whole - 1];
        for cut in cuts {
            let upload = files.begin().await;
            let request =
                files.request(&format!("PUT {upload}?offset=0\n{framing}"), body.as_bytes());
            let mut stream = UnixStream::connect(files.core.socket()).await.unwrap();
            stream.write_all(&request[..cut]).await.unwrap();
            drop(stream);
            let path = format!("{kind}-{cut}");
            // A part that is still being written makes the next one wait.
            let arrived = loop {
                let offset = files.offset(&upload).await;
                let rest = &content[usize::try_from(offset).unwrap()..];
                let next =
                    files.call(Method::PUT, &format!("{upload}?offset={offset}"), rest).await;
                if next.status() == StatusCode::OK {
                    break offset;
                }
                assert_eq!(code(&next), "file_conflict", "{path}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            assert!(arrived <= cut.saturating_sub(head) as u64, "{path}: {arrived}");
            assert_eq!(files.finish(&upload, &path, LONG).await.status(), 204, "{path}");
            let stored = std::fs::read_to_string(files.volume.path().join(&path)).unwrap();
            assert!(stored == content, "{path}: {} bytes", stored.len());
        }
    }
    let uploads = files.volume.path().join(".cial-uploads");
    assert_eq!(std::fs::read_dir(uploads).unwrap().count(), 0, "nothing is left behind");
}

fn uuid_text(number: u128) -> String {
    uuid::Uuid::from_u128(number).to_string()
}

#[tokio::test]
async fn one_request_at_a_time_writes_an_upload() {
    let files = Files::start().await;
    let upload = files.begin().await;
    let slow = format!("PUT {upload}?offset=0\nContent-Length: 6");
    let mut first = files.send(&slow, b"abc").await;
    // The first has the upload once it holds a place of it; then every other one is refused.
    let second = loop {
        let second = files.call(Method::PUT, &format!("{upload}?offset=9"), "x").await;
        if second.body().contains("another request") {
            break second;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(code(&second), "file_conflict");
    for response in
        [files.finish(&upload, "early", 3).await, files.call(Method::DELETE, &upload, "").await]
    {
        assert_eq!(code(&response), "file_conflict", "{}", response.body());
    }
    first.write_all(b"def").await.unwrap();
    let mut head = [0; 15];
    first.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    assert_eq!(files.finish(&upload, "whole", 6).await.status(), StatusCode::NO_CONTENT);
    assert_eq!(files.call(Method::GET, "/content?path=whole", "").await.body(), "abcdef");
}

#[tokio::test]
async fn of_two_uploads_to_one_name_one_takes_it() {
    let files = Files::start().await;
    for round in 0..10 {
        let name = format!("round-{round}");
        let mut uploads = Vec::new();
        for text in ["first", "other"] {
            let upload = files.begin().await;
            files.call(Method::PUT, &format!("{upload}?offset=0"), text).await;
            uploads.push(upload);
        }
        let (first, other) =
            tokio::join!(files.finish(&uploads[0], &name, 5), files.finish(&uploads[1], &name, 5));
        let (loser, content) = match (first.status().as_u16(), other.status().as_u16()) {
            (204, 409) => (&uploads[1], "first"),
            (409, 204) => (&uploads[0], "other"),
            both => panic!("{both:?}"),
        };
        let path = format!("/content?path={name}");
        assert_eq!(files.call(Method::GET, &path, "").await.body(), content);
        // The other is kept, and may replace it.
        let finish = json!({ "path": name, "size": 5, "replace": true });
        files.ok(Method::POST, &format!("{loser}/finish"), &finish).await;
        assert_ne!(files.call(Method::GET, &path, "").await.body(), content);
    }
}

#[tokio::test]
async fn a_part_has_a_bound() {
    let files = Files::start().await;
    let upload = files.begin().await;
    files.call(Method::PUT, &format!("{upload}?offset=0"), "abc").await;
    let length = MAX_PART_BYTES + 1;
    let head = format!("PUT {upload}?offset=3\nContent-Length: {length}");
    let mut announced = files.send(&head, b"").await;
    let mut status = [0; 12];
    announced.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 413", "before a byte was sent");

    let chunk = vec![b'x'; 1 << 20];
    let head = format!("PUT {upload}?offset=3\nTransfer-Encoding: chunked");
    let mut stream = files.send(&head, b"").await;
    for _ in 0..=MAX_PART_BYTES / (1 << 20) {
        // The response may come, and the connection end, before the last of it is sent.
        let piece = [b"100000\r\n", chunk.as_slice(), b"\r\n"].concat();
        if stream.write_all(&piece).await.is_err() {
            break;
        }
    }
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 413");
    assert_eq!(files.offset(&upload).await, 3, "nothing of it stays");
}

#[tokio::test]
async fn transfers_at_once_are_bounded() {
    let files = Files::start().await;
    std::fs::File::create(files.volume.path().join("large")).unwrap().set_len(64 << 20).unwrap();
    let is_refused = async |files: &Files, method: Method, path: &str, bound: &str| {
        let refused = files.call(method, path, "").await;
        assert_eq!(code(&refused), "files_busy", "{path}");
        assert_eq!(header(&refused, "retry-after"), Some("1"));
        assert!(refused.body().contains(bound), "{bound}: {}", refused.body());
    };
    let mut files = files;
    let (mut readers, mut writers) = (Vec::new(), Vec::new());
    for person in ["ada", "bob"] {
        files = files.for_person(person).await;
        for _ in 0..2 {
            let mut reader = files.send("GET /content?path=large", b"").await;
            reader.read_u8().await.unwrap();
            readers.push(reader);
        }
        // Another session of the same person has no further place.
        files.cookie = sign_in_as(&files.core, "viewer", Some(person)).await;
        let bound = if person == "ada" { "2 downloads of yours" } else { "4 downloads" };
        is_refused(&files, Method::GET, "/content?path=large", bound).await;
    }
    for person in ["cyd", "dan"] {
        files = files.for_person(person).await;
        is_refused(&files, Method::GET, "/content?path=large", "4 downloads").await;
        for _ in 0..2 {
            let upload = files.begin().await;
            let part = format!("PUT {upload}?offset=0\nContent-Length: 2");
            writers.push(files.send(&part, b"x").await);
        }
    }
    files = files.for_person("eve").await;
    // A refused download takes no place.
    loop {
        let refused = files.call(Method::GET, "/content?path=large", "").await;
        assert_eq!(code(&refused), "files_busy");
        if refused.body().contains("8 transfers") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let upload = format!("{}?offset=0", files.begin().await);
    is_refused(&files, Method::PUT, &upload, "8 transfers").await;
    assert_eq!(files.names("").await, ["large"], "what is no transfer goes on");
    readers.pop();
    loop {
        let part = files.call(Method::PUT, &upload, "x").await;
        if part.status() == StatusCode::OK {
            break;
        }
        assert_eq!(code(&part), "files_busy");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_page_of_another_origin_downloads_nothing_behind_its_visitors_back() {
    let files = Files::start().await;
    files.upload("a", "one").await;
    let path = "/content?path=a";
    for method in [Method::GET, Method::HEAD] {
        let fetch = [("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")];
        let refused = files.call_with(method, path, &fetch, "").await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    }
    let visit = [
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
    ];
    assert_eq!(files.call_with(Method::GET, path, &visit, "").await.body(), "one");
    let own = [("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")];
    assert_eq!(files.call_with(Method::GET, path, &own, "").await.body(), "one");
}

#[tokio::test]
async fn a_finish_that_is_repeated_has_the_same_response() {
    let files = Files::start().await;
    let finished = async |upload: &str, path: &str, size: usize| {
        files.finish(upload, path, size).await.status().as_u16()
    };
    let upload = files.begin().await;
    files.call(Method::PUT, &format!("{upload}?offset=0"), "abc").await;
    files.upload("taken", "xyz").await;
    assert_eq!(finished(&upload, "taken", 3).await, 409);
    assert_eq!(finished(&upload, "whole", 3).await, 204);
    assert_eq!(finished(&upload, "whole", 3).await, 204, "the response was lost");
    for (path, size) in [("taken", 3), ("other", 3), ("whole", 2)] {
        assert_eq!(finished(&upload, path, size).await, 404, "{path} {size}");
    }
    std::fs::write(files.volume.path().join("whole"), "longer").unwrap();
    assert_eq!(finished(&upload, "whole", 3).await, 404, "the file is another one");

    let upload = files.begin().await;
    assert_eq!(finished(&upload, "taken", 0).await, 409);
    files.ok(Method::DELETE, &upload, &Value::Null).await;
    std::fs::write(files.volume.path().join("taken"), "").unwrap();
    assert_eq!(finished(&upload, "taken", 0).await, 404, "it was given up");
}

#[tokio::test]
async fn uploads_under_way_are_bounded() {
    let files = Files::start().await;
    let mut uploads = Vec::new();
    for _ in 0..64 {
        uploads.push(files.begin().await);
    }
    let refused = files.call(Method::POST, "/uploads", "").await;
    assert_eq!(code(&refused), "files_busy");
    files.ok(Method::DELETE, &uploads[7], &Value::Null).await;
    files.begin().await;
}

#[tokio::test]
async fn a_full_disk_refuses_a_part_and_loses_nothing() {
    let disk = SmallDisk::mount("files", 8 << 20).unwrap();
    let core = Core::start_on(disk.path(), &[("sso-key", &KEY)]);
    let volume = tempfile::tempdir_in(disk.path()).unwrap();
    serve_volume(&core, volume.path());
    let files = Files::on(core, volume).await;
    let upload = files.begin().await;
    files.call(Method::PUT, &format!("{upload}?offset=0"), "abc").await;
    disk.fill().unwrap();
    let content = "x".repeat(1 << 20);
    let refused = files.call(Method::PUT, &format!("{upload}?offset=3"), content.as_str()).await;
    assert_eq!((refused.status().as_u16(), code(&refused)), (507, "disk_full".to_owned()));
    let list = files.ok(Method::GET, "", &Value::Null).await;
    assert!(list["space"]["available_bytes"].as_u64() < Some(4096), "{list}");
    disk.make_space().unwrap();
    let offset = files.offset(&upload).await;
    let rest = &content[usize::try_from(offset - 3).unwrap()..];
    let part = files.call(Method::PUT, &format!("{upload}?offset={offset}"), rest).await;
    assert_eq!(part.status(), StatusCode::OK, "{}", part.body());
    let size = content.len() + 3;
    assert_eq!(files.finish(&upload, "whole", size).await.status(), StatusCode::NO_CONTENT);
    let stored = std::fs::read_to_string(files.volume.path().join("whole")).unwrap();
    assert!(stored == format!("abc{content}"));
}

#[tokio::test]
async fn ranges_follow_the_standard() {
    let files = Files::start().await;
    files.upload("f", "0123456789").await;
    files.upload("empty", "").await;
    let get = async |path: &str, range: &[(&str, &str)]| {
        let path = format!("/content?path={path}");
        files.call_with(Method::GET, &path, range, "").await
    };
    for (range, status, body, content_range) in [
        ("bytes=0-3", 206, "0123", Some("bytes 0-3/10")),
        ("bytes=9-", 206, "9", Some("bytes 9-9/10")),
        ("bytes=-4", 206, "6789", Some("bytes 6-9/10")),
        ("bytes=-99", 206, "0123456789", Some("bytes 0-9/10")),
        ("bytes=4-4", 206, "4", Some("bytes 4-4/10")),
        ("bytes=0-1,3-4", 200, "0123456789", None),
        ("lines=0-1", 200, "0123456789", None),
        ("bytes=5-4", 200, "0123456789", None),
    ] {
        let part = get("f", &[("range", range)]).await;
        assert_eq!((part.status().as_u16(), part.body().as_str()), (status, body), "{range}");
        assert_eq!(header(&part, "content-range"), content_range, "{range}");
        assert_eq!(header(&part, "accept-ranges"), Some("bytes"));
    }
    for range in ["bytes=10-", "bytes=10-20", "bytes=-0"] {
        let behind = get("f", &[("range", range)]).await;
        assert_eq!(code(&behind), "range_not_satisfiable", "{range}");
        assert_eq!(header(&behind, "content-range"), Some("bytes */10"), "{range}");
    }
    assert_eq!(get("empty", &[("range", "bytes=-1")]).await.status(), StatusCode::OK);
    let behind = get("empty", &[("range", "bytes=0-")]).await;
    assert_eq!(behind.status(), StatusCode::RANGE_NOT_SATISFIABLE);

    let tag = header(&get("f", &[]).await, "etag").unwrap().to_owned();
    let with = async |known: &str| get("f", &[("range", "bytes=0-0"), ("if-range", known)]).await;
    assert_eq!(with(&tag).await.body(), "0");
    for known in [format!("W/{tag}").as_str(), "\"other\"", "Mon, 30 Nov 2026 10:00:00 GMT"] {
        assert_eq!(with(known).await.body(), "0123456789", "{known}");
    }
    std::fs::write(files.volume.path().join("f"), "abcdefghij").unwrap();
    assert_eq!(with(&tag).await.body(), "abcdefghij", "the file is another one");
    let range = ("range", "bytes=2-3");
    let changed = get("f", &[range, ("if-match", &tag)]).await;
    assert_eq!((changed.status().as_u16(), code(&changed).as_str()), (412, "revision_mismatch"));
    let tag = header(&get("f", &[]).await, "etag").unwrap().to_owned();
    let part = get("f", &[range, ("if-match", &tag)]).await;
    assert_eq!((part.status().as_u16(), part.body().as_str()), (206, "cd"));
    for method in [Method::GET, Method::HEAD] {
        let known = [range, ("if-none-match", tag.as_str())];
        let same = files.call_with(method, "/content?path=f", &known, "").await;
        assert_eq!((same.status().as_u16(), same.body().as_str()), (304, ""));
        assert_eq!(header(&same, "etag"), Some(tag.as_str()));
    }
    let range = [("range", "bytes=0-0")];
    let head = files.call_with(Method::HEAD, "/content?path=f", &range, "").await;
    assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, Some("10")));
}

#[tokio::test]
async fn no_path_leaves_the_volume_and_no_link_is_followed() {
    let files = Files::start().await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    std::fs::write(files.volume.path().join("own"), "own").unwrap();
    let link = |target: &std::path::Path, name: &str| {
        std::os::unix::fs::symlink(target, files.volume.path().join(name)).unwrap();
    };
    link(outside.path(), "folder");
    link(&outside.path().join("secret"), "file");
    link(std::path::Path::new("own"), "inner");
    for path in [
        "/etc/passwd",
        "../secret",
        "a/../../secret",
        "..%2Fsecret",
        "a//b",
        "%00",
        ".cial-uploads/x",
    ] {
        let refused = files.call(Method::GET, &format!("/content?path={path}"), "").await;
        assert_eq!(code(&refused), "invalid_query", "{path}");
    }
    let pipe = files.volume.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o666), 0)
        .unwrap();
    for path in ["folder/secret", "file", "inner", "pipe"] {
        let refused = files.call(Method::GET, &format!("/content?path={path}"), "").await;
        assert_eq!(code(&refused), "file_conflict", "{path}");
    }
    let moved = json!({ "from": "own", "to": "folder/stolen" }).to_string();
    assert_eq!(code(&files.call(Method::POST, "/move", moved).await), "file_conflict");
    assert!(!outside.path().join("stolen").exists());
    let unread = json!({ "from": "../x", "to": "y" }).to_string();
    assert_eq!(code(&files.call(Method::POST, "/move", unread).await), "invalid_json");
    files.ok(Method::DELETE, "?path=file", &Value::Null).await;
    assert!(outside.path().join("secret").exists(), "the link is deleted, not its target");
    let none = files.call(Method::GET, "/content?path=none", "").await;
    assert_eq!(code(&none), "resource_not_found");
}

#[tokio::test]
async fn a_folder_of_any_size_is_read_page_by_page() {
    let files = Files::start().await;
    for number in 0..450 {
        std::fs::write(files.volume.path().join(format!("{number:03}")), "").unwrap();
    }
    std::fs::write(files.volume.path().join("back\\slash"), "").unwrap();
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let list = files.ok(Method::GET, &format!("?limit=9999&after={after}"), &Value::Null).await;
        let page = list["items"].as_array().unwrap();
        names.extend(page.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        let Some(next) = list["next"].as_str() else { break };
        after = next.to_owned();
    }
    let expected: Vec<_> = (0..450).map(|number| format!("{number:03}")).collect();
    assert_eq!(names, expected, "a name that no path can hold is left out");
}

/// A server that a program of the app took over.
async fn replies(reply: &'static [u8], file: Option<std::fs::File>) -> TestResponse {
    let core = Core::start(&[("sso-key", &KEY)]);
    let listener = listen(&core);
    std::thread::spawn(move || {
        use std::io::Read as _;
        use std::os::fd::AsFd as _;
        while let Ok((mut stream, _)) = listener.accept() {
            // With bytes that nobody read, the end would be a reset.
            stream.read_to_end(&mut Vec::new()).unwrap();
            let fds: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds));
            }
            let reply = [std::io::IoSlice::new(reply)];
            let flags = rustix::net::SendFlags::NOSIGNAL;
            let _ = rustix::net::sendmsg(&stream, &reply, &mut control, flags);
        }
    });
    let cookie = sign_in(&core, "viewer").await;
    let headers = [("cookie", cookie.as_str()), AT_CORE];
    core.ask(Method::GET, "/v1/files/content?path=a", &headers).await
}

#[tokio::test]
async fn a_file_server_that_a_program_took_over_is_not_believed() {
    const OPENED: &[u8] = br#"{"reply":"opened"}"#;
    let open = |path: &str| Some(std::fs::File::open(path).unwrap());
    let (pipe, _writer) = std::io::pipe().unwrap();
    let pipe = std::fs::File::from(std::os::fd::OwnedFd::from(pipe));
    for (what, reply, file) in [
        ("a file of the kernel", OPENED, open("/proc/self/environ")),
        ("a folder", OPENED, open("/tmp")),
        ("a device", OPENED, open("/dev/zero")),
        ("a pipe", OPENED, Some(pipe)),
        ("nothing", OPENED, None),
        ("another reply", br#"{"reply":"done"}"#, None),
        ("no JSON", b"opened", None),
        ("silence", b"", None),
        ("too much", &[b' '; 300 << 10], None),
    ] {
        let refused = replies(reply, file).await;
        assert_eq!(code(&refused), "files_unavailable", "{what}");
    }
    let own = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(own.path(), "own").unwrap();
    let served = replies(OPENED, Some(own.reopen().unwrap())).await;
    assert_eq!(served.body(), "own", "a file of the volume is what it may hand over");
}

#[tokio::test]
async fn the_share_of_the_disk_is_shown_as_it_is_now() {
    let files = Files::start().await;
    let space = async || files.ok(Method::GET, "", &Value::Null).await["space"].clone();
    let unknown = space().await;
    assert_eq!((&unknown["limit_bytes"], &unknown["used_bytes"]), (&Value::Null, &Value::Null));
    assert!(unknown["available_bytes"].as_u64() > Some(0));
    let share = files.core.dir.path().join("disk-share.json");
    for (used, available) in [(300, 700), (1_200, 0)] {
        std::fs::write(&share, json!({ "limit_bytes": 1_000, "used_bytes": used }).to_string())
            .unwrap();
        let expected =
            json!({ "limit_bytes": 1_000, "used_bytes": used, "available_bytes": available });
        assert_eq!(space().await, expected);
    }
}

#[tokio::test]
async fn without_a_file_server_the_calls_say_so() {
    let core = Core::start(&[("sso-key", &KEY)]);
    let cookie = sign_in(&core, "member").await;
    let headers = [("cookie", cookie.as_str()), AT_CORE];
    let refused = core.ask(Method::GET, "/v1/files", &headers).await;
    assert_eq!(code(&refused), "files_unavailable");
}
