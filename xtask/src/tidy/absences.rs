//! Words that are allowed in a few places only: SQL, the engine's API, `unsafe`, waiting for
//! children, the environment.

use super::tree::Tree;

struct Absence {
    words: &'static [&'static str],
    /// The allowed places: files, or folders with a slash at the end.
    allowed: &'static [&'static str],
}

const ABSENCES: &[Absence] = &[
    Absence {
        words: &["diesel", "diesel_async", "diesel_migrations"],
        allowed: &["crates/app-api/src/db/", "crates/app-api/tests/"],
    },
    Absence {
        words: &["bollard"],
        allowed: &[
            "crates/orchestrator/src/driver/docker/",
            "crates/orchestrator/tests/",
            "crates/testkit/src/engine/",
            "crates/e2e/",
            "bench/",
            "xtask/",
        ],
    },
    Absence { words: &["unsafe"], allowed: &["crates/supervisor/src/privilege_drop.rs"] },
    Absence {
        // The smoke test uses the word in Perl, in a process inside a tenant.
        words: &["waitpid", "waitid"],
        allowed: &["crates/supervisor/src/reaper.rs", "crates/e2e/tests/image/limits.rs"],
    },
    Absence {
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
    },
];

/// These files name the words in order to find them.
const ABOUT_WORDS: &str = "xtask/src/tidy/";

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for file in tree.rust().filter(|file| !file.path.starts_with(ABOUT_WORDS)) {
        for absence in ABSENCES.iter().filter(|absence| !absence.allows(&file.path)) {
            for (number, line) in file.code() {
                for word in absence.words.iter().filter(|word| has_word(line, word)) {
                    let place = absence.allowed.join(", ");
                    faults.push(format!(
                        "{}:{number} says {word}, which belongs into {place}",
                        file.path
                    ));
                }
            }
        }
    }
    faults
}

impl Absence {
    fn allows(&self, path: &str) -> bool {
        self.allowed
            .iter()
            .any(|place| path == *place || (place.ends_with('/') && path.starts_with(place)))
    }
}

/// Whether `word` stands alone in `line`, neither part of another name nor inside a string literal.
pub(super) fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let is_in_text = line[..at].matches('"').count() % 2 == 1;
        !is_in_text && !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tree::planted::file;
    use super::*;

    #[test]
    fn a_planted_word_is_found_outside_its_place_only() {
        let cases = [
            ("crates/router/src/lib.rs", "use diesel::prelude::*;", true),
            ("crates/app-api/src/db/tenants.rs", "use diesel::prelude::*;", false),
            ("crates/app-api/src/api/tenants.rs", "use diesel::prelude::*;", true),
            ("crates/edge/src/lib.rs", "unsafe { libc::fork() }", true),
            ("crates/edge/src/lib.rs", "#[expect(unsafe_code)]", false),
            ("crates/edge/src/lib.rs", "// nothing unsafe here", false),
            ("crates/edge/src/lib.rs", "let why = \"unsafe\";", false),
            ("crates/supervisor/src/privilege_drop.rs", "unsafe { libc::fork() }", false),
            ("crates/supervisor/src/spawn.rs", "nix::sys::wait::waitpid(pid, None)", true),
            ("crates/edge/src/lib.rs", "let port = std::env::var(\"PORT\");", true),
            ("crates/edge/src/lib.rs", "std::env::temp_dir()", false),
            ("crates/orchestrator/src/api.rs", "bollard::Docker::connect()", true),
        ];
        for (path, text, is_fault) in cases {
            assert_eq!(!check(&file(path, text)).is_empty(), is_fault, "{path}: {text}");
        }
    }
}
