//! Reads the engine's report of a pull, and detects a registry that is silent or breaks off repeatedly. Pure.

use std::collections::HashMap;
use std::time::Duration;

/// The engine itself tries six times, for more than a minute.
const MAX_BREAKS: u32 = 3;
/// The engine reports each piece that arrives; only the check of a large layer takes a while.
pub(super) const MAX_SILENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub(super) struct Progress {
    layers: HashMap<String, Layer>,
    silence: Duration,
}

#[derive(Debug, Default)]
struct Layer {
    breaks: u32,
    /// The engine counts down the seconds to the next attempt.
    is_waiting: bool,
}

/// The reason why a pull is given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Interruption {
    BrokenOff { layer: String, times: u32 },
    Silent,
}

impl Progress {
    /// Records a line of the report. `id` is the layer that the line is about, if any.
    ///
    /// # Errors
    /// The registry broke off a layer too often.
    pub(super) fn note(&mut self, id: &str, status: &str) -> Result<(), Interruption> {
        self.silence = Duration::ZERO;
        let is_waiting = status.starts_with("Retrying in");
        let layer = self.layers.entry(id.to_owned()).or_default();
        let breaks_now = is_waiting && !layer.is_waiting;
        layer.is_waiting = is_waiting;
        layer.breaks += u32::from(breaks_now);
        if layer.breaks < MAX_BREAKS {
            return Ok(());
        }
        Err(Interruption::BrokenOff { layer: id.to_owned(), times: layer.breaks })
    }

    /// Records that time passed.
    ///
    /// # Errors
    /// The report showed nothing new for [`MAX_SILENCE`].
    pub(super) fn note_silence(&mut self, passed: Duration) -> Result<(), Interruption> {
        self.silence += passed;
        if self.silence < MAX_SILENCE { Ok(()) } else { Err(Interruption::Silent) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_may_break_off_twice() {
        let mut progress = Progress::default();
        for attempt in 1..=3 {
            for id in ["a", "b"] {
                assert_eq!(progress.note(id, "Downloading"), Ok(()), "{id} {attempt}");
            }
            let noted = ["Retrying in 2 seconds", "Retrying in 1 second"]
                .map(|status| progress.note("a", status).is_ok());
            assert_eq!(noted, [attempt < 3; 2], "{attempt}");
        }
        let broken = progress.note("a", "Retrying in 3 seconds").unwrap_err();
        assert_eq!(broken, Interruption::BrokenOff { layer: "a".to_owned(), times: 3 });
        assert_eq!(progress.note("b", "Pull complete"), Ok(()));
    }

    #[test]
    fn a_silent_registry_is_given_up_and_a_slow_one_is_not() {
        let mut progress = Progress::default();
        for _ in 0..10 {
            assert_eq!(progress.note_silence(MAX_SILENCE / 2), Ok(()));
            assert_eq!(progress.note("a", "Downloading"), Ok(()));
        }
        assert_eq!(progress.note_silence(MAX_SILENCE / 2), Ok(()));
        assert_eq!(progress.note_silence(MAX_SILENCE / 2), Err(Interruption::Silent));
    }
}
