//! The output of services arrives completely, line by line, under their names.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;

use crate::stage::Stage;

#[test]
fn no_line_is_lost_split_or_out_of_order() {
    let everyone = ["edge", "core-back", "core-front", "platform-front", "platform-back"];
    let script: Vec<_> = everyone.iter().map(|service| format!("{service}:count")).collect();
    let mut stage = Stage::play(&script.join(" "));
    let mut counted = 0;
    while counted < everyone.len() {
        stage.line(|line| line.ends_with("counted"));
        counted += 1;
    }
    stage.signal(Signal::SIGTERM);
    let (_, lines) = stage.end();
    let mut next: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.ends_with("of both")) {
        let (name, rest) = line.split_once("] line ").expect(line);
        let number: usize = rest.trim_end_matches(" of both").parse().expect(line);
        next.entry(name).or_default().push(number);
    }
    for service in everyone {
        let mut numbers = next.remove(format!("[{service}").as_str()).unwrap_or_default();
        numbers.sort_unstable();
        let both: Vec<_> = (0..2_000).flat_map(|number| [number, number]).collect();
        assert!(numbers == both, "{service} said {} lines", numbers.len());
    }
}

#[test]
fn the_last_line_may_lack_its_end() {
    let (code, lines) = Stage::play("platform-front:partial platform-front:exit=0").end();
    assert_eq!(code, Some(1));
    assert!(lines.iter().any(|line| line == "[platform-front] no end"), "{lines:#?}");
    let news = lines.iter().position(|line| line.contains("platform-front exited with 0"));
    assert!(news.is_some(), "{lines:#?}");
}
