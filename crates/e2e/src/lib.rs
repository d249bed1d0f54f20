//! The whole installation, and the tenant image, as black boxes: HTTP, the engine, and a real browser.

pub mod app_images;
#[cfg(feature = "browser")]
pub mod axe;
#[cfg(feature = "browser")]
pub mod browser;
pub mod checks;
pub mod command_line;
#[cfg(feature = "engine")]
pub mod leaks;
#[cfg(feature = "browser")]
pub mod network_log;
#[cfg(feature = "engine")]
pub mod parts;
pub mod postgres;
#[cfg(feature = "engine")]
pub mod reachability;
pub mod session;
pub mod xtask;

pub use app_images::AppImages;
#[cfg(feature = "browser")]
pub use axe::Axe;
#[cfg(feature = "browser")]
pub use browser::Browser;
pub use checks::Checks;
#[cfg(feature = "browser")]
pub use network_log::NetworkLog;
#[cfg(feature = "engine")]
pub use parts::Parts;
