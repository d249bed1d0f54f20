//! The promises of PID 1, kept by real processes under real users. They need root, as PID 1 does.

mod dropping;
mod ending;
mod printing;
#[cfg(test)]
mod stage;
mod starting;
