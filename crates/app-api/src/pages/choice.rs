//! A labelled select with its hint and its error.

use askama::Template;
use protocol::Problem;

use super::format::span;

#[derive(Template)]
#[template(path = "choice.html")]
pub struct Choice {
    pub name: &'static str,
    pub label: &'static str,
    pub value: String,
    pub hint: &'static str,
    pub error: Option<String>,
    options: Vec<Item>,
}

/// The value that the form sends and the label that the visitor reads.
struct Item {
    value: String,
    label: String,
}

/// The template escapes its values.
impl askama::filters::HtmlSafe for Choice {}

impl Choice {
    /// `options`: values with their labels. A current value outside the options becomes an option of its own, so that
    /// saving the form without a change changes nothing.
    pub fn new(
        name: &'static str,
        label: &'static str,
        value: String,
        options: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mut options: Vec<_> =
            options.into_iter().map(|(value, label)| Item { value, label }).collect();
        if !options.iter().any(|option| option.value == value) {
            let label = value.parse().map_or_else(|_| value.clone(), span);
            options.push(Item { value: value.clone(), label });
        }
        Self { name, label, value, hint: "", error: None, options }
    }

    pub fn hint(self, hint: &'static str) -> Self {
        Self { hint, ..self }
    }

    /// Adds the error of this field from `problem`.
    pub fn with_problem(self, problem: Option<&Problem>) -> Self {
        Self { error: super::field::field_error(problem, self.name), ..self }
    }

    /// The ids for `aria-describedby`: the error first, then the hint.
    fn described_by(&self) -> String {
        let error = self.error.as_ref().map(|_| format!("{}-fault", self.name));
        let hint = (!self.hint.is_empty()).then(|| format!("{}-hint", self.name));
        error.into_iter().chain(hint).collect::<Vec<_>>().join(" ")
    }
}
