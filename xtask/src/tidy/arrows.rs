//! The allowed dependencies of every crate. Every crate is in the table, and every row of the table
//! is a crate.

use super::tree::Tree;

/// The arrows of ARCHITECTURE.md.
const ARROWS: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("connect", &[]),
    ("lease", &["protocol"]),
    ("proxy", &["connect"]),
    ("service", &["connect", "protocol"]),
    ("tenant-service", &["protocol", "service"]),
    ("supervisor", &["protocol"]),
    ("edge", &["protocol", "proxy", "service", "tenant-service"]),
    ("router", &["connect", "lease", "protocol", "proxy", "service"]),
    ("tenant-core", &["protocol", "service", "tenant-service"]),
    ("tenant-platform", &["protocol", "service", "tenant-service"]),
    ("orchestrator", &["connect", "lease", "protocol", "service"]),
    ("app-api", &["protocol", "service"]),
    ("cli", &["protocol", "testkit"]),
    ("testkit", &["protocol"]),
    ("e2e", &["protocol", "testkit"]),
    ("bench", &["protocol", "testkit"]),
    ("xtask", &["protocol", "testkit"]),
];

/// Dependencies that a crate must not have, whatever their use.
const WITHOUT: &[(&str, &[&str])] =
    &[("axum", &["proxy", "router", "edge"]), ("tokio", &["lease", "protocol", "supervisor"])];

/// Dependencies that only the listed crates may have.
const ONLY: &[(&str, &[&str])] = &[
    ("diesel", &["app-api"]),
    ("diesel-async", &["app-api"]),
    ("bollard", &["orchestrator", "testkit", "e2e", "bench"]),
];

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for krate in &tree.crates {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == krate.name) else {
            faults.push(format!(
                "{} is in no arrow: add it to ARCHITECTURE.md and to tidy",
                krate.name
            ));
            continue;
        };
        let forbidden = krate.ours.iter().filter(|ours| !allowed.contains(&ours.as_str()));
        faults.extend(forbidden.map(|ours| format!("{} → {ours} is no arrow", krate.name)));
        for (what, who) in WITHOUT {
            if who.contains(&krate.name.as_str()) && krate.all.iter().any(|name| name == what) {
                faults.push(format!("{} must live without {what}", krate.name));
            }
        }
        for (what, who) in ONLY {
            if !who.contains(&krate.name.as_str()) && krate.all.iter().any(|name| name == what) {
                faults.push(format!(
                    "{} has {what}, which is for {} alone",
                    krate.name,
                    who.join(", ")
                ));
            }
        }
    }
    let gone =
        ARROWS.iter().filter(|(name, _)| tree.crates.iter().all(|krate| krate.name != *name));
    faults.extend(gone.map(|(name, _)| format!("{name} is in the arrows, but is no crate")));
    faults
}

#[cfg(test)]
mod tests {
    use super::super::tree::planted::depends;
    use super::*;

    fn good() -> Vec<super::super::tree::Crate> {
        ARROWS.iter().map(|(name, ours)| depends(name, ours, &[])).collect()
    }

    fn faults_with(planted: super::super::tree::Crate) -> Vec<String> {
        let mut crates = good();
        crates.retain(|krate| krate.name != planted.name);
        crates.push(planted);
        check(&Tree { crates, files: Vec::new() })
    }

    #[test]
    fn the_table_itself_is_tidy() {
        assert_eq!(check(&Tree { crates: good(), files: Vec::new() }), Vec::<String>::new());
    }

    #[test]
    fn a_planted_arrow_is_found() {
        assert_eq!(
            faults_with(depends("router", &["app-api"], &[])),
            ["router → app-api is no arrow"]
        );
        assert_eq!(faults_with(depends("edge", &[], &["axum"])), ["edge must live without axum"]);
        assert_eq!(
            faults_with(depends("router", &[], &["bollard"])),
            ["router has bollard, which is for orchestrator, testkit, e2e, bench alone"]
        );
        assert_eq!(
            faults_with(depends("new", &[], &[])),
            ["new is in no arrow: add it to ARCHITECTURE.md and to tidy"]
        );
    }

    #[test]
    fn a_row_without_a_crate_is_found() {
        let crates = good().into_iter().filter(|krate| krate.name != "edge").collect();
        assert_eq!(
            check(&Tree { crates, files: Vec::new() }),
            ["edge is in the arrows, but is no crate"]
        );
    }
}
