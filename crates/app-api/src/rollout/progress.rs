//! The state machine of a rollout: from its rows and the rows of its tenants to the next changes. Pure.
//!
//! Level-triggered: the same rows give the same commands, so a rollout continues after any crash.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use protocol::rollouts::{MemberState, RolloutState};
use protocol::spec::Desired;
use protocol::{State, Timestamp};
use uuid::Uuid;

use super::window::Window;

/// The most tenants that are replaced at the same time. More would wait in the queue of starts until their deadline.
pub const MAX_REPLACED_AT_ONCE: usize = 8;
/// The fewest responses of a wave that show anything about its release.
pub const MIN_RESPONSES: u64 = 20;
/// An error that begins this long after the tenant was ready on the release is the tenant's own. A crash loop is found
/// within five minutes.
pub const PROVEN_TIME: Duration = Duration::from_secs(600);

/// A rollout as its rows show it.
#[derive(Clone, Debug)]
pub struct Progress {
    pub state: RolloutState,
    /// The name of the release, like `v2`.
    pub release: String,
    pub window: Window,
    /// The number of tenants that may fail, and move back alone, before the rollout stops.
    pub max_failures: usize,
    /// The share of server errors among the responses of a wave above which the wave moves back.
    pub max_error_percent: u32,
    /// How long a tenant must stay ready before the next wave begins: a release that is ready and then crashes is found.
    pub watch: Duration,
    pub members: Vec<Member>,
}

/// How often tenants answered, and how often with a status of 5xx or not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Responses {
    pub all: u64,
    pub server_errors: u64,
}

impl Responses {
    fn plus(self, other: Self) -> Self {
        Self {
            all: self.all.saturating_add(other.all),
            server_errors: self.server_errors.saturating_add(other.server_errors),
        }
    }

    /// Whether there are enough responses, and more than `max_percent` of them are server errors.
    pub fn exceed(self, max_percent: u32) -> bool {
        let errors = u128::from(self.server_errors) * 100;
        self.all >= MIN_RESPONSES && errors > u128::from(max_percent) * u128::from(self.all)
    }
}

/// A tenant of a rollout.
#[derive(Clone, Debug)]
pub struct Member {
    pub tenant: Uuid,
    pub wave: i32,
    pub state: MemberState,
    /// The tenant was in error before its move.
    pub was_failing: bool,
    pub changed_at: Timestamp,
    /// When the tenant had been ready on the release for as long as it is watched.
    pub settled_at: Option<Timestamp>,
    /// The responses since the move.
    pub responses: Responses,
}

/// A tenant as its row shows it.
#[derive(Clone, Debug)]
pub struct Observation {
    pub desired: Desired,
    pub state: State,
    /// Since when the tenant is in this state.
    pub since: Timestamp,
    /// The tenant's own variables changed, and it has not been ready with them.
    pub has_untried_variables: bool,
    /// The name of the release that the tenant follows.
    pub release: String,
    pub is_pinned: bool,
    /// The tenant's policy lets it freeze, but never sleep.
    pub never_sleeps: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Writes the release of the rollout into the tenant's row.
    Move(Uuid),
    /// Writes the tenant's earlier release into its row.
    MoveBack(Uuid),
    /// Records the result for a tenant.
    Mark(Uuid, MemberState, Option<&'static str>),
    /// Records that a tenant stayed ready on the release.
    Settle(Uuid),
    /// Records that a tenant does not run on the release.
    Fail(Uuid, AfterFailure),
    /// Records that the responses of a wave have too many server errors, most of them of `tenant`. The wave moves back.
    FailByErrors {
        tenant: Uuid,
        wave: Responses,
    },
    Finish(RolloutState),
}

/// The consequence of a failure for the rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// The tenant moves back alone.
    Continue,
    /// The tenant's wave and the later waves that have moved move back, and the rollout ends.
    RollBack,
}

/// Returns the changes that are due at `now`. Tenants without an observation are deleted.
pub fn next(
    rollout: &Progress,
    tenants: &BTreeMap<Uuid, Observation>,
    now: Timestamp,
) -> Vec<Command> {
    match rollout.state {
        RolloutState::Running | RolloutState::Paused => advance(rollout, tenants, now),
        RolloutState::RollingBack => roll_back(rollout, tenants),
        RolloutState::Done | RolloutState::Failed | RolloutState::Aborted => Vec::new(),
    }
}

/// The consequence of a tenant's state for its wave.
enum Verdict {
    /// The wave need not wait for the tenant.
    Done,
    Wait,
    /// The tenant does not run, and nothing excuses the release.
    Failed,
    Do(Command),
}

fn advance(
    rollout: &Progress,
    tenants: &BTreeMap<Uuid, Observation>,
    now: Timestamp,
) -> Vec<Command> {
    let moving = rollout.members.iter().filter(|member| member.state == MemberState::Moving);
    let mut free = MAX_REPLACED_AT_ONCE.saturating_sub(moving.count());
    let failures =
        rollout.members.iter().filter(|member| member.state == MemberState::Failed).count();
    let after_failure = if failures < rollout.max_failures {
        AfterFailure::Continue
    } else {
        AfterFailure::RollBack
    };
    let mut waves: BTreeMap<i32, Vec<&Member>> = BTreeMap::new();
    for member in &rollout.members {
        waves.entry(member.wave).or_default().push(member);
    }
    let mut is_proven = false;
    for members in waves.into_values() {
        if let Some(failure) = check_responses(rollout, &members, tenants, now) {
            return vec![failure];
        }
        let (mut commands, mut is_done) = (Vec::new(), true);
        for member in &members {
            let verdict = judge(rollout, member, tenants.get(&member.tenant), now, &mut free);
            is_done &= matches!(verdict, Verdict::Done);
            match verdict {
                // Nothing else moves before the failure is recorded.
                Verdict::Failed => return vec![Command::Fail(member.tenant, after_failure)],
                Verdict::Do(command) => commands.push(command),
                Verdict::Done | Verdict::Wait => {}
            }
        }
        if !is_done {
            return commands;
        }
        is_proven |= members.iter().any(|member| runs_on_release(rollout, member, tenants));
        let broken = members.iter().find(|member| is_broken(member, tenants));
        // An excuse counts only beside a tenant that runs: otherwise a release that runs nowhere would reach all.
        if let Some(broken) = broken.filter(|_| !is_proven) {
            return vec![Command::Fail(broken.tenant, AfterFailure::RollBack)];
        }
    }
    vec![Command::Finish(RolloutState::Done)]
}

/// Returns the failure of a wave whose responses have too many server errors.
fn check_responses(
    rollout: &Progress,
    members: &[&Member],
    tenants: &BTreeMap<Uuid, Observation>,
    now: Timestamp,
) -> Option<Command> {
    let counts = |member: &&&Member| {
        let tenant = tenants.get(&member.tenant);
        tenant.is_some_and(|tenant| counts_for_release(rollout, member, tenant, now))
    };
    let counted: Vec<_> = members.iter().filter(counts).collect();
    let wave = counted.iter().fold(Responses::default(), |sum, member| sum.plus(member.responses));
    if !wave.exceed(rollout.max_error_percent) {
        return None;
    }
    let worst = counted.iter().max_by_key(|m| (m.responses.server_errors, Reverse(m.tenant)))?;
    Some(Command::FailByErrors { tenant: worst.tenant, wave })
}

/// Whether the responses of a tenant count for the release. The excuses of a tenant in error hold here, too.
fn counts_for_release(
    rollout: &Progress,
    member: &Member,
    tenant: &Observation,
    now: Timestamp,
) -> bool {
    let is_proven = member.settled_at.is_some_and(|settled| now >= settled + PROVEN_TIME);
    matches!(member.state, MemberState::Moving | MemberState::Moved)
        && tenant.release == rollout.release
        && tenant.desired != Desired::Deleted
        && !(member.was_failing || tenant.has_untried_variables || is_proven)
}

fn runs_on_release(
    rollout: &Progress,
    member: &Member,
    tenants: &BTreeMap<Uuid, Observation>,
) -> bool {
    let runs = |tenant: &Observation| {
        // A tenant that sleeps or is stopped proves nothing, unless it was ready on the release before.
        let has_run = member.settled_at.is_some() && tenant.state != State::Error;
        let is_up = matches!(tenant.state, State::Running | State::Frozen);
        tenant.release == rollout.release && (has_run || is_up)
    };
    member.state == MemberState::Moved && tenants.get(&member.tenant).is_some_and(runs)
}

/// Whether a tenant that was moved is in error, for whatever reason, or was.
fn is_broken(member: &Member, tenants: &BTreeMap<Uuid, Observation>) -> bool {
    let is_in_error = |tenant: &Observation| tenant.state == State::Error;
    match member.state {
        MemberState::Failed => true,
        MemberState::Moved => tenants.get(&member.tenant).is_some_and(is_in_error),
        MemberState::Waiting
        | MemberState::Moving
        | MemberState::RolledBack
        | MemberState::Skipped => false,
    }
}

/// Returns why an error of the tenant shows nothing about the release.
fn excuse(member: &Member, tenant: &Observation) -> Option<&'static str> {
    let is_late = |settled: Timestamp| tenant.since >= settled + PROVEN_TIME;
    if member.was_failing {
        Some("The tenant was in error before its move.")
    } else if tenant.has_untried_variables {
        Some("The tenant's own variables changed, and it has not run with them.")
    } else if member.settled_at.is_some_and(is_late) {
        Some("The tenant had run on the release for ten minutes.")
    } else {
        None
    }
}

fn judge(
    rollout: &Progress,
    member: &Member,
    tenant: Option<&Observation>,
    now: Timestamp,
    free: &mut usize,
) -> Verdict {
    let id = member.tenant;
    let Some(tenant) = tenant else { return Verdict::Done };
    let skip = |reason| Verdict::Do(Command::Mark(id, MemberState::Skipped, Some(reason)));
    let follows = tenant.release == rollout.release;
    match member.state {
        MemberState::Failed => {
            move_back(rollout, member, Some(tenant), false).map_or(Verdict::Done, Verdict::Do)
        }
        MemberState::RolledBack | MemberState::Skipped => Verdict::Done,
        MemberState::Waiting | MemberState::Moving if tenant.desired == Desired::Deleted => {
            skip("The tenant is being deleted.")
        }
        MemberState::Waiting if follows => Verdict::Do(Command::Mark(id, MemberState::Moved, None)),
        MemberState::Waiting if tenant.is_pinned => skip("The tenant is pinned."),
        MemberState::Waiting if rollout.state == RolloutState::Paused => Verdict::Wait,
        MemberState::Waiting => match may_move(rollout.window, tenant, now) {
            MayMove::Yes => Verdict::Do(Command::Move(id)),
            MayMove::Replacing if *free > 0 => {
                *free -= 1;
                Verdict::Do(Command::Move(id))
            }
            MayMove::Replacing | MayMove::NotNow => Verdict::Wait,
        },
        MemberState::Moving if !follows => skip("Somebody moved the tenant to another release."),
        MemberState::Moving => match tenant.state {
            State::Error => excuse(member, tenant).map_or(Verdict::Failed, |excuse| {
                Verdict::Do(Command::Mark(id, MemberState::Moved, Some(excuse)))
            }),
            State::Provisioning | State::Starting | State::Deleting => Verdict::Wait,
            State::Running | State::Frozen | State::Sleeping | State::Stopped => {
                Verdict::Do(Command::Mark(id, MemberState::Moved, None))
            }
        },
        MemberState::Moved if !follows || member.was_failing => Verdict::Done,
        MemberState::Moved => match tenant.state {
            State::Error if excuse(member, tenant).is_some() => Verdict::Done,
            State::Error => Verdict::Failed,
            // The tenant ended after it was ready, or it wakes.
            State::Provisioning | State::Starting => Verdict::Wait,
            State::Running if now < member.changed_at + rollout.watch => Verdict::Wait,
            State::Running
                if member.settled_at.is_none() && now >= tenant.since + rollout.watch =>
            {
                Verdict::Do(Command::Settle(id))
            }
            State::Running | State::Frozen | State::Sleeping | State::Stopped | State::Deleting => {
                Verdict::Done
            }
        },
    }
}

enum MayMove {
    /// No process of the tenant runs, so nobody notices the move.
    Yes,
    /// The container is replaced.
    Replacing,
    NotNow,
}

fn may_move(window: Window, tenant: &Observation, now: Timestamp) -> MayMove {
    if tenant.desired == Desired::Stopped {
        return MayMove::Yes;
    }
    match tenant.state {
        State::Sleeping | State::Stopped => MayMove::Yes,
        State::Error => MayMove::Replacing,
        State::Running if window.is_open(now) => MayMove::Replacing,
        // A move would thaw the tenant for nobody. Outside a window, the tenant moves at its next use, or once it sleeps.
        State::Frozen
            if window.is_open(now) && (window != Window::Always || tenant.never_sleeps) =>
        {
            MayMove::Replacing
        }
        State::Running
        | State::Frozen
        | State::Provisioning
        | State::Starting
        | State::Deleting => MayMove::NotNow,
    }
}

/// Moves back the wave of the tenant that failed last, and whatever moved after that wave.
fn roll_back(rollout: &Progress, tenants: &BTreeMap<Uuid, Observation>) -> Vec<Command> {
    let failed = rollout.members.iter().filter(|member| member.state == MemberState::Failed);
    // Earlier failures were permitted.
    let last = failed.max_by_key(|member| (member.changed_at, Reverse(member.wave)));
    let back_to = last.map_or(i32::MAX, |member| member.wave);
    let commands: Vec<_> = rollout
        .members
        .iter()
        .filter_map(|member| {
            let tenant = tenants.get(&member.tenant);
            let has_moved = match member.state {
                // A tenant that failed stays recorded as such.
                MemberState::Failed => return move_back(rollout, member, tenant, false),
                MemberState::Moving | MemberState::Moved => member.wave >= back_to,
                MemberState::Waiting | MemberState::RolledBack | MemberState::Skipped => false,
            };
            if has_moved { move_back(rollout, member, tenant, true) } else { None }
        })
        .collect();
    if commands.is_empty() { vec![Command::Finish(RolloutState::Failed)] } else { commands }
}

/// A tenant that is deleted, pinned or follows another release by now is not moved; `is_marked`: it is then recorded as
/// skipped.
fn move_back(
    rollout: &Progress,
    member: &Member,
    tenant: Option<&Observation>,
    is_marked: bool,
) -> Option<Command> {
    let id = member.tenant;
    let follows = tenant
        .filter(|tenant| tenant.release == rollout.release && tenant.desired != Desired::Deleted);
    let reason = match follows {
        Some(tenant) if tenant.is_pinned => "The tenant is pinned.",
        Some(_) => return Some(Command::MoveBack(id)),
        None => "The tenant follows another release by now.",
    };
    is_marked.then_some(Command::Mark(id, MemberState::Skipped, Some(reason)))
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
