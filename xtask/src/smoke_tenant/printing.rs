//! What each of the five prints arrives in the container's log under its name.

use anyhow::Result;

use super::report::Report;
use super::stage::{Stage, Wish};
use super::{altered, endings};

const SERVICES: [(&str, &str); 5] = [
    ("edge", "edge"),
    ("core-back", "core back"),
    ("core-front", "core front"),
    ("platform-front", "platform front"),
    ("platform-back", "platform back"),
];

/// With programs that print a line before they become themselves: in health they have nothing to say.
pub(crate) async fn check(report: &mut Report, stage: &Stage) -> Result<()> {
    let programs = [
        ("/opt/cial-core", "edge"),
        ("/opt/cial-core", "core"),
        ("/opt/cial-platform", "platform"),
    ];
    let layer = programs.map(|(folder, program)| {
        altered::first(folder, program, &format!("echo smoke of {program} \"$@\""))
    });
    let talking = altered::make(stage, "talking", &layer.join("\n")).await?;
    let logs = async {
        let tenant = talking.start(&Wish { name: "talking", ..Wish::default() }).await?;
        endings::healthy(&tenant).await?;
        tenant.logs().await
    };
    let logs = logs.await;
    altered::discard(&talking).await?;
    let logs = logs?;
    for (name, words) in SERVICES {
        let line = format!("[{name}] smoke of {words}");
        let found = logs.lines().any(|own| own == line);
        report.holds("C7", &format!("lines of {words} are told apart"), &line, &logs, found);
    }
    let names = SERVICES.map(|(name, _)| name).into_iter().chain(["supervisor"]);
    let prefixes: Vec<_> = names.map(|name| format!("[{name}] ")).collect();
    let bare = logs.lines().filter(|line| !prefixes.iter().any(|own| line.starts_with(own)));
    report.same("C7", "no line without a name", "", bare.collect::<Vec<_>>().join(" / "));
    Ok(())
}
