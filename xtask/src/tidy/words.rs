//! Names that were replaced and must not come back: a newcomer searches for the field's word and
//! does not find them.

use super::absences::has_word;
use super::tree::Tree;

struct Word {
    word: &'static str,
    instead: &'static str,
}

const fn word(word: &'static str, instead: &'static str) -> Word {
    Word { word, instead }
}

const METAPHORS: &[Word] = &[
    word("Asking", "LeaseRequests: a request says what it requests"),
    word("Bell", "Waker or Notify: tokio's word for it"),
    word("Book", "TenantTable"),
    word("Course", "Direction"),
    word("Depth", "IdleState: frozen or sleeping"),
    word("Fate", "Reuse or Recreate"),
    word("Far", "Upstream"),
    word("Fell", "the transition's name, like Suspended"),
    word("Glimpse", "Observation"),
    word("Harm", "Delay, or the fault that a test injects"),
    word("Held", "LeaseGuard or TenantLease"),
    word("House", "the template or the settings that it is"),
    word("Keeping", "LeaseManager"),
    word("Masters", "MasterKeys"),
    word("Met", "Fulfilled"),
    word("NoLease", "LeaseError: errors end in Error"),
    word("Pump", "Copy"),
    word("Refusal", "the error that it is, like AccessError"),
    word("Relieve", "Drain or Upgrade"),
    word("Rest", "IdleState"),
    word("Rooms", "TenantDirs"),
    word("Rouse", "WakeKind"),
    word("Sight", "ObservedCache"),
    word("Sighting", "EngineEvent"),
    word("Standing", "Availability"),
    word("Succession", "Upgrade"),
    word("Tally", "Stats"),
    word("Tenure", "CachedLease"),
    word("Told", "the response, the output or the result that it is"),
    word("Tombs", "Tombstones"),
    word("Trouble", "the error that it is, like DriverError"),
    word("Want", "Desired"),
    word("Went", "End: how a connection ended"),
    word("Whose", "Origin"),
    word("Wish", "Options"),
    word("bury", "mark_deleted"),
    word("dig", "Tombstones::insert"),
    word("dress", "security_headers"),
];

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for file in tree.rust().filter(|file| !file.path.starts_with("xtask/src/tidy/")) {
        for (number, line) in file.code() {
            for Word { word, instead } in METAPHORS.iter().filter(|own| has_word(line, own.word)) {
                faults.push(format!("{}:{number} says {word}; write {instead}", file.path));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::super::tree::planted::file;
    use super::*;

    #[test]
    fn a_planted_name_is_found_in_code_only() {
        let cases = [
            ("struct Rouse;", 1),
            ("fn wake(rouse: WakeKind) {}", 0),
            ("// Rouse was the name.", 0),
            ("let title = \"House rules\";", 0),
            ("struct Household;", 0),
        ];
        for (text, faults) in cases {
            assert_eq!(check(&file("crates/a/src/lib.rs", text)).len(), faults, "{text}");
        }
    }
}
