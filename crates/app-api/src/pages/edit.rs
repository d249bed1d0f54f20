//! The form that changes a tenant in place: name, sleep, limits.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use protocol::Problem;
use protocol::control::EffectivePolicy;
use protocol::spec::WakeOn;
use serde::Deserialize;
use serde_json::Value;
use service::api_error::ApiError;

use super::choice::Choice;
use super::field::Field;
use super::format::{span, thousandths};
use super::{Layout, form_problem, page};
use crate::access::{AuthorizedTenant, Caller, Person};
use crate::app::App;
use crate::http::extract::Form;
use crate::tenant::change::{
    Change, Changeable, FREEZE, LimitsChange, MAX_AWAKE, PolicyChange, REQUIRE_SIGN_IN, SLEEP,
    WAKE_ON,
};
use crate::tenant_actions;

#[derive(Template)]
#[template(path = "edit_tenant.html")]
struct EditPage {
    layout: Layout,
    tenant_slug: String,
    /// The revision that the form shows: a later change of another session is not overwritten.
    revision: Option<i64>,
    name: Field,
    freeze_after: Choice,
    sleep_after: Choice,
    wake_on: Choice,
    max_awake: Choice,
    require_sign_in: Choice,
    cpus: Field,
    memory: Field,
    pids: Field,
    disk: Field,
    database: Field,
    problem: Option<Problem>,
}

/// The form as received: seconds as numbers, empty for the installation's setting; CPUs as a decimal number, memory,
/// disk and database in MiB.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct EditForm {
    revision: Option<i64>,
    name: String,
    #[serde(rename = "policy.freeze_after_seconds")]
    freeze_after: String,
    #[serde(rename = "policy.sleep_after_seconds")]
    sleep_after: String,
    #[serde(rename = "policy.wake_on")]
    wake_on: String,
    #[serde(rename = "policy.max_awake_seconds")]
    max_awake: String,
    #[serde(rename = "policy.require_sign_in")]
    require_sign_in: String,
    cpus: String,
    memory: String,
    pids: String,
    disk: String,
    database: String,
}

impl EditForm {
    /// The form that shows the tenant `now`.
    fn from_current(now: &Changeable, revision: Option<i64>) -> Self {
        let seconds = |value: Option<u32>| value.map(|s| s.to_string()).unwrap_or_default();
        Self {
            revision,
            name: now.name.clone(),
            freeze_after: seconds(now.policy.freeze_after_seconds),
            sleep_after: seconds(now.policy.sleep_after_seconds),
            wake_on: now.policy.wake_on.map(wake_on_text).unwrap_or_default().to_owned(),
            max_awake: seconds(now.policy.max_awake_seconds),
            require_sign_in: now.policy.require_sign_in.to_string(),
            cpus: thousandths(now.limits.cpu_millis),
            memory: (now.limits.memory_bytes >> 20).to_string(),
            pids: now.limits.pids.to_string(),
            disk: (now.limits.disk_bytes >> 20).to_string(),
            database: (now.limits.database_bytes >> 20).to_string(),
        }
    }

    /// The fields that differ from `now`. An untouched field stays exactly as it is, also where the form rounds.
    fn change(&self, now: &Changeable) -> Change {
        let shown = Self::from_current(now, self.revision);
        let differs = |sent: &str, shown: &str, read: fn(&str) -> Value| {
            (sent.trim() != shown).then(|| read(sent.trim()))
        };
        Change {
            name: differs(&self.name, &shown.name, text),
            limits: LimitsChange {
                cpu_millis: differs(&self.cpus, &shown.cpus, cpu_millis),
                memory_bytes: differs(&self.memory, &shown.memory, mebibytes),
                pids: differs(&self.pids, &shown.pids, number),
                disk_bytes: differs(&self.disk, &shown.disk, mebibytes),
                database_bytes: differs(&self.database, &shown.database, mebibytes),
            },
            policy: PolicyChange {
                freeze_after_seconds: differs(
                    &self.freeze_after,
                    &shown.freeze_after,
                    number_or_null,
                ),
                sleep_after_seconds: differs(&self.sleep_after, &shown.sleep_after, number_or_null),
                max_awake_seconds: differs(&self.max_awake, &shown.max_awake, number_or_null),
                wake_on: differs(&self.wake_on, &shown.wake_on, text_or_null),
                require_sign_in: differs(&self.require_sign_in, &shown.require_sign_in, boolean),
            },
            pinned: None,
        }
    }
}

const fn wake_on_text(wake_on: WakeOn) -> &'static str {
    match wake_on {
        WakeOn::Visits => "visits",
        WakeOn::AnyRequest => "any_request",
    }
}

// An unparsable value stays text, which the validation refuses at its field.

fn text(sent: &str) -> Value {
    sent.into()
}

fn boolean(sent: &str) -> Value {
    sent.parse::<bool>().map_or_else(|_| text(sent), Value::from)
}

fn number(sent: &str) -> Value {
    sent.parse::<u64>().map_or_else(|_| text(sent), Value::from)
}

fn number_or_null(sent: &str) -> Value {
    if sent.is_empty() { Value::Null } else { number(sent) }
}

fn text_or_null(sent: &str) -> Value {
    if sent.is_empty() { Value::Null } else { text(sent) }
}

fn mebibytes(sent: &str) -> Value {
    let bytes = sent.parse::<u64>().ok().and_then(|mebi| mebi.checked_mul(1 << 20));
    bytes.map_or_else(|| text(sent), Value::from)
}

/// "0.5" is 500.
fn cpu_millis(sent: &str) -> Value {
    let (whole, part) = sent.split_once(['.', ',']).unwrap_or((sent, ""));
    let plain = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit());
    let fits = !whole.is_empty() && plain(whole) && plain(part) && part.len() <= 3;
    let millis = format!("{whole}{part:0<3}");
    millis.parse::<u64>().ok().filter(|_| fits).map_or_else(|| text(sent), Value::from)
}

fn edit_page(
    person: &Person,
    slug: &str,
    form: &EditForm,
    default: &EffectivePolicy,
    problem: Option<Problem>,
) -> EditPage {
    let errors = problem.as_ref();
    let after = |name, label, value: &str, default: u32, presets: &[u32]| {
        let default = if default == 0 { "never".to_owned() } else { span(default) };
        let first =
            [(String::new(), format!("Default ({default})")), ("0".to_owned(), "Never".to_owned())];
        let presets = presets.iter().map(|s| (s.to_string(), format!("After {}", span(*s))));
        Choice::new(name, label, value.to_owned(), first.into_iter().chain(presets))
            .with_problem(errors)
    };
    let awake = [
        (String::new(), "As long as it likes".to_owned()),
        ("3600".to_owned(), "1 h".to_owned()),
        ("14400".to_owned(), "4 h".to_owned()),
        ("43200".to_owned(), "12 h".to_owned()),
        ("86400".to_owned(), "1 d".to_owned()),
    ];
    let visits = [
        (String::new(), "Default (visits)".to_owned()),
        ("visits".to_owned(), "Visits".to_owned()),
        ("any_request".to_owned(), "Any request".to_owned()),
    ];
    let visitors = [
        ("false".to_owned(), "Everybody".to_owned()),
        ("true".to_owned(), "Signed-in members".to_owned()),
    ];
    EditPage {
        layout: Layout::signed_in(person, format!("Edit {slug}")),
        tenant_slug: slug.to_owned(),
        revision: form.revision,
        name: Field::new("name", "Name", "text").value(&form.name).with_problem(errors).autofocus(),
        freeze_after: after(
            FREEZE,
            "Freezes without use",
            &form.freeze_after,
            default.freeze_after_seconds,
            &[10, 30, 60, 300, 900, 3_600],
        )
        .hint("Frozen, it keeps its memory and takes no CPU; it goes on within milliseconds."),
        sleep_after: after(
            SLEEP,
            "Sleeps without use",
            &form.sleep_after,
            default.sleep_after_seconds,
            &[60, 300, 600, 1_200, 3_600, 14_400, 86_400],
        )
        .hint("Asleep, it keeps its files only; it starts again when it is wanted."),
        wake_on: Choice::new(WAKE_ON, "Wakes from sleep for", form.wake_on.clone(), visits)
            .hint("Visits are pages, programs and calls with credentials; polls of a forgotten tab are none.")
            .with_problem(errors),
        max_awake: Choice::new(
            MAX_AWAKE,
            "Its own work may keep it awake",
            form.max_awake.clone(),
            awake,
        )
        .hint("Without a break, while nobody uses it.")
        .with_problem(errors),
        require_sign_in: Choice::new(
            REQUIRE_SIGN_IN,
            "Serves",
            form.require_sign_in.clone(),
            visitors,
        )
        .hint("Others are sent to sign in, and programs get 401.")
        .with_problem(errors),
        cpus: Field::new("cpus", "CPUs", "text")
            .value(&form.cpus)
            .hint("0.01 to 1024.")
            .with_problem_as(
                errors,
                "limits.cpu_millis",
                "Enter 0.01 to 1024, with at most three decimals.",
            ),
        memory: Field::new("memory", "Memory in MiB", "text")
            .value(&form.memory)
            .hint("32 to 4194304. Less than it uses now is refused by the engine.")
            .with_problem_as(errors, "limits.memory_bytes", "Enter a whole number, 32 to 4194304."),
        pids: Field::new("pids", "Processes", "text")
            .value(&form.pids)
            .hint("32 to 1000000.")
            .with_problem_as(errors, "limits.pids", "Enter a whole number, 32 to 1000000."),
        disk: Field::new("disk", "Disk in MiB", "text")
            .value(&form.disk)
            .hint("64 to 1073741824; files and data together.")
            .with_problem_as(errors, "limits.disk_bytes", "Enter a whole number, 64 to 1073741824."),
        database: Field::new("database", "Database in MiB", "text")
            .value(&form.database)
            .hint("16 to 1073741824; its tables with their indexes. Above it, nothing connects to its database.")
            .with_problem_as(errors, "limits.database_bytes", "Enter a whole number, 16 to 1073741824."),
        problem,
    }
}

const CHANGED_MEANWHILE: &str = "Somebody changed this tenant meanwhile. Below is what you entered: Save makes it so, Cancel \
    shows what it is now.";

pub async fn show_edit_tenant(
    State(app): State<App>,
    person: Person,
    found: AuthorizedTenant,
) -> Result<Response, ApiError> {
    let tenant = found.tenant;
    let form = EditForm::from_current(&tenant.changeable(), Some(tenant.revision));
    page(StatusCode::OK, &edit_page(&person, tenant.slug.as_str(), &form, &app.policy, None))
}

pub async fn edit_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    person: Person,
    found: AuthorizedTenant,
    Form(mut form): Form<EditForm>,
) -> Result<Response, ApiError> {
    let tenant = found.tenant;
    let change = form.change(&tenant.changeable());
    match tenant_actions::change(
        &app,
        &caller,
        tenant.clone(),
        &change,
        form.revision.as_ref().map(std::slice::from_ref),
    )
    .await
    {
        Ok(tenant) => Ok(Redirect::to(&format!("/admin/tenants/{}", tenant.slug)).into_response()),
        Err(failure) => {
            let (status, mut problem) = form_problem(failure)?;
            if status == StatusCode::PRECONDITION_FAILED {
                problem.detail = CHANGED_MEANWHILE.to_owned();
                form.revision = Some(tenant.revision);
            }
            page(
                status,
                &edit_page(&person, tenant.slug.as_str(), &form, &app.policy, Some(problem)),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::spec::{Limits, Policy};

    fn current() -> Changeable {
        let limits = Limits { memory_bytes: 100_000_001, ..Limits::default() };
        Changeable { name: "Acme".into(), limits, policy: Policy::default(), pinned: false }
    }

    #[test]
    fn an_untouched_form_changes_nothing() {
        let change = EditForm::from_current(&current(), None).change(&current());
        assert_eq!(change.apply_to(&current()).unwrap(), current());
    }

    #[test]
    fn a_form_is_parsed_into_a_change() {
        let form = EditForm {
            name: " New ".into(),
            freeze_after: "0".into(),
            sleep_after: "90".into(),
            wake_on: "any_request".into(),
            require_sign_in: "true".into(),
            cpus: "0.5".into(),
            memory: "256".into(),
            disk: "2048".into(),
            ..EditForm::from_current(&current(), None)
        };
        let next = form.change(&current()).apply_to(&current()).unwrap();
        assert_eq!(next.name, "New");
        assert_eq!((next.limits.cpu_millis, next.limits.memory_bytes), (500, 256 << 20));
        assert_eq!(next.limits.disk_bytes, 2 << 30);
        let policy = (next.policy.freeze_after_seconds, next.policy.sleep_after_seconds);
        assert_eq!(policy, (Some(0), Some(90)));
        assert_eq!(next.policy.wake_on, Some(WakeOn::AnyRequest));
        assert!(next.policy.require_sign_in);
        let back = EditForm { freeze_after: String::new(), ..EditForm::from_current(&next, None) };
        assert_eq!(back.change(&next).apply_to(&next).unwrap().policy.freeze_after_seconds, None);
    }

    #[test]
    fn cpus_are_decimal_numbers() {
        for (sent, read) in [("2", 2_000), ("0.5", 500), ("1,25", 1_250), ("0.010", 10)] {
            assert_eq!(cpu_millis(sent), read, "{sent}");
        }
        for bad in ["", ".5", "1.2345", "-1", "1e3", "two", "1.2.3", "99999999999999999999"] {
            assert!(cpu_millis(bad).is_string(), "{bad}");
        }
    }
}
