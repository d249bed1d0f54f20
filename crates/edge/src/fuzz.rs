//! An entry point of the package `fuzz` into the choice of the service.

use crate::routes::readers::{Reader, is_api, is_core};
use crate::routes::{Class, MAX_DECODINGS, classify, rewritten};

/// The most readers behind one another.
const MAX_READERS: usize = 6;

/// Classifies a path, then reads it as a chain of other servers does. The bytes name the readers first: each is the
/// next one of the list modulo its length, up to a byte `/`.
///
/// # Panics
/// A chain of readers finds a path of another service than the class.
pub fn path(bytes: &[u8]) {
    let start = bytes.iter().position(|byte| *byte == b'/').unwrap_or(bytes.len());
    let (chain, path) = bytes.split_at(start);
    // The proxy engine refuses every other byte before.
    if path.is_empty() || !path.iter().all(u8::is_ascii_graphic) {
        return;
    }
    let path = String::from_utf8_lossy(path);
    let Ok(class) = classify(&path) else { return };
    assert!(rewritten(class, &path).is_none_or(|sent| sent.starts_with('/')), "{path}");
    let (mut read, mut decodings) = (path.to_string(), 0);
    for byte in chain.iter().take(MAX_READERS) {
        let reader = Reader::ALL[usize::from(*byte) % Reader::ALL.len()];
        decodings += usize::from(matches!(reader, Reader::Decode));
        if decodings <= MAX_DECODINGS {
            read = reader.read(&read);
        }
        assert_eq!(class != Class::Platform, is_core(&read), "{path} as {read}");
        assert_eq!(class == Class::CoreApi, is_api(&read), "{path} as {read}");
    }
}
