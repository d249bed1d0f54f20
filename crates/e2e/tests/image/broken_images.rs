//! Checks that cannot fail are worth nothing: images broken on purpose, each of which must fail exactly its checks.
//!
//! The fault is a layer on top of the image under test; nothing of it is in any other image.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use e2e::Checks;
use testkit::engine::{Sandbox, TenantOptions};

use super::{layers, static_checks};

struct BrokenImage {
    name: &'static str,
    layer: String,
    /// The checks that must fail; no other check may fail.
    failing: &'static [&'static str],
}

fn broken_images() -> [BrokenImage; 4] {
    let listen = "IO::Socket::INET->new(Listen => 1, LocalAddr => q(0.0.0.0:4444)) and sleep";
    // The service starts once the listener is there: the checks look once.
    let wait = "until (exec 3<>/dev/tcp/127.0.0.1/4444) 2>/dev/null; do sleep 0.01; done";
    let listen =
        format!("if [ $1 = back ]; then perl -MIO::Socket::INET -e '{listen}' & {wait}; fi");
    let linger = "sleep infinity > /dev/null 2>&1 & exec -a supervisor supervisor";
    [
        BrokenImage { name: "unchanged", layer: String::new(), failing: &[] },
        BrokenImage {
            name: "core-directory-open",
            layer: "RUN chmod 0755 /opt/cial-core".to_owned(),
            failing: &[
                "agent cannot cat /opt/cial-core/edge",
                "agent cannot ls /opt/cial-core",
                "the core's directory is closed",
            ],
        },
        BrokenImage {
            name: "child-left-as-root",
            layer: format!("ENTRYPOINT [\"/bin/bash\", \"-c\", \"{linger}\"]"),
            failing: &[
                "PID 1, the five services and the file server",
                "capabilities of sleep infinity",
                "sleep infinity has no other groups",
                "sleep infinity is not root",
                "the image starts PID 1",
            ],
        },
        BrokenImage {
            name: "service-on-all-interfaces",
            layer: layers::run_first("/opt/cial-platform", "platform", &listen),
            failing: &["PID 1, the five services and the file server", "the TCP listeners"],
        },
    ]
}

pub(crate) async fn check(checks: &mut Checks, sandbox: &Sandbox) -> Result<()> {
    for broken in broken_images() {
        let derived = sandbox.with_layer(broken.name, &broken.layer).await?;
        let failed = failed_checks(&derived).await.with_context(|| broken.name)?;
        let expected: BTreeSet<_> = broken.failing.iter().map(|name| (*name).to_owned()).collect();
        let (expected, failed) = (format!("{expected:?}"), format!("{failed:?}"));
        checks.equal(&format!("{}: exactly its checks fail", broken.name), expected, failed);
    }
    Ok(())
}

async fn failed_checks(sandbox: &Sandbox) -> Result<BTreeSet<String>> {
    let options =
        TenantOptions { name: "broken", sso_key: Some(vec![7; 32]), ..TenantOptions::default() };
    let (tenant, _) = sandbox.healthy(&options).await?;
    let mut checks = Checks::silent();
    static_checks(&mut checks, sandbox, &tenant).await;
    Ok(checks.failed().clone())
}
