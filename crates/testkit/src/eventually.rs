//! Waiting for a condition that no event announces, with a bound.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::clock;

const INTERVAL: Duration = Duration::from_millis(50);

/// Calls `probe` until it returns a value. An error of the probe ends the wait at once.
///
/// # Errors
/// The probe fails, or returns no value within `timeout`; the message then names `what`.
pub async fn wait_for<T>(
    what: &str,
    timeout: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = clock::now() + timeout;
    loop {
        if let Some(value) = probe().await? {
            return Ok(value);
        }
        ensure!(clock::now() < deadline, "{what}: not within {} s", timeout.as_secs());
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Like [`wait_for`], for a condition without a value.
///
/// # Errors
/// The condition fails, or does not hold within `timeout`.
pub async fn eventually(
    what: &str,
    timeout: Duration,
    mut holds: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    wait_for(what, timeout, async || Ok(holds().await?.then_some(()))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_ends_with_the_first_value() {
        let mut calls = 0;
        let value = wait_for("three", Duration::from_secs(60), async || {
            calls += 1;
            Ok((calls == 3).then_some(calls))
        });
        assert_eq!(value.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_wait_that_times_out_names_what_it_waited_for() {
        let error = eventually("the tenant", Duration::ZERO, async || Ok(false)).await.unwrap_err();
        assert_eq!(error.to_string(), "the tenant: not within 0 s");
    }
}
