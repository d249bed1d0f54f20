use proptest::prelude::*;

use super::*;
use crate::{DatabaseFacts, Exporter, FORMAT, TenantFacts};

fn manifest() -> Manifest {
    Manifest {
        format: FORMAT,
        version: "0.1.0".to_owned(),
        exported_at: "2026-11-30T12:00:00Z".parse().unwrap(),
        tenant: TenantFacts {
            id: "0192f0c1-2345-7abc-8def-0123456789ab".parse().unwrap(),
            slug: "acme".parse().unwrap(),
            name: "Acme".to_owned(),
            limits: protocol::spec::Limits::default(),
            policy: protocol::spec::Policy::default(),
            app: None,
            release: None,
            variables: vec!["COLOR".to_owned()],
            secrets: vec!["TOKEN".to_owned()],
        },
        database: Some(DatabaseFacts { schema: "t_acme".to_owned(), user: "t_acme".to_owned() }),
    }
}

fn file(path: &str, size: usize) -> Entry {
    let path = path.as_bytes().to_vec();
    let id = if path.starts_with(b"data") { 1000 } else { 1001 };
    Entry { path, kind: Kind::File, mode: 0o640, uid: id, gid: id, size: size as u64, mtime: 7 }
}

fn folder(path: &str) -> Entry {
    let mode = if path == "data" { 0o700 } else { 0o750 };
    Entry { kind: Kind::Folder, mode, ..file(path, 0) }
}

fn raw(entry: &Entry, content: &[u8]) -> Vec<u8> {
    let mut bytes = entry.header();
    bytes.extend(content);
    bytes.resize(bytes.len() + padding_after(content.len() as u64), 0);
    bytes
}

/// Two tars, one after the other, as the engine gives them.
fn engine_tar() -> Vec<u8> {
    let mut tar = raw(&Entry { mode: 0o40755, ..folder("data") }, b"");
    tar.extend(raw(&file("data/assertion-key.der", 6), b"secret"));
    tar.extend(raw(&file("data/assertion-key.der.new", 6), b"secret"));
    tar.extend(raw(&Entry { mode: 0o100_644, ..file("data/history.db", 3) }, b"sql"));
    tar.extend(raw(&file("data/sessions.json", 6), b"secret"));
    tar.extend(END);
    tar.extend(raw(&Entry { mode: 0o42777, ..folder("files") }, b""));
    tar.extend(raw(&Entry { mode: 0o6755, ..file("files/tool", 600) }, &[5; 600]));
    tar.extend(raw(&Entry { kind: Kind::Other, ..file("files/pipe", 0) }, b""));
    let second_pipe = Kind::HardLink(b"files/pipe".to_vec());
    tar.extend(raw(&Entry { kind: second_pipe, ..file("files/pipe2", 0) }, b""));
    tar.extend(raw(
        &Entry { kind: Kind::HardLink(b"files/tool".to_vec()), ..file("files/same", 0) },
        b"",
    ));
    tar.extend(END);
    tar
}

fn export() -> Vec<u8> {
    let mut exporter = Exporter::new(&manifest()).unwrap();
    for piece in engine_tar().chunks(777) {
        exporter.push_volumes(piece).unwrap();
    }
    exporter.end_volumes().unwrap();
    exporter.push_sql(b"SELECT 1;").unwrap();
    exporter.finish().unwrap();
    exporter.take()
}

fn import(tar: &[u8], step: usize, limit: u64) -> Result<Vec<Part>, Fault> {
    let mut importer = Importer::new();
    importer.limit(limit);
    let mut parts = Vec::new();
    for chunk in tar.chunks(step) {
        importer.push(chunk);
        while let Some(part) = importer.next_part()? {
            parts.push(part);
        }
    }
    importer.finish()?;
    Ok(parts)
}

fn refusal(tar: &[u8]) -> String {
    import(tar, 1_000, u64::MAX).unwrap_err().to_string()
}

fn volumes(parts: &[Part]) -> Vec<u8> {
    let bytes = parts.iter().filter_map(|part| match part {
        Part::Volumes(bytes) => Some(bytes.to_vec()),
        Part::Manifest(_) | Part::Sql(_) => None,
    });
    bytes.collect::<Vec<_>>().concat()
}

#[test]
fn an_export_is_imported_without_what_belongs_to_the_first_tenant_alone() {
    for step in [1, 511, 512, 4_096, usize::MAX] {
        let tar = export();
        let parts = import(&tar, step.min(tar.len()), u64::MAX).unwrap();
        assert_eq!(parts[0], Part::Manifest(Box::new(manifest())));
        assert_eq!(parts.last(), Some(&Part::Sql(b"SELECT 1;".to_vec())));
        let expected = [
            raw(&folder("data"), b""),
            raw(&file("data/history.db", 3), b"sql"),
            raw(&folder("files"), b""),
            raw(&Entry { mode: 0o755, ..file("files/tool", 600) }, &[5; 600]),
            raw(
                &Entry { kind: Kind::HardLink(b"files/tool".to_vec()), ..file("files/same", 0) },
                b"",
            ),
        ];
        assert_eq!(volumes(&parts), expected.concat());
    }
}

/// Other tools read the archive, too.
#[test]
fn an_export_is_an_ordinary_tar() {
    let tar = export();
    let mut archive = tar::Archive::new(tar.as_slice());
    let names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| String::from_utf8(entry.unwrap().path_bytes().into_owned()).unwrap())
        .collect();
    insta::assert_snapshot!(names.join("\n"), @r"
    manifest.json
    data/
    data/history.db
    files/
    files/tool
    files/same
    database/schema-001.sql
    checksums.json
    ");
}

proptest! {
    #[test]
    fn a_cut_archive_is_refused(at in 0_usize..export().len() - 2 * 512) {
        prop_assert!(import(&export()[..at], 700, u64::MAX).is_err());
    }

    #[test]
    fn a_changed_byte_is_noticed(at in 0_usize..export().len() - 2 * 512, bit in 0_u32..8) {
        let mut tar = export();
        tar[at] ^= 1 << bit;
        // Only the padding after content may differ: it is not read.
        if let Ok(parts) = import(&tar, 700, u64::MAX) {
            prop_assert_eq!(parts, import(&export(), 700, u64::MAX).unwrap());
        }
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        prop_assert!(import(&bytes, 700, u64::MAX).is_err());
    }
}

#[test]
fn a_later_format_is_refused_with_its_number() {
    let later = br#"{"format":7,"something":"new"}"#;
    let tar = raw(&Entry::own_file(MANIFEST, later.len()), later);
    assert_eq!(
        refusal(&tar),
        "The archive has format 7; this server knows formats up to 2. Upgrade the server."
    );
}

#[test]
fn the_size_of_the_volumes_is_bounded() {
    // Five entries, two of them with content.
    let whole = 5 * 512 + 2 * 4_096;
    let parts = import(&export(), 512, whole).unwrap();
    assert!(!parts.is_empty());
    let refused = import(&export(), 512, whole - 1);
    assert_eq!(refused, Err(Fault::TooLarge { limit_bytes: whole - 1 }));
    // The header alone is enough.
    let mut bomb = raw(&folder("data"), b"");
    bomb.extend(file("data/x", usize::MAX >> 1).header());
    let manifest = serde_json::to_vec(&manifest()).unwrap();
    let tar = [raw(&Entry::own_file(MANIFEST, manifest.len()), &manifest), bomb].concat();
    assert_eq!(import(&tar, 512, 10 << 30), Err(Fault::TooLarge { limit_bytes: 10 << 30 }));
}

/// Such a file takes nothing of the tenant's disk, and the engine would send it for years.
#[test]
fn an_export_ends_at_a_file_that_is_larger_than_any_disk() {
    let mut exporter = Exporter::new(&manifest()).unwrap();
    exporter.limit(1_000);
    exporter.push_volumes(&raw(&folder("data"), b"")).unwrap();
    exporter.push_volumes(&raw(&folder("files"), b"")).unwrap();
    exporter.push_volumes(&raw(&file("files/small", 1_000), &[1; 1_000])).unwrap();
    let refused = exporter.push_volumes(&file("files/huge", usize::MAX >> 1).header());
    assert!(matches!(
        refused,
        Err(Fault::TooLargeToExport { entry, limit_bytes: 1_000 }) if entry == "files/huge"
    ));
}

#[test]
fn archives_that_are_no_exports_are_refused() {
    let json = serde_json::to_vec(&manifest()).unwrap();
    let first = raw(&Entry::own_file(MANIFEST, json.len()), &json);
    let json = serde_json::to_vec(&Manifest { database: None, ..manifest() }).unwrap();
    let without = raw(&Entry::own_file(MANIFEST, json.len()), &json);
    let both = [raw(&folder("data"), b""), raw(&folder("files"), b"")].concat();
    let sums = raw(&Entry::own_file(CHECKSUMS, 2), b"{}");
    let wrong = br#"{"sha256":"00","entries":3}"#;
    let wrong = raw(&Entry::own_file(CHECKSUMS, wrong.len()), wrong);
    let own = |path: &str| raw(&Entry::own_file(path, 1), b"x");
    let sql = |path: &str| raw(&Entry::own_file(path, 1), b";");
    let huge = Entry::own_file("database/schema-001.sql", DATABASE_FILE_BYTES + 1).header();
    let foreign = Entry { uid: 1001, ..Entry::own_file("database/schema-001.sql", 1) };
    let linked = Entry { kind: Kind::Symlink(b"x".to_vec()), ..Entry::own_file(MANIFEST, 0) };
    let root = Entry { uid: 0, ..file("files/x", 0) };
    let archives = [
        Vec::new(),
        raw(&folder("data"), b""),
        raw(&linked, b""),
        own(MANIFEST),
        [first.clone(), first.clone()].concat(),
        [first.clone(), sums.clone()].concat(),
        [first.clone(), both.clone(), wrong.clone()].concat(),
        [without.clone(), both.clone(), wrong.clone()].concat(),
        [without.clone(), both.clone(), sums].concat(),
        [first.clone(), both.clone(), own("database/x")].concat(),
        [first.clone(), both.clone(), sql("database/schema-002.sql")].concat(),
        [first.clone(), both.clone(), raw(&foreign, b";")].concat(),
        [
            first.clone(),
            both.clone(),
            sql("database/schema-001.sql"),
            sql("database/schema-002.sql"),
        ]
        .concat(),
        [without.clone(), both.clone(), sql("database/schema-001.sql")].concat(),
        [
            first.clone(),
            both.clone(),
            sql("database/schema-001.sql"),
            raw(&file("files/x", 0), b""),
        ]
        .concat(),
        [first.clone(), both.clone(), huge].concat(),
        [first.clone(), both.clone(), own("etc/passwd")].concat(),
        [first.clone(), both.clone(), own("../x")].concat(),
        [first, both, raw(&root, b"")].concat(),
    ];
    let refusals: Vec<_> = archives.iter().map(|tar| refusal(tar)).collect();
    insta::assert_snapshot!(refusals.join("\n"), @r#"
    The archive is empty or cut off.
    The archive is no export of a tenant: manifest.json is not its first entry.
    The entry "manifest.json" is no file, or too large.
    The archive has an invalid manifest.json: expected value at line 1 column 1.
    The entry "manifest.json" is not in its place in the archive.
    The archive lacks a volume.
    The archive lacks the schema that its manifest names.
    The checksum is wrong: the content is not what was exported.
    The archive has invalid checksums: missing field `sha256` at line 1 column 2.
    The entry "database/x" is no part of a schema as an export writes it.
    The entry "database/schema-002.sql" is no part of a schema as an export writes it.
    The entry "database/schema-001.sql" is no part of a schema as an export writes it.
    The entry "database/schema-002.sql" belongs to no schema of the archive.
    The entry "database/schema-001.sql" belongs to no schema of the archive.
    The entry "files/x" is not in its place in the archive.
    The entry "database/schema-001.sql" is no file, or too large.
    The entry "etc/passwd" is no part of an export.
    The entry "../x" is no part of an export.
    The entry "files/x" belongs to another user or group than the two of a tenant, 1000 and 1001.
    "#);
}

/// An archive of format 1, as the version before wrote it: its manifest knows no schema.
#[test]
fn an_archive_of_the_first_format_is_imported() {
    let mut json = serde_json::to_value(manifest()).unwrap();
    json["format"] = 1.into();
    json.as_object_mut().unwrap().remove("database");
    let json = serde_json::to_vec(&json).unwrap();
    let mut sums = RunningSums::default();
    let mut tar = Vec::new();
    let entries = [
        (Entry::own_file(MANIFEST, json.len()), json.as_slice()),
        (folder("data"), b"".as_slice()),
        (folder("files"), b"".as_slice()),
        (file("files/x", 3), b"old".as_slice()),
    ];
    for (entry, content) in entries {
        let bytes = raw(&entry, content);
        sums.add_header(&bytes[..512]);
        sums.add(&bytes[512..]);
        tar.extend(bytes);
    }
    let sums = serde_json::to_vec(&sums.checksums()).unwrap();
    tar.extend(raw(&Entry::own_file(CHECKSUMS, sums.len()), &sums));
    tar.extend(END);
    let parts = import(&tar, 512, u64::MAX).unwrap();
    let Part::Manifest(read) = &parts[0] else { panic!("{parts:?}") };
    assert_eq!((read.format, &read.database), (1, &None));
    assert!(!volumes(&parts).is_empty());
}

#[test]
fn a_schema_is_cut_into_files_and_comes_back_whole() {
    let sql: Vec<u8> = (0..DATABASE_FILE_BYTES + 5).map(|n| n as u8).collect();
    let mut exporter = Exporter::new(&manifest()).unwrap();
    exporter.push_volumes(&engine_tar()).unwrap();
    for piece in sql.chunks(3 << 20) {
        exporter.push_sql(piece).unwrap();
    }
    exporter.finish().unwrap();
    let parts = import(&exporter.take(), 1 << 20, u64::MAX).unwrap();
    let files: Vec<_> = parts
        .iter()
        .filter_map(|part| match part {
            Part::Sql(content) => Some(content.as_slice()),
            Part::Manifest(_) | Part::Volumes(_) => None,
        })
        .collect();
    assert_eq!(files.len(), 2);
    assert!(files.concat() == sql);
}

#[test]
fn names_of_a_schema_that_no_installation_makes_are_refused() {
    for name in ["", "T_a", "t-a", "t a", "1a", "t\"a", "ä"] {
        let facts = DatabaseFacts { schema: name.to_owned(), user: "t_a".to_owned() };
        let json = serde_json::to_vec(&Manifest { database: Some(facts), ..manifest() }).unwrap();
        let tar = raw(&Entry::own_file(MANIFEST, json.len()), &json);
        let why = "The archive has an invalid manifest.json: no names of a schema and a role.";
        assert_eq!(refusal(&tar), why, "{name}");
    }
}
