//! The output of a command: data on standard output; progress, notes and errors on standard error.

mod color;
mod progress;
mod table;
mod time;
mod value;
mod yaml;

use std::io::{self, BufRead as _, Write};

use serde_json::Value;

pub(crate) use progress::Progress;
pub use table::{Column, Kind, Shape};
pub(crate) use time::parse_moment;

use crate::args::{Format, GlobalArgs};
use crate::clock;
use crate::environment::Environment;
use crate::error::{CliError, Exit};
use table::Layout;

/// Prints in the format and colour that flags, variables and terminals ask for.
#[derive(Debug)]
pub struct Output {
    format: Format,
    /// The fields of objects in JSON; empty: all.
    fields: Vec<String>,
    columns: Vec<String>,
    is_quiet: bool,
    layout: Layout,
    is_stderr_coloured: bool,
    can_ask: bool,
}

impl Output {
    pub fn new(args: &GlobalArgs, environment: &Environment) -> Self {
        let format = match args.output {
            None if args.json.is_some() => Format::Json,
            None if args.quiet => Format::Name,
            None => Format::Table,
            Some(format) => format,
        };
        let layout = if environment.is_stdout_terminal {
            Layout::Aligned { is_coloured: color::is_on(args.color, environment, true) }
        } else if color::is_on(args.color, environment, false) {
            Layout::Aligned { is_coloured: true }
        } else {
            Layout::TabSeparated
        };
        Self {
            format,
            fields: value::field_names(args.json.as_deref().unwrap_or_default()),
            columns: args.columns.clone(),
            is_quiet: args.quiet,
            layout,
            is_stderr_coloured: color::is_on(
                args.color,
                environment,
                environment.is_stderr_terminal,
            ),
            can_ask: environment.is_stdin_terminal && environment.is_stderr_terminal,
        }
    }

    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether data is shown as a table, which has room for more than one.
    pub fn is_table(&self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }

    /// Prints a list.
    ///
    /// # Errors
    /// `--columns` or `--json` names what is not there, or standard output cannot be written.
    pub fn list(&self, shape: &Shape, items: &[Value]) -> Result<(), CliError> {
        let text = match self.format {
            Format::Json => {
                let chosen = items.iter().map(|item| value::choose(item, &self.fields));
                pretty(&Value::Array(chosen.collect::<Result<_, _>>()?))
            }
            Format::Yaml => yaml::to_text(&Value::Array(items.to_vec())),
            Format::Name => value::names(shape.name, items),
            Format::Table | Format::Wide => {
                let columns = shape.columns(&self.columns, self.format == Format::Wide)?;
                self.layout.rows(&columns, items, clock::now())
            }
        };
        self.data(&text)?;
        if items.is_empty() && matches!(self.format, Format::Table | Format::Wide) {
            self.note(&format!("no {}", shape.plural));
        }
        Ok(())
    }

    /// Prints one object: its fields below each other in a table.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn object(&self, shape: &Shape, object: &Value) -> Result<(), CliError> {
        let text = match self.format {
            Format::Json => pretty(&value::choose(object, &self.fields)?),
            Format::Yaml => yaml::to_text(object),
            Format::Name => value::names(shape.name, std::slice::from_ref(object)),
            Format::Table | Format::Wide => {
                let columns = shape.columns(&self.columns, true)?;
                self.layout.fields(&columns, object, clock::now())
            }
        };
        self.data(&text)
    }

    /// Prints the next item of a list that grows, without headings: in JSON an object on a line.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn next_of_list(&self, shape: &Shape, item: &Value) -> Result<(), CliError> {
        let one = std::slice::from_ref(item);
        let text = match self.format {
            Format::Json => format!("{}\n", value::choose(item, &self.fields)?),
            Format::Yaml => yaml::to_text(&Value::Array(one.to_vec())),
            Format::Name => value::names(shape.name, one),
            Format::Table | Format::Wide => {
                self.layout.row(&shape.columns(&self.columns, true)?, item, clock::now())
            }
        };
        self.data(&text)
    }

    /// Prints text as it is.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn data(&self, text: &str) -> Result<(), CliError> {
        self.bytes(text.as_bytes())
    }

    /// Prints bytes as they are.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| closed(&error))
    }

    /// A fact beside the data; `--quiet` hides it.
    pub fn note(&self, text: &str) {
        if !self.is_quiet {
            self.line(text);
        }
    }

    pub fn warning(&self, text: &str) {
        let label = color::paint(color::WARNING, "warning:", self.is_stderr_coloured);
        self.line(&format!("{label} {text}"));
    }

    pub fn error(&self, error: &CliError) {
        if error.is_silent() {
            return;
        }
        if self.is_json() {
            self.line(&error.to_json().to_string());
            return;
        }
        let label = color::paint(color::ERROR, "error:", self.is_stderr_coloured);
        self.line(&format!("{label} {error}"));
    }

    /// Standard error that is closed loses its text, and changes nothing else.
    fn line(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Shows the steps of a wait.
    pub(crate) fn progress(&self) -> Progress {
        Progress::new(self.is_quiet || self.is_json(), self.is_stderr_coloured)
    }

    /// Asks before something is destroyed.
    ///
    /// # Errors
    /// The answer is no, or nobody can be asked.
    pub fn confirm(&self, question: &str) -> Result<(), CliError> {
        if !self.can_ask {
            return Err(CliError::usage("nobody can be asked without a terminal")
                .because(format!("the question is: {question}"))
                .next("pass --yes to answer it"));
        }
        // In one piece, so that what is typed meanwhile stands behind it.
        let _ = io::stderr().lock().write_all(format!("{question} [y/N] ").as_bytes());
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        if read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
            return Ok(());
        }
        Err(CliError::new(Exit::Cancelled, "cancelled: nothing was changed"))
    }
}

/// A reader that closes its pipe has enough: `cial tenants | head` is no failure.
fn closed(error: &io::Error) -> CliError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return CliError::silent(Exit::Success);
    }
    CliError::failed("cannot write to standard output").because(error)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
