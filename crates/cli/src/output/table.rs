//! Lists and objects as tables: aligned for people, tab-separated for programs.

use chrono::DateTime;
use protocol::Timestamp;
use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

use super::color::{self, paint};
use super::time::age;
use super::value::text;
use crate::error::CliError;

/// How a kind of object is shown.
#[derive(Debug)]
pub struct Shape {
    /// For "no tenants".
    pub plural: &'static str,
    /// JSON pointer of the name or id that other commands take.
    pub name: &'static str,
    pub columns: &'static [Column],
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub title: &'static str,
    /// JSON pointer of the value (RFC 6901).
    pub pointer: &'static str,
    pub kind: Kind,
    /// Only in wide tables and in the view of one object.
    pub is_wide: bool,
}

/// The kind of a value, which decides its colour and its short form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// A time of RFC 3339, shown as an age on a terminal.
    Time,
    /// A time that is shown as it is.
    ExactTime,
    /// A state of a tenant.
    State,
}

impl Column {
    pub const fn new(title: &'static str, pointer: &'static str) -> Self {
        Self { title, pointer, kind: Kind::Text, is_wide: false }
    }

    pub const fn time(title: &'static str, pointer: &'static str) -> Self {
        Self { title, pointer, kind: Kind::Time, is_wide: false }
    }

    pub const fn exact_time(title: &'static str, pointer: &'static str) -> Self {
        Self { title, pointer, kind: Kind::ExactTime, is_wide: false }
    }

    pub const fn state(title: &'static str, pointer: &'static str) -> Self {
        Self { title, pointer, kind: Kind::State, is_wide: false }
    }

    #[must_use]
    pub const fn wide(mut self) -> Self {
        self.is_wide = true;
        self
    }
}

impl Shape {
    /// The chosen columns; without a choice those of the table, or all of the wide table.
    pub(super) fn columns(
        &self,
        chosen: &[String],
        is_wide: bool,
    ) -> Result<Vec<Column>, CliError> {
        if chosen.is_empty() {
            return Ok(self
                .columns
                .iter()
                .filter(|own| is_wide || !own.is_wide)
                .copied()
                .collect());
        }
        let find = |name: &String| {
            let found = self.columns.iter().find(|own| own.title.eq_ignore_ascii_case(name.trim()));
            found.copied().ok_or_else(|| {
                let known: Vec<_> =
                    self.columns.iter().map(|own| own.title.to_lowercase()).collect();
                CliError::usage(format!("there is no column {name:?}"))
                    .next(format!("choose from --columns {}", known.join(",")))
            })
        };
        chosen.iter().map(find).collect()
    }
}

/// How tables are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// For people: headings, aligned columns, ages.
    Aligned { is_coloured: bool },
    /// For programs: neither headings nor blanks, and complete times.
    TabSeparated,
}

impl Layout {
    /// One item on a line.
    pub(super) fn rows(self, columns: &[Column], items: &[Value], now: Timestamp) -> String {
        let cells = |item: &Value| -> Vec<String> {
            columns.iter().map(|column| self.cell(column, item, now)).collect()
        };
        let rows: Vec<_> = items.iter().map(cells).collect();
        let Self::Aligned { is_coloured } = self else {
            return rows.iter().map(|row| row.join("\t") + "\n").collect();
        };
        if rows.is_empty() {
            return String::new();
        }
        let widths: Vec<_> = columns
            .iter()
            .enumerate()
            .map(|(at, column)| {
                let cells = rows.iter().map(|row| row[at].width());
                cells.max().unwrap_or_default().max(column.title.width())
            })
            .collect();
        let titles: Vec<_> = columns.iter().map(|column| column.title.to_owned()).collect();
        let mut lines = line(&titles, &widths, |_, text| paint(color::HEADING, text, is_coloured));
        for row in &rows {
            lines += &line(row, &widths, |at, text| match columns[at].kind {
                Kind::State => paint(state_style(text), text, is_coloured),
                Kind::Text | Kind::Time | Kind::ExactTime => text.to_owned(),
            });
        }
        lines
    }

    /// One item on a line without headings, like the next line of a list that grows.
    pub(super) fn row(self, columns: &[Column], item: &Value, now: Timestamp) -> String {
        let cells: Vec<_> = columns.iter().map(|column| self.cell(column, item, now)).collect();
        let Self::Aligned { is_coloured } = self else { return cells.join("\t") + "\n" };
        let widths: Vec<_> = cells.iter().map(|cell| cell.width()).collect();
        line(&cells, &widths, |at, text| match columns[at].kind {
            Kind::State => paint(state_style(text), text, is_coloured),
            Kind::Text | Kind::Time | Kind::ExactTime => text.to_owned(),
        })
    }

    /// One field on a line.
    pub(super) fn fields(self, columns: &[Column], item: &Value, now: Timestamp) -> String {
        let width = columns.iter().map(|column| column.title.width()).max().unwrap_or_default();
        let field = |column: &Column| {
            let title = column.title.to_lowercase();
            let cell = self.cell(column, item, now);
            match self {
                Self::TabSeparated => format!("{title}\t{cell}\n"),
                Self::Aligned { is_coloured } => {
                    let cell = match column.kind {
                        Kind::State => paint(state_style(&cell), &cell, is_coloured),
                        Kind::Text | Kind::Time | Kind::ExactTime => cell,
                    };
                    format!(
                        "{}  {cell}\n",
                        paint(color::HEADING, &format!("{title:width$}"), is_coloured)
                    )
                }
            }
        };
        columns.iter().map(field).collect()
    }

    fn cell(self, column: &Column, item: &Value, now: Timestamp) -> String {
        let value = item.pointer(column.pointer).unwrap_or(&Value::Null);
        let is_age = column.kind == Kind::Time && matches!(self, Self::Aligned { .. });
        let time = value.as_str().filter(|_| is_age).map(DateTime::parse_from_rfc3339);
        match time {
            Some(Ok(at)) => age(at.to_utc(), now),
            Some(Err(_)) | None => text(value),
        }
    }
}

fn line(cells: &[String], widths: &[usize], style: impl Fn(usize, &str) -> String) -> String {
    let mut line = String::new();
    for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
        line += &style(at, cell);
        if at + 1 < cells.len() {
            line += &" ".repeat(width.saturating_sub(cell.width()) + 3);
        }
    }
    line + "\n"
}

fn state_style(state: &str) -> &'static str {
    match state {
        "running" | "active" | "delivered" => color::GOOD,
        "error" | "failed" | "revoked" => color::BAD,
        "provisioning" | "starting" | "deleting" | "pending" => color::BUSY,
        _ => color::QUIET,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SHAPE: Shape = Shape {
        plural: "tenants",
        name: "/slug",
        columns: &[
            Column::new("SLUG", "/slug"),
            Column::state("STATE", "/state"),
            Column::time("AGE", "/at"),
            Column::new("BECAUSE", "/because").wide(),
        ],
    };

    fn items() -> Vec<Value> {
        vec![
            json!({ "slug": "acme", "state": "running", "at": "2026-11-29T11:00:00Z", "because": ["a", "b"] }),
            json!({ "slug": "日本", "state": "sleeping", "at": null, "because": "tab\there\x1b[31m" }),
        ]
    }

    fn rows(layout: Layout, chosen: &[&str], is_wide: bool) -> String {
        let chosen: Vec<_> = chosen.iter().map(|name| (*name).to_owned()).collect();
        let columns = SHAPE.columns(&chosen, is_wide).unwrap();
        layout.rows(&columns, &items(), "2026-11-29T12:00:00Z".parse().unwrap())
    }

    #[test]
    fn people_get_aligned_columns() {
        insta::assert_snapshot!(rows(Layout::Aligned { is_coloured: false }, &[], true), @r"
        SLUG   STATE      AGE   BECAUSE
        acme   running    60m   a,b
        日本   sleeping   -     tab here
        ");
        let coloured = rows(Layout::Aligned { is_coloured: true }, &["state"], false);
        assert_eq!(
            coloured,
            "\x1b[1mSTATE\x1b[0m\n\x1b[32mrunning\x1b[0m\n\x1b[2msleeping\x1b[0m\n"
        );
    }

    #[test]
    fn programs_get_tabs_and_complete_times() {
        let expected = "acme\trunning\t2026-11-29T11:00:00Z\n日本\tsleeping\t-\n";
        assert_eq!(rows(Layout::TabSeparated, &[], false), expected);
        assert_eq!(
            rows(Layout::TabSeparated, &["state", "slug"], false),
            "running\tacme\nsleeping\t日本\n"
        );
        assert_eq!(Layout::Aligned { is_coloured: false }.rows(&[], &[], Timestamp::default()), "");
    }

    #[test]
    fn one_object_is_shown_field_by_field() {
        let now = "2026-11-29T12:00:00Z".parse().unwrap();
        let fields =
            |layout: Layout| layout.fields(&SHAPE.columns(&[], true).unwrap(), &items()[0], now);
        insta::assert_snapshot!(fields(Layout::Aligned { is_coloured: false }), @r"
        slug     acme
        state    running
        age      60m
        because  a,b
        ");
        assert!(fields(Layout::TabSeparated).starts_with("slug\tacme\n"));
    }

    #[test]
    fn an_unknown_column_names_the_known_ones() {
        let error = SHAPE.columns(&["colour".to_owned()], false).unwrap_err().to_string();
        assert!(error.ends_with("choose from --columns slug,state,age,because"), "{error}");
    }
}
