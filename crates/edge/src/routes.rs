//! Maps a path to the service that serves it. A pure function with the same result for every interpretation of a path.

use percent_encoding::percent_decode;

/// The service that serves a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `/.cial/api` and below: core-back, prefix stripped.
    CoreApi,
    /// `/.cial/sign-in`, `/.cial/sso` and `/.cial/sign-out`: core-back, path kept.
    SignIn,
    /// Anything else under `/.cial`: core-front, path kept.
    CoreFront,
    /// Anything else: platform-front.
    Platform,
}

/// Two parsers could map the path to different services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ambiguous;

/// The number of decodings that are examined; a path that still changes is refused.
pub(crate) const MAX_DECODINGS: usize = 3;
/// The most interpretations of one path; ordinary paths have a handful.
const MAX_READINGS: usize = 64;

const API: &str = "/.cial/api";

/// Returns the class of a path (without its query) that begins with `/`.
///
/// # Errors
/// Fails when two parsers could map the path to different services.
pub fn classify(path: &str) -> Result<Class, Ambiguous> {
    let class = class_of(path.as_bytes());
    // core-back would take a rewritten path with the prefix for a path that arrived unstripped.
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

/// Returns path and query as sent to core-back, or `None` to send the received target.
pub fn rewritten(class: Class, target: &str) -> Option<String> {
    let rest = match class {
        Class::CoreApi => target.strip_prefix(API)?,
        Class::SignIn | Class::CoreFront | Class::Platform => return None,
    };
    Some(if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") })
}

/// Compares whole segments, with regard to case.
fn class_of(path: &[u8]) -> Class {
    let mut segments = path.split(|b| *b == b'/');
    let root = segments.next() == Some(b"");
    match (root && segments.next() == Some(b".cial"), segments.next(), segments.next()) {
        (false, _, _) => Class::Platform,
        (true, Some(b"api"), _) => Class::CoreApi,
        (true, Some(b"sign-in" | b"sso" | b"sign-out"), None) => Class::SignIn,
        (true, _, _) => Class::CoreFront,
    }
}

/// Whether the path has a single interpretation. Nearly every path has one, which keeps the hot path short.
pub(crate) fn is_plain(path: &str) -> bool {
    let segment = |s: &str| !matches!(s, "" | "." | "..");
    let (_, rest) = path.split_at(usize::from(path.starts_with('/')));
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    !path.bytes().any(|b| matches!(b, b'%' | b'\\' | b';' | b'?' | b'#' | 0))
        && (rest.is_empty() || rest.split('/').all(segment))
}

/// All results of any chain of decoders and normalisers; `None` when there are too many, or one contains NUL.
fn readings(path: &str) -> Option<Vec<Vec<u8>>> {
    let mut all = vec![path.as_bytes().to_vec()];
    let mut decoded_from = 0;
    normalise_all(&mut all, 0)?;
    for _ in 0..=MAX_DECODINGS {
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

/// Adds the results of all steps on the readings from `at` on, transitively.
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
    (all.len() <= MAX_READINGS).then_some(())
}

/// A server that splits the query after decoding cuts at a decoded `%3f` or `%23`.
fn cut_at_query(path: &[u8]) -> Vec<u8> {
    path.split(|b| matches!(b, b'?' | b'#')).next().unwrap_or_default().to_vec()
}

fn with_slashes(path: &[u8]) -> Vec<u8> {
    path.iter().map(|b| if *b == b'\\' { b'/' } else { *b }).collect()
}

/// Servlet containers read `/a;x=1/b` as `/a/b`.
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

/// RFC 3986, section 5.2.4.
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

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod readers;
#[cfg(test)]
mod tests;
