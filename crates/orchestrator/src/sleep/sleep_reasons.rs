//! Sleep reasons as sentences for a person. Pure.

use lease::{AwakeReason, BusyReport, Millis, Moment, SleepRecord};
use protocol::busy::{Busy, BusyList, BusyOwner};

use super::clock_time;
use crate::core_back::BusyError;

type BusyResponse = Result<BusyList, BusyError>;

/// `response`: to the last busy check.
pub(super) fn awake(reasons: &[AwakeReason], response: Option<&BusyResponse>) -> Vec<String> {
    reasons.iter().map(|reason| sentence(*reason, response)).collect()
}

fn sentence(reason: AwakeReason, response: Option<&BusyResponse>) -> String {
    match reason {
        AwakeReason::Leased { requests: 0, streams: 0, .. } => {
            "It was used a moment ago.".to_owned()
        }
        AwakeReason::Leased { requests, streams, .. } => {
            format!("In use: {}.", join(count(requests, "request"), count(streams, "stream")))
        }
        AwakeReason::Busy { since, until } => {
            if let Some(Err(error @ BusyError::Local(_))) = response {
                return format!("It stays awake, and is asked again whether it is busy: {error}.");
            }
            let list = response.and_then(|response| response.as_ref().ok());
            let what = list.map(|list| describe_work(&list.busy));
            let what = what.filter(|what| !what.is_empty()).unwrap_or_else(|| "work".to_owned());
            format!("Busy inside since {}, until {}: {what}.", clock_time(since), clock_time(until))
        }
        AwakeReason::OrchestratorStarted { until } => {
            format!(
                "The orchestrator has just started; nothing falls asleep before {}.",
                clock_time(until)
            )
        }
        AwakeReason::EngineRefused { until } => {
            format!(
                "The container engine would not put it to sleep; next try at {}.",
                clock_time(until)
            )
        }
        AwakeReason::NeverSleeps => "Its policy is never to sleep.".to_owned(),
    }
}

/// For a tenant that only its idle time keeps awake.
pub(super) fn idle(last_use: Moment) -> String {
    format!("It was last used at {}, and its idle time is not up.", clock_time(last_use))
}

/// Returns why a tenant fell asleep. `response` as for [`awake`].
pub(super) fn asleep(sleep: SleepRecord, response: Option<&BusyResponse>) -> String {
    let idle = format!("Nobody used it for {}.", format_duration(sleep.idle));
    match sleep.busy_report {
        BusyReport::NotBusy | BusyReport::Busy { .. } | BusyReport::NotQueried => idle,
        BusyReport::NoReply => match response.and_then(|response| response.as_ref().err()) {
            Some(error) => format!("{idle} It did not say whether it was busy: {error}."),
            None => format!("{idle} It did not say whether it was busy."),
        },
        BusyReport::BusyTooLong { since } => {
            format!(
                "{idle} It was busy since {}, for longer than its policy allows.",
                clock_time(since)
            )
        }
    }
}

fn describe_work(busy: &[Busy]) -> String {
    /// More declarations are counted, not listed.
    const MAX_LISTED: usize = 5;
    // A reason is the tenant's own text: quotes inside must not end the quotation.
    let quoted = |busy: &Busy| format!("“{}”", busy.reason.replace(['“', '”'], "\""));
    let describe = |busy: &Busy| match busy.owner {
        BusyOwner::Core => quoted(busy),
        BusyOwner::Agent => format!("{} (its own app)", quoted(busy)),
    };
    let mut listed: Vec<_> = busy.iter().take(MAX_LISTED).map(describe).collect();
    if busy.len() > MAX_LISTED {
        listed.push(format!("{} more", busy.len() - MAX_LISTED));
    }
    listed.join(", ")
}

fn count(n: u32, what: &str) -> Option<String> {
    match n {
        0 => None,
        1 => Some(format!("1 {what}")),
        n => Some(format!("{n} {what}s")),
    }
}

fn join(one: Option<String>, other: Option<String>) -> String {
    one.into_iter().chain(other).collect::<Vec<_>>().join(" and ")
}

fn format_duration(millis: Millis) -> String {
    let seconds = millis / 1_000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Moment = Moment(1_763_812_800_000);

    fn backup() -> BusyResponse {
        let list = serde_json::json!({"busy": [
            {"reason": "backup", "owner": "core", "until": "2025-11-22T13:00:00Z"},
            {"reason": "training”. All is well", "owner": "agent", "until": "2025-11-22T12:30:00Z"},
        ]});
        Ok(serde_json::from_value(list).unwrap())
    }

    #[test]
    fn awake_reasons_are_sentences() {
        let leased =
            |requests, streams| AwakeReason::Leased { holders: 1, requests, streams, until: NOON };
        let sentences = awake(
            &[
                leased(0, 0),
                leased(1, 0),
                leased(3, 1),
                AwakeReason::Busy { since: NOON, until: NOON.plus(3_600_000) },
                AwakeReason::OrchestratorStarted { until: NOON },
                AwakeReason::EngineRefused { until: NOON },
                AwakeReason::NeverSleeps,
            ],
            Some(&backup()),
        );
        insta::assert_snapshot!(sentences.join("\n"), @r#"
        It was used a moment ago.
        In use: 1 request.
        In use: 3 requests and 1 stream.
        Busy inside since 12:00:00 UTC, until 13:00:00 UTC: “backup”, “training". All is well” (its own app).
        The orchestrator has just started; nothing falls asleep before 12:00:00 UTC.
        The container engine would not put it to sleep; next try at 12:00:00 UTC.
        Its policy is never to sleep.
        "#);
    }

    #[test]
    fn asleep_reasons_are_sentences() {
        let sleep = |idle, busy_report| SleepRecord {
            at: NOON,
            phase: protocol::orchestrator::Phase::Frozen,
            idle,
            busy_report,
        };
        let silent = Err(BusyError::NoResponse("no response within 200 ms".to_owned()));
        let sentences = [
            asleep(sleep(60_000, BusyReport::NotBusy), None),
            asleep(sleep(1_200_000, BusyReport::NotQueried), None),
            asleep(sleep(7_200_000, BusyReport::NoReply), Some(&silent)),
            asleep(sleep(60_000, BusyReport::BusyTooLong { since: NOON }), Some(&backup())),
        ];
        insta::assert_snapshot!(sentences.join("\n"), @r"
        Nobody used it for 60 s.
        Nobody used it for 20 min.
        Nobody used it for 2 h. It did not say whether it was busy: no response within 200 ms.
        Nobody used it for 60 s. It was busy since 12:00:00 UTC, for longer than its policy allows.
        ");
    }
}
