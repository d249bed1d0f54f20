//! The schema of the history, in steps that are only ever added.

use rusqlite::Connection;

use super::HistoryError;

const STEPS: &[&str] = &[
    include_str!("migrations/1.sql"),
    include_str!("migrations/2.sql"),
    include_str!("migrations/3.sql"),
];

/// Brings the schema up to this release, each step as a whole or not at all.
///
/// # Errors
/// [`HistoryError`], also for a file of a newer release.
pub(super) fn apply(connection: &Connection) -> Result<(), HistoryError> {
    let found: u8 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let found = usize::from(found);
    let Some(missing) = STEPS.get(found..) else {
        return Err(HistoryError::NewerSchema { found, known: STEPS.len() });
    };
    for (version, step) in (found + 1..).zip(missing) {
        connection
            .execute_batch(&format!("BEGIN; {step} PRAGMA user_version = {version}; COMMIT"))?;
    }
    Ok(())
}

/// An empty history in memory, for tests.
#[cfg(test)]
pub(super) fn in_memory() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    apply(&connection).unwrap();
    connection
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_applied_once_and_a_newer_file_is_left_alone() {
        let connection = Connection::open_in_memory().unwrap();
        apply(&connection).unwrap();
        apply(&connection).unwrap();
        let newer = STEPS.len() + 1;
        connection.pragma_update(None, "user_version", newer as u8).unwrap();
        let expected = HistoryError::NewerSchema { found: newer, known: STEPS.len() };
        assert_eq!(apply(&connection), Err(expected));
    }
}
