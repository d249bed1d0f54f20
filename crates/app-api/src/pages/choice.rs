//! One labelled choice among few, with its hint and its fault.

use askama::Template;
use protocol::Problem;

use super::words::span;

#[derive(Template)]
#[template(path = "choice.html")]
pub struct Choice {
    pub name: &'static str,
    pub label: &'static str,
    pub value: String,
    pub hint: &'static str,
    pub fault: Option<String>,
    options: Vec<Item>,
}

/// What is sent, and what is read.
struct Item {
    value: String,
    words: String,
}

/// Its template escapes what it is given.
impl askama::filters::HtmlSafe for Choice {}

impl Choice {
    /// `value`: the one that is chosen; `options`: values with their words. What is none of them is added as it is,
    /// so that saving changes nothing by itself.
    pub fn new(
        name: &'static str,
        label: &'static str,
        value: String,
        options: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mut options: Vec<_> =
            options.into_iter().map(|(value, words)| Item { value, words }).collect();
        if !options.iter().any(|option| option.value == value) {
            let words = value.parse().map_or_else(|_| value.clone(), span);
            options.push(Item { value: value.clone(), words });
        }
        Self { name, label, value, hint: "", fault: None, options }
    }

    pub fn hint(self, hint: &'static str) -> Self {
        Self { hint, ..self }
    }

    /// With the fault that `problem` finds here.
    pub fn judged(self, problem: Option<&Problem>) -> Self {
        Self { fault: super::field::fault(problem, self.name), ..self }
    }

    /// What describes it: its fault first, then its hint.
    fn described_by(&self) -> String {
        let fault = self.fault.as_ref().map(|_| format!("{}-fault", self.name));
        let hint = (!self.hint.is_empty()).then(|| format!("{}-hint", self.name));
        fault.into_iter().chain(hint).collect::<Vec<_>>().join(" ")
    }
}
