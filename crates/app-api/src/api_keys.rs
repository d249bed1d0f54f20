//! API keys: live until they expire or are revoked, for one tenant or for all.

use std::time::Duration;

use protocol::problem::Code;
use service::api_error::ApiError;

use crate::app::App;
use crate::auth::api_key::KeyText;
use crate::db::api_key::{self, ApiKey, Lookup};

/// The time of the last use is written at most this often.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);

/// Returns the live key of a bearer token, which counts as a use of the key.
///
/// # Errors
/// `invalid_key`, the same for a malformed, unknown, revoked or expired key; `database_unavailable`.
pub async fn authenticate(app: &App, text: &str) -> Result<ApiKey, ApiError> {
    // A typing error costs no query.
    let key = KeyText::parse(text).map_err(|_| invalid_key())?;
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    let found = api_key::find_live(&mut conn, Lookup::Hash(&key.hash()), now).await?;
    let mut key = found.ok_or_else(invalid_key)?;
    if key.last_used_at.is_none_or(|at| at + TOUCH_INTERVAL <= now) {
        api_key::touch(&mut conn, key.id, now).await?;
        key.last_used_at = Some(now);
    }
    Ok(key)
}

fn invalid_key() -> ApiError {
    ApiError::new(Code::InvalidKey, "The API key is malformed, expired or revoked.")
}
