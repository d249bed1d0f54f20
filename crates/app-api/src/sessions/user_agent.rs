//! A device in a few words, from the `User-Agent` header, so that people recognise their own sessions.

/// The most bytes of the header that are stored.
pub const MAX_BYTES: usize = 256;

/// Order matters: Edge and Opera also name Chrome, and Chrome also names Safari.
const BROWSERS: [(&str, &str); 9] = [
    ("Edg/", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("CriOS/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
    ("cial/", "cial"),
];
/// Order matters: Android also names Linux, and iPhones also name Mac OS X.
const SYSTEMS: [(&str, &str); 7] = [
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("CrOS", "ChromeOS"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
];

/// Returns a summary like "Firefox on Linux".
pub fn summarize(user_agent: &str) -> String {
    let find = |table: &[(&str, &'static str)]| {
        table.iter().find(|(part, _)| user_agent.contains(part)).map(|(_, name)| *name)
    };
    match (find(&BROWSERS), find(&SYSTEMS)) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(name), None) | (None, Some(name)) => name.to_owned(),
        (None, None) => "Unknown device".to_owned(),
    }
}

/// The header's value as it is stored: visible ASCII, cut to [`MAX_BYTES`].
pub fn stored(header: Option<&str>) -> String {
    let visible = header.unwrap_or_default().chars().filter(|c| matches!(c, ' '..='~'));
    visible.take(MAX_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_devices_are_named() {
        for (header, expected) in [
            (
                "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
                "Firefox on Linux",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0",
                "Edge on Windows",
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
                "Chrome on macOS",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
                "Safari on iPhone",
            ),
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36",
                "Chrome on Android",
            ),
            ("curl/8.5.0", "curl"),
            ("Linux", "Linux"),
            ("", "Unknown device"),
        ] {
            assert_eq!(summarize(header), expected, "{header}");
        }
    }

    #[test]
    fn a_stored_header_is_short_and_plain() {
        assert_eq!(stored(None), "");
        assert_eq!(stored(Some("a\u{202e}b\nc")), "abc");
        assert_eq!(stored(Some(&"x".repeat(1_000))).len(), MAX_BYTES);
    }
}
