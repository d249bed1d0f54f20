//! The state machine of a rollout: from its rows and the rows of its tenants to the next changes. Pure.
//!
//! Level-triggered: whoever reads the same rows again gets the same commands, so a rollout continues after any crash.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::rollouts::{MemberState, RolloutState};
use protocol::spec::Desired;
use protocol::{State, Timestamp};
use uuid::Uuid;

use super::window::Window;

/// The most tenants that are replaced at the same time. More would wait in the queue of starts until their deadline.
pub const MAX_REPLACED_AT_ONCE: usize = 8;
/// How long a tenant must stay ready before the next wave begins: a release that is ready and then crashes is found.
pub const SETTLE_TIME: Duration = Duration::from_secs(5);

/// A rollout as its rows say.
#[derive(Clone, Debug)]
pub struct Progress {
    pub state: RolloutState,
    /// The name of the release, like `v2`.
    pub release: String,
    pub window: Window,
    pub members: Vec<Member>,
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
}

/// A tenant as its row says.
#[derive(Clone, Debug)]
pub struct Observation {
    pub desired: Desired,
    pub state: State,
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
    /// Records what became of a tenant.
    Mark(Uuid, MemberState, Option<&'static str>),
    /// The tenant failed: its wave moves back from now on.
    Fail(Uuid),
    Finish(RolloutState),
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
    Do(Command),
}

fn advance(
    rollout: &Progress,
    tenants: &BTreeMap<Uuid, Observation>,
    now: Timestamp,
) -> Vec<Command> {
    let moving = rollout.members.iter().filter(|member| member.state == MemberState::Moving);
    let mut free = MAX_REPLACED_AT_ONCE.saturating_sub(moving.count());
    let mut waves: BTreeMap<i32, Vec<&Member>> = BTreeMap::new();
    for member in &rollout.members {
        waves.entry(member.wave).or_default().push(member);
    }
    for members in waves.into_values() {
        let (mut commands, mut is_done) = (Vec::new(), true);
        for member in members {
            let verdict = judge(rollout, member, tenants.get(&member.tenant), now, &mut free);
            is_done &= matches!(verdict, Verdict::Done);
            match verdict {
                // Nothing else moves before the failure is recorded.
                Verdict::Do(Command::Fail(tenant)) => return vec![Command::Fail(tenant)],
                Verdict::Do(command) => commands.push(command),
                Verdict::Done | Verdict::Wait => {}
            }
        }
        if !is_done {
            return commands;
        }
    }
    vec![Command::Finish(RolloutState::Done)]
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
        MemberState::Failed | MemberState::RolledBack | MemberState::Skipped => Verdict::Done,
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
            State::Error if !member.was_failing => Verdict::Do(Command::Fail(id)),
            State::Provisioning | State::Starting | State::Deleting => Verdict::Wait,
            State::Running | State::Frozen | State::Sleeping | State::Stopped | State::Error => {
                Verdict::Do(Command::Mark(id, MemberState::Moved, None))
            }
        },
        MemberState::Moved if !follows || member.was_failing => Verdict::Done,
        MemberState::Moved => match tenant.state {
            State::Error => Verdict::Do(Command::Fail(id)),
            // Ended after it was ready, or wakes.
            State::Provisioning | State::Starting => Verdict::Wait,
            State::Running if now < member.changed_at + SETTLE_TIME => Verdict::Wait,
            State::Running | State::Frozen | State::Sleeping | State::Stopped | State::Deleting => {
                Verdict::Done
            }
        },
    }
}

enum MayMove {
    /// Nothing of the tenant runs, so nobody notices.
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
        // Thawed for nobody: unless a window says when, the tenant moves at its next use, or once it sleeps.
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

/// Moves back the wave of the tenant that failed, and whatever moved after that wave.
fn roll_back(rollout: &Progress, tenants: &BTreeMap<Uuid, Observation>) -> Vec<Command> {
    let failed = rollout.members.iter().filter(|member| member.state == MemberState::Failed);
    let back_to = failed.map(|member| member.wave).min().unwrap_or(i32::MAX);
    let commands: Vec<_> = rollout
        .members
        .iter()
        .filter_map(|member| {
            let has_moved = match member.state {
                // A tenant that failed stays recorded as such.
                MemberState::Failed => return move_back(rollout, member, tenants, false),
                MemberState::Moving | MemberState::Moved => member.wave >= back_to,
                MemberState::Waiting | MemberState::RolledBack | MemberState::Skipped => false,
            };
            if has_moved { move_back(rollout, member, tenants, true) } else { None }
        })
        .collect();
    if commands.is_empty() { vec![Command::Finish(RolloutState::Failed)] } else { commands }
}

/// A tenant that is deleted, pinned or follows another release by now is not moved; `is_marked`: it is then recorded as
/// skipped.
fn move_back(
    rollout: &Progress,
    member: &Member,
    tenants: &BTreeMap<Uuid, Observation>,
    is_marked: bool,
) -> Option<Command> {
    let id = member.tenant;
    let follows = tenants
        .get(&id)
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
