//! WebSocket upgrades: the handshake, frame boundaries, and the tunnel that follows.

pub(crate) mod frames;
pub(crate) mod handshake;
pub(crate) mod tunnel;
