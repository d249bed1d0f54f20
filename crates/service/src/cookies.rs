//! Reads `Cookie` headers as bytes, pair by pair (RFC 6265 §5.4). A pair that is not UTF-8 must not hide the others.

/// Returns the value of the cookie `name` in the `lines` of all `Cookie` headers, or `None` when two pairs disagree: one
/// of them was planted.
pub fn find<'a>(lines: impl IntoIterator<Item = &'a [u8]>, name: &str) -> Option<&'a str> {
    let mut values = all(lines, name);
    let first = values.next()?;
    values.all(|other| other == first).then_some(first)
}

/// Returns every value of the cookie `name`, in order.
pub fn all<'a>(
    lines: impl IntoIterator<Item = &'a [u8]>,
    name: &str,
) -> impl Iterator<Item = &'a str> {
    let pairs = lines.into_iter().flat_map(|line| line.split(is_end));
    pairs.filter_map(move |pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (pair_name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        // A browser sends our own values as they were set: ASCII.
        (pair_name == name.as_bytes()).then(|| std::str::from_utf8(value).ok())?
    })
}

fn is_end(byte: &u8) -> bool {
    *byte == b';'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_cookies_of_any_bytes_do_not_hide_the_session() {
        for lines in [
            &[b"s=T".as_slice()][..],
            &["a=é; s=T".as_bytes()],
            &[b"a=\xe9; s=T"],
            &[b"s=T; a=\xff"],
            &[b"\xff=1", b" s = T "],
            &[b"a; ;=x; s=T;"],
            &[b"s=T", b"s=T"],
            &[b"S=other; xs=other; s=T"],
        ] {
            assert_eq!(find(lines.iter().copied(), "s"), Some("T"), "{lines:?}");
        }
    }

    #[test]
    fn two_different_values_are_no_value_and_both_are_listed() {
        let planted = [b"s=A; s=B".as_slice()];
        assert_eq!(find(planted, "s"), None);
        assert_eq!(all(planted, "s").collect::<Vec<_>>(), ["A", "B"]);
        assert_eq!(find([b"a=1".as_slice()], "s"), None);
        assert_eq!(find([], "s"), None);
    }
}
