//! Requests and their only meaning. `HOST` stands for a host that the front serves.

pub(crate) struct Case {
    pub(crate) text: String,
    pub(crate) means: Means,
}

pub(crate) enum Means {
    /// No request: the front responds with this status and closes, and the upstream reads nothing.
    Refused(u16),
    /// No request: the body breaks its framing. A part of the request may have reached the
    /// upstream.
    Breaks,
    /// No request: the input ends inside a body, which includes the bytes that follow.
    Short,
    /// These requests (method, target, body), and whether the connection continues behind them.
    Requests(&'static [(&'static str, &'static str, &'static str)], bool),
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
const NONE: &str = "0\r\n\r\n";

fn get(lines: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: HOST\r\n{lines}\r\n")
}

fn post(lines: &str, body: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: HOST\r\n{lines}\r\n{body}")
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |means: fn() -> Means, texts: Vec<String>| {
        cases.extend(texts.into_iter().map(|text| Case { text, means: means() }));
    };
    add(|| Means::Refused(400), two_framings());
    add(|| Means::Refused(400), lengths());
    add(|| Means::Refused(400), codings());
    add(|| Means::Refused(400), lines());
    add(|| Means::Refused(400), first_lines());
    add(|| Means::Refused(400), hosts());
    add(|| Means::Refused(400), upgrades());
    add(|| Means::Refused(405), first_words(&["CONNECT HOST:443", "TRACE /a", "CONNECT /a"]));
    add(|| Means::Refused(505), versions());
    add(
        || Means::Refused(417),
        vec![
            post("Expect: 200-ok\r\nContent-Length: 2\r\n", "ab"),
            post("Expect: 100-continue, 100-continue\r\nContent-Length: 2\r\n", "ab"),
        ],
    );
    add(
        || Means::Refused(426),
        vec![get("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n")],
    );
    add(|| Means::Refused(431), vec![get(&format!("X: {}\r\n", "x".repeat(21_000)))]);
    add(|| Means::Breaks, chunks());
    add(
        || Means::Short,
        vec![
            post("Content-Length: 1000\r\n", "ab"),
            post(CHUNKED, "fff\r\nab"),
            post(CHUNKED, "7fffffffffffffff\r\nab"),
            post("Content-Length: 9223372036854775807\r\n", ""),
        ],
    );
    add(|| Means::Requests(&[("POST", "/a", "ab")], true), bodies());
    add(
        || Means::Requests(&[("POST", "/a", "")], true),
        vec![
            post("", ""),
            post("Content-Length: 0\r\n", ""),
            post(CHUNKED, NONE),
            post(CHUNKED, "00000\r\n\r\n"),
            post(CHUNKED, "0;a=b\r\nContent-Length: 50\r\nTransfer-Encoding: x\r\nHost: b\r\n\r\n"),
            post(&format!("Content-Type: a\r\n{CHUNKED}TE: trailers, chunked\r\n"), NONE),
        ],
    );
    add(|| Means::Requests(&[("GET", "/a", "")], true), plain());
    add(
        || Means::Requests(&[("GET", "/a", "GET /b HTTP/1.1\r\n\r\n")], true),
        vec![
            format!(
                "GET /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 19\r\n\r\nGET /b HTTP/1.1\r\n\r\n"
            ),
            format!(
                "GET /a HTTP/1.1\r\nHost: HOST\r\n{CHUNKED}\r\n13\r\nGET /b HTTP/1.1\r\n\r\n\r\n{NONE}"
            ),
        ],
    );
    add(
        || Means::Requests(&[("GET", "/a", ""), ("POST", "/b", "x"), ("GET", "/c", "")], true),
        vec![format!(
            "{}POST /b HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1\r\n\r\nxGET /c HTTP/1.1\r\nHost: HOST\r\n\r\n",
            get("")
        )],
    );
    add(
        || Means::Requests(&[("GET", "/a", "")], false),
        vec![
            get("Connection: close\r\n"),
            get("Connection: x, CLOSE , y\r\n"),
            get("Connection: keep-alive\r\nConnection: close\r\n"),
            "GET /a HTTP/1.0\r\nHost: HOST\r\n\r\n".to_owned(),
            "GET /a HTTP/1.0\r\nHost: HOST\r\nConnection: keep-alive, close\r\n\r\n".to_owned(),
        ],
    );
    cases
}

fn two_framings() -> Vec<String> {
    let mut all = Vec::new();
    for length in [
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "content-length:4\r\n",
        "CONTENT_LENGTH: 5\r\n",
    ] {
        all.push(post(&format!("{length}{CHUNKED}"), NONE));
        all.push(post(&format!("{CHUNKED}{length}"), NONE));
    }
    all.push(post(&format!("{CHUNKED}X: y\r\nContent-Length: 5\r\nContent-Length: 5\r\n"), NONE));
    all.push(post("Content-Length: 5\r\nTransfer-Encoding: identity\r\n", NONE));
    all.push(post("Content-Length: 5\r\nTransfer_Encoding: chunked\r\n", NONE));
    all.push(post(&format!("Connection: Transfer-Encoding\r\n{CHUNKED}"), NONE));
    all.push(post("Connection: close, Content-Length\r\nContent-Length: 5\r\n", NONE));
    all.push(format!("POST /a HTTP/1.0\r\nHost: HOST\r\n{CHUNKED}\r\n{NONE}"));
    all
}

fn lengths() -> Vec<String> {
    let mut all: Vec<_> = [
        "2, 2",
        "2,3",
        "2;",
        "+2",
        "-2",
        "-0",
        "0x2",
        "2.0",
        "2e0",
        "2 2",
        "2\t2",
        "two",
        "",
        "\"2\"",
        "2_0",
        "2\u{b}",
        "\u{a0}2",
        "٢",
        "99999999999999999999",
        "18446744073709551618",
        "2\u{0}",
    ]
    .iter()
    .map(|length| post(&format!("Content-Length: {length}\r\n"), "ab"))
    .collect();
    for lines in [
        "Content-Length: 2\r\nContent-Length: 2\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Content-Length: 2\r\ncontent-length: 0\r\n",
        "Content_Length: 2\r\n",
        "Content-Length : 2\r\n",
        "Content-Length\t: 2\r\n",
        "Content-Length\u{0}: 2\r\n",
        "Content-Length\u{b}: 2\r\n",
        " Content-Length: 2\r\n",
        "X: y\r\n Content-Length: 2\r\n",
        "Content-Length:\r\n 2\r\n",
        "X: y\nContent-Length: 2\r\n",
        "X: y\rContent-Length: 2\r\n",
        "Content-Length: 2\n",
        "Content-Length: 2\r\r\n",
    ] {
        all.push(post(lines, "ab"));
    }
    all
}

fn codings() -> Vec<String> {
    let mut all: Vec<_> = [
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "identity",
        "gzip",
        "xchunked",
        "chunkedx",
        "chunked;q=1",
        "\"chunked\"",
        "'chunked'",
        "[chunked]",
        "chun ked",
        "",
        "chunked\u{b}",
        "\u{b}chunked",
        "chunked\u{0}",
        "\u{a0}chunked",
        "ch\u{212a}unked",
        "chunked identity",
        "CHUNKED, x",
    ]
    .iter()
    .map(|coding| post(&format!("Transfer-Encoding: {coding}\r\n"), NONE))
    .collect();
    for lines in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer_Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        "Transfer-Encoding\r\n: chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding:\n chunked\r\n",
        "Transfer-Encoding: chunked\r\n , identity\r\n",
        "X: y\r\n\tTransfer-Encoding: chunked\r\n",
        "X: y\rTransfer-Encoding: chunked\r\n",
        "X: y\nTransfer-Encoding: chunked\r\n",
        "X: y\u{0}Transfer-Encoding: chunked\r\n",
        "\"Transfer-Encoding\": chunked\r\n",
        "Transfer-Encoding\u{0}: chunked\r\n",
        "\u{feff}Transfer-Encoding: chunked\r\n",
    ] {
        all.push(post(lines, NONE));
    }
    all
}

fn lines() -> Vec<String> {
    let lines = [
        "X: y\r\n folded\r\n",
        "X: y\r\n\tfolded\r\n",
        "X: y\n",
        "X: y\r\r\n",
        "X: a\rb\r\n",
        "X : y\r\n",
        "X\t: y\r\n",
        ": y\r\n",
        "no colon\r\n",
        "X(: y\r\n",
        "X y: z\r\n",
        "X\u{0}: y\r\n",
        "X: a\u{0}b\r\n",
        "X: a\u{1}b\r\n",
        "X: a\u{7f}b\r\n",
        "Ünicode: y\r\n",
        "X\"Y: z\r\n",
        "{X}: y\r\n",
        "X\\: y\r\n",
        "X;: y\r\n",
        "X=Y: z\r\n",
        "@: y\r\n",
        "X: y\r\n\r",
        "X: y\n\n",
    ];
    lines.iter().map(|lines| get(lines)).collect()
}

/// Builds requests without a body from these request lines.
fn first_words(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| format!("{line} HTTP/1.1\r\nHost: HOST\r\n\r\n")).collect()
}

fn first_lines() -> Vec<String> {
    let mut all = first_words(&[
        "GET",
        "GET ",
        "GET  /a",
        "GET /a ",
        " GET /a",
        "\tGET /a",
        "GET\t/a",
        "GET /a\t",
        "G(T /a",
        "GÉT /a",
        "/a",
        "GET /a b",
        "GET /a\u{0}b",
        "GET /a\u{1}",
        "GET /a\u{7f}",
        "GET /ü",
        "GET /a#b",
        "GET a",
        "GET *",
        "POST *",
        "GET HOST:80",
        "GET http:///a",
        "GET ftp://HOST/a",
        "GET http://u@HOST/a",
        "GET //HOST:x:y",
        "GET http://HOST\\a",
        "GET http://HOST#a",
        "GET \\a",
        "GET /a\u{b}",
    ]);
    // This target is an ordinary path.
    all.retain(|text| !text.contains("//HOST:x:y"));
    for text in [
        "GET /a\r\nHost: HOST\r\n\r\n",
        "GET /a HTTP/1.1 \r\nHost: HOST\r\n\r\n",
        "GET /a HTTP/1.1\u{0}\r\nHost: HOST\r\n\r\n",
        "GET /a http/1.1\r\nHost: HOST\r\n\r\n",
        "GET /a HTTP/1,1\r\nHost: HOST\r\n\r\n",
        "GET /a HTTP/11\r\nHost: HOST\r\n\r\n",
        "GET /a HTTP/1.10\r\nHost: HOST\r\n\r\n",
        "GET /a HTTP/ 1.1\r\nHost: HOST\r\n\r\n",
        "GET /a XTTP/1.1\r\nHost: HOST\r\n\r\n",
        "GET /a HTTP/1.1 HTTP/1.1\r\nHost: HOST\r\n\r\n",
        "GET /a HTTP/1.1\nHost: HOST\n\n",
        "GET /a HTTP/1.1\r\r\nHost: HOST\r\n\r\n",
        "GET /a HTTP/1.1\r\n Host: HOST\r\n\r\n",
        "\r\n\r\nGET /a HTTP/1.1\r\nHost: HOST\r\n\r\n",
        "\nGET /a HTTP/1.1\r\nHost: HOST\r\n\r\n",
        "\0GET /a HTTP/1.1\r\nHost: HOST\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\r\n\r\n",
    ] {
        all.push(text.to_owned());
    }
    all
}

fn versions() -> Vec<String> {
    ["GET /a HTTP/2.0", "GET /a HTTP/1.2", "GET /a HTTP/0.9", "PRI * HTTP/2.0", "GET /a HTTP/3.0"]
        .iter()
        .map(|line| format!("{line}\r\nHost: HOST\r\n\r\n"))
        .collect()
}

fn hosts() -> Vec<String> {
    let mut all = vec!["GET /a HTTP/1.1\r\nX: y\r\n\r\n".to_owned()];
    for lines in [
        "Host: HOST\r\n",
        "Host: b\r\n",
        "hOST: b\r\n",
        "Connection: Host\r\n",
        "Host : b\r\n",
        "Host:b\n",
    ] {
        all.push(get(lines));
    }
    all.push("GET /a HTTP/1.0\r\nHost: HOST\r\nHost: HOST\r\n\r\n".to_owned());
    all
}

fn upgrades() -> Vec<String> {
    let up = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    let key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    vec![
        get(up),
        get(&format!("{up}Sec-WebSocket-Key: short\r\n")),
        get(&format!("{up}{key}{key}")),
        get(&format!("{up}{key}Sec-WebSocket-Version: 13\r\n")),
        get(&format!("{up}{key}Content-Length: 2\r\n")),
        get(&format!("{up}{key}{CHUNKED}")),
        post(&format!("{up}{key}"), ""),
        format!("GET /a HTTP/1.0\r\nHost: HOST\r\n{up}{key}\r\n"),
    ]
}

fn chunks() -> Vec<String> {
    let mut all: Vec<_> = [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\r\nhell\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;\u{0}\r\nhello\r\n0\r\n\r\n",
        "5 ;a\r\nhello\r\n0\r\n\r\n",
        "5;a\n\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "00000000000000005\r\nhello\r\n0\r\n\r\n",
        "10000000000000000\r\n\r\n0\r\n\r\n",
        "g\r\n",
        "\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        ";ext\r\n",
        "\u{ff15}\r\nhello\r\n0\r\n\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\nX: y\r\r\n\r\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\n\n",
        "0\n\r\n",
        "0\r\nX: \u{0}\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "0\r\n\r",
        "2\r\r\nab\r\n0\r\n\r\n",
    ]
    .iter()
    .map(|body| post(CHUNKED, body))
    .collect();
    all.push(post(CHUNKED, &format!("5;{}\r\nhello\r\n0\r\n\r\n", "e".repeat(2_000))));
    all.push(post(CHUNKED, &format!("0\r\n{}\r\n", "X: y\r\n".repeat(2_000))));
    all
}

/// Returns requests with a body of two bytes, in every permitted form.
fn bodies() -> Vec<String> {
    vec![
        post("Content-Length: 2\r\n", "ab"),
        post("Content-Length: 002\r\n", "ab"),
        post("Content-Length:2\r\n", "ab"),
        post("Content-Length: \t 2 \t\r\n", "ab"),
        post("cONTENT-lENGTH: 2\r\n", "ab"),
        post("Expect: 100-continue\r\nContent-Length: 2\r\n", "ab"),
        post("Connection: keep-alive\r\nKeep-Alive: 5\r\nContent-Length: 2\r\n", "ab"),
        post("X-Content-Length: 5\r\nContent-Length-X: 9\r\nContent-Length: 2\r\n", "ab"),
        post(CHUNKED, "2\r\nab\r\n0\r\n\r\n"),
        post(CHUNKED, "1\r\na\r\n1\r\nb\r\n0\r\n\r\n"),
        post("tRANSFER-eNCODING: CHUNKED\r\n", "02;x=y\r\nab\r\n0\r\n\r\n"),
        post("Transfer-Encoding:\tchunked \r\n", "2;\"a\r\nab\r\n0\r\nX: y\r\n\r\n"),
        post(&format!("X-Transfer-Encoding: gzip\r\n{CHUNKED}"), "2\r\nab\r\n0\r\n\r\n"),
        post(&format!("Proxy-Connection: close\r\n{CHUNKED}"), "2\r\nab\r\n000\r\n\r\n"),
    ]
}

/// Returns requests that a front must read as one plain request.
fn plain() -> Vec<String> {
    let mut all: Vec<_> = [
        "",
        "X:\r\n",
        "X: GET /b HTTP/1.1\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        "Upgrade: websocket\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c, x\r\n",
        "Connection: x-a\r\nX-A: 1\r\n",
        "TE: trailers\r\nTrailer: X\r\n",
        "Proxy-Authorization: x\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    ]
    .iter()
    .map(|lines| get(lines))
    .collect();
    all.push(format!("\r\n{}", get("")));
    all.push("GET http://HOST/a HTTP/1.1\r\nHost: HOST\r\n\r\n".to_owned());
    all.push("GET HTTP://HOST/a HTTP/1.1\r\nhOsT:HOST\r\n\r\n".to_owned());
    // The authority of the target replaces `Host` (RFC 9112 §3.2.2).
    all.push("GET http://HOST/a HTTP/1.1\r\nHost: HOST:81\r\n\r\n".to_owned());
    all.push("GET http://HOST/a HTTP/1.1\r\nHost: HOST.\r\n\r\n".to_owned());
    all.push("GET /a HTTP/1.0\r\nHost: HOST\r\nConnection: keep-alive\r\n\r\n".to_owned());
    all
}
