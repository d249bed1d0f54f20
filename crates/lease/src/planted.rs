//! Bugs that the checks must find. Outside of tests there are none: `planted!` is `false`.

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
        /// Holder: a lease is counted as if the call had been sent a second later.
        CountsFromArrival,
        /// Holder: a grant that comes after the lease was given back counts.
        LateGrantCounts,
        /// Rest: what was decided is done, whoever asked meanwhile.
        RecheckSkipped,
        /// Rest: a keeper that starts puts to sleep at once.
        FloorForgotten,
        /// Rest: a release ends whatever lease there is.
        LateReleaseCounts,
        /// Rest: a release ends a lease though a renewal under a newer ask kept it.
        RenewalForgotten,
        /// Rest: a lease is granted while the engine is being called.
        GrantedWhileFalling,
        /// Rest: what it says of being busy is not listened to.
        BusyIgnored,
        /// Rest: what it says between the thaw and the stop is not listened to.
        BusyWhenThawed,
        /// Wake: a call is made though one is under way.
        SecondCall,
        /// Wake: who waits for a wake that fails is not told.
        ForgottenOnFailure,
        /// Wake: deadlines of waiters are not looked at.
        DeadlineForgotten,
        /// Wake: a call that came to nothing keeps its slot.
        SlotLost,
        /// Wake: who asks while it falls asleep is not remembered.
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
