//! `/v1/mails`: the mails that wait to be sent.

use axum::extract::State;
use protocol::mails::{MailList, WaitingMail};
use service::api_error::ApiError;

use crate::app::App;
use crate::db::mail;
use crate::http::extract::Query;
use crate::http::paging::PageQuery;
use crate::views;

pub async fn list_mails(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<MailList>, ApiError> {
    let window = query.window()?;
    let mut rows = mail::list(&mut *app.conn().await?, window).await?;
    let next = window.next(&mut rows, |row| row.id);
    let mails: Vec<WaitingMail> = rows.into_iter().map(views::waiting_mail).collect();
    Ok(axum::Json(MailList { mails, next }))
}
