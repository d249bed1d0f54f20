//! Export and import of a tenant, as the API and the command line share them.

/// The media type of an archive.
pub const CONTENT_TYPE: &str = "application/zstd";

/// The last bytes of every whole export: a frame that tools for zstd pass over (RFC 8878 §3.1.2). A stream that ends without
/// them broke off, also where the transport says that it ended in order.
pub const END_MARK: [u8; 12] = *b"\x50\x2a\x4d\x18\x04\x00\x00\x00cial";

/// Such a frame without content: the server sends it between two others where it has nothing else to send for a while.
pub const EMPTY_FRAME: [u8; 8] = *b"\x50\x2a\x4d\x18\x00\x00\x00\x00";
