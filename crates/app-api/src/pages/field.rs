//! One labelled input with its hint and its fault, tied together for those who cannot see.

use askama::Template;
use protocol::Problem;

#[derive(Template)]
#[template(path = "field.html")]
pub struct Field {
    pub name: &'static str,
    pub label: &'static str,
    pub kind: &'static str,
    pub value: String,
    pub hint: &'static str,
    pub autocomplete: &'static str,
    pub fault: Option<String>,
    pub autofocus: bool,
}

/// Its template escapes what it is given.
impl askama::filters::HtmlSafe for Field {}

impl Field {
    pub fn new(name: &'static str, label: &'static str, kind: &'static str) -> Self {
        Self {
            name,
            label,
            kind,
            value: String::new(),
            hint: "",
            autocomplete: "off",
            fault: None,
            autofocus: false,
        }
    }

    pub fn hint(self, hint: &'static str) -> Self {
        Self { hint, ..self }
    }

    pub fn autocomplete(self, autocomplete: &'static str) -> Self {
        Self { autocomplete, ..self }
    }

    pub fn autofocus(self) -> Self {
        Self { autofocus: true, ..self }
    }

    pub fn value(self, value: &str) -> Self {
        Self { value: value.to_owned(), ..self }
    }

    /// With the fault that `problem` finds here.
    pub fn judged(self, problem: Option<&Problem>) -> Self {
        Self { fault: fault(problem, self.name), ..self }
    }

    /// The same where the API calls it otherwise and counts it in another unit: `words` are the rule in this one.
    pub fn judged_as(self, problem: Option<&Problem>, field: &str, words: &str) -> Self {
        Self { fault: fault(problem, field).map(|_| words.to_owned()), ..self }
    }

    fn has_hint(&self) -> bool {
        !self.hint.is_empty()
    }

    /// What describes the input: its fault first, then its hint.
    fn described_by(&self) -> String {
        let fault = self.fault.as_ref().map(|_| format!("{}-fault", self.name));
        let hint = self.has_hint().then(|| format!("{}-hint", self.name));
        fault.into_iter().chain(hint).collect::<Vec<_>>().join(" ")
    }
}

/// What `problem` says of `field`.
pub fn fault(problem: Option<&Problem>, field: &str) -> Option<String> {
    let faults = problem.map(|p| p.errors.as_slice()).unwrap_or_default();
    faults.iter().find(|e| e.field == field).map(|e| e.message.clone())
}
