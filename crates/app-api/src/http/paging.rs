//! Lists by page: the newest first, with the id of a page's last item as the cursor of the next.

use serde::Deserialize;
use service::api_error::ApiError;
use utoipa::IntoParams;
use uuid::Uuid;

use super::extract::invalid_query;

const DEFAULT_LIMIT: i64 = 100;
const MAX_LIMIT: i64 = 500;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// `next` of the page before.
    cursor: Option<Uuid>,
    /// 100 unless given.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
}

/// The part of a list that a page shows.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Only items with a smaller id, if given.
    pub before: Option<Uuid>,
    pub limit: i64,
}

impl Window {
    /// The newest items, as many as a page can hold.
    pub const NEWEST: Self = Self { before: None, limit: MAX_LIMIT };
}

impl PageQuery {
    /// # Errors
    /// `invalid_query`.
    pub fn window(&self) -> Result<Window, ApiError> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(invalid_query("limit", "must be 1 to 500"));
        }
        Ok(Window { before: self.cursor, limit })
    }
}

impl Window {
    /// One extra row shows whether there is a next page.
    pub fn rows(&self) -> i64 {
        self.limit + 1
    }

    /// Drops the extra row; returns the cursor of the next page, if there is one.
    pub fn next<T>(&self, rows: &mut Vec<T>, id: impl Fn(&T) -> Uuid) -> Option<Uuid> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        rows.last().filter(|_| more).map(id)
    }
}
