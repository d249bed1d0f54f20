//! Checks that cannot fail are worth nothing: images broken on purpose, each of which must turn its row red.
//!
//! The breakage is a layer on top of the image that is checked; nothing of it is in any other image.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::report::Report;
use super::stage::{Stage, Wish};
use super::{altered, endings, still};
use crate::world;

struct Mutation {
    name: &'static str,
    /// What is done to the image.
    layer: String,
    /// The rows that must notice, and no others.
    rows: &'static [&'static str],
}

fn mutations() -> [Mutation; 4] {
    let listen = "IO::Socket::INET->new(Listen => 1, LocalAddr => q(0.0.0.0:4444)) and sleep";
    let listen = format!("if [ $1 = back ]; then perl -MIO::Socket::INET -e '{listen}' & fi");
    let linger = "sleep infinity > /dev/null 2>&1 & exec -a supervisor supervisor";
    [
        Mutation { name: "control", layer: String::new(), rows: &[] },
        Mutation {
            name: "core-directory-open",
            layer: "RUN chmod 0755 /opt/cial-core".to_owned(),
            rows: &["C3", "C5"],
        },
        Mutation {
            name: "child-left-as-root",
            layer: format!("ENTRYPOINT [\"/bin/bash\", \"-c\", \"{linger}\"]"),
            rows: &["C1", "C24", "O5", "O6"],
        },
        Mutation {
            name: "service-on-all-interfaces",
            layer: altered::first("/opt/cial-platform", "platform", &listen),
            rows: &["C1", "C10"],
        },
    ]
}

pub(crate) async fn run(stage: &Stage) -> Result<ExitCode> {
    let mut all_noticed = true;
    for mutation in mutations() {
        let noticed = try_out(stage, &mutation).await.with_context(|| mutation.name)?;
        all_noticed &= noticed;
    }
    Ok(if all_noticed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn try_out(stage: &Stage, mutation: &Mutation) -> Result<bool> {
    let mutant = altered::make(stage, mutation.name, &mutation.layer).await?;
    let mut report = Report::silent();
    let checked = check(&mut report, &mutant).await;
    altered::discard(&mutant).await?;
    checked?;
    let seen: Vec<_> = report.failed().iter().map(String::as_str).collect();
    let noticed = seen == mutation.rows;
    let verdict = if noticed { "ok     " } else { "FAILED " };
    let (expected, seen) = (mutation.rows.join(", "), seen.join(", "));
    let name = mutation.name;
    world::say(format_args!("{verdict} {name}: expected red [{expected}], seen red [{seen}]"));
    Ok(noticed)
}

async fn check(report: &mut Report, stage: &Stage) -> Result<()> {
    let keys = super::Keys::random()?;
    let wish = Wish { name: "mutant", keys: Some(keys), ..Wish::default() };
    let tenant = stage.start(&wish).await?;
    endings::healthy(&tenant).await?;
    still(report, stage, &tenant).await;
    Ok(())
}
