//! `/v1/tenants/{slug}/executions`: list, show, output, cancel.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use protocol::executions::{Execution, ExecutionList, ExecutionSummary, ExecutionTask};
use serde::de::DeserializeOwned;
use serde_json::Value;
use service::api_error::ApiError;

use crate::access::{AuthorizedTenant, Caller};
use crate::app::App;
use crate::db::tenant_executions::{ExecutionRow, TaskRow};
use crate::http::describe::{Call, DescribeOutput};
use crate::http::extract::{IdPath, Query};
use crate::http::paging::PageQuery;
use crate::http::reply::Accepted;
use crate::views::time;
use crate::work::{damaged, executions};

const TEXT: &str = "text/plain; charset=utf-8";

/// The output of an execution, one line each: time, task, attempt, text.
pub struct OutputLines(String);

impl IntoResponse for OutputLines {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, HeaderValue::from_static(TEXT))], self.0).into_response()
    }
}

impl DescribeOutput for OutputLines {
    fn describe(call: &mut Call) {
        call.text_response(&[TEXT]);
    }
}

pub async fn list_executions(
    State(app): State<App>,
    found: AuthorizedTenant,
    Query(page): Query<PageQuery>,
) -> Result<axum::Json<ExecutionList>, ApiError> {
    let window = page.window()?;
    let (mut rows, total) = executions::list(&app, &found.tenant, window).await?;
    let next = window.next(&mut rows, |row| row.id);
    let items = rows.into_iter().map(summary).collect::<Result<_, _>>()?;
    Ok(axum::Json(ExecutionList { items, total, next }))
}

pub async fn show_execution(
    State(app): State<App>,
    found: AuthorizedTenant,
    IdPath(id): IdPath,
) -> Result<axum::Json<Execution>, ApiError> {
    let (row, tasks) = executions::show(&app, &found.tenant, id).await?;
    Ok(axum::Json(view(row, tasks)?))
}

pub async fn show_execution_output(
    State(app): State<App>,
    found: AuthorizedTenant,
    IdPath(id): IdPath,
) -> Result<OutputLines, ApiError> {
    let mut text = String::new();
    for line in executions::lines(&app, &found.tenant, id).await? {
        let (at, task, attempt) = (time(line.at), line.task, line.attempt);
        let _ = writeln!(text, "{at} [{task} {attempt}] {}", line.text);
    }
    Ok(OutputLines(text))
}

pub async fn cancel_execution(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    IdPath(id): IdPath,
) -> Result<Accepted<ExecutionSummary>, ApiError> {
    let row = executions::cancel(&app, &caller, &found.tenant, id).await?;
    Ok(Accepted::new(summary(row)?))
}

/// Parses a value of an enum. The tenant may have written any text into its own row.
fn parse_enum<T: DeserializeOwned>(text: &str) -> Result<T, ApiError> {
    let parsed = serde_json::from_value(Value::String(text.to_owned()));
    parsed.map_err(|_| damaged("the state of an execution or a task"))
}

fn summary(row: ExecutionRow) -> Result<ExecutionSummary, ApiError> {
    Ok(ExecutionSummary {
        id: row.id,
        state: parse_enum(&row.state)?,
        workflow: row.workflow,
        package: row.package,
        reason: row.reason,
        created_by: row.created_by,
        created_at: time(row.created_at),
        started_at: row.started_at.map(time),
        finished_at: row.finished_at.map(time),
    })
}

fn view(row: ExecutionRow, tasks: Vec<TaskRow>) -> Result<Execution, ApiError> {
    let context =
        serde_json::from_value(row.context.clone().unwrap_or_default()).unwrap_or_default();
    let task = |task: TaskRow| {
        Ok(ExecutionTask {
            state: parse_enum(&task.state)?,
            name: task.name,
            attempts: task.attempts,
            reason: task.reason,
            output: task.output,
            started_at: task.started_at.map(time),
            finished_at: task.finished_at.map(time),
        })
    };
    let tasks = tasks.into_iter().map(task).collect::<Result<_, ApiError>>()?;
    Ok(Execution { summary: summary(row)?, context, tasks })
}
