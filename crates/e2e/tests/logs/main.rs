//! The last test of every run: no earlier test may have left a secret in a log.

use anyhow::Result;
use e2e::leaks;
use e2e::session::PASSWORD;
use testkit::Installation;

#[tokio::test]
async fn no_log_holds_a_secret_or_a_password() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, e2e::Checks::new());
    let searched = leaks::search_logs(&installation, &[PASSWORD.to_owned()]).await;
    checks.require("no log holds a secret, a password or a token", searched)?;
    checks.finish()
}
