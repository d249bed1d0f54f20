//! The wall clock as a value: shells carry a [`Clock`], pure parts receive the time as an argument.

use std::sync::Arc;

use protocol::Timestamp;

#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The machine's clock, to the microsecond, which is the precision of Postgres.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn system() -> Self {
        Self::new(|| {
            let now = chrono::Utc::now();
            Timestamp::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now)
        })
    }

    pub fn new(read: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}
