//! The whole installation as a black box: HTTP and a real browser.

pub mod axe;
pub mod browser;
pub mod installation;

pub use axe::Axe;
pub use browser::Browser;
pub use installation::Installation;
