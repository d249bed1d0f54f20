//! The contract of PID 1, tested with real processes under real users. The tests need root, as PID
//! 1 does.

#[cfg(test)]
mod app;
mod dropping;
mod ending;
#[cfg(test)]
mod files;
#[cfg(test)]
mod hooks;
mod printing;
#[cfg(test)]
mod stage;
mod starting;
