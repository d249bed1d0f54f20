//! Classifies a failed orchestrator call: can a retry succeed, and what does the owner read?

use service::client::CallError;

use super::execute::StepError;
use super::plan::Step;
use crate::tenant::database::bounded_error;

/// The reason that the owner reads, and whether repeating the same call cannot succeed.
#[derive(Debug, PartialEq, Eq)]
pub struct ErrorClass {
    pub reason: String,
    pub is_fatal: bool,
}

const NO_DATABASE: &str = "The tenant's database cannot be made yet; it is tried again.";
const DATABASE_LEFT: &str = "The tenant's database cannot be removed yet; it is tried again.";

/// Whether a failed change of the database gave a tenant this reason.
pub fn is_database_reason(reason: &str) -> bool {
    reason.starts_with(NO_DATABASE) || reason.starts_with(DATABASE_LEFT)
}

pub(super) fn classify(step: Step, error: &StepError) -> ErrorClass {
    match error {
        StepError::Orchestrator(error) => classify_error(error),
        // The obstacle, such as a role of the same name, may be gone by the next attempt.
        StepError::Database(error) => {
            let what = if step == Step::DropDatabase { DATABASE_LEFT } else { NO_DATABASE };
            ErrorClass { reason: format!("{what} Last: {}", bounded_error(error)), is_fatal: false }
        }
    }
}

pub fn classify_error(error: &CallError) -> ErrorClass {
    match error {
        CallError::Refused(problem) => ErrorClass {
            reason: refusal_reason(&problem.detail, &problem.code),
            is_fatal: is_fatal_status(problem.status),
        },
        CallError::Unreachable(_) => transient("The orchestrator cannot be reached"),
        CallError::OutOfResources(_) => transient("This service is out of resources"),
        CallError::TimedOut(_) => transient("The orchestrator did not answer in time"),
        CallError::Unexpected(_) => {
            transient("The orchestrator gave an answer that is not understood")
        }
    }
}

/// Whether the engine refuses this very tenant (its image, its limits, no room for it). Other statuses mean that a
/// part is unreachable or busy, or that our own credentials are wrong.
fn is_fatal_status(status: u16) -> bool {
    match status {
        // 404 and 409: a container appeared or vanished during the call.
        401 | 403 | 404 | 408 | 409 | 425 | 429 => false,
        502 | 507 => true,
        status => status < 500,
    }
}

fn transient(cause: &str) -> ErrorClass {
    ErrorClass { reason: format!("{cause}. Nothing is lost; it is tried again."), is_fatal: false }
}

fn refusal_reason(detail: &str, code: &str) -> String {
    let detail = if detail.is_empty() { "The orchestrator refused" } else { detail };
    format!("{detail} ({code})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Problem;
    use std::time::Duration;

    #[test]
    fn each_error_has_its_class_and_reason() {
        let refused = |status, code: &str, detail: &str| {
            let (code, detail) = (code.to_owned(), detail.to_owned());
            CallError::Refused(Box::new(Problem { code, detail, ..Problem::about_blank(status) }))
        };
        let table: Vec<_> = [
            refused(422, "image_missing", "The image cial-tenant:dev does not exist."),
            refused(503, "engine_unavailable", "The engine does not answer."),
            refused(504, "engine_timeout", "The engine takes its time."),
            refused(502, "engine_refused", "The container engine refused (400)."),
            refused(507, "subnets_exhausted", "No network is left."),
            refused(429, "busy", ""),
            refused(401, "unauthorized", "The token is wrong."),
            CallError::Unreachable("connection refused".into()),
            CallError::TimedOut(Duration::from_secs(1)),
            CallError::Unexpected("eof".into()),
        ]
        .iter()
        .map(|error| {
            let class = classify_error(error);
            format!("{} {}", if class.is_fatal { "error" } else { "again" }, class.reason)
        })
        .collect();
        insta::assert_snapshot!(table.join("\n"));
    }
}
