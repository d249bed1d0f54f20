//! `smoke-tenant`: the tenant image as a black box, run as production runs it, checked row by row.
//!
//! It needs no control plane: what the orchestrator would prepare is prepared here, with the same flags.

mod altered;
mod boundary;
mod busy;
pub(crate) mod endings;
mod frozen;
mod guard;
pub(crate) mod image;
pub(crate) mod isolation;
mod limits;
mod mutations;
mod printing;
mod processes;
mod report;
mod routes;
mod sign_on;
pub(crate) mod stage;
mod surroundings;
mod token;
pub(crate) mod wire;

use std::process::ExitCode;

use anyhow::Result;

use crate::{images, world};
use report::Report;
use stage::{Stage, Tenant, Wish};
use token::Keys;
use wire::Way;

#[derive(clap::Args)]
pub struct Args {
    /// Checks this image as it is, instead of building the checkout's.
    #[arg(long)]
    image: Option<String>,
    /// Breaks the image in known ways, and demands that the checks notice each.
    #[arg(long)]
    mutations: bool,
}

pub fn run(args: Args) -> Result<ExitCode> {
    world::block_on(async {
        let docker = images::engine().await?;
        let image = match args.image {
            Some(image) => image,
            None => {
                images::tenant(&docker, "cial-tenant:dev", &images::Chosen::of_checkout()?).await?;
                "cial-tenant:dev".to_owned()
            }
        };
        let stage = Stage::new(docker, &image);
        stage.during(check(&stage, args.mutations)).await
    })
}

async fn check(stage: &Stage, mutations: bool) -> Result<ExitCode> {
    if mutations {
        return mutations::run(stage).await;
    }
    let mut report = Report::loud();
    everything(&mut report, stage).await?;
    let failed = report.failed();
    if failed.is_empty() {
        world::say(format_args!("smoke-tenant: all {} checks hold", report.passed()));
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = failed.iter().map(String::as_str).collect();
    world::say(format_args!("smoke-tenant: FAILED in {}", rows.join(", ")));
    Ok(ExitCode::FAILURE)
}

async fn everything(report: &mut Report, stage: &Stage) -> Result<()> {
    let keys = Keys::random()?;
    let open = Wish { name: "demo", keys: Some(keys.clone()), ..Wish::default() };
    let tenant = stage.start(&open).await?;
    let port = match endings::healthy(&tenant).await {
        Ok(port) => port,
        Err(error) => {
            report.made("C1", "the tenant becomes healthy", Err(error));
            world::say(tenant.logs().await?);
            return Ok(());
        }
    };
    still(report, stage, &tenant).await;
    for (label, way) in [("port", Way::Port(port)), ("socket", Way::Socket(&tenant))] {
        let made = routes::check(report, way, "demo").await;
        report.made("C14", &format!("routes through the {label}"), made);
    }
    let made = routes::check_websockets(report, port).await;
    report.made("C16", "WebSockets", made);
    let made = routes::check_back(report, &tenant, Way::Port(port)).await;
    report.made("C15", "platform-back", made);
    let made = sign_on::check(report, &tenant, Way::Port(port), "demo", &keys).await;
    report.made("C57", "signing on", made);
    let made = busy::check(report, &tenant, port).await;
    report.made("X6", "who keeps the tenant awake", made);
    let made = limits::check(report, &tenant, port).await;
    report.made("O20", "limits", made);
    another(report, stage).await;
    let made = isolation::check(report, stage).await;
    report.made("O7", "tenants beside each other", made);
    let made = frozen::check(report, stage).await;
    report.made("O12", "a long freeze", made);
    let made = printing::check(report, stage).await;
    report.made("C7", "what services print", made);
    let made = endings::check_deaths(report, stage, &tenant).await;
    report.made("C8", "deaths", made);
    let made = endings::check_drain(report, stage, &tenant).await;
    report.made("C8", "the drain", made);
    Ok(())
}

/// What can be seen of a tenant that is left alone.
async fn still(report: &mut Report, stage: &Stage, tenant: &Tenant) {
    let made = image::check(report, stage, tenant).await;
    report.made("C24", "the image", made);
    let made = processes::check(report, tenant).await;
    report.made("C6", "the processes", made);
    let made = boundary::check(report, tenant).await;
    report.made("C5", "the boundary", made);
}

/// A second tenant of the same image: guarded, and with a name of its own.
async fn another(report: &mut Report, stage: &Stage) {
    let made = async {
        let guard = (guard::TOKEN.to_owned(), guard::PROOF.to_owned());
        let wish = Wish { name: "guarded", guard: Some(guard), ..Wish::default() };
        let tenant = stage.start(&wish).await?;
        let port = endings::healthy(&tenant).await?;
        let ways = [("port", Way::Port(port)), ("socket", Way::Socket(&tenant))];
        // C20: the first tenant's page says `demo`, from the same image.
        guard::check(report, &ways, "guarded").await?;
        guard::check_websocket(report, port).await;
        anyhow::Ok(())
    };
    let made = made.await;
    report.made("C20", "a second tenant of the same image", made);
}
