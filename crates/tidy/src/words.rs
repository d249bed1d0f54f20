//! Words in code that are allowed in a few places only, and names that were replaced: a newcomer searches for the
//! field's word and does not find them.

use crate::assert_none;
use crate::tree::Tree;

/// Words that stand nowhere but below these paths, with what to do instead.
struct Rule {
    words: &'static [&'static str],
    allowed: &'static [&'static str],
    instead: &'static str,
}

/// The absences of ARCHITECTURE.md, as far as they are about lines of code. `deny.toml` has those about dependencies.
const ABSENCES: &[Rule] = &[
    Rule {
        words: &["diesel", "diesel_async", "diesel_migrations"],
        allowed: &["crates/app-api/src/db/", "crates/app-api/tests/"],
        instead: "call a function of app-api/src/db",
    },
    Rule {
        words: &["rusqlite"],
        allowed: &["crates/tenant-core/src/history/", "crates/tenant-core/benches/"],
        instead: "call a function of tenant-core/src/history",
    },
    Rule {
        words: &["bollard"],
        allowed: &[
            "crates/orchestrator/src/driver/docker/",
            "crates/orchestrator/tests/",
            "crates/testkit/src/engine/",
            "crates/e2e/",
            "bench/",
        ],
        instead: "call the driver",
    },
    Rule {
        words: &["unsafe"],
        allowed: &[
            "crates/supervisor/src/privilege_drop.rs",
            "crates/orchestrator/src/quota/project/kernel.rs",
        ],
        instead: "find a safe function",
    },
    Rule {
        // The smoke test uses the word in Perl, in a process inside a tenant.
        words: &["waitpid", "waitid"],
        allowed: &["crates/supervisor/src/reaper.rs", "crates/e2e/tests/image/limits.rs"],
        instead: "leave children to the reaper",
    },
    Rule {
        words: &[
            "env::var",
            "env::vars",
            "env::var_os",
            "env::vars_os",
            "env::set_var",
            "env::remove_var",
        ],
        allowed: &[
            "crates/service/src/run.rs",
            "crates/supervisor/src/main.rs",
            "crates/supervisor/examples/",
            "crates/cli/src/environment.rs",
            "crates/app-api/tests/",
            "crates/orchestrator/tests/",
            "xtask/src/environment.rs",
            "crates/testkit/src/installation.rs",
            "crates/e2e/",
        ],
        instead: "read a setting",
    },
];

/// Crates without a dependency that the others have, whatever its use.
const WITHOUT: &[(&str, &[&str])] = &[
    ("axum", &["crates/proxy/", "crates/router/", "crates/edge/"]),
    (
        "tokio",
        &[
            "crates/lease/",
            "crates/protocol/",
            "crates/supervisor/",
            "crates/tenant-files/",
            "xtask/",
        ],
    ),
];

/// The modules that the files below a folder do not use: the rooms of a crate depend on each other one way.
const ONE_WAY: &[(&str, &[&str])] = &[
    ("crates/router/src/routes/", &["crate::leases", "crate::http", "crate::process"]),
    ("crates/router/src/leases/", &["crate::http", "crate::process"]),
    ("crates/router/src/http/", &["crate::process"]),
];

/// Replaced names, each with the name to write.
const REPLACED: &[(&str, &str)] = &[
    ("Answer", "Response"),
    ("Answers", "Responses"),
    ("Asker", "RequestContext"),
    ("Asking", "LeaseRequests: a request says what it requests"),
    ("Bell", "Waker or Notify: tokio's word for it"),
    ("Book", "TenantTable"),
    ("CallFailure", "LeaseCallError: errors end in Error"),
    ("Course", "Direction"),
    ("Crowd", "Requests, or the number that it is"),
    ("DatabaseFailure", "DatabaseError: errors end in Error"),
    ("Depth", "IdleState: frozen or sleeping"),
    ("Desk", "LeaseService"),
    ("Door", "Listener, Route or access: what it is"),
    ("Doors", "ReadinessProbes"),
    ("Failure", "the error that it is, like ForwardError"),
    ("Far", "Upstream"),
    ("Fate", "Reuse or Recreate"),
    ("Fell", "the transition's name, like Suspended"),
    ("Glimpse", "Observation"),
    ("Harm", "Delay, or the fault that a test injects"),
    ("Held", "LeaseGuard or TenantLease"),
    ("House", "the template or the settings that it is"),
    ("Keeper", "TenantStore, Operations or LeaseClient"),
    ("Keeping", "LeaseManager"),
    ("LeaseQueue", "SharedState"),
    ("Masters", "MasterKeys"),
    ("Met", "Fulfilled"),
    ("NoAnswer", "NoResponse"),
    ("NoLease", "LeaseError: errors end in Error"),
    ("Note", "PersistedState"),
    ("Pump", "Copy"),
    ("Refusal", "the error that it is, like AccessError"),
    ("Relieve", "Drain or Upgrade"),
    ("Rest", "IdleState"),
    ("Rooms", "TenantDirs"),
    ("Rouse", "WakeKind"),
    ("Seen", "Observed or Received: by whom"),
    ("Sight", "ObservedCache"),
    ("Sighting", "EngineEvent"),
    ("Standing", "Availability"),
    ("Succession", "Upgrade"),
    ("Tally", "Stats"),
    ("Tenure", "CachedLease"),
    ("Told", "the response, the output or the result that it is"),
    ("Tombs", "Tombstones"),
    ("Trouble", "the error that it is, like DriverError"),
    ("Want", "Desired"),
    ("Way", "Forward, or the path that it is"),
    ("Went", "End: how a connection ended"),
    ("Whose", "Origin"),
    ("Wish", "Options"),
    ("Word", "Message, or the value that it is"),
    ("ClientSeat", "ClientPermit: tokio's word for it"),
    ("Stranger", "Anonymous"),
    ("bury", "mark_deleted"),
    ("dig", "Tombstones::insert"),
    ("dress", "security_headers"),
    ("erase", "delete, remove or drop: the glossary distinguishes them"),
    ("from_word", "parse"),
    ("seat", "permit, or the connection that it is"),
    ("stranger", "anonymous, other or unknown: what it is"),
    ("vouch", "confirm_address"),
];

/// Beginnings of comments that name no subject: a sentence begins with its noun, or with its verb.
const OPENERS: &[&str] =
    &["Between", "Of", "One that", "So many", "What", "Whatever", "Who", "Whoever", "Whose"];

/// Replaced phrases of comments and documents, each with the phrase to write.
const PHRASES: &[(&str, &str)] = &[
    ("came to nothing", "failed"),
    ("is away", "is unreachable"),
    ("stranger", "anonymous client, visitor, or the other party that it is"),
    ("vouch for", "confirm"),
    ("vouches for", "confirms"),
    ("was away", "was unreachable"),
];

/// Files that name a library's variant `Failure`.
const FAILURE_OF_A_LIBRARY: &[&str] = &["crates/cli/src/http/websocket.rs"];

/// These files name the words in order to find them.
const ABOUT_WORDS: &str = "crates/tidy/";

#[test]
fn what_must_be_absent_is_absent() {
    assert_none(&absences(&Tree::of_checkout()));
}

#[test]
fn the_rooms_of_the_router_have_no_circle() {
    assert_none(&one_way(&Tree::of_checkout()));
}

#[test]
fn replaced_names_stay_away() {
    assert_none(&replaced(&Tree::of_checkout()));
}

#[test]
fn comments_begin_with_a_noun_or_a_verb() {
    assert_none(&openers(&Tree::of_checkout()));
}

#[test]
fn replaced_phrases_stay_absent() {
    assert_none(&phrases(&Tree::of_checkout()));
}

/// Finds comments whose first line begins with one of [`OPENERS`].
fn openers(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for file in tree.rust() {
        let mut is_inside = false;
        for (index, line) in file.text.lines().enumerate() {
            let comment = line.trim_start().strip_prefix("//");
            let text = comment.map_or("", |text| text.trim_start_matches(['/', '!']).trim());
            let is_first = !std::mem::replace(&mut is_inside, !text.is_empty());
            let opener = OPENERS.iter().find(|opener| {
                text.strip_prefix(**opener).is_some_and(|rest| rest.starts_with(' '))
            });
            if let (true, Some(opener)) = (is_first, opener) {
                let place = format!("{}:{}", file.path, index + 1);
                faults.push(format!("{place} begins with {opener}: begin with a noun or a verb"));
            }
        }
    }
    faults
}

/// Finds [`PHRASES`] in comments and documents. The change log keeps the words of its time.
fn phrases(tree: &Tree) -> Vec<String> {
    let is_covered = |path: &str| {
        let is_text = path.ends_with(".rs") || path.ends_with(".md");
        is_text && path != "CHANGELOG.md" && !path.starts_with(ABOUT_WORDS)
    };
    let mut faults = Vec::new();
    for file in tree.files.iter().filter(|file| is_covered(&file.path)) {
        for (index, line) in file.text.lines().enumerate() {
            let found = PHRASES.iter().filter(|(phrase, _)| line.contains(phrase));
            let place = format!("{}:{}", file.path, index + 1);
            faults
                .extend(found.map(|(phrase, instead)| format!("{place} says {phrase}: {instead}")));
        }
    }
    faults
}

/// Checks the absences that ARCHITECTURE.md lists.
fn absences(tree: &Tree) -> Vec<String> {
    let rules = ABSENCES
        .iter()
        .flat_map(|rule| rule.words.iter().map(move |word| (*word, rule.allowed, rule.instead)));
    let mut faults = find(tree, &rules.collect::<Vec<_>>());
    for (name, folders) in WITHOUT {
        for manifest in folders.iter().map(|folder| format!("{folder}Cargo.toml")) {
            let mut lines = tree.text(&manifest).lines();
            if lines.any(|line| line.starts_with(name) && has_word(line, name)) {
                faults.push(format!("{manifest} has {name}"));
            }
        }
    }
    faults
}

/// Checks that the rooms of a crate use each other one way only.
fn one_way(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for (folder, modules) in ONE_WAY {
        for file in tree.rust().filter(|file| file.path.starts_with(folder)) {
            for (number, line) in file.code() {
                let used = modules.iter().filter(|module| has_word(line, module));
                faults.extend(used.map(|module| {
                    format!("{}:{number} uses {module}, which uses {folder}", file.path)
                }));
            }
        }
    }
    faults
}

/// Replaced names stay away.
fn replaced(tree: &Tree) -> Vec<String> {
    let allowed = |word| if word == "Failure" { FAILURE_OF_A_LIBRARY } else { &[] };
    let rules = REPLACED.iter().map(|(word, instead)| (*word, allowed(*word), *instead));
    find(tree, &rules.collect::<Vec<_>>())
}

fn find(tree: &Tree, rules: &[(&str, &[&str], &str)]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in tree.rust().filter(|file| !file.path.starts_with(ABOUT_WORDS)) {
        let is_allowed = |allowed: &[&str]| {
            allowed.iter().any(|place| {
                file.path == *place || place.ends_with('/') && file.path.starts_with(place)
            })
        };
        let rules: Vec<_> = rules.iter().filter(|(_, allowed, _)| !is_allowed(allowed)).collect();
        for (number, line) in file.code() {
            let found = rules.iter().filter(|(word, _, _)| has_word(line, word));
            faults.extend(found.map(|(word, _, instead)| {
                format!("{}:{number} says {word}: {instead}", file.path)
            }));
        }
    }
    faults
}

/// Whether `word` stands alone in `line`, neither part of another name nor inside a string literal.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let is_in_text = line[..at].matches('"').count() % 2 == 1;
        !is_in_text && !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

#[test]
fn a_planted_word_is_found_outside_its_place_only() {
    let cases = [
        ("crates/router/src/lib.rs", "use diesel::prelude::*;", 1),
        ("crates/app-api/src/db/tenants.rs", "use diesel::prelude::*;", 0),
        ("crates/app-api/src/api/tenants.rs", "use diesel::prelude::*;", 1),
        ("crates/edge/src/lib.rs", "unsafe { libc::fork() }", 1),
        ("crates/edge/src/lib.rs", "#[expect(unsafe_code)]", 0),
        ("crates/edge/src/lib.rs", "// nothing unsafe here", 0),
        ("crates/edge/src/lib.rs", "let why = \"unsafe\";", 0),
        ("crates/supervisor/src/privilege_drop.rs", "unsafe { libc::fork() }", 0),
        ("crates/supervisor/src/spawn.rs", "nix::sys::wait::waitpid(pid, None)", 1),
        ("crates/edge/src/lib.rs", "let port = std::env::var(\"PORT\");", 1),
        ("crates/edge/src/lib.rs", "std::env::temp_dir()", 0),
        ("crates/orchestrator/src/api.rs", "bollard::Docker::connect()", 1),
        ("crates/edge/Cargo.toml", "axum.workspace = true", 1),
        ("crates/edge/Cargo.toml", "hyper.workspace = true", 0),
        ("crates/lease/Cargo.toml", "tokio = { workspace = true }", 1),
        ("crates/lease/Cargo.toml", "tokio-util.workspace = true", 0),
    ];
    for (path, text, faults) in cases {
        assert_eq!(absences(&Tree::of_files(&[(path, text)])).len(), faults, "{path}: {text}");
    }
}

#[test]
fn a_planted_circle_between_rooms_is_found() {
    let cases = [
        ("crates/router/src/routes/table.rs", "use crate::leases::LeaseHandle;", 1),
        ("crates/router/src/leases/queue.rs", "use crate::routes::table::RouteTable;", 0),
        ("crates/router/src/leases/queue.rs", "crate::http::responses::render()", 1),
        ("crates/orchestrator/src/lib.rs", "use crate::leases::Lease;", 0),
    ];
    for (path, text, faults) in cases {
        assert_eq!(one_way(&Tree::of_files(&[(path, text)])).len(), faults, "{path}: {text}");
    }
}

#[test]
fn a_replaced_name_is_found_in_code_only() {
    let cases = [
        ("struct Rouse;", 1),
        ("fn wake(rouse: WakeKind) {}", 0),
        ("// Rouse was the name.", 0),
        ("let title = \"House rules\";", 0),
        ("struct Household;", 0),
    ];
    for (text, faults) in cases {
        assert_eq!(
            replaced(&Tree::of_files(&[("crates/a/src/lib.rs", text)])).len(),
            faults,
            "{text}"
        );
    }
}

#[test]
fn a_comment_without_a_subject_is_found() {
    let cases = [
        ("/// What a tenant used.", 1),
        ("//! Of the system.", 1),
        ("fn end() {\n    // Whoever left needs no code.\n}", 1),
        ("/// # Errors\n///\n/// Who lost the access.", 1),
        ("/// The code of a caller.\n/// Who left needs none.", 0),
        ("/// Whole archives.", 0),
        ("let text = \"What\";", 0),
    ];
    for (text, faults) in cases {
        assert_eq!(
            openers(&Tree::of_files(&[("crates/a/src/lib.rs", text)])).len(),
            faults,
            "{text}"
        );
    }
}

#[test]
fn a_replaced_phrase_is_found_in_comments_and_documents() {
    let cases = [
        ("docs/a.md", "While the engine is away nothing starts.", 1),
        ("crates/a/src/lib.rs", "// A stranger signs in.", 1),
        ("CHANGELOG.md", "A stranger signs in.", 0),
        ("crates/a/src/lib.rs", "// The column vouched_role.", 0),
    ];
    for (path, text, faults) in cases {
        assert_eq!(phrases(&Tree::of_files(&[(path, text)])).len(), faults, "{path}: {text}");
    }
}
