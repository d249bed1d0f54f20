//! Every line of a service arrives in the container's log under the name of the service.

use anyhow::Result;
use e2e::Checks;
use testkit::engine::{Sandbox, TenantOptions};

use super::layers;

const SERVICES: [(&str, &str); 5] = [
    ("edge", "edge"),
    ("core-back", "core back"),
    ("core-front", "core front"),
    ("platform-front", "platform front"),
    ("platform-back", "platform back"),
];

/// Uses programs that print a line before they start: healthy services log nothing.
pub(crate) async fn check(checks: &mut Checks, sandbox: &Sandbox) -> Result<()> {
    let programs = [
        ("/opt/cial-core", "edge"),
        ("/opt/cial-core", "core"),
        ("/opt/cial-platform", "platform"),
    ];
    let layer = programs.map(|(folder, program)| {
        layers::run_first(folder, program, &format!("echo smoke of {program} \"$@\""))
    });
    let talking = sandbox.with_layer("talking", &layer.join("\n")).await?;
    let options = TenantOptions { name: "talking", ..TenantOptions::default() };
    let (tenant, _) = talking.healthy(&options).await?;
    for (name, args) in SERVICES {
        // A line reaches the engine's log after the service has printed it.
        let line = format!("[{name}] smoke of {args}\n");
        let found = tenant.wait_for("its line", async || tenant.logged(&line).await).await;
        checks.succeeds(&format!("lines of {args} are told apart"), found);
    }
    let logs = tenant.logs().await?;
    let names = SERVICES.map(|(name, _)| name).into_iter().chain(["supervisor"]);
    let prefixes: Vec<_> = names.map(|name| format!("[{name}] ")).collect();
    let bare = logs.lines().filter(|line| !prefixes.iter().any(|own| line.starts_with(own)));
    checks.equal("no line without a name", "", bare.collect::<Vec<_>>().join(" / "));
    Ok(())
}
