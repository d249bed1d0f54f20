//! A labelled input with its hint and its error, connected by ARIA attributes.

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
    pub error: Option<String>,
    pub autofocus: bool,
    pub required: bool,
}

/// The template escapes its values.
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
            error: None,
            autofocus: false,
            required: true,
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

    /// An empty value is valid.
    pub fn optional(self) -> Self {
        Self { required: false, ..self }
    }

    pub fn value(self, value: &str) -> Self {
        Self { value: value.to_owned(), ..self }
    }

    /// Adds the error of this field from `problem`.
    pub fn with_problem(self, problem: Option<&Problem>) -> Self {
        Self { error: field_error(problem, self.name), ..self }
    }

    /// Like [`Self::with_problem`] for an input whose API field has another name and unit; `rule` uses this unit.
    pub fn with_problem_as(self, problem: Option<&Problem>, field: &str, rule: &str) -> Self {
        Self { error: field_error(problem, field).map(|_| rule.to_owned()), ..self }
    }

    fn has_hint(&self) -> bool {
        !self.hint.is_empty()
    }

    /// The ids for `aria-describedby`: the error first, then the hint.
    fn described_by(&self) -> String {
        let error = self.error.as_ref().map(|_| format!("{}-fault", self.name));
        let hint = self.has_hint().then(|| format!("{}-hint", self.name));
        error.into_iter().chain(hint).collect::<Vec<_>>().join(" ")
    }
}

/// The message of `problem` for `field`.
pub fn field_error(problem: Option<&Problem>, field: &str) -> Option<String> {
    let errors = problem.map(|p| p.errors.as_slice()).unwrap_or_default();
    errors.iter().find(|e| e.field == field).map(|e| e.message.clone())
}
