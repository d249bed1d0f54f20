//! The list of tenants, the form for a new one, and the page of each.

use std::time::Duration;

use askama::Template;
use axum::body::to_bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use protocol::control::{EffectivePolicy, NewTenant};
use protocol::spec::{Desired, Policy, WakeOn};
use protocol::{Problem, State as TenantState, Timestamp};
use serde::Deserialize;
use service::failure::Failure;

use super::field::Field;
use super::sleep::{Place, SleepPart};
use super::status::{Status, status};
use super::words::{ago, bytes, span, thousandths};
use super::{Frame, of_form, page};
use crate::access::Owner;
use crate::app::App;
use crate::db::tenant::{Filter, Tenant};
use crate::extract::{Form, Path, Query};
use crate::reconcile::plan::Ask;
use crate::settings::Addresses;
use crate::{sleep, tenants, views};

/// More than one screen can hold; the search narrows it.
const ROWS: i64 = 200;

#[derive(Template)]
#[template(path = "tenants.html")]
struct ListPage {
    frame: Frame,
    q: String,
    rows: Vec<Row>,
    more: bool,
}

struct Row {
    slug: String,
    name: String,
    url: String,
    status: Status,
    reason: Option<String>,
    port: Option<u16>,
    opens: bool,
}

impl Row {
    fn new(addresses: &Addresses, tenant: &Tenant, now: Timestamp) -> Self {
        Self {
            slug: tenant.slug.to_string(),
            name: tenant.name.clone(),
            url: addresses.tenant(&tenant.slug),
            status: status(
                (tenant.state, tenant.desired),
                tenant.want().wake,
                tenant.state_since,
                now,
            ),
            reason: tenant.state_reason.clone(),
            port: tenant.port(),
            opens: opens(tenant),
        }
    }
}

fn opens(tenant: &Tenant) -> bool {
    let up =
        matches!(tenant.state, TenantState::Running | TenantState::Frozen | TenantState::Sleeping);
    up && tenant.desired == Desired::Running
}

#[derive(Deserialize)]
pub struct ListQuery {
    q: Option<String>,
}

pub async fn list_tenants(
    State(app): State<App>,
    owner: Owner,
    Query(query): Query<ListQuery>,
) -> Result<Response, Failure> {
    let q = query.q.unwrap_or_default().replace('\0', "");
    let text = Some(q.trim().to_owned()).filter(|q| !q.is_empty());
    let filter = Filter { text, limit: ROWS + 1, ..Filter::default() };
    let tenants = tenants::list(&app, &owner, &filter).await?;
    let (now, more) = (app.clock.now(), tenants.len() > ROWS as usize);
    let shown = tenants.iter().take(ROWS as usize);
    let rows: Vec<_> = shown.map(|t| Row::new(&app.addresses, t, now)).collect();
    let mut frame = Frame::of(&owner, "Tenants");
    frame.refresh = rows.iter().any(|row| row.status.moving);
    page(StatusCode::OK, &ListPage { frame, q, rows, more })
}

#[derive(Template)]
#[template(path = "new_tenant.html")]
struct NewPage {
    frame: Frame,
    slug: Field,
    name: Field,
    host: String,
    problem: Option<Problem>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct NewForm {
    slug: String,
    name: String,
}

fn new_page(app: &App, owner: &Owner, form: &NewForm, problem: Option<Problem>) -> NewPage {
    let judged = |field: Field| field.judged(problem.as_ref());
    NewPage {
        frame: Frame::of(owner, "New tenant"),
        slug: judged(Field::new("slug", "Slug", "text"))
            .hint("2 to 40 of a–z, 0–9 and hyphen. It becomes the tenant's address and stays.")
            .value(&form.slug)
            .autofocus(),
        name: judged(Field::new("name", "Name", "text"))
            .hint("For people. You can change it later.")
            .value(&form.name),
        host: app.addresses.any_tenant().replace('*', "slug"),
        problem,
    }
}

pub async fn show_new_tenant(State(app): State<App>, owner: Owner) -> Result<Response, Failure> {
    page(StatusCode::OK, &new_page(&app, &owner, &NewForm::default(), None))
}

pub async fn create_tenant(
    State(app): State<App>,
    owner: Owner,
    Form(form): Form<NewForm>,
) -> Result<Response, Failure> {
    let wish = NewTenant { slug: form.slug.trim().to_owned(), name: form.name.clone() };
    let new = tenants::Create { wish: &wish, key: None, bytes: &[] };
    match tenants::create(&app, &owner, new).await {
        Ok(made) => Ok(Redirect::to(&format!("/admin/tenants/{}", made.slug)).into_response()),
        Err(failure) => {
            let (status, problem) = of_form(failure)?;
            page(status, &new_page(&app, &owner, &form, Some(problem)))
        }
    }
}

#[derive(Template)]
#[template(path = "tenant.html")]
struct TenantPage {
    frame: Frame,
    row: Row,
    id: String,
    container_id: Option<String>,
    revision: i64,
    generation: i64,
    created_at: String,
    created_ago: String,
    cpus: String,
    memory: String,
    pids: u32,
    sleep: SleepPart,
    policy: Vec<(&'static str, String)>,
    can_start: bool,
    can_wake: bool,
    can_stop: bool,
    log: Option<String>,
}

pub async fn show_tenant(
    State(app): State<App>,
    owner: Owner,
    Path(slug): Path,
) -> Result<Response, Failure> {
    let tenant = tenants::find(&app, &owner, &slug).await?;
    // Neither waits for the other.
    let (asleep, log) = tokio::join!(sleep::of(&app, &tenant), last_lines(&app, &tenant));
    let now = app.clock.now();
    let row = Row::new(&app.addresses, &tenant, now);
    let policy = app.policy.under(&tenant.policy);
    let is_asleep = matches!(tenant.state, TenantState::Frozen | TenantState::Sleeping);
    let mut frame = Frame::of(&owner, tenant.name.clone());
    frame.refresh = row.status.moving;
    let deleted = tenant.desired == Desired::Deleted;
    let failed = tenant.state == TenantState::Error;
    let page_of = TenantPage {
        frame,
        row,
        id: tenant.id.to_string(),
        container_id: tenant.container_id.clone(),
        revision: tenant.revision,
        generation: tenant.generation,
        created_at: views::time(tenant.created_at),
        created_ago: ago(tenant.created_at, now),
        cpus: thousandths(tenant.limits.cpu_millis),
        memory: bytes(tenant.limits.memory_bytes),
        pids: tenant.limits.pids,
        can_start: !deleted && (tenant.desired == Desired::Stopped || failed),
        sleep: SleepPart::new(Place::of(&tenant), &policy, asleep, now),
        policy: policy_words(&tenant.policy, &policy),
        can_wake: is_asleep && tenant.desired == Desired::Running && !tenant.want().wake,
        can_stop: tenant.desired == Desired::Running,
        log,
    };
    page(StatusCode::OK, &page_of)
}

/// The policy as it holds, and which of it is the tenant's own.
fn policy_words(own: &Policy, holds: &EffectivePolicy) -> Vec<(&'static str, String)> {
    let after = |seconds: u32, own: Option<u32>| {
        let word = if seconds == 0 { "never".to_owned() } else { span(seconds) };
        if own.is_some() { word } else { format!("{word} (the installation's default)") }
    };
    let limit = match holds.max_awake_seconds {
        0 => "as long as it likes".to_owned(),
        seconds => format!("at most {}", span(seconds)),
    };
    let wakes = match holds.wake_on {
        WakeOn::Visits => "visits",
        WakeOn::AnyRequest => "any request",
    };
    vec![
        ("Freezes after", after(holds.freeze_after_seconds, own.freeze_after_seconds)),
        ("Sleeps after", after(holds.sleep_after_seconds, own.sleep_after_seconds)),
        ("Wakes for", wakes.to_owned()),
        ("Own work", limit),
    ]
}

/// The end of its log, if it can be had soon: a page does not wait for an engine.
async fn last_lines(app: &App, tenant: &Tenant) -> Option<String> {
    const PATIENCE: Duration = Duration::from_secs(2);
    tenant.container_id.as_ref()?;
    let read = async {
        let body = app.orchestrator.logs(tenant.tenant_id(), "tail=40").await.ok()?;
        let bytes = to_bytes(body, 256 << 10).await.ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    tokio::time::timeout(PATIENCE, read).await.ok()?
}

pub async fn start_tenant(
    State(app): State<App>,
    owner: Owner,
    Path(slug): Path,
) -> Result<Redirect, Failure> {
    asked(&app, &owner, &slug, Ask::Start).await
}

pub async fn stop_tenant(
    State(app): State<App>,
    owner: Owner,
    Path(slug): Path,
) -> Result<Redirect, Failure> {
    asked(&app, &owner, &slug, Ask::Stop).await
}

pub async fn restart_tenant(
    State(app): State<App>,
    owner: Owner,
    Path(slug): Path,
) -> Result<Redirect, Failure> {
    asked(&app, &owner, &slug, Ask::Restart).await
}

async fn asked(app: &App, owner: &Owner, slug: &str, ask: Ask) -> Result<Redirect, Failure> {
    let tenant = tenants::ask(app, owner, slug, ask).await?;
    Ok(Redirect::to(&format!("/admin/tenants/{}", tenant.slug)))
}

#[derive(Template)]
#[template(path = "delete_tenant.html")]
struct DeletePage {
    frame: Frame,
    slug: String,
    name: String,
    confirm: Field,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct DeleteForm {
    confirm: String,
}

fn delete_page(owner: &Owner, tenant: &Tenant, typed: Option<&str>) -> DeletePage {
    let mut confirm = Field::new("confirm", "Its slug", "text").autofocus();
    if let Some(typed) = typed {
        confirm.value = typed.to_owned();
        confirm.fault = Some(format!("Type {} to confirm.", tenant.slug));
    }
    DeletePage {
        frame: Frame::of(owner, format!("Delete {}", tenant.slug)),
        slug: tenant.slug.to_string(),
        name: tenant.name.clone(),
        confirm,
    }
}

pub async fn show_delete_tenant(
    State(app): State<App>,
    owner: Owner,
    Path(slug): Path,
) -> Result<Response, Failure> {
    let tenant = tenants::find(&app, &owner, &slug).await?;
    page(StatusCode::OK, &delete_page(&owner, &tenant, None))
}

pub async fn delete_tenant(
    State(app): State<App>,
    owner: Owner,
    Path(slug): Path,
    Form(form): Form<DeleteForm>,
) -> Result<Response, Failure> {
    let tenant = tenants::find(&app, &owner, &slug).await?;
    if form.confirm.trim() != tenant.slug.as_str() {
        let again = delete_page(&owner, &tenant, Some(&form.confirm));
        return page(StatusCode::UNPROCESSABLE_ENTITY, &again);
    }
    tenants::ask(&app, &owner, &slug, Ask::Delete).await?;
    Ok(Redirect::to("/admin").into_response())
}
