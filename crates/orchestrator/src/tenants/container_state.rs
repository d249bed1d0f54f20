//! The state machine of a tenant's container. Pure.
//!
//! The engine shows what is true now. This state decides how to read it: whether the end of a process counts as an exit by
//! itself, and whether a process that runs must still respond before requests reach it. The tenant's
//! [`Phase`](protocol::orchestrator::Phase) follows from both.

/// Data of the variants: see [`EndCause`], [`Readiness`] and [`PendingCall`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContainerState {
    /// No process of the tenant runs; possibly no container exists.
    Down { end: EndCause, call: PendingCall },
    /// A process runs, is paused, or is being restarted by the engine.
    Up { readiness: Readiness, call: PendingCall },
}

/// The cause of the last process's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndCause {
    /// The process itself, or no process has ended yet: a report of its end counts as an exit.
    ByItself,
    /// The orchestrator: no report of that end counts.
    ByUs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// All services must respond before the tenant is ready.
    Awaited,
    /// The tenant has responded since its start, or ran before this process did. One ill service does not shut it out.
    Established,
}

/// A call of the current operation that changes what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PendingCall {
    None,
    /// The process is being ended: its end does not count.
    Stop,
    /// The container is being started: until the call returns, it has not "ended by itself".
    Start,
}

/// An event of a tenant's container: a step of an operation, a report by the engine, or a response of the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContainerEvent {
    /// The orchestrator is about to end the process.
    StopRequested,
    /// The orchestrator is about to replace the container by one of another generation.
    RecreateRequested,
    /// The orchestrator is about to start the container.
    StartRequested,
    /// The engine's start call returned.
    StartReturned,
    /// The operation is over, whatever its outcome.
    OperationEnded,
    /// The target was `Stopped` or `Asleep` and changes.
    TargetReplaced,
    /// The tenant's services responded for the first time since the start.
    Responded,
    /// The engine reported that the process ended.
    ExitReported,
    /// The engine shows no process; the target is `Running`.
    FoundDown,
    /// The engine shows no process; the target is `Stopped` or `Asleep`.
    FoundDownAsIntended,
    /// The engine restarts the process.
    FoundRestarting,
    /// The engine shows a process that runs.
    FoundUp(RunHistory),
}

/// How a process that the engine shows relates to the one shown before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunHistory {
    /// Another start, or another container.
    New,
    /// The same container, and no sign of another start.
    Continued,
    /// The container has responded, or the container ran before this process started.
    Responded,
}

impl Default for ContainerState {
    fn default() -> Self {
        Self::Down { end: EndCause::ByItself, call: PendingCall::None }
    }
}

impl ContainerState {
    /// The state after `event`. Every event is possible in every state: the engine's reports may be late, and other programs
    /// may start and stop containers.
    #[must_use]
    pub(crate) fn next(self, event: ContainerEvent) -> Self {
        use {ContainerEvent as E, EndCause as C, PendingCall as P, Readiness as R};
        match (self, event) {
            (_, E::StopRequested) => self.with_call(P::Stop),
            (Self::Down { call: P::Start, .. }, E::RecreateRequested) => {
                Self::Down { end: C::ByUs, call: P::Start }
            }
            (_, E::RecreateRequested) => self.with_call(P::Stop),
            (_, E::StartRequested) => self.with_call(P::Start),
            (_, E::StartReturned) => Self::Up { readiness: R::Awaited, call: P::None },
            (_, E::OperationEnded) => self.with_call(P::None),

            (Self::Down { call, .. }, E::TargetReplaced) => Self::Down { end: C::ByUs, call },
            (Self::Up { .. }, E::TargetReplaced) => self,

            (Self::Up { call, .. }, E::Responded) => Self::Up { readiness: R::Established, call },
            (Self::Up { call, .. }, E::ExitReported) => Self::Up { readiness: R::Awaited, call },
            (Self::Down { .. }, E::Responded | E::ExitReported) => self,

            (Self::Down { end: C::ByUs, .. }, E::FoundDown | E::FoundDownAsIntended) => self,
            (_, E::FoundDownAsIntended) => Self::Down { end: C::ByUs, call: self.call() },
            (_, E::FoundDown) => {
                let end = if self.call() == P::Stop { C::ByUs } else { C::ByItself };
                Self::Down { end, call: self.call() }
            }

            (Self::Up { readiness: R::Established, .. }, E::FoundUp(RunHistory::Continued))
            | (_, E::FoundUp(RunHistory::Responded)) => {
                Self::Up { readiness: R::Established, call: self.call() }
            }
            (_, E::FoundRestarting | E::FoundUp(RunHistory::New | RunHistory::Continued)) => {
                Self::Up { readiness: R::Awaited, call: self.call() }
            }
        }
    }

    /// Whether the end of the current process, or of the last one, counts as an exit by itself.
    pub(crate) const fn counts_exit(self) -> bool {
        match self {
            Self::Down { end: EndCause::ByUs, .. }
            | Self::Down { call: PendingCall::Stop, .. }
            | Self::Up { call: PendingCall::Stop, .. } => false,
            Self::Down { end: EndCause::ByItself, .. } | Self::Up { .. } => true,
        }
    }

    pub(crate) const fn call(self) -> PendingCall {
        match self {
            Self::Down { call, .. } | Self::Up { call, .. } => call,
        }
    }

    /// Whether the process that runs need not respond before the tenant is ready.
    pub(crate) const fn is_established(self) -> bool {
        matches!(self, Self::Up { readiness: Readiness::Established, .. })
    }

    const fn with_call(self, call: PendingCall) -> Self {
        match self {
            Self::Down { end, .. } => Self::Down { end, call },
            Self::Up { readiness, .. } => Self::Up { readiness, call },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [ContainerEvent; 14] = [
        ContainerEvent::StopRequested,
        ContainerEvent::RecreateRequested,
        ContainerEvent::StartRequested,
        ContainerEvent::StartReturned,
        ContainerEvent::OperationEnded,
        ContainerEvent::TargetReplaced,
        ContainerEvent::Responded,
        ContainerEvent::ExitReported,
        ContainerEvent::FoundDown,
        ContainerEvent::FoundDownAsIntended,
        ContainerEvent::FoundRestarting,
        ContainerEvent::FoundUp(RunHistory::New),
        ContainerEvent::FoundUp(RunHistory::Continued),
        ContainerEvent::FoundUp(RunHistory::Responded),
    ];

    fn states() -> Vec<ContainerState> {
        let calls = [PendingCall::None, PendingCall::Stop, PendingCall::Start];
        let down = [EndCause::ByItself, EndCause::ByUs].into_iter();
        let up = [Readiness::Awaited, Readiness::Established].into_iter();
        let down = down.flat_map(|end| calls.map(|call| ContainerState::Down { end, call }));
        down.chain(
            up.flat_map(|readiness| calls.map(|call| ContainerState::Up { readiness, call })),
        )
        .collect()
    }

    fn name(state: ContainerState) -> String {
        let (what, call) = match state {
            ContainerState::Down { end: EndCause::ByItself, call } => ("down", call),
            ContainerState::Down { end: EndCause::ByUs, call } => ("down by us", call),
            ContainerState::Up { readiness: Readiness::Awaited, call } => ("up, awaited", call),
            ContainerState::Up { readiness: Readiness::Established, call } => {
                ("up, established", call)
            }
        };
        match call {
            PendingCall::None => what.to_owned(),
            PendingCall::Stop => format!("{what} + stop"),
            PendingCall::Start => format!("{what} + start"),
        }
    }

    #[test]
    fn the_whole_matrix() {
        let mut matrix = String::new();
        for state in states() {
            let counts = if state.counts_exit() { "an exit counts" } else { "no exit counts" };
            matrix.push_str(&format!("{} ({counts})\n", name(state)));
            for event in EVENTS {
                let next = state.next(event);
                let to = if next == state { "-".to_owned() } else { name(next) };
                matrix.push_str(&format!("    {:<20} {to}\n", format!("{event:?}")));
            }
        }
        insta::assert_snapshot!(matrix);
    }

    #[test]
    fn every_operation_ends_without_a_pending_call() {
        for state in states() {
            assert_eq!(state.next(ContainerEvent::OperationEnded).call(), PendingCall::None);
        }
    }
}
