//! The list of tenants, the form for a new tenant, and the page of one tenant.

use std::time::Duration;

use askama::Template;
use axum::body::to_bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use protocol::api_keys::Role;
use protocol::apps::BUILT_IN_APP;
use protocol::backups::BackupState;
use protocol::control::{EffectivePolicy, NewTenant};
use protocol::orchestrator::{DiskEnforcement, DiskUse};
use protocol::spec::{Desired, Policy, WakeOn};
use protocol::text::describe_bytes;
use protocol::{Problem, State as TenantState, Timestamp};
use serde::Deserialize;
use service::api_error::ApiError;

use super::choice::Choice;
use super::field::Field;
use super::format::{ago, bytes, span, thousandths};
use super::sleep::{SleepContext, SleepSection};
use super::status_badge::{StatusBadge, status_badge};
use super::{Layout, form_problem, page};
use crate::access::{AuthorizedTenant, Caller, Person, Principal};
use crate::app::App;
use crate::backups::rules::is_overdue;
use crate::db::backup::{self, BackupRow};
use crate::db::tenant::Filter;
use crate::http::extract::{Form, Query};
use crate::settings::Addresses;
use crate::tenant::database::DatabaseExcess;
use crate::tenant::status::OwnerAction;
use crate::tenant::{Tenant, TenantApp};
use crate::tenant_databases::last_sizes;
use crate::{apps, sleep_status, tenant_actions, views};

/// The most rows on the list; the search narrows it.
const MAX_ROWS: i64 = 200;

#[derive(Template)]
#[template(path = "tenants.html")]
struct ListPage {
    layout: Layout,
    q: String,
    rows: Vec<Row>,
    more: bool,
}

struct Row {
    slug: String,
    name: String,
    url: String,
    status: StatusBadge,
    reason: Option<String>,
    port: Option<u16>,
    can_open: bool,
}

impl Row {
    fn new(addresses: &Addresses, tenant: &Tenant, now: Timestamp) -> Self {
        Self {
            slug: tenant.slug.to_string(),
            name: tenant.name.clone(),
            url: addresses.tenant_url(&tenant.slug),
            status: status_badge(
                (tenant.state, tenant.desired),
                tenant.desired_state().wake,
                tenant.shown_since(),
                now,
            ),
            reason: tenant.state_reason.clone(),
            port: tenant.port(),
            can_open: tenant.is_up(),
        }
    }
}

#[derive(Deserialize)]
pub struct ListQuery {
    q: Option<String>,
}

pub async fn list_tenants(
    State(app): State<App>,
    Caller(caller): Caller,
    person: Person,
    Query(query): Query<ListQuery>,
) -> Result<Response, ApiError> {
    let q = query.q.unwrap_or_default().replace('\0', "");
    let text = Some(q.trim().to_owned()).filter(|q| !q.is_empty());
    let filter = Filter { text, limit: MAX_ROWS + 1, ..Filter::default() };
    let tenants = tenant_actions::list(&app, &caller, &filter).await?;
    let (now, more) = (app.clock.now(), tenants.len() > MAX_ROWS as usize);
    let shown = tenants.iter().take(MAX_ROWS as usize);
    let rows: Vec<_> = shown.map(|t| Row::new(&app.addresses, t, now)).collect();
    let mut layout = Layout::signed_in(&person, "Tenants");
    layout.refresh = rows.iter().any(|row| row.status.is_transient);
    page(StatusCode::OK, &ListPage { layout, q, rows, more })
}

#[derive(Template)]
#[template(path = "new_tenant.html")]
struct NewPage {
    layout: Layout,
    slug: Field,
    name: Field,
    /// `None` while the built-in app is the only one.
    app: Option<Choice>,
    host: String,
    problem: Option<Problem>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct NewForm {
    slug: String,
    name: String,
    app: String,
}

async fn new_page(
    app: &App,
    person: &Person,
    form: &NewForm,
    problem: Option<Problem>,
) -> Result<NewPage, ApiError> {
    let checked = |field: Field| field.with_problem(problem.as_ref());
    let released = apps::list(app).await?.into_iter().filter(|(_, latest)| latest.is_some());
    let released: Vec<_> = released
        .map(|(app, _)| (app.slug.to_string(), format!("{} ({})", app.name, app.slug)))
        .collect();
    let built_in = (String::new(), format!("{BUILT_IN_APP} (built in)"));
    let choice = (!released.is_empty()).then(|| {
        let options = std::iter::once(built_in).chain(released);
        Choice::new("app", "App", form.app.clone(), options)
            .hint("What it runs. It stays; its releases change.")
            .with_problem(problem.as_ref())
    });
    Ok(NewPage {
        layout: Layout::signed_in(person, "New tenant"),
        slug: checked(Field::new("slug", "Slug", "text"))
            .hint("2 to 40 of a–z, 0–9 and hyphen. It becomes the tenant's address and stays.")
            .value(&form.slug)
            .autofocus(),
        name: checked(Field::new("name", "Name", "text"))
            .hint("For people. You can change it later.")
            .value(&form.name),
        app: choice,
        host: app.addresses.tenant_wildcard().replace('*', "slug"),
        problem,
    })
}

pub async fn show_new_tenant(State(app): State<App>, person: Person) -> Result<Response, ApiError> {
    page(StatusCode::OK, &new_page(&app, &person, &NewForm::default(), None).await?)
}

pub async fn create_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    person: Person,
    Form(form): Form<NewForm>,
) -> Result<Response, ApiError> {
    let request = NewTenant {
        slug: form.slug.trim().to_owned(),
        name: form.name.clone(),
        app: Some(form.app.clone()).filter(|app| !app.is_empty()),
        release: None,
    };
    let new = tenant_actions::Create { request: &request, idempotency_key: None, bytes: &[] };
    match tenant_actions::create(&app, &caller, new).await {
        Ok(made) => Ok(Redirect::to(&format!("/admin/tenants/{}", made.slug)).into_response()),
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            page(status, &new_page(&app, &person, &form, Some(problem)).await?)
        }
    }
}

#[derive(Template)]
#[template(path = "tenant.html")]
struct TenantPage {
    layout: Layout,
    row: Row,
    id: String,
    container_id: Option<String>,
    revision: i64,
    generation: i64,
    created_at: String,
    created_ago: String,
    app: String,
    has_app: bool,
    is_pinned: bool,
    cpus: String,
    memory: String,
    pids: u32,
    disk: String,
    disk_hint: &'static str,
    database: String,
    /// Why nothing connects to the tenant's database.
    database_closed: Option<String>,
    /// `None`: the installation makes no backups.
    backup: Option<String>,
    sleep: SleepSection,
    policy: Vec<(&'static str, String)>,
    can_start: bool,
    can_wake: bool,
    can_stop: bool,
    /// Whether the person may change who enters the tenant, and by what.
    is_admin: bool,
    log: Option<String>,
}

pub async fn show_tenant(
    State(app): State<App>,
    person: Person,
    found: AuthorizedTenant,
) -> Result<Response, ApiError> {
    let mut tenant = found.tenant;
    // The calls run at the same time.
    let (asleep, disk_use, sizes, log) = tokio::join!(
        sleep_status::fetch(&app, &tenant),
        sleep_status::fetch_disk_use(&app, &tenant),
        last_sizes(&app, std::slice::from_ref(&tenant)),
        last_lines(&app, &tenant)
    );
    let now = app.clock.now();
    sleep_status::update_state(&mut tenant, asleep.as_ref(), now);
    let row = Row::new(&app.addresses, &tenant, now);
    let policy = app.policy.under(&tenant.policy);
    let is_asleep = matches!(tenant.state, TenantState::Frozen | TenantState::Sleeping);
    let mut layout = Layout::signed_in(&person, tenant.name.clone());
    layout.refresh = row.status.is_transient;
    // The page offers only actions that the person may perform.
    let may_act = found.role >= Some(Role::Write) && tenant.desired != Desired::Deleted;
    let failed = tenant.state == TenantState::Error;
    let tenant_page = TenantPage {
        layout,
        row,
        id: tenant.id.to_string(),
        container_id: tenant.container_id.clone(),
        revision: tenant.revision,
        generation: tenant.generation,
        created_at: views::time(tenant.created_at),
        created_ago: ago(tenant.created_at, now),
        app: tenant
            .app
            .as_ref()
            .map_or_else(|| format!("{BUILT_IN_APP} (built in)"), TenantApp::name),
        has_app: tenant.app.is_some(),
        is_pinned: tenant.is_pinned(),
        cpus: thousandths(tenant.limits.cpu_millis),
        memory: bytes(tenant.limits.memory_bytes),
        pids: tenant.limits.pids,
        disk: disk(disk_use, tenant.limits.disk_bytes),
        disk_hint: disk_hint(disk_use),
        database: database(sizes.get(&tenant.id).copied(), tenant.limits.database_bytes),
        database_closed: tenant
            .database
            .as_ref()
            .and_then(|database| database.excess)
            .map(DatabaseExcess::describe),
        backup: backup(&app, &tenant, now).await?,
        can_start: may_act && (tenant.desired == Desired::Stopped || failed),
        sleep: SleepSection::new(SleepContext::of(&tenant), &policy, asleep, now),
        policy: policy_rows(&tenant.policy, &policy),
        can_wake: may_act
            && is_asleep
            && tenant.desired == Desired::Running
            && !tenant.desired_state().wake,
        can_stop: may_act && tenant.desired == Desired::Running,
        is_admin: found.role >= Some(Role::Admin),
        log,
    };
    page(StatusCode::OK, &tenant_page)
}

async fn backup(app: &App, tenant: &Tenant, now: Timestamp) -> Result<Option<String>, ApiError> {
    if app.backups.is_none() {
        return Ok(None);
    }
    let mut conn = app.conn().await?;
    let latest = backup::latest(&mut conn, tenant.id, now).await?;
    let open = backup::open(&mut conn, tenant.id).await?;
    Ok(Some(describe_backup(latest.as_ref(), open.as_ref(), now)))
}

/// How old the latest backup is, and why there is no newer one.
fn describe_backup(latest: Option<&BackupRow>, open: Option<&BackupRow>, now: Timestamp) -> String {
    let current = latest.and_then(|latest| latest.current_at.max(latest.taken_at));
    let lacks = latest.and_then(|latest| latest.failure.as_deref());
    let latest = current.map_or_else(|| "none yet".to_owned(), |current| ago(current, now));
    let latest = lacks.map_or(latest.clone(), |lacks| format!("{latest}. {lacks}"));
    let Some(open) = open else { return latest };
    let next = match &open.failure {
        Some(failure) => format!("the last attempt failed: {failure}"),
        None if open.state == BackupState::Running => "the next is being made".to_owned(),
        None if is_overdue(open.due_at, now) => {
            format!("overdue: it has not rested since it was due, {}", ago(open.due_at, now))
        }
        None => "the next is made once it rests".to_owned(),
    };
    format!("{latest}; {next}")
}

fn disk(disk_use: Option<DiskUse>, limit_bytes: u64) -> String {
    let limit = bytes(limit_bytes);
    let Some(DiskUse { used_bytes: Some(used_bytes), enforced_by, .. }) = disk_use else {
        return format!("{limit}, not measured yet");
    };
    format!("{} used of {limit}, {}", describe_bytes(used_bytes), enforced_by.describe())
}

fn database(used_bytes: Option<u64>, limit_bytes: u64) -> String {
    let limit = bytes(limit_bytes);
    match used_bytes {
        Some(used_bytes) => format!("{} used of {limit}", describe_bytes(used_bytes)),
        None => format!("{limit}, not measured yet"),
    }
}

/// The sentence about what a tenant at its disk limit meets.
fn disk_hint(disk_use: Option<DiskUse>) -> &'static str {
    match disk_use.map(|disk_use| disk_use.enforced_by) {
        Some(DiskEnforcement::Filesystem) => "At the limit, its programs cannot write any more.",
        Some(DiskEnforcement::Measurement) | None => {
            "Measured every few minutes. Above the limit it is stopped."
        }
    }
}

/// The effective policy as labels and values; a value that is not the tenant's own is marked.
fn policy_rows(own: &Policy, effective: &EffectivePolicy) -> Vec<(&'static str, String)> {
    let after = |seconds: u32, own: Option<u32>| {
        let text = if seconds == 0 { "never".to_owned() } else { span(seconds) };
        if own.is_some() { text } else { format!("{text} (the installation's default)") }
    };
    let limit = match effective.max_awake_seconds {
        0 => "as long as it likes".to_owned(),
        seconds => format!("at most {}", span(seconds)),
    };
    let wakes = match effective.wake_on {
        WakeOn::Visits => "visits",
        WakeOn::AnyRequest => "any request",
    };
    let serves = if own.require_sign_in { "signed-in members" } else { "everybody" };
    vec![
        ("Freezes after", after(effective.freeze_after_seconds, own.freeze_after_seconds)),
        ("Sleeps after", after(effective.sleep_after_seconds, own.sleep_after_seconds)),
        ("Wakes for", wakes.to_owned()),
        ("Own work", limit),
        ("Serves", serves.to_owned()),
    ]
}

/// The end of the log, unless reading takes too long for a page.
async fn last_lines(app: &App, tenant: &Tenant) -> Option<String> {
    const READ_TIMEOUT: Duration = Duration::from_secs(2);
    tenant.container_id.as_ref()?;
    let read = async {
        let body = app.orchestrator.logs(tenant.tenant_id(), "tail=40").await.ok()?;
        let bytes = to_bytes(body, 256 << 10).await.ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    tokio::time::timeout(READ_TIMEOUT, read).await.ok()?
}

pub async fn start_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
) -> Result<Redirect, ApiError> {
    request_action(&app, &caller, found.tenant, OwnerAction::Start).await
}

pub async fn stop_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
) -> Result<Redirect, ApiError> {
    request_action(&app, &caller, found.tenant, OwnerAction::Stop).await
}

pub async fn restart_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
) -> Result<Redirect, ApiError> {
    request_action(&app, &caller, found.tenant, OwnerAction::Restart).await
}

async fn request_action(
    app: &App,
    caller: &Principal,
    tenant: Tenant,
    action: OwnerAction,
) -> Result<Redirect, ApiError> {
    let tenant = tenant_actions::request_action(app, caller, tenant, action).await?;
    Ok(Redirect::to(&format!("/admin/tenants/{}", tenant.slug)))
}

#[derive(Template)]
#[template(path = "delete_tenant.html")]
struct DeletePage {
    layout: Layout,
    slug: String,
    name: String,
    confirm: Field,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct DeleteForm {
    confirm: String,
}

fn delete_page(person: &Person, tenant: &Tenant, typed: Option<&str>) -> DeletePage {
    let mut confirm = Field::new("confirm", "Its slug", "text").autofocus();
    if let Some(typed) = typed {
        confirm.value = typed.to_owned();
        confirm.error = Some(format!("Type {} to confirm.", tenant.slug));
    }
    DeletePage {
        layout: Layout::signed_in(person, format!("Delete {}", tenant.slug)),
        slug: tenant.slug.to_string(),
        name: tenant.name.clone(),
        confirm,
    }
}

pub async fn show_delete_tenant(
    person: Person,
    found: AuthorizedTenant,
) -> Result<Response, ApiError> {
    page(StatusCode::OK, &delete_page(&person, &found.tenant, None))
}

pub async fn delete_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    person: Person,
    found: AuthorizedTenant,
    Form(form): Form<DeleteForm>,
) -> Result<Response, ApiError> {
    if form.confirm.trim() != found.tenant.slug.as_str() {
        let again = delete_page(&person, &found.tenant, Some(&form.confirm));
        return page(StatusCode::UNPROCESSABLE_ENTITY, &again);
    }
    tenant_actions::request_action(&app, &caller, found.tenant, OwnerAction::Delete).await?;
    Ok(Redirect::to("/admin").into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_described_with_its_age_and_what_holds_up_the_next() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2026-11-30T12:00:00Z");
        let row = |state, due: &str, failure: Option<&str>| BackupRow {
            id: uuid::Uuid::nil(),
            tenant_id: uuid::Uuid::nil(),
            slug: "acme".parse().unwrap(),
            state,
            due_at: at(due),
            requested_by: None,
            not_before: now,
            failures: 0,
            failure: failure.map(str::to_owned),
            object: String::new(),
            taken_at: (state == BackupState::Complete).then(|| at(due)),
            current_at: None,
            bytes: None,
            sha256: None,
            last_start: None,
        };
        let made = row(BackupState::Complete, "2026-11-29T02:00:00Z", None);
        let kept = BackupRow { current_at: Some(at("2026-11-30T02:00:00Z")), ..made.clone() };
        let waits = |due| row(BackupState::Waiting, due, None);
        let (recent, old) = ("2026-11-30T02:00:00Z", "2026-11-29T02:00:00Z");
        let failed = row(BackupState::Waiting, recent, Some("The store is unreachable."));
        let runs = row(BackupState::Running, recent, None);
        for (latest, open, expected) in [
            (None, None, "none yet"),
            (Some(&made), None, "1 d ago"),
            (Some(&kept), None, "10 h ago"),
            (Some(&kept), Some(&runs), "10 h ago; the next is being made"),
            (None, Some(&waits(recent)), "none yet; the next is made once it rests"),
            (
                Some(&made),
                Some(&waits(old)),
                "1 d ago; overdue: it has not rested since it was due, 1 d ago",
            ),
            (
                Some(&made),
                Some(&failed),
                "1 d ago; the last attempt failed: The store is unreachable.",
            ),
        ] {
            assert_eq!(describe_backup(latest, open, now), expected);
        }
    }
}
