//! `package.toml`: every fault is collected.

use std::collections::BTreeSet;

use toml_edit::{Document, Item, TableLike};

use crate::{Fault, FieldFault, Package, Task, Workflow};

pub(crate) const MAX_BYTES: usize = 64 << 10;
const MAX_WORKFLOWS: usize = 50;
pub(crate) const MAX_TASKS: usize = 100;
pub(crate) const MAX_ARGS: usize = 64;
const MAX_ARG_BYTES: usize = 4_096;
pub(crate) const MAX_NAMES: usize = 32;
const MAX_ABOUT_CHARS: usize = 300;
pub(crate) const MAX_RETRIES: i64 = 10;
pub(crate) const MAX_TIMEOUT_SECONDS: i64 = 86_400;
const DEFAULT_TIMEOUT_SECONDS: u32 = 3_600;

const NAME_RULE: &str =
    "must be a-z, 0-9, - and _, begin with a letter, and have at most 63 characters";
const VERSION_RULE: &str =
    "must be letters, digits, ., + and -, begin with a digit, and have at most 63 characters";

pub(crate) fn field(name: impl Into<String>, rule: impl Into<String>) -> FieldFault {
    FieldFault { field: name.into(), rule: rule.into() }
}

/// Whether a text is a name of a package, a workflow or a task.
pub fn is_name(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    let begins = text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    begins && text.len() <= 63 && text.bytes().all(is_plain)
}

pub(crate) fn is_version(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    let begins = text.as_bytes().first().is_some_and(u8::is_ascii_digit);
    begins && text.len() <= 63 && text.bytes().all(is_plain)
}

/// `folder` is that of the archive; `executables` are relative to it.
pub(crate) fn read(
    bytes: &[u8],
    folder: &str,
    executables: &BTreeSet<&str>,
) -> Result<Package, Fault> {
    let invalid = |rule: String| Fault::Invalid(vec![field(crate::DESCRIPTION, rule)]);
    if bytes.len() > MAX_BYTES {
        return Err(invalid(format!("has more than {MAX_BYTES} bytes")));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| invalid("is no UTF-8".to_owned()))?;
    let document = Document::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| {
            text[..text.floor_char_boundary(span.start)].matches('\n').count() + 1
        });
        let message = error.message().replace('\n', ", ");
        invalid(format!("is no TOML, line {line}: {message}"))
    })?;
    let mut reader = Reader { faults: Vec::new(), executables };
    let package = reader.package(document.as_table(), folder);
    let Reader { faults, .. } = reader;
    if faults.is_empty() { Ok(package) } else { Err(Fault::Invalid(faults)) }
}

struct Reader<'a> {
    faults: Vec<FieldFault>,
    executables: &'a BTreeSet<&'a str>,
}

impl Reader<'_> {
    fn refuse(&mut self, name: impl Into<String>, rule: impl Into<String>) {
        self.faults.push(field(name, rule));
    }

    fn package(&mut self, table: &dyn TableLike, folder: &str) -> Package {
        self.known(table, "", &["name", "version", "about", "workflow"]);
        let name = self.text(table, "name", is_name, NAME_RULE);
        let version = self.text(table, "version", is_version, VERSION_RULE);
        if is_name(&name) && is_version(&version) && format!("{name}-{version}") != folder {
            let rule = format!("and version must make the folder of the archive, {folder}");
            self.refuse("name", rule);
        }
        let about = self.about(table, "about");
        let tables = self.tables(table, "workflow", MAX_WORKFLOWS);
        let mut workflows: Vec<Workflow> = Vec::new();
        for (place, table) in tables {
            let workflow = self.workflow(table, &place);
            if workflows.iter().any(|other| other.name == workflow.name) {
                self.refuse(format!("{place}.name"), "is the name of another workflow, too");
            }
            workflows.push(workflow);
        }
        Package { name, version, about, workflows }
    }

    fn workflow(&mut self, table: &dyn TableLike, place: &str) -> Workflow {
        self.known(table, &format!("{place}."), &["name", "about", "task"]);
        let name = self.text_at(table, place, "name", is_name, NAME_RULE);
        let about = self.about(table, &format!("{place}.about"));
        let mut tasks: Vec<Task> = Vec::new();
        let tables = self.tables(table, &format!("{place}.task"), MAX_TASKS);
        let places: Vec<String> = tables.iter().map(|(place, _)| place.clone()).collect();
        for (place, table) in tables {
            let task = self.task(table, &place);
            if tasks.iter().any(|other| other.name == task.name) {
                self.refuse(format!("{place}.name"), "is the name of another task, too");
            }
            tasks.push(task);
        }
        for (task, place) in tasks.iter().zip(&places) {
            for name in &task.after {
                if !tasks.iter().any(|other| other.name == *name) {
                    self.refuse(format!("{place}.after"), format!("names no task: {name}"));
                }
            }
        }
        let workflow = Workflow { name, about, tasks };
        if self.faults.is_empty() && workflow.in_order().len() < workflow.tasks.len() {
            self.refuse(format!("{place}.task"), "has tasks that wait for each other");
        }
        workflow
    }

    fn task(&mut self, table: &dyn TableLike, place: &str) -> Task {
        let keys = ["name", "command", "inputs", "after", "retries", "timeout_seconds"];
        self.known(table, &format!("{place}."), &keys);
        let name = self.text_at(table, place, "name", is_name, NAME_RULE);
        let command = self.command(table, &format!("{place}.command"));
        let inputs = self.names(table, &format!("{place}.inputs"));
        let after = self.names(table, &format!("{place}.after"));
        let retries = self.number(table, &format!("{place}.retries"), 0, MAX_RETRIES, 0);
        let timeout_seconds = self.number(
            table,
            &format!("{place}.timeout_seconds"),
            1,
            MAX_TIMEOUT_SECONDS,
            DEFAULT_TIMEOUT_SECONDS,
        );
        Task { name, command, inputs, after, retries, timeout_seconds }
    }

    fn known(&mut self, table: &dyn TableLike, prefix: &str, keys: &[&str]) {
        for (name, _) in table.iter().filter(|(name, _)| !keys.contains(name)) {
            let shown: String = name.chars().take(63).collect();
            self.refuse(
                format!("{prefix}{shown}"),
                format!("is unknown; the keys are {}", keys.join(", ")),
            );
        }
    }

    fn text(
        &mut self,
        table: &dyn TableLike,
        place: &str,
        fits: fn(&str) -> bool,
        rule: &str,
    ) -> String {
        match last_of(table, place).and_then(Item::as_str).filter(|text| fits(text)) {
            Some(text) => text.to_owned(),
            None => {
                self.refuse(place, rule);
                String::new()
            }
        }
    }

    fn text_at(
        &mut self,
        table: &dyn TableLike,
        place: &str,
        key: &str,
        fits: fn(&str) -> bool,
        rule: &str,
    ) -> String {
        self.text(table, &format!("{place}.{key}"), fits, rule)
    }

    fn about(&mut self, table: &dyn TableLike, place: &str) -> String {
        let Some(item) = last_of(table, place) else { return String::new() };
        let is_line = |text: &&str| {
            text.chars().count() <= MAX_ABOUT_CHARS && !text.chars().any(char::is_control)
        };
        match item.as_str().filter(is_line) {
            Some(text) => text.to_owned(),
            None => {
                self.refuse(place, "must be one line of at most 300 characters");
                String::new()
            }
        }
    }

    /// The tables of an array, with their places.
    fn tables<'t>(
        &mut self,
        table: &'t dyn TableLike,
        place: &str,
        max: usize,
    ) -> Vec<(String, &'t dyn TableLike)> {
        let tables = last_of(table, place).and_then(Item::as_array_of_tables);
        let found: Vec<&dyn TableLike> = tables
            .map(|tables| tables.iter().map(|table| table as &dyn TableLike).collect())
            .unwrap_or_default();
        if found.is_empty() || found.len() > max {
            let name = place.rsplit('.').next().unwrap_or_default();
            self.refuse(
                place,
                format!("must be 1 to {max} tables, each begun by a line [[…{name}]]"),
            );
            return Vec::new();
        }
        let places = (0..).map(|at: usize| format!("{place}[{at}]"));
        places.zip(found).collect()
    }

    fn command(&mut self, table: &dyn TableLike, place: &str) -> Vec<String> {
        let is_arg = |arg: &str| arg.len() <= MAX_ARG_BYTES && !arg.contains('\0');
        let args = self.texts(table, place, MAX_ARGS, is_arg, "must be a list of at most 64 texts of at most 4096 bytes without NUL, like [\"bin/fetch\", \"--all\"]");
        match args.first() {
            Some(program) if self.executables.contains(program.as_str()) => {}
            Some(_) | None => self.refuse(
                place,
                "must begin with an executable file of the package, by its path below the folder",
            ),
        }
        args
    }

    fn names(&mut self, table: &dyn TableLike, place: &str) -> Vec<String> {
        let rule = format!("must be a list of at most {MAX_NAMES} names; each {NAME_RULE}");
        let names = self.texts(table, place, MAX_NAMES, is_name, &rule);
        let distinct: BTreeSet<_> = names.iter().collect();
        if distinct.len() < names.len() {
            self.refuse(place, "must name each once");
        }
        names
    }

    fn texts(
        &mut self,
        table: &dyn TableLike,
        place: &str,
        max: usize,
        fits: fn(&str) -> bool,
        rule: &str,
    ) -> Vec<String> {
        let Some(item) = last_of(table, place) else { return Vec::new() };
        let texts: Option<Vec<String>> = item.as_array().and_then(|array| {
            let text = |value: &toml_edit::Value| {
                value.as_str().filter(|text| fits(text)).map(str::to_owned)
            };
            array.iter().map(text).collect()
        });
        match texts.filter(|texts| texts.len() <= max) {
            Some(texts) => texts,
            None => {
                self.refuse(place, rule);
                Vec::new()
            }
        }
    }

    fn number(
        &mut self,
        table: &dyn TableLike,
        place: &str,
        min: i64,
        max: i64,
        default: u32,
    ) -> u32 {
        let Some(item) = last_of(table, place) else { return default };
        let number = item.as_integer().filter(|number| (min..=max).contains(number));
        match number.and_then(|number| u32::try_from(number).ok()) {
            Some(number) => number,
            None => {
                self.refuse(place, format!("must be a number, {min} to {max}"));
                default
            }
        }
    }
}

/// The value of the last key of a place.
fn last_of<'t>(table: &'t dyn TableLike, place: &str) -> Option<&'t Item> {
    table.get(place.rsplit('.').next().unwrap_or_default())
}
