//! The jitter of retries: callers that failed together must not all come back at once.

/// Returns 0 to 1. Without randomness there is no jitter, which is harmless.
pub fn random_fraction() -> f64 {
    let mut bytes = [0; 4];
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
