//! HTTP/1.1 messages: heads, header lines, body framing. Pure; nothing here does I/O.

pub(crate) mod body;
pub(crate) mod chunks;
pub(crate) mod event_stream;
pub(crate) mod fields;
pub(crate) mod framing;
pub(crate) mod head;
pub(crate) mod head_scan;
pub(crate) mod headers;
pub(crate) mod hop_by_hop;
pub(crate) mod write;
