//! Shows the pull of a release's image: a line every few seconds on standard error.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use protocol::images::{PullProgress, PullStatus};
use protocol::text::describe_bytes;
use serde_json::Value;

use crate::context::Context;
use crate::error::CliError;
use crate::http::{Client, Request, Server};
use crate::output::Output;

/// The time between two looks, and so between two lines.
const INTERVAL: Duration = Duration::from_secs(2);
/// A look that takes longer is left out: the command must not wait for it after its end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Makes a call, and meanwhile shows what the pull of the image does. The call does not depend on that.
pub(super) fn call(
    context: &Context<'_>,
    request: &Request,
    image: &str,
) -> Result<Value, CliError> {
    let client = context.client()?;
    let look = Look {
        server: client.server.clone(),
        key: client.key().map(str::to_owned),
        output: &context.output,
        image,
    };
    let (ended, ends) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || look.repeat(&ends));
        let called = context.call(request);
        drop::<mpsc::Sender<()>>(ended);
        called
    })
}

/// The parts with which a thread looks at a pull.
struct Look<'a> {
    server: Server,
    key: Option<String>,
    output: &'a Output,
    image: &'a str,
}

impl Look<'_> {
    fn repeat(self, ends: &Receiver<()>) {
        let client = Client::new(self.server, self.key);
        let request = Request::get("/v1/image-pulls", "look at the pull")
            .query("image", Some(self.image))
            .patience(PATIENCE);
        let mut shown = None;
        while ends.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let looked =
                client.call(&request).and_then(|response| response.json(&request, &client));
            let status = match looked {
                Ok(status) => serde_json::from_value::<PullStatus>(status).unwrap_or_default(),
                Err(error) if error.is_transient() => continue,
                // A server of an earlier release.
                Err(_) => return,
            };
            if let Some(progress) = status.progress.filter(|progress| shown != Some(*progress)) {
                self.output.note(&line(self.image, progress));
                shown = Some(progress);
            }
        }
    }
}

fn line(image: &str, progress: PullProgress) -> String {
    let PullProgress { layers, layers_done, bytes, bytes_total } = progress;
    if layers == 0 {
        return format!("{image}: waiting for the registry, or for other pulls");
    }
    let (received, total) = (describe_bytes(bytes), describe_bytes(bytes_total));
    format!("{image}: {layers_done} of {layers} layers, {received} of {total}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_known() {
        let waiting = line("r.example/notes:1", PullProgress::default());
        assert_eq!(waiting, "r.example/notes:1: waiting for the registry, or for other pulls");
        let progress =
            PullProgress { layers: 7, layers_done: 3, bytes: 43 << 19, bytes_total: 118 << 20 };
        let line = line("r.example/notes:1", progress);
        assert_eq!(line, "r.example/notes:1: 3 of 7 layers, 21.5 MiB of 118.0 MiB");
    }
}
