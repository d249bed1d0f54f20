//! The retry back-off of failed webhook deliveries. Pure.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// The delays after the first, second, … failed attempt, in seconds. A receiver that is unreachable for a day misses nothing.
const DELAYS: [u64; 9] =
    [5, 30, 2 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR, 3 * HOUR, 8 * HOUR, 12 * HOUR];

/// The delay after this many failed attempts; `None`: give up. `fraction`, from 0 to 1, spreads the retries over a
/// fifth of the delay, so that a receiver that comes back is not met by all at once.
pub fn retry_delay(failed_attempts: u32, fraction: f64) -> Option<Duration> {
    let place = usize::try_from(failed_attempts.checked_sub(1)?).ok()?;
    let delay = Duration::from_secs(*DELAYS.get(place)?);
    Some(delay + delay.mul_f64(fraction.clamp(0.0, 1.0) / 5.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_more_than_a_day_and_end() {
        let delays: Vec<_> = (1..20).map_while(|failed| retry_delay(failed, 0.0)).collect();
        assert_eq!(delays.len(), DELAYS.len());
        assert!(delays.is_sorted());
        assert!(delays.iter().sum::<Duration>() > Duration::from_secs(24 * HOUR));
        assert_eq!(retry_delay(0, 0.0), None);
        assert_eq!(retry_delay(10, 0.0), None);
    }

    #[test]
    fn retries_are_spread_over_a_fifth_of_the_delay() {
        assert_eq!(retry_delay(2, 0.0), Some(Duration::from_secs(30)));
        assert_eq!(retry_delay(2, 0.5), Some(Duration::from_secs(33)));
        assert_eq!(retry_delay(2, 1.0), Some(Duration::from_secs(36)));
        assert_eq!(retry_delay(2, 7.0), Some(Duration::from_secs(36)));
    }
}
