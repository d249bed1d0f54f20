//! Reasons as sentences for a person. Pure.

use lease::{AwakeReason, BusyReport, Millis, Moment, SleepRecord};
use protocol::busy::{Busy, BusyList, BusyOwner};

use super::desk::timestamp;

type Answer = Result<BusyList, String>;

/// `answer`: what it said when it was last asked what keeps it busy.
pub(super) fn awake(because: &[AwakeReason], answer: Option<&Answer>) -> Vec<String> {
    because.iter().map(|because| sentence(*because, answer)).collect()
}

fn sentence(because: AwakeReason, answer: Option<&Answer>) -> String {
    match because {
        AwakeReason::Leased { requests: 0, streams: 0, .. } => {
            "It was used a moment ago.".to_owned()
        }
        AwakeReason::Leased { requests, streams, .. } => {
            format!("In use: {}.", both(counted(requests, "request"), counted(streams, "stream")))
        }
        AwakeReason::Busy { since, until } => {
            let what = answer.and_then(|answer| answer.as_ref().ok()).map(|list| work(&list.busy));
            let what = what.filter(|what| !what.is_empty()).unwrap_or_else(|| "work".to_owned());
            format!("Busy inside since {}, until {}: {what}.", clock(since), clock(until))
        }
        AwakeReason::OrchestratorStarted { until } => {
            format!(
                "The orchestrator has just started; nothing falls asleep before {}.",
                clock(until)
            )
        }
        AwakeReason::EngineRefused { until } => {
            format!("The container engine would not put it to sleep; next try at {}.", clock(until))
        }
        AwakeReason::NeverSleeps => "Its policy is never to sleep.".to_owned(),
    }
}

/// Of one that nothing keeps awake but that its time is not up yet.
pub(super) fn idle(last_use: Moment) -> String {
    format!("It was last used at {}, and its idle time is not up.", clock(last_use))
}

/// Why it fell asleep; `answer` as for [`awake`].
pub(super) fn asleep(slept: SleepRecord, answer: Option<&Answer>) -> String {
    let idle = format!("Nobody used it for {}.", span(slept.idle));
    match slept.busy_report {
        BusyReport::NotBusy | BusyReport::Busy { .. } | BusyReport::NotQueried => idle,
        BusyReport::NoReply => match answer.and_then(|answer| answer.as_ref().err()) {
            Some(why) => format!("{idle} It did not say whether it was busy: {why}."),
            None => format!("{idle} It did not say whether it was busy."),
        },
        BusyReport::BusyTooLong { since } => {
            format!("{idle} It was busy since {}, for longer than its policy allows.", clock(since))
        }
    }
}

fn work(busy: &[Busy]) -> String {
    /// More than anybody reads.
    const MOST: usize = 5;
    // Its words stay its own, whatever they say.
    let quoted = |busy: &Busy| format!("“{}”", busy.reason.replace(['“', '”'], "\""));
    let one = |busy: &Busy| match busy.owner {
        BusyOwner::Core => quoted(busy),
        BusyOwner::Agent => format!("{} (its own app)", quoted(busy)),
    };
    let mut told: Vec<_> = busy.iter().take(MOST).map(one).collect();
    if busy.len() > MOST {
        told.push(format!("{} more", busy.len() - MOST));
    }
    told.join(", ")
}

fn counted(n: u32, what: &str) -> Option<String> {
    match n {
        0 => None,
        1 => Some(format!("1 {what}")),
        n => Some(format!("{n} {what}s")),
    }
}

fn both(one: Option<String>, other: Option<String>) -> String {
    one.into_iter().chain(other).collect::<Vec<_>>().join(" and ")
}

fn clock(at: Moment) -> String {
    timestamp(at).format("%H:%M:%S UTC").to_string()
}

fn span(millis: Millis) -> String {
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

    fn backup() -> Answer {
        let list = serde_json::json!({"busy": [
            {"reason": "backup", "owner": "core", "until": "2025-11-22T13:00:00Z"},
            {"reason": "training”. All is well", "owner": "agent", "until": "2025-11-22T12:30:00Z"},
        ]});
        Ok(serde_json::from_value(list).unwrap())
    }

    #[test]
    fn why_it_is_awake() {
        let leased =
            |requests, streams| AwakeReason::Leased { holders: 1, requests, streams, until: NOON };
        let told = awake(
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
        insta::assert_snapshot!(told.join("\n"), @r#"
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
    fn why_it_slept() {
        let phase = protocol::orchestrator::Phase::Frozen;
        let slept = |idle, busy_report| SleepRecord { at: NOON, phase, idle, busy_report };
        let mute = Err("no response within 200 ms".to_owned());
        let told = [
            asleep(slept(60_000, BusyReport::NotBusy), None),
            asleep(slept(1_200_000, BusyReport::NotQueried), None),
            asleep(slept(7_200_000, BusyReport::NoReply), Some(&mute)),
            asleep(slept(60_000, BusyReport::BusyTooLong { since: NOON }), Some(&backup())),
        ];
        insta::assert_snapshot!(told.join("\n"), @r"
        Nobody used it for 60 s.
        Nobody used it for 20 min.
        Nobody used it for 2 h. It did not say whether it was busy: no response within 200 ms.
        Nobody used it for 60 s. It was busy since 12:00:00 UTC, for longer than its policy allows.
        ");
    }
}
