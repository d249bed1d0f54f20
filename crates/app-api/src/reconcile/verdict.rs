//! What a call that failed means for the tenant it was about.

use service::client::CallError;

/// What its owner is told, and whether doing the same again can help.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    pub reason: String,
    pub fatal: bool,
}

pub fn verdict(error: &CallError) -> Verdict {
    match error {
        CallError::Refused(problem) => Verdict {
            reason: told(&problem.detail, &problem.code),
            fatal: needs_a_person(problem.status),
        },
        CallError::Unreachable(_) => passing("The orchestrator cannot be reached"),
        CallError::TimedOut(_) => passing("The orchestrator did not answer in time"),
        CallError::Unexpected(_) => {
            passing("The orchestrator gave an answer that is not understood")
        }
    }
}

/// Whether the engine says no to this very tenant (its image, its limits, no room for it), rather than that
/// something is down or busy, or that our own credentials are wrong.
fn needs_a_person(status: u16) -> bool {
    match status {
        // 404 and 409: something went or came while the engine was asked.
        401 | 403 | 404 | 408 | 409 | 425 | 429 => false,
        502 | 507 => true,
        status => status < 500,
    }
}

fn passing(what: &str) -> Verdict {
    Verdict { reason: format!("{what}. Nothing is lost; it is tried again."), fatal: false }
}

fn told(detail: &str, code: &str) -> String {
    let detail = if detail.is_empty() { "The orchestrator refused" } else { detail };
    format!("{detail} ({code})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Problem;
    use std::time::Duration;

    #[test]
    fn verdicts_by_the_table() {
        let refused = |status, code: &str, detail: &str| {
            CallError::Refused(Box::new(Problem::new(status, code, "", detail)))
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
            let verdict = verdict(error);
            format!("{} {}", if verdict.fatal { "error" } else { "again" }, verdict.reason)
        })
        .collect();
        insta::assert_snapshot!(table.join("\n"));
    }
}
