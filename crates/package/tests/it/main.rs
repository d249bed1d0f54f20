//! Archives as tools and attackers make them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::Write as _;

use bzip2::Compression;
use bzip2::write::BzEncoder;
use package::{Fault, MAX_BYTES, Package, read, read_tar};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use tar::{Builder, EntryType, Header};

const DESCRIPTION: &str = r#"
name = "acme-etl"
version = "1.2.0"
about = "Fetches and adds up"

[[workflow]]
name = "nightly"

[[workflow.task]]
name = "sum"
command = ["bin/sum"]
after = ["fetch"]

[[workflow.task]]
name = "fetch"
command = ["bin/fetch", "--all"]
inputs = ["day"]
retries = 2
timeout_seconds = 60
"#;

/// An entry: path, type, mode, contents.
type Entry<'a> = (&'a str, EntryType, u32, &'a [u8]);

fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, kind, mode, contents) in entries {
        let mut header = Header::new_ustar();
        // Not `set_path`, which refuses what a test wants in.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_size(contents.len().try_into().unwrap());
        if kind.is_symlink() || kind.is_hard_link() {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        builder.append(&header, *contents).unwrap();
    }
    builder.into_inner().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = BzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

const FILE: EntryType = EntryType::Regular;
const FOLDER: EntryType = EntryType::Directory;

fn with(more: &[Entry<'_>]) -> Vec<u8> {
    let mut entries = vec![
        ("acme-etl-1.2.0/", FOLDER, 0o755, &b""[..]),
        ("acme-etl-1.2.0/package.toml", FILE, 0o644, DESCRIPTION.as_bytes()),
        ("acme-etl-1.2.0/bin/fetch", FILE, 0o755, b"#!/bin/sh\n"),
        ("acme-etl-1.2.0/bin/sum", FILE, 0o755, b"#!/bin/sh\n"),
    ];
    entries.extend_from_slice(more);
    tar(&entries)
}

fn described(description: &str) -> Result<Package, Fault> {
    read_tar(&*tar(&[
        ("acme-etl-1.2.0/package.toml", FILE, 0o644, description.as_bytes()),
        ("acme-etl-1.2.0/bin/sum", FILE, 0o755, b""),
        ("acme-etl-1.2.0/README", FILE, 0o644, b""),
    ]))
}

#[test]
fn a_package_is_read_from_both_compressions() {
    let tar = with(&[("acme-etl-1.2.0/data/a", FILE, 0o644, &[7; 100_000])]);
    let package = read(&bzip2(&tar)).unwrap();
    assert_eq!(read(&zstd(&tar)).unwrap(), package);
    assert_eq!(package.folder(), "acme-etl-1.2.0");
    let [nightly] = package.workflows.as_slice() else { panic!("{package:?}") };
    let order: Vec<_> = nightly.in_order().iter().map(|task| task.name.as_str()).collect();
    assert_eq!((order.as_slice(), nightly.inputs()), (&["fetch", "sum"][..], vec!["day"]));
    let fetch = nightly.in_order()[0];
    assert_eq!((fetch.retries, fetch.timeout_seconds), (2, 60));
    assert_eq!(nightly.in_order()[1].timeout_seconds, 3_600);
}

#[test]
fn entries_that_must_not_be_unpacked_are_refused() {
    let table: &[(&[Entry<'_>], &str)] = &[
        (&[("../escape", FILE, 0o644, b"")], "has an empty part, . or .. in its path"),
        (
            &[("acme-etl-1.2.0/../../escape", FILE, 0o644, b"")],
            "has an empty part, . or .. in its path",
        ),
        (&[("/etc/passwd", FILE, 0o644, b"")], "has an absolute path"),
        (&[("acme-etl-1.2.0//a", FILE, 0o644, b"")], "has an empty part, . or .. in its path"),
        (
            &[("acme-etl-1.2.0/a\\b", FILE, 0o644, b"")],
            "has a control character or a backslash in its path",
        ),
        (
            &[("acme-etl-1.2.0/a\nb", FILE, 0o644, b"")],
            "has a control character or a backslash in its path",
        ),
        (&[("acme-etl-1.2.0/l", EntryType::Symlink, 0o777, b"")], "is neither a file nor a folder"),
        (&[("acme-etl-1.2.0/l", EntryType::Link, 0o777, b"")], "is neither a file nor a folder"),
        (&[("acme-etl-1.2.0/f", EntryType::Fifo, 0o644, b"")], "is neither a file nor a folder"),
        (&[("acme-etl-1.2.0/c", EntryType::Char, 0o644, b"")], "is neither a file nor a folder"),
        (&[("acme-etl-1.2.0/bin/sum", FILE, 0o755, b"again")], "is in the archive twice"),
        (&[("acme-etl-1.2.0/bin/sum", FOLDER, 0o755, b"")], "is in the archive twice"),
        (&[("acme-etl-1.2.0/bin/sum/x", FILE, 0o755, b"")], "is below a file"),
        (&[("other/x", FILE, 0o755, b"")], "is not below the one folder of the package"),
        (&[("x", FILE, 0o755, b"")], "is not below the one folder of the package"),
    ];
    for (entries, expected) in table {
        match read(&bzip2(&with(entries))) {
            Err(Fault::Unsafe { rule, .. }) => assert_eq!(rule, *expected, "{entries:?}"),
            other => panic!("{entries:?}: {other:?}"),
        }
    }
    let long = format!("acme-etl-1.2.0/{}", "a/".repeat(32));
    let outcome = read_tar(&*with(&[(&long, FOLDER, 0o755, b"")]));
    assert!(matches!(outcome, Err(Fault::Unsafe { .. })), "{outcome:?}");
}

#[test]
fn a_repeated_folder_and_a_leading_dot_are_harmless() {
    let more: &[Entry<'_>] =
        &[("acme-etl-1.2.0/", FOLDER, 0o755, b""), ("./acme-etl-1.2.0/data", FILE, 0o644, b"x")];
    assert!(read_tar(&*with(more)).is_ok());
}

#[test]
fn bytes_that_are_no_archive_are_refused() {
    assert_eq!(read(b""), Err(Fault::Empty));
    assert_eq!(read(b"PK\x03\x04"), Err(Fault::NotCompressed));
    assert_eq!(read(&with(&[])), Err(Fault::NotCompressed));
    assert_eq!(read(&bzip2(&tar(&[]))), Err(Fault::Empty));
    for header in [&b"BZh9"[..], &[0x28, 0xb5, 0x2f, 0xfd]] {
        assert!(matches!(read(header), Err(Fault::Corrupt(_))), "{header:?}");
    }
    assert!(matches!(read(&vec![b'B'; MAX_BYTES + 1]), Err(Fault::TooLarge(_))));
}

#[test]
fn an_archive_that_is_cut_off_anywhere_is_refused() {
    let tar = with(&[]);
    for whole in [bzip2(&tar), zstd(&tar)] {
        assert!(read(&whole).is_ok());
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_err(), "{end} of {}", whole.len());
        }
    }
}

#[test]
fn a_bomb_is_refused_without_its_size_in_memory() {
    struct Zeros(u64);
    impl std::io::Read for Zeros {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let length = buffer.len().min(usize::try_from(self.0).unwrap());
            buffer[..length].fill(0);
            self.0 -= u64::try_from(length).unwrap();
            Ok(length)
        }
    }
    let mut header = Header::new_ustar();
    header.set_path("acme-etl-1.2.0/zeros").unwrap();
    header.set_mode(0o644);
    header.set_size(1 << 40);
    header.set_cksum();
    let bomb = std::io::Read::chain(&header.as_bytes()[..], Zeros(1 << 40));
    assert!(matches!(read_tar(bomb), Err(Fault::TooLarge(_))));
    let many: Vec<_> = (0..10_001).map(|n| format!("acme-etl-1.2.0/{n}")).collect();
    let many: Vec<_> = many.iter().map(|path| (path.as_str(), FILE, 0o644, &b""[..])).collect();
    assert!(matches!(read_tar(&*tar(&many)), Err(Fault::TooLarge(_))));
}

#[test]
fn each_fault_of_a_description_names_its_field_and_the_rule() {
    let task = "[[workflow.task]]\nname = \"a\"\ncommand = [\"bin/sum\"]\n";
    let head = "name = \"acme-etl\"\nversion = \"1.2.0\"\n[[workflow]]\nname = \"w\"\n";
    let table = [
        String::new(),
        "name = 1".to_owned(),
        format!("{}{task}", head.replacen("acme-etl", "other", 1)),
        format!("{head}{task}schedule = \"* * * * *\"\n"),
        format!("{head}{task}retries = 11\ntimeout_seconds = 0\n"),
        format!("{head}{task}inputs = [\"Day\"]\n"),
        format!("{head}{task}after = [\"b\"]\n"),
        format!("{head}{task}after = [\"a\"]\n"),
        format!("{head}{task}{task}"),
        format!("{head}[[workflow.task]]\nname = \"a\"\ncommand = [\"README\"]\n"),
        format!("{head}[[workflow.task]]\nname = \"a\"\ncommand = [\"/bin/sh\", \"-c\", \"id\"]\n"),
        format!("{head}[workflow.task]\nname = \"a\"\n"),
        "a = [".to_owned(),
    ];
    let faults: Vec<_> = table
        .iter()
        .map(|text| match described(text) {
            Err(Fault::Invalid(fields)) => {
                let lines: Vec<_> =
                    fields.iter().map(|fault| format!("{} {}", fault.field, fault.rule)).collect();
                lines.join("\n")
            }
            other => panic!("{text}: {other:?}"),
        })
        .collect();
    insta::assert_snapshot!(faults.join("\n\n"));
    let without = read_tar(&*tar(&[("acme-etl-1.2.0/a", FILE, 0o644, b"")]));
    assert!(matches!(without, Err(Fault::Invalid(_))), "{without:?}");
}
