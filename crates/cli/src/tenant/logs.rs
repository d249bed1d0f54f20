//! Reading a tenant's log. A followed log survives broken connections without losing or repeating a line.
//!
//! Every line begins with the time at which the engine received it. After a break the log is read again from the
//! second of the last line, and the lines that were printed already are left out.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use chrono::SecondsFormat;
use protocol::Timestamp;

use crate::context::Context;
use crate::error::CliError;
use crate::http::{Request, segment};
use crate::interrupt;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// The most lines that the API returns.
const MAX_TAIL_LINES: u32 = 50_000;

/// The part of a log to read.
#[derive(Clone, Debug)]
pub(crate) struct LogOptions {
    pub(crate) follow: bool,
    pub(crate) tail: u32,
    /// A time by RFC 3339.
    pub(crate) since: Option<String>,
    pub(crate) shows_times: bool,
}

/// The place in a log behind the last printed line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Position {
    /// The time of the last line, and the number of printed lines of that time.
    last: Option<(Timestamp, usize)>,
    /// During a second reading: the lines of the last time that still have to be left out.
    to_skip: usize,
    /// During a second reading: the last printed line was not met yet.
    is_searching: bool,
}

/// The decision about a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Print,
    /// Lines between the last printed one and this one may be missing.
    PrintAfterGap,
    Skip,
}

impl Position {
    /// Begins to read again, from the beginning of the second of the last line.
    fn rewind(&mut self) {
        self.to_skip = self.last.map_or(0, |(_, printed)| printed);
        self.is_searching = self.last.is_some();
    }

    /// Where to read again: times are compared by whole seconds.
    fn since(&self) -> Option<String> {
        let (at, _) = self.last?;
        Some(at.to_rfc3339_opts(SecondsFormat::Secs, true))
    }

    fn step(&mut self, at: Timestamp) -> Step {
        let Some((last, printed)) = self.last else {
            self.last = Some((at, 1));
            return Step::Print;
        };
        if self.is_searching || self.to_skip > 0 {
            if at < last {
                return Step::Skip;
            }
            if at == last && self.to_skip > 0 {
                (self.to_skip, self.is_searching) = (self.to_skip - 1, false);
                return Step::Skip;
            }
        }
        let is_gap = self.is_searching;
        (self.to_skip, self.is_searching) = (0, false);
        self.last = Some((at, if at == last { printed + 1 } else { 1 }));
        if is_gap { Step::PrintAfterGap } else { Step::Print }
    }
}

/// The time in front of a line, and the line.
fn split_time(line: &[u8]) -> Option<(Timestamp, &[u8])> {
    let end = line.iter().position(|byte| *byte == b' ')?;
    let time = std::str::from_utf8(&line[..end]).ok()?;
    Some((time.parse().ok()?, &line[end + 1..]))
}

/// How reading a response ended.
enum End {
    /// The server sent everything.
    Complete,
    Broken,
}

/// Prints the log.
///
/// # Errors
/// The server refuses, or a log that is not followed breaks off.
pub(crate) fn print(
    context: &Context<'_>,
    slug: &str,
    options: &LogOptions,
) -> Result<(), CliError> {
    if options.follow {
        interrupt::quietly();
    }
    let mut position = Position::default();
    let mut pause = FIRST_PAUSE;
    let mut is_reported = false;
    loop {
        position.rewind();
        let request = request(slug, options, &position);
        let before = position.last;
        let end = match context.client()?.stream(&request) {
            Ok(body) => read(context, BufReader::new(body), options, &mut position)?,
            Err(error) if options.follow && error.is_transient() => {
                if !is_reported {
                    context.output.note(&format!("{error}\nconnecting again …"));
                    is_reported = true;
                }
                End::Broken
            }
            Err(error) => return Err(error),
        };
        match end {
            End::Complete if !options.follow => return Ok(()),
            End::Broken if !options.follow => {
                return Err(CliError::failed(format!(
                    "cannot read the whole log of tenant {slug}"
                ))
                .because("the connection broke before its end")
                .next("try again"));
            }
            // A tenant that stops or sleeps ends its stream; its next start goes on in the same log.
            End::Complete | End::Broken => {}
        }
        if position.last != before {
            (pause, is_reported) = (FIRST_PAUSE, false);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

fn request(slug: &str, options: &LogOptions, position: &Position) -> Request {
    let path = format!("/v1/tenants/{}/logs?timestamps=1", segment(slug));
    let (tail, since) = match position.since() {
        Some(since) => (MAX_TAIL_LINES, Some(since)),
        None => (options.tail, options.since.clone()),
    };
    Request::get(path, format!("read the log of tenant {slug}"))
        .query("tail", Some(&tail.to_string()))
        .query("since", since.as_deref())
        .query("follow", options.follow.then_some("1"))
}

fn read(
    context: &Context<'_>,
    mut body: BufReader<impl Read>,
    options: &LogOptions,
    position: &mut Position,
) -> Result<End, CliError> {
    let mut line = Vec::new();
    loop {
        line.clear();
        match body.read_until(b'\n', &mut line) {
            Ok(0) => return Ok(End::Complete),
            Ok(_) if line.ends_with(b"\n") => show(context, &line, options, position)?,
            // Without its end a line is printed only if nothing comes behind it: the next reading has it whole.
            Ok(_) if !options.follow => {
                line.push(b'\n');
                show(context, &line, options, position)?;
            }
            Ok(_) => return Ok(End::Broken),
            Err(_) => return Ok(End::Broken),
        }
    }
}

fn show(
    context: &Context<'_>,
    line: &[u8],
    options: &LogOptions,
    position: &mut Position,
) -> Result<(), CliError> {
    // A server of an earlier release sends no times: its lines are printed, and a break may repeat some.
    let Some((at, text)) = split_time(line) else { return context.output.bytes(line) };
    let step = position.step(at);
    if step == Step::PrintAfterGap {
        context.output.note("some lines may be missing here: the log moved on too far meanwhile");
    }
    match step {
        Step::Skip => Ok(()),
        Step::Print | Step::PrintAfterGap => {
            context.output.bytes(if options.shows_times { line } else { text })
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    /// Prints the lines that a position lets through in one reading.
    fn reading(position: &mut Position, lines: &[(i64, &'static str)]) -> Vec<&'static str> {
        let at = |nanoseconds: i64| Timestamp::UNIX_EPOCH + TimeDelta::nanoseconds(nanoseconds);
        lines
            .iter()
            .filter_map(|(nanoseconds, text)| match position.step(at(*nanoseconds)) {
                Step::Skip => None,
                Step::Print => Some(*text),
                Step::PrintAfterGap => Some("(gap)"),
            })
            .collect()
    }

    #[test]
    fn a_second_reading_neither_loses_nor_repeats_a_line() {
        let log = [(1, "a"), (2, "b"), (2, "c"), (2, "d"), (3, "e"), (3, "f")];
        for first_end in 0..=log.len() {
            for second_end in first_end..=log.len() {
                let mut position = Position::default();
                let mut printed = reading(&mut position, &log[..first_end]);
                for end in [second_end, log.len()] {
                    position.rewind();
                    printed.extend(reading(&mut position, &log[..end]));
                }
                assert_eq!(printed, ["a", "b", "c", "d", "e", "f"], "{first_end} {second_end}");
            }
        }
    }

    #[test]
    fn a_reading_without_the_last_line_reports_a_gap() {
        let mut position = Position::default();
        assert_eq!(reading(&mut position, &[(1, "a")]), ["a"]);
        position.rewind();
        assert_eq!(reading(&mut position, &[(5, "b"), (6, "c")]), ["(gap)", "c"]);
        position.rewind();
        assert_eq!(reading(&mut position, &[(6, "c"), (7, "d")]), ["d"]);
    }

    #[test]
    fn reading_again_begins_at_the_whole_second() {
        let (at, text) = split_time(b"2026-11-29T12:00:01.987654321Z [edge] ready\n").unwrap();
        assert_eq!(text, b"[edge] ready\n");
        let mut position = Position::default();
        position.step(at);
        assert_eq!(position.since().as_deref(), Some("2026-11-29T12:00:01Z"));
        assert!(split_time(b"[edge] ready\n").is_none());
        assert!(split_time(b"\n").is_none());
    }
}
