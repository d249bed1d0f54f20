//! Parts of queries about rows that a tenant can write. What is out of bounds never leaves the server.

/// The largest definition of a workflow, and the largest context of an execution.
pub(super) const MAX_DEFINITION_BYTES: usize = 256 << 10;
/// The largest result of a task, as Postgres prints it: with more spaces than the task wrote.
pub(super) const MAX_OUTPUT_BYTES: usize = 2 * protocol::tasks::MAX_RESULT_BYTES;

/// A JSON column that reads as null when it is too large.
pub(super) fn bounded_json(column: &str, max_bytes: usize) -> String {
    format!(
        "CASE WHEN pg_catalog.octet_length({column}::text) <= {max_bytes} THEN {column} END AS {column}"
    )
}

/// A time that reads as null when no calendar of ours has it.
pub(super) fn bounded_time(column: &str) -> String {
    format!("{} AS {column}", time_in_bounds(column))
}

pub(super) fn time_in_bounds(column: &str) -> String {
    format!(
        "CASE WHEN {column} BETWEEN '2000-01-01Z'::timestamptz AND '2200-01-01Z'::timestamptz THEN {column} END"
    )
}
