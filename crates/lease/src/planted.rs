//! Bugs that the checks must find. Outside of tests `planted!` is always `false`.

#[cfg(test)]
pub(crate) use planting::{Bug, is, plant};

/// Whether a test planted this bug.
#[cfg(test)]
macro_rules! planted {
    ($bug:ident) => {
        crate::planted::is(crate::planted::Bug::$bug)
    };
}

#[cfg(not(test))]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

pub(crate) use planted;

#[cfg(test)]
mod planting {
    use std::cell::Cell;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Bug {
        /// Holder: a lease counts as if the call had been sent a second later.
        CountsFromArrival,
        /// Holder: a grant that comes after the release of its lease counts.
        LateGrantCounts,
        /// Suspend: a decided suspend is carried out despite requests since the decision.
        RecheckSkipped,
        /// Suspend: an orchestrator that starts suspends tenants at once.
        FloorForgotten,
        /// Suspend: a release ends any lease, even one of a newer request.
        LateReleaseCounts,
        /// Suspend: a release ends a lease although a renewal under a newer request kept the lease.
        RenewalForgotten,
        /// Suspend: the authority grants a lease during the engine's call.
        GrantedWhileFalling,
        /// Suspend: the authority ignores the tenant's busy report.
        BusyIgnored,
        /// Suspend: the authority ignores the busy report between the thaw and the stop.
        BusyWhenThawed,
        /// Wake: the authority issues a call while another call is in flight.
        SecondCall,
        /// Wake: the waiters of a failed wake receive no response.
        ForgottenOnFailure,
        /// Wake: the authority ignores the deadlines of waiters.
        DeadlineForgotten,
        /// Wake: a failed or unwanted call keeps its slot.
        SlotLost,
        /// Wake: the authority loses a request that arrives while the tenant is being suspended.
        LostWhileFalling,
    }

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    pub(crate) fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    pub(crate) fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}
