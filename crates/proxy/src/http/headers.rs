//! Header lines written straight into the buffer that is sent.

use crate::Header;

/// A writer of header lines.
pub struct Headers<'a> {
    out: &'a mut Vec<u8>,
    /// The received head that is being forwarded.
    from: &'a [u8],
}

impl<'a> Headers<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, from: &[] }
    }

    pub(crate) fn passing(from: &'a [u8], out: &'a mut Vec<u8>) -> Self {
        Self { out, from }
    }

    /// Writes a header unchanged.
    pub fn keep(&mut self, header: Header<'_>) {
        match self.whole(&header) {
            Some(whole) => self.out.extend_from_slice(whole),
            None => line(self.out, header.name.as_bytes(), header.value),
        }
    }

    /// Returns the received line if the line already has the exact form in which it would be written.
    fn whole(&self, header: &Header<'_>) -> Option<&'a [u8]> {
        let (name, value) = (header.name.as_bytes(), header.value);
        let start = (name.as_ptr() as usize).wrapping_sub(self.from.as_ptr() as usize);
        let middle = start.wrapping_add(name.len());
        let end = middle.wrapping_add(2 + value.len());
        let whole = self.from.get(start..end.wrapping_add(2))?;
        // Compares addresses: an equal header from elsewhere must not select a line of this head.
        let same = value.as_ptr() as usize == name.as_ptr() as usize + name.len() + 2;
        let plain =
            whole.get(name.len()..name.len() + 2) == Some(b": ") && whole.ends_with(b"\r\n");
        (same && plain).then_some(whole)
    }

    /// Writes a header of the proxy's own. Omits values with CR, LF or NUL, which would split the message.
    pub fn add(&mut self, name: &'static str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        debug_assert!(is_token(name), "{name:?} is no header's name");
        if is_value(value) {
            line(self.out, name.as_bytes(), value);
        }
    }

    /// Like [`Headers::add`] for a name that is not a literal: also omits names that are no token.
    pub(crate) fn try_add(&mut self, name: &str, value: &[u8]) {
        if is_token(name) && is_value(value) {
            line(self.out, name.as_bytes(), value);
        }
    }
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn is_value(value: &[u8]) -> bool {
    memchr::memchr3(b'\r', b'\n', 0, value).is_none()
}

fn is_token(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_out_as_it_came_or_written_anew() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nX:y\r\nZ: b \r\nE: \r\n\r\n";
        let text = std::str::from_utf8(head).unwrap();
        let at = |name: std::ops::Range<usize>, value: std::ops::Range<usize>| Header {
            name: &text[name],
            value: &head[value],
        };
        let mut out = Vec::new();
        let mut to = Headers::passing(head, &mut out);
        to.keep(at(16..20, 22..23));
        to.keep(at(25..26, 27..28));
        to.keep(at(30..31, 33..34));
        to.keep(at(37..38, 40..40));
        to.keep(Header { name: "Host", value: b"other" });
        to.keep(Header { value: b"b", ..at(16..20, 22..23) });
        to.keep(Header { name: &text[16..20], value: &head[33..34] });
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "Host: a\r\nX: y\r\nZ: b\r\nE: \r\nHost: other\r\nHost: b\r\nHost: b\r\n"
        );
    }

    #[test]
    fn a_header_value_cannot_split_the_head() {
        let mut out = Vec::new();
        let mut headers = Headers::new(&mut out);
        headers.add("a", "1");
        headers.add("b", "1\r\nc: 2");
        headers.try_add("d\r\n", b"1");
        headers.try_add("", b"1");
        headers.try_add("f g", b"1");
        headers.try_add("e", b"1\n");
        headers.add("e", b"\0");
        assert_eq!(out, b"a: 1\r\n");
    }
}
