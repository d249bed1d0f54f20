//! Workflows: tasks with an order.

use serde::{Deserialize, Serialize};

use crate::description::{MAX_ARGS, MAX_NAMES, MAX_RETRIES, MAX_TASKS, MAX_TIMEOUT_SECONDS};

/// Tasks that run together, in the order of their dependencies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workflow {
    pub name: String,
    /// For people; may be empty.
    pub about: String,
    /// At least one; names are unique, dependencies have no cycle.
    pub tasks: Vec<Task>,
}

/// One program of the package, with the rules of its attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub name: String,
    /// An executable file of the package, relative to its folder, then arguments.
    pub command: Vec<String>,
    /// The names of values that an execution must be given.
    pub inputs: Vec<String>,
    /// Tasks that must succeed first.
    pub after: Vec<String>,
    /// Further attempts after one that failed or was lost.
    pub retries: u32,
    pub timeout_seconds: u32,
}

impl Workflow {
    /// Whether it is no larger than a description may make it. One that comes from elsewhere may be larger.
    pub fn is_within_limits(&self) -> bool {
        let fits = |task: &Task| {
            task.command.len() <= MAX_ARGS
                && task.inputs.len() <= MAX_NAMES
                && task.after.len() <= MAX_NAMES
                && i64::from(task.retries) <= MAX_RETRIES
                && (1..=MAX_TIMEOUT_SECONDS).contains(&i64::from(task.timeout_seconds))
        };
        self.tasks.len() <= MAX_TASKS && self.tasks.iter().all(fits)
    }

    /// The tasks, each after those that it depends on, otherwise in the order of the description. Tasks of a cycle are
    /// missing.
    pub fn in_order(&self) -> Vec<&Task> {
        let mut ordered: Vec<&Task> = Vec::with_capacity(self.tasks.len());
        loop {
            let is_placed = |name: &str| ordered.iter().any(|task| task.name == name);
            let next = self.tasks.iter().find(|task| {
                !is_placed(&task.name) && task.after.iter().all(|name| is_placed(name))
            });
            match next {
                Some(task) => ordered.push(task),
                None => return ordered,
            }
        }
    }

    /// The names of all values that an execution must be given, each once.
    pub fn inputs(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.tasks.iter().flat_map(|task| &task.inputs).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_that_is_larger_than_a_description_may_be_is_found() {
        let task = |name: usize| Task {
            name: format!("t{name}"),
            command: vec!["bin/x".to_owned()],
            inputs: Vec::new(),
            after: Vec::new(),
            retries: 10,
            timeout_seconds: 86_400,
        };
        let workflow = |tasks| Workflow { name: "w".to_owned(), about: String::new(), tasks };
        let with = |change: fn(&mut Task)| {
            let mut task = task(0);
            change(&mut task);
            workflow(vec![task]).is_within_limits()
        };
        assert!(workflow((0..MAX_TASKS).map(task).collect()).is_within_limits());
        assert!(!workflow((0..=MAX_TASKS).map(task).collect()).is_within_limits());
        assert!(!with(|task| task.after = vec!["x".to_owned(); MAX_NAMES + 1]));
        assert!(!with(|task| task.inputs = vec!["x".to_owned(); MAX_NAMES + 1]));
        assert!(!with(|task| task.command = vec!["x".to_owned(); MAX_ARGS + 1]));
        assert!(!with(|task| task.retries = 11));
        assert!(!with(|task| task.timeout_seconds = 0));
        assert!(!with(|task| task.timeout_seconds = u32::MAX));
    }
}
