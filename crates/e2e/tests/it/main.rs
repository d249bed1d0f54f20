//! What a person sees, from the first visit on. One test: an installation has one first owner.

mod asleep;
mod first_owner;
