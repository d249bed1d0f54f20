//! The end of one service ends all; a requested stop is graceful; no orphan stays.

use std::path::Path;

use nix::sys::signal::Signal;

use crate::stage::Stage;

#[test]
fn any_death_ends_the_container_even_if_others_will_not_go() {
    for dead in ["edge", "core-back", "core-front", "platform-front", "platform-back"] {
        let stubborn = if dead == "core-front" { "edge" } else { "core-front" };
        let mut stage = Stage::play(&format!("{dead}:who {stubborn}:stubborn"));
        stage.lines([&|line| line == format!("[{stubborn}] will stay"), &|line| {
            line.starts_with(&format!("[{dead}] is "))
        }]);
        stage.kill(&format!("[{dead}] is "));
        let (code, lines) = stage.end();
        assert_eq!(code, Some(1), "{lines:#?}");
        let told = format!("[supervisor] {dead} was killed by signal 9: ending the container");
        assert!(lines.contains(&told), "{lines:#?}");
        // A busy machine may leave the other services too little time as well.
        let killed =
            lines.iter().find_map(|l| l.strip_prefix("[supervisor] not ended in time, killed: "));
        assert!(killed.is_some_and(|names| names.contains(stubborn)), "{lines:#?}");
    }
}

#[test]
fn a_stop_is_peaceful() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut stage = Stage::play("core-back:hear");
        stage.line(|line| line == "[core-back] heard all-ready");
        stage.signal(signal);
        let (code, lines) = stage.end();
        assert_eq!(code, Some(0), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.contains("killed:")), "{lines:#?}");
    }
}

#[test]
fn orphans_are_reaped() {
    let mut stage = Stage::play("platform-back:fork");
    let line = stage.line(|line| line.starts_with("[platform-back] orphan "));
    let pid = line.rsplit(' ').next().unwrap();
    let process = format!("/proc/{pid}");
    // An entry disappears only when its process is reaped: a zombie would keep it for as long as
    // PID 1 lives.
    while Path::new(&process).exists() {
        std::thread::yield_now();
    }
}
