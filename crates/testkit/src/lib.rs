//! Shared by tests and benches, and by nothing that ships.

#[cfg(feature = "authenticator")]
pub mod authenticator;
mod byte_client;
pub mod clock;
#[cfg(feature = "engine")]
pub mod engine;
mod eventually;
pub mod http;
pub mod installation;
pub mod model;
pub mod peer;
pub mod reference;
pub mod registry;
mod small_disk;
mod temp_dir;

pub use byte_client::{ByteClient, ByteResponse, PATIENCE, wait_until};
pub use eventually::{eventually, wait_for};
pub use http::{Client, Response};
pub use installation::Installation;
pub use small_disk::{Filesystem, SmallDisk};
pub use temp_dir::TempDir;
