//! zstd, piece by piece.

use std::io::{self, Write as _};

use bytes::{Buf as _, Bytes};
use zstd::stream::raw::{CParameter, DParameter, Decoder, Operation as _};
use zstd::stream::write::Encoder;

use crate::Fault;

/// The level of the command `zstd` without options.
const LEVEL: i32 = 3;
/// The most bytes of one decompressed piece, however small its compressed bytes are.
const PIECE_BYTES: usize = 128 << 10;
/// The memory that the first bytes of a file may claim, as a power of two: 8 MiB, as `zstd -19` does.
const MAX_WINDOW_LOG: u32 = 23;

/// Compresses a stream.
pub struct Compressor {
    encoder: Encoder<'static, Vec<u8>>,
}

impl Compressor {
    /// # Errors
    /// When there is no memory.
    pub fn new() -> io::Result<Self> {
        let mut encoder = Encoder::new(Vec::new(), LEVEL)?;
        encoder.set_parameter(CParameter::ChecksumFlag(true))?;
        Ok(Self { encoder })
    }

    /// Returns the compressed bytes that are complete, often none.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn compress(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        self.encoder.write_all(bytes)?;
        Ok(std::mem::take(self.encoder.get_mut()))
    }

    /// Returns the rest.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        self.encoder.finish()
    }
}

/// Decompresses a stream in pieces of a bounded size.
pub struct Decompressor {
    decoder: Decoder<'static>,
    input: Bytes,
    /// The last piece was full, so the decoder may hold more.
    holds_more: bool,
}

impl Decompressor {
    /// # Errors
    /// When there is no memory.
    pub fn new() -> Result<Self, Fault> {
        let mut decoder = Decoder::new().map_err(|error| damaged(&error))?;
        let window = DParameter::WindowLogMax(MAX_WINDOW_LOG);
        decoder.set_parameter(window).map_err(|error| damaged(&error))?;
        Ok(Self { decoder, input: Bytes::new(), holds_more: false })
    }

    /// Takes the next compressed bytes. The pieces of the last ones must have been read.
    pub fn push(&mut self, bytes: Bytes) {
        self.input = bytes;
    }

    /// Returns the next piece; `None` when more compressed bytes are needed.
    ///
    /// # Errors
    /// [`Fault::NotCompressed`].
    pub fn next_piece(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        while self.holds_more || !self.input.is_empty() {
            let mut piece = vec![0; PIECE_BYTES];
            let status = self.decoder.run_on_buffers(&self.input, &mut piece);
            let status = status.map_err(|error| damaged(&error))?;
            self.input.advance(status.bytes_read);
            self.holds_more = status.bytes_written == PIECE_BYTES;
            if status.bytes_written > 0 {
                piece.truncate(status.bytes_written);
                return Ok(Some(piece));
            }
            if status.bytes_read == 0 && !self.input.is_empty() {
                return Err(Fault::NotCompressed("the decoder takes no more bytes".to_owned()));
            }
        }
        Ok(None)
    }
}

fn damaged(error: &io::Error) -> Fault {
    Fault::NotCompressed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decompress(bytes: &[u8], step: usize) -> Result<Vec<Vec<u8>>, Fault> {
        let mut decompressor = Decompressor::new()?;
        let mut pieces = Vec::new();
        for chunk in bytes.chunks(step) {
            decompressor.push(Bytes::copy_from_slice(chunk));
            while let Some(piece) = decompressor.next_piece()? {
                pieces.push(piece);
            }
        }
        Ok(pieces)
    }

    #[test]
    fn any_cut_gives_the_same_bytes_and_no_piece_is_large() {
        let bytes: Vec<u8> = (0..3_000_000_u32)
            .map(|n| if n < 2_500_000 { 0 } else { n as u8 ^ (n >> 8) as u8 })
            .collect();
        let mut compressor = Compressor::new().unwrap();
        let mut compressed = Vec::new();
        for chunk in bytes.chunks(70_001) {
            compressed.extend(compressor.compress(chunk).unwrap());
        }
        compressed.extend(compressor.finish().unwrap());
        assert!(compressed.len() < bytes.len() / 2);
        // Two frames one after the other are one stream, as for the command `zstd`.
        let twice = [compressed.as_slice(), &compressed].concat();
        for step in [1, 7, 1_000, usize::MAX] {
            let pieces = decompress(&twice, step.min(twice.len())).unwrap();
            assert!(pieces.iter().all(|piece| piece.len() <= PIECE_BYTES));
            assert_eq!(pieces.concat(), [bytes.as_slice(), &bytes].concat());
        }
    }

    #[test]
    fn other_bytes_and_large_windows_are_refused() {
        assert!(decompress(b"manifest.json and more", 100).is_err());
        let mut encoder = Encoder::new(Vec::new(), 3).unwrap();
        encoder.set_parameter(CParameter::WindowLog(MAX_WINDOW_LOG + 1)).unwrap();
        // A frame of a known size would claim no more than that.
        encoder.write_all(&[1; 100]).unwrap();
        encoder.flush().unwrap();
        assert!(decompress(&encoder.finish().unwrap(), 100).is_err());
    }
}
