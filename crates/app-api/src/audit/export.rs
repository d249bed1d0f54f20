//! The audit log as CSV or JSON, streamed page by page: an export needs no more memory than a page.

use std::fmt::Write as _;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::stream;
use protocol::audit::AuditEntry;
use serde_json::Value;
use service::api_error::ApiError;

use super::query::{AuditFilter, entry};
use crate::app::App;
use crate::db::audit_log::{self, Order};

const PAGE: i64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Csv,
    Json,
}

impl Format {
    /// Parses `format`; absent means JSON.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("" | "json") => Some(Self::Json),
            Some("csv") => Some(Self::Csv),
            Some(_) => None,
        }
    }

    fn head(self) -> &'static str {
        match self {
            Self::Csv => CSV_HEAD,
            Self::Json => "[",
        }
    }

    fn tail(self) -> &'static str {
        match self {
            Self::Csv => "",
            Self::Json => "\n]\n",
        }
    }

    /// The text of one entry; `is_first` omits the separator.
    fn write(self, text: &mut String, entry: &AuditEntry<Value>, is_first: bool) {
        match self {
            Self::Csv => write_csv(text, entry),
            Self::Json => {
                let json = serde_json::to_string(entry).unwrap_or_default();
                let _ = write!(text, "{}\n{json}", if is_first { "" } else { "," });
            }
        }
    }
}

const CSV_HEAD: &str = "id,at,actor,actor_kind,actor_id,role,session_id,action,resource,before,after,address,request_id,hash\r\n";

fn write_csv(text: &mut String, entry: &AuditEntry<Value>) {
    let id = entry.id.to_string();
    let optional = |value: &Option<uuid::Uuid>| value.map(|id| id.to_string()).unwrap_or_default();
    let json = |value: &Option<Value>| value.as_ref().map(ToString::to_string).unwrap_or_default();
    let cells: [&str; 14] = [
        &id,
        &entry.at,
        &entry.actor,
        &entry.actor_kind,
        &optional(&entry.actor_id),
        &entry.role,
        &optional(&entry.session_id),
        &entry.action,
        &entry.resource,
        &json(&entry.before),
        &json(&entry.after),
        &entry.address,
        &entry.request_id,
        &entry.hash,
    ];
    for (place, cell) in cells.into_iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        write_cell(text, cell);
    }
    text.push_str("\r\n");
}

/// Quotes every cell by RFC 4180, and puts an apostrophe before each character from which a spreadsheet would run a
/// formula: at the start, and wherever another program, another list separator or a lost quote would start a cell
/// (OWASP, CSV injection).
fn write_cell(text: &mut String, cell: &str) {
    text.push('"');
    let mut starts_cell = true;
    for letter in cell.chars() {
        if starts_cell && FORMULA_STARTS.contains(&letter) {
            text.push('\'');
        }
        if letter == '"' {
            text.push('"');
        }
        text.push(letter);
        // White space in front of a formula does not keep a spreadsheet from running it.
        let keeps_start = starts_cell && (letter.is_whitespace() || letter == '\0');
        starts_cell = keeps_start || CELL_ENDS.contains(&letter);
    }
    text.push('"');
}

/// ASCII and full-width: some spreadsheets read both.
const FORMULA_STARTS: [char; 8] =
    ['=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}'];
/// Separators and quotes, after which a formula could begin.
const CELL_ENDS: [char; 8] = [',', ';', '|', '\t', '\r', '\n', '"', '\''];

/// The state of an export: what is still to be written.
enum Export {
    Head,
    Entries { after: i64, is_first: bool },
    Done,
}

/// Streams the entries that `filter` leaves, the oldest first, up to the head of the log at this moment.
///
/// # Errors
/// `database_unavailable`. A failure during the stream breaks the connection off, so that nobody takes a part for the
/// whole.
pub async fn export(app: App, filter: AuditFilter, format: Format) -> Result<Response, ApiError> {
    let (head, _) = audit_log::head(&mut *app.conn().await?).await?;
    let parts = stream::try_unfold(Export::Head, move |state| {
        let (app, filter) = (app.clone(), filter.clone());
        async move { next_part(&app, &filter, format, head, state).await }
    });
    let mut response = Response::new(Body::from_stream(parts));
    let (kind, name) = match format {
        Format::Csv => ("text/csv; charset=utf-8", "attachment; filename=\"audit.csv\""),
        Format::Json => ("application/json", "attachment; filename=\"audit.json\""),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static(name));
    Ok(response)
}

async fn next_part(
    app: &App,
    filter: &AuditFilter,
    format: Format,
    head: i64,
    state: Export,
) -> anyhow::Result<Option<(Bytes, Export)>> {
    match state {
        Export::Head => {
            let entries = Export::Entries { after: 0, is_first: true };
            Ok(Some((Bytes::from_static(format.head().as_bytes()), entries)))
        }
        Export::Entries { after, is_first } => {
            let mut conn = app.database.conn().await?;
            let order = Order::OldestBetween(after, head);
            let rows = audit_log::list(&mut conn, filter, order, PAGE).await?;
            let Some(last) = rows.last().map(|row| row.id) else {
                return Ok(Some((Bytes::from_static(format.tail().as_bytes()), Export::Done)));
            };
            let mut text = String::new();
            for (place, row) in rows.into_iter().enumerate() {
                format.write(&mut text, &entry(row), is_first && place == 0);
            }
            Ok(Some((text.into(), Export::Entries { after: last, is_first: false })))
        }
        Export::Done => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_run_no_formula() {
        let cell = |text: &str| {
            let mut out = String::new();
            write_cell(&mut out, text);
            out
        };
        for (text, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("a,b", "a,b"),
            ("say \"hi\"", "say \"\"hi\"\""),
            ("two\nlines", "two\nlines"),
            ("2027-01-15T08:00:00Z", "2027-01-15T08:00:00Z"),
            ("ada@example.com", "ada@example.com"),
            ("=1+1", "'=1+1"),
            ("-5", "'-5"),
            ("\u{ff1d}1", "'\u{ff1d}1"),
            ("  =1", "  '=1"),
            ("\t=1", "\t'=1"),
            ("\r\n@x", "\r\n'@x"),
            ("x,=1", "x,'=1"),
            ("x; +1", "x; '+1"),
            ("x\n-1", "x\n'-1"),
            ("x\",=1", "x\"\",'=1"),
            ("x'=1", "x''=1"),
        ] {
            assert_eq!(cell(text), format!("\"{expected}\""), "{text:?}");
        }
    }
}
