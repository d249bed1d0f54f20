//! No service keeps a capability, and PID 1 keeps one.

use crate::stage::Stage;

fn report_of(service: &str) -> String {
    let mut stage = Stage::play(&format!("{service}:report"));
    let mut report = Vec::new();
    loop {
        let line = stage.line(|line| line.starts_with(&format!("[{service}] ")));
        let line = line.trim_start_matches(&format!("[{service}] ")).to_owned();
        if line.starts_with("fds") {
            return report.join("\n");
        }
        report.push(line);
    }
}

#[test]
fn the_core_runs_as_cial_without_any_capability() {
    for service in ["edge", "core-back", "core-front"] {
        insta::allow_duplicates! { insta::assert_snapshot!(report_of(service), @r"
        Uid: 1000 1000 1000 1000
        Gid: 1000 1000 1000 1000
        Groups:
        NoNewPrivs: 1
        CapInh: 0000000000000000
        CapPrm: 0000000000000000
        CapEff: 0000000000000000
        CapBnd: 0000000000000000
        CapAmb: 0000000000000000
        SigBlk: 0000000000000000
        ") }
    }
}

#[test]
fn the_platform_runs_as_agent_without_any_capability() {
    for service in ["platform-front", "platform-back"] {
        insta::allow_duplicates! { insta::assert_snapshot!(report_of(service), @r"
        Uid: 1001 1001 1001 1001
        Gid: 1001 1001 1001 1001
        Groups:
        NoNewPrivs: 1
        CapInh: 0000000000000000
        CapPrm: 0000000000000000
        CapEff: 0000000000000000
        CapBnd: 0000000000000000
        CapAmb: 0000000000000000
        SigBlk: 0000000000000000
        ") }
    }
}

#[test]
fn pid_1_keeps_the_right_to_signal_and_nothing_more() {
    let mut stage = Stage::play("core-back:hear");
    stage.line(|line| line == "[core-back] heard all-ready");
    let status = std::fs::read_to_string(format!("/proc/{}/status", stage.pid())).unwrap();
    let kept = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"];
    let lines: Vec<_> =
        status.lines().filter(|line| kept.iter().any(|name| line.starts_with(name))).collect();
    insta::assert_snapshot!(lines.join("\n").replace('\t', " "), @r"
    CapInh: 0000000000000000
    CapPrm: 0000000000000020
    CapEff: 0000000000000020
    CapBnd: 0000000000000000
    CapAmb: 0000000000000000
    NoNewPrivs: 1
    ");
}
