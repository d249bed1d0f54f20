//! Reads the engine's report of a pull, and detects a registry that is silent or breaks off repeatedly. Pure.

use std::collections::HashMap;
use std::time::Duration;

use protocol::images::PullProgress;

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
    stage: Stage,
    received: u64,
    total: u64,
}

/// How far a layer is. Lines of the report that are about no layer stay at the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Unknown,
    UnderWay,
    Done,
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

    /// Notes what a line of the report says of the bytes of a layer.
    pub(super) fn note_bytes(&mut self, id: &str, status: &str, current: u64, total: u64) {
        let layer = self.layers.entry(id.to_owned()).or_default();
        match status {
            "Pulling fs layer" | "Waiting" if layer.stage == Stage::Unknown => {
                layer.stage = Stage::UnderWay;
            }
            "Downloading" => {
                layer.stage = Stage::UnderWay;
                (layer.received, layer.total) = (current, layer.total.max(total));
            }
            "Verifying Checksum" | "Download complete" => layer.received = layer.total,
            "Already exists" | "Pull complete" => {
                (layer.stage, layer.received) = (Stage::Done, layer.total);
            }
            _ => {}
        }
    }

    pub(super) fn summary(&self) -> PullProgress {
        let mut summary = PullProgress::default();
        for layer in self.layers.values().filter(|layer| layer.stage != Stage::Unknown) {
            summary.layers += 1;
            summary.layers_done += u32::from(layer.stage == Stage::Done);
            // The engine's numbers are not checked.
            summary.bytes = summary.bytes.saturating_add(layer.received);
            summary.bytes_total = summary.bytes_total.saturating_add(layer.total);
        }
        summary
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
    fn layers_and_bytes_are_counted_as_the_engine_reports_them() {
        let mut progress = Progress::default();
        let mut say = |id: &str, status: &str, current: u64, total: u64| {
            progress.note_bytes(id, status, current, total);
            let PullProgress { layers, layers_done, bytes, bytes_total } = progress.summary();
            (layers_done, layers, bytes, bytes_total)
        };
        assert_eq!(say("1.4", "Pulling from team/notes", 0, 0), (0, 0, 0, 0));
        assert_eq!(say("a", "Pulling fs layer", 0, 0), (0, 1, 0, 0));
        assert_eq!(say("b", "Already exists", 0, 0), (1, 2, 0, 0));
        assert_eq!(say("a", "Downloading", 10, 100), (1, 2, 10, 100));
        // An attempt that broke off begins anew, and the engine does not repeat the size at its beginning.
        assert_eq!(say("a", "Retrying in 2 seconds", 0, 0), (1, 2, 10, 100));
        assert_eq!(say("a", "Downloading", 5, 0), (1, 2, 5, 100));
        assert_eq!(say("a", "Download complete", 0, 0), (1, 2, 100, 100));
        assert_eq!(say("a", "Extracting", 3, 100), (1, 2, 100, 100));
        assert_eq!(say("a", "Pull complete", 0, 0), (2, 2, 100, 100));
        assert_eq!(say("", "Digest: sha256:…", 0, 0), (2, 2, 100, 100));
        let most = u64::MAX;
        assert_eq!(say("c", "Downloading", most, most), (2, 3, most, most), "no overflow");
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
