//! The messages that an attempt reports, one on each line of standard output.

use std::io::{self, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use protocol::tasks::{MAX_LINE_BYTES, MAX_OUTPUT_BYTES, TaskMessage, TaskOutput, counted_bytes};

use super::Outcome;

/// Writes messages, and lines of output up to a bound.
#[derive(Clone)]
pub(super) struct Reporter {
    writer: Arc<Mutex<dyn io::Write + Send>>,
    reported_bytes: Arc<Mutex<usize>>,
}

impl Reporter {
    pub(super) fn new(writer: impl io::Write + Send + 'static) -> Self {
        Self { writer: Arc::new(Mutex::new(writer)), reported_bytes: Arc::default() }
    }

    pub(super) fn send(&self, message: &TaskMessage) {
        let mut line = serde_json::to_vec(message).unwrap_or_default();
        line.push(b'\n');
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // Where nobody reads, the input ends too, and with it this process.
        let _ = writer.write_all(&line).and_then(|()| writer.flush());
    }

    pub(super) fn send_end(&self, outcome: io::Result<Outcome>) {
        let (failure, result) = match outcome {
            Ok(outcome) => outcome,
            Err(error) => (Some(format!("The task could not be run: {error}.")), None),
        };
        self.send(&TaskMessage::Ended { failure, result });
    }

    /// Reads a pipe to its end on a thread of its own, which drops `done` then.
    pub(super) fn report_lines(
        &self,
        pipe: impl Read + Send + 'static,
        output: TaskOutput,
        done: mpsc::Sender<()>,
    ) {
        let reporter = self.clone();
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            while let Ok(Some(text)) = read_line(&mut pipe) {
                reporter.line(output, text);
            }
            drop(done);
        });
    }

    fn line(&self, output: TaskOutput, text: String) {
        let (is_first_too_many, is_too_many) = {
            let mut bytes = self.reported_bytes.lock().unwrap_or_else(PoisonError::into_inner);
            let was_full = *bytes > MAX_OUTPUT_BYTES;
            *bytes = bytes.saturating_add(counted_bytes(text.len()));
            (!was_full && *bytes > MAX_OUTPUT_BYTES, *bytes > MAX_OUTPUT_BYTES)
        };
        if is_first_too_many {
            let text = "The rest of the output is not kept.".to_owned();
            self.send(&TaskMessage::Line { output: TaskOutput::Platform, text });
        } else if !is_too_many {
            self.send(&TaskMessage::Line { output, text });
        }
    }
}

/// Reads a line, or its first bytes; `None` at the end.
fn read_line(pipe: &mut impl io::BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let limit = u64::try_from(MAX_LINE_BYTES).unwrap_or(u64::MAX);
    let read = io::BufRead::read_until(&mut pipe.take(limit), b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok((read > 0).then(|| String::from_utf8_lossy(&line).into_owned()))
}
