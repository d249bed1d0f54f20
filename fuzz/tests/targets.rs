//! Each target over its corpus, and over bytes that are made from it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

/// About two seconds of the slowest target, unoptimised.
const CASES: u32 = 4_000;

/// An edit of a seed.
#[derive(Clone, Debug)]
enum Edit {
    Replace(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    /// Repeats the rest from here, up to this length.
    Repeat(Index, usize),
}

fn edits() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Replace(at, byte)),
        (at(), vec(any::<u8>(), 1..4)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (at(), select(&b"\r\n\t ,;:=./%0a\"{}[]"[..]))
            .prop_map(|(at, byte)| Edit::Insert(at, vec![byte])),
        (at(), 1..20_usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        (at(), 1..40_usize).prop_map(|(at, length)| Edit::Repeat(at, length)),
    ]
}

fn edited(mut bytes: Vec<u8>, edits: Vec<Edit>) -> Vec<u8> {
    for edit in edits {
        let place = |at: Index, bytes: &[u8]| at.index(bytes.len() + 1);
        match edit {
            Edit::Replace(at, byte) => {
                let at = place(at, &bytes);
                if let Some(old) = bytes.get_mut(at) {
                    *old = byte;
                }
            }
            Edit::Insert(at, new) => {
                let at = place(at, &bytes);
                bytes.splice(at..at, new);
            }
            Edit::Remove(at, length) => {
                let at = place(at, &bytes);
                bytes.drain(at..(at + length).min(bytes.len()));
            }
            Edit::Repeat(at, length) => {
                let at = place(at, &bytes);
                let again = bytes[at..(at + length).min(bytes.len())].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
    bytes
}

fn run(name: &str) {
    let (_, target) = fuzz::TARGETS.into_iter().find(|(known, _)| *known == name).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let seeds: Vec<_> = files.map(|file| std::fs::read(file).unwrap()).collect();
    seeds.iter().for_each(|seed| target(seed));
    let near_a_seed =
        (select(seeds), vec(edits(), 0..6)).prop_map(|(seed, edits)| edited(seed, edits)).boxed();
    let bytes = prop_oneof![8 => near_a_seed, 1 => vec(any::<u8>(), 0..60)];
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&bytes, |bytes| {
        target(&bytes);
        Ok(())
    });
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}

#[test]
fn head() {
    run("head");
}

#[test]
fn chunks() {
    run("chunks");
}

#[test]
fn host() {
    run("host");
}

#[test]
fn path() {
    run("path");
}

#[test]
fn token() {
    run("token");
}

#[test]
fn settings() {
    run("settings");
}

#[test]
fn watch() {
    run("watch");
}

#[test]
fn manifest() {
    run("manifest");
}

#[test]
fn package() {
    run("package");
}

#[test]
fn tenant_archive() {
    run("tenant-archive");
}
