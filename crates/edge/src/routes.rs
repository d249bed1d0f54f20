//! Which half of the tenant a path belongs to. One pure decision, the same for every way of reading the path.

use percent_encoding::percent_decode;

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `/.cial/api` and below: core-back, prefix stripped.
    CoreApi,
    /// `/.cial/sso`: core-back, path kept.
    Sso,
    /// Anything else under `/.cial`: core-front, path kept.
    CoreFront,
    /// Anything else: platform-front.
    Platform,
}

/// Two readers of the path could disagree on whom it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ambiguous;

/// Nothing decodes more often than this; what then still changes is refused.
const DECODINGS: usize = 3;
/// Of an honest path there are a handful of readings.
const READINGS: usize = 64;

const API: &str = "/.cial/api";

/// The class of a path (without its query) that begins with `/`.
pub fn classify(path: &str) -> Result<Class, Ambiguous> {
    let class = class_of(path.as_bytes());
    // Without the prefix, core-back would take it for a path that came whole.
    if rewritten(class, path).is_some_and(|sent| class_of(sent.as_bytes()) != Class::Platform) {
        return Err(Ambiguous);
    }
    if is_plain(path) {
        return Ok(class);
    }
    match readings(path).ok_or(Ambiguous)?.iter().all(|reading| class_of(reading) == class) {
        true => Ok(class),
        false => Err(Ambiguous),
    }
}

/// Path and query as they are sent to core-back, or `None` to send what was asked.
pub fn rewritten(class: Class, target: &str) -> Option<String> {
    let rest = match class {
        Class::CoreApi => target.strip_prefix(API)?,
        Class::Sso | Class::CoreFront | Class::Platform => return None,
    };
    Some(if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") })
}

/// By whole segments, with regard to case.
fn class_of(path: &[u8]) -> Class {
    let mut segments = path.split(|b| *b == b'/');
    let root = segments.next() == Some(b"");
    match (root && segments.next() == Some(b".cial"), segments.next(), segments.next()) {
        (false, _, _) => Class::Platform,
        (true, Some(b"api"), _) => Class::CoreApi,
        (true, Some(b"sso"), None) => Class::Sso,
        (true, _, _) => Class::CoreFront,
    }
}

/// Whether nobody reads anything else into it. Nearly every path is: this keeps the hot path short.
fn is_plain(path: &str) -> bool {
    let segment = |s: &str| !matches!(s, "" | "." | "..");
    let (_, rest) = path.split_at(usize::from(path.starts_with('/')));
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    !path.bytes().any(|b| matches!(b, b'%' | b'\\' | b';' | b'?' | b'#' | 0))
        && (rest.is_empty() || rest.split('/').all(segment))
}

/// All that any chain of decoders and normalisers could make of it; `None` when that has no end or hides a NUL.
fn readings(path: &str) -> Option<Vec<Vec<u8>>> {
    let mut all = vec![path.as_bytes().to_vec()];
    let mut decoded_from = 0;
    normalise_all(&mut all, 0)?;
    for _ in 0..=DECODINGS {
        let known = all.len();
        for at in decoded_from..known {
            let decoded = percent_decode(&all[at]).collect();
            insert(&mut all, decoded)?;
        }
        if all.len() == known {
            return Some(all);
        }
        normalise_all(&mut all, known)?;
        decoded_from = known;
    }
    None
}

type Step = fn(&[u8]) -> Vec<u8>;

/// Adds what the steps make of the readings from `at` on, and of what they made.
fn normalise_all(all: &mut Vec<Vec<u8>>, mut at: usize) -> Option<()> {
    const STEPS: [Step; 5] =
        [cut_at_query, with_slashes, without_parameters, without_empty, without_dots];
    while let Some(reading) = all.get(at).cloned() {
        for step in STEPS {
            insert(all, step(&reading))?;
        }
        at += 1;
    }
    Some(())
}

fn insert(all: &mut Vec<Vec<u8>>, reading: Vec<u8>) -> Option<()> {
    if reading.contains(&0) {
        return None;
    }
    if !all.contains(&reading) {
        all.push(reading);
    }
    (all.len() <= READINGS).then_some(())
}

/// A decoded `%3f` or `%23`, to one who splits late.
fn cut_at_query(path: &[u8]) -> Vec<u8> {
    path.split(|b| matches!(b, b'?' | b'#')).next().unwrap_or_default().to_vec()
}

fn with_slashes(path: &[u8]) -> Vec<u8> {
    path.iter().map(|b| if *b == b'\\' { b'/' } else { *b }).collect()
}

/// `/a;x=1/b` is `/a/b` to a servlet.
fn without_parameters(path: &[u8]) -> Vec<u8> {
    let bare = |s: &[u8]| s.split(|b| *b == b';').next().unwrap_or_default().to_vec();
    path.split(|b| *b == b'/').map(bare).collect::<Vec<_>>().join(&b'/')
}

fn without_empty(path: &[u8]) -> Vec<u8> {
    let mut merged = Vec::with_capacity(path.len());
    for byte in path {
        if *byte != b'/' || merged.last() != Some(&b'/') {
            merged.push(*byte);
        }
    }
    merged
}

/// RFC 3986, 5.2.4.
fn without_dots(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut open = false;
    for segment in path.split(|b| *b == b'/').skip(1) {
        open = matches!(segment, b"." | b"..");
        match segment {
            b"." => {}
            b".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let mut resolved = Vec::with_capacity(path.len());
    for segment in kept {
        resolved.push(b'/');
        resolved.extend_from_slice(segment);
    }
    if open || resolved.is_empty() {
        resolved.push(b'/');
    }
    resolved
}

#[cfg(test)]
mod tests;
