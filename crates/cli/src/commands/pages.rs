//! Lists that the API gives out page by page.

use serde_json::Value;

use crate::context::Context;
use crate::error::CliError;
use crate::http::Request;

/// Reads pages until there are `limit` items or no further page. `key` holds the items, `next` the cursor.
pub(super) fn collect(
    context: &Context<'_>,
    request: &Request,
    key: &str,
    next: &str,
    limit: usize,
) -> Result<Vec<Value>, CliError> {
    let mut items = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut page = context.call(&request.clone().query("cursor", cursor.as_deref()))?;
        if let Some(page) = page[key].as_array_mut() {
            items.append(page);
        }
        let following = page[next].as_str().map(str::to_owned);
        // A cursor that comes again would never end.
        if items.len() >= limit || following.is_none() || following == cursor {
            items.truncate(limit);
            return Ok(items);
        }
        cursor = following;
    }
}

/// Reads a list that has one page.
pub(super) fn single(
    context: &Context<'_>,
    request: &Request,
    key: &str,
) -> Result<Vec<Value>, CliError> {
    let mut list = context.call(request)?;
    Ok(list[key].as_array_mut().map(std::mem::take).unwrap_or_default())
}
