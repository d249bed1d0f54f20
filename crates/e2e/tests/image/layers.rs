//! Layers that tests put on top of the image.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// A layer in which a program runs a line of shell before it becomes itself.
pub(crate) fn run_first(folder: &str, program: &str, line: &str) -> String {
    let path = format!("{folder}/{program}");
    let script = format!("#!/bin/bash\n{line}\nexec -a {program} {path}.kept \"$@\"\n");
    let script = BASE64.encode(script);
    format!(
        "RUN mv {path} {path}.kept && echo {script} | base64 -d > {path} \\\n    \
         && chmod 0755 {path} && chown --reference={path}.kept {path}"
    )
}
