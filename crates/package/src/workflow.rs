//! Workflows: tasks with an order.

use serde::{Deserialize, Serialize};

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
