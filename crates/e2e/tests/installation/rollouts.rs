//! Rollouts on the real engine: over tenants that run, are frozen and sleep, through kills of the control plane, and to
//! a release that does not run.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::command_line::{create_app, delete_app, fails, succeed};
use e2e::session::{Session, TIMEOUT, until};
use e2e::{AppImages, Checks, Parts};
use serde_json::Value;
use testkit::{Client, Installation, eventually};

use crate::apps::PROGRAM;

const APP: &str = "ledger";
const ROLLOUTS: &str = "/v1/apps/ledger/rollouts";
/// Three waves, each with a start, and two services that come back.
const ROLLOUT_TIMEOUT: Duration = Duration::from_secs(180);

/// Three tenants of one app: one runs, one is frozen, one sleeps.
struct Ledger {
    runs: Session,
    frozen: Session,
    asleep: Session,
}

impl Ledger {
    async fn create(installation: &Installation) -> Result<Self> {
        let create = async |slug: &str, freeze: u32, sleep: u32| {
            succeed(&["tenants", "create", slug, "--app", APP, "--release", "v1"], None)?;
            let mut session = Session::of_owner(installation, slug).await?;
            session.url_answers(200).await?;
            session.set_policy(freeze, sleep).await?;
            anyhow::Ok(session)
        };
        Ok(Self {
            runs: create("ledger-awake", 0, 0).await?,
            frozen: create("ledger-frozen", 1, 3_600).await?,
            asleep: create("ledger-sleeps", 0, 1).await?,
        })
    }

    async fn settle(&mut self) -> Result<()> {
        self.frozen.becomes("frozen").await?;
        self.asleep.becomes("sleeping").await?;
        Ok(())
    }

    fn all(&mut self) -> [&mut Session; 3] {
        [&mut self.runs, &mut self.frozen, &mut self.asleep]
    }

    /// The latest rollout, once it is in this state.
    async fn rollout_is(&mut self, state: &str) -> Result<Value> {
        let owner = &mut self.runs.owner;
        let reached = until(
            async || owner.get(ROLLOUTS).await,
            |list| latest(&list.json())["state"] == state,
        );
        Ok(latest(&reached.await?.json()).clone())
    }
}

fn latest(list: &Value) -> &Value {
    &list["rollouts"][0]
}

async fn followed(session: &mut Session) -> Result<Value> {
    Ok(session.owner.get(&session.path("")).await?.json()["release"].clone())
}

fn start(release: &str, more: &[&str]) -> Result<String> {
    let args = ["apps", "rollout", "start", APP, "--release", release, "--no-wait"];
    succeed(&[&args[..], more].concat(), None)
}

/// Sends requests, one after the other, until `work` is done; returns how many were answered, and those that failed.
async fn visit_during<T>(
    guest: &Client,
    work: impl Future<Output = Result<T>>,
) -> Result<(T, u32, Vec<String>)> {
    let (is_over, served, failed) = (Cell::new(false), Cell::new(0), RefCell::new(Vec::new()));
    let visits = async {
        let mut guest = guest.clone();
        while !is_over.get() {
            match guest.get("/").await {
                Ok(page) if page.status == 200 => served.set(served.get() + 1),
                Ok(page) => failed.borrow_mut().push(page.summary()),
                Err(error) => failed.borrow_mut().push(format!("{error:#}")),
            }
        }
    };
    let work = async {
        let done = work.await;
        is_over.set(true);
        done
    };
    let (done, ()) = tokio::join!(work, visits);
    Ok((done?, served.get(), failed.into_inner()))
}

#[tokio::test]
async fn a_rollout_wakes_nobody_loses_no_request_and_takes_a_broken_release_back() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let images = AppImages::build("ledger", PROGRAM, &["one", "two", "broken"])?;
    create_app(APP, &images.names, None)?;
    let mut ledger = Ledger::create(&installation).await?;
    checks.require("one tenant freezes, and one falls asleep", ledger.settle().await)?;

    moves_forward(&mut ledger, &mut checks).await?;
    continues_after_kills(&installation, &mut ledger, &mut checks).await?;
    is_taken_back(&mut ledger, &mut checks).await?;
    obeys(&mut ledger, &mut checks).await?;

    let deleted = delete_app(APP, &["ledger-awake", "ledger-frozen", "ledger-sleeps"]);
    checks.require("tenants and app are deleted", deleted)?;
    checks.finish()
}

/// From v1 to v2: the running tenant at once, the sleeping one without a start, the frozen one at its next use.
async fn moves_forward(ledger: &mut Ledger, checks: &mut Checks) -> Result<()> {
    let mut slow = ledger.runs.guest.clone();
    let under_way = tokio::spawn(async move { slow.get("/slow").await });
    let guest = ledger.runs.guest.clone();
    let runs = &mut ledger.runs;
    let moved = visit_during(&guest, async {
        start("v2", &[])?;
        runs.shows("notes two").await
    });
    let (_, served, failed) = checks.require("the tenant that runs moves", moved.await)?;
    checks.equal("no request to it fails meanwhile", "", failed.join("; "));
    checks.holds("it was visited meanwhile", "> 0", served, served > 0);
    checks.equal("the request under way is answered", 200, under_way.await??.status);

    let asleep = &mut ledger.asleep;
    let follows = eventually("the release", TIMEOUT, async || Ok(followed(asleep).await? == "v2"));
    checks.require("the tenant that sleeps follows the release", follows.await)?;
    let state = asleep.owner.get(&asleep.path("")).await?.json()["state"].clone();
    checks.equal("it was not woken", "\"sleeping\"", state);
    let still = followed(&mut ledger.frozen).await?;
    checks.equal("the frozen one keeps its release until it is used", "\"v1\"", still);
    checks.require("its next use moves it", ledger.frozen.shows("notes two").await)?;
    let done = checks.require("the rollout ends", ledger.rollout_is("done").await)?;
    checks.equal("all tenants moved", 3, &done["moved"]);
    let page = ledger.asleep.url_answers(200).await?;
    checks.contains("the next wake starts the release", "notes two", &page.body);
    Ok(())
}

/// Back to v1, while both services that carry a rollout out are killed.
async fn continues_after_kills(
    installation: &Installation,
    ledger: &mut Ledger,
    checks: &mut Checks,
) -> Result<()> {
    ledger.settle().await?;
    // The frozen tenant would wait for a visit.
    ledger.frozen.url_answers(200).await?;
    start("v1", &["--wave-size", "1"])?;
    for service in ["app-api", "orchestrator"] {
        Parts::of(installation).kill_service(service).await?;
    }
    let moved = eventually("every tenant follows the release", ROLLOUT_TIMEOUT, async || {
        // A request fails while app-api starts.
        let Ok(list) = ledger.runs.owner.get(ROLLOUTS).await else { return Ok(false) };
        let _ = ledger.frozen.guest.get("/").await;
        Ok(latest(&list.json())["state"] == "done")
    });
    checks.require("a rollout continues after kills", moved.await)?;
    for session in ledger.all() {
        checks.equal("the tenant follows the release", "\"v1\"", followed(session).await?);
        checks.require("it runs the release", session.shows("notes one").await)?;
    }
    Ok(())
}

/// To v3, which does not run where an earlier release was visited.
async fn is_taken_back(ledger: &mut Ledger, checks: &mut Checks) -> Result<()> {
    ledger.settle().await?;
    let guest = ledger.frozen.guest.clone();
    let broken = visit_during(&guest, async {
        tokio::task::spawn_blocking(|| {
            fails(&["apps", "rollout", "start", APP, "--release", "v3"], None)
        })
        .await?
    });
    let (stderr, served, failed) = checks.require("a broken release stops", broken.await)?;
    checks.contains("the canary is named", "ledger-awake does not run on v3", &stderr);
    checks.contains("the last line of its log is shown", "earlier version", &stderr);
    checks.equal("no request to another tenant fails", "", failed.join("; "));
    checks.holds("it was visited meanwhile", "> 0", served, served > 0);
    let failed = ledger.rollout_is("failed").await?;
    checks.equal("the second wave did not begin", "\"waiting\"", &failed["waves"][1]["state"]);
    for session in ledger.all() {
        checks.equal("the tenant follows its release", "\"v1\"", followed(session).await?);
        checks.require("it runs its release", session.shows("notes one").await)?;
    }
    Ok(())
}

/// Pause, resume and abort, of a rollout that waits for a tenant that runs.
async fn obeys(ledger: &mut Ledger, checks: &mut Checks) -> Result<()> {
    start("v2", &["--only-idle"])?;
    for (verb, state) in [("pause", "paused"), ("resume", "running"), ("abort", "aborted")] {
        let is_asked: &[&str] = if verb == "abort" { &["--yes"] } else { &[] };
        succeed(&[&["apps", "rollout", verb, APP], is_asked].concat(), None)?;
        checks.require(&format!("{verb} makes it {state}"), ledger.rollout_is(state).await)?;
    }
    let release = followed(&mut ledger.runs).await?;
    ensure!(release == "v1", "the tenant that runs follows {release}");
    Ok(())
}
