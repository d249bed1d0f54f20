//! Watches for the client to leave while a request waits for a decision or a response.
//!
//! The end of the client's input alone does not mean that the client left: a client may close its sending side after
//! the request and still read the response. A client that left is recognised by a hang-up, a reset or a failed write.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

use crate::connection::step::ForwardError;
use crate::error::ProxyError;
use crate::http::head::Version;
use crate::runtime::buffers::{BufferPool, ReadBuffer};
use crate::runtime::stream::{ReadHalf, Stream};
use crate::runtime::timers::Deadline;

/// The state of the client's input during a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientInput {
    /// The client may send more.
    Open,
    /// The client closed its sending side. It may still read.
    Ended,
    /// The connection failed.
    Failed,
}

/// Reads ahead to notice the end of the input. Input that arrives early is kept as far as a buffer holds it.
pub(crate) fn read_ahead(
    cx: &mut Context<'_>,
    from: &mut ReadHalf<'_>,
    ahead: &mut Option<ReadBuffer>,
    buffers: &Rc<BufferPool>,
) -> ClientInput {
    if ahead.as_ref().is_some_and(|buf| !buf.is_empty()) {
        return ClientInput::Open;
    }
    let buf = ahead.get_or_insert_with(|| buffers.take_read_buffer());
    let read = from.poll_read(cx, buf);
    ahead.take_if(|buf| buf.is_empty());
    // The wait may be long.
    ahead.iter_mut().for_each(ReadBuffer::shrink);
    match read {
        Poll::Pending | Poll::Ready(Ok(1..)) => ClientInput::Open,
        Poll::Ready(Ok(0)) => ClientInput::Ended,
        Poll::Ready(Err(_)) => ClientInput::Failed,
    }
}

/// How to find out whether a client with ended input still reads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Probe {
    /// Sends an interim response, which every HTTP/1.1 client skips (RFC 9110 §15.2) and a closed socket resets.
    Interim,
    /// Nothing may be sent: a client that receives nothing for [`SILENT_TIMEOUTS`] counts as gone.
    Silence,
    /// Nothing may be sent and silence means nothing: another timeout bounds the wait.
    None,
}

impl Probe {
    /// Returns the check to use while no part of the response was sent.
    pub(crate) fn before_response(version: Version) -> Self {
        match version {
            Version::Http11 => Self::Interim,
            // HTTP/1.0 has no interim responses.
            Version::Http10 => Self::None,
        }
    }
}

/// After the response began: the number of timeouts without progress after which a client with
/// ended input counts as gone.
const SILENT_TIMEOUTS: u8 = 5;
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A client whose input ended while its request is in progress.
pub(crate) struct HalfClose {
    timer: Pin<Box<Sleep>>,
    timeout: Duration,
    has_probed: bool,
    silent_timeouts: u8,
}

impl HalfClose {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            timer: Box::pin(tokio::time::sleep(timeout)),
            timeout,
            has_probed: false,
            silent_timeouts: 0,
        }
    }

    /// The client received data, so the timeout starts again.
    pub(crate) fn on_progress(&mut self) {
        self.silent_timeouts = 0;
        self.timer.set(tokio::time::sleep(self.timeout));
    }

    /// Ready when the client is gone.
    pub(crate) fn poll_gone(
        &mut self,
        cx: &mut Context<'_>,
        client: &Stream,
        probe: Probe,
    ) -> Poll<()> {
        loop {
            if client.is_hung_up() {
                return Poll::Ready(());
            }
            ready!(self.timer.as_mut().poll(cx));
            match probe {
                Probe::Silence if self.silent_timeouts + 1 >= SILENT_TIMEOUTS => {
                    return Poll::Ready(());
                }
                Probe::Silence => self.silent_timeouts += 1,
                Probe::Interim if !std::mem::replace(&mut self.has_probed, true) => {
                    if client.try_send_all(INTERIM).is_err() {
                        return Poll::Ready(());
                    }
                }
                Probe::Interim | Probe::None => {}
            }
            self.timer.set(tokio::time::sleep(self.timeout));
        }
    }
}

/// Awaits `later` unless the client leaves or the deadline passes first. Reads no client input.
pub(crate) async fn unless_client_leaves<T>(
    client: &Stream,
    deadline: &Deadline,
    (half_close_timeout, probe): (Duration, Probe),
    mut later: Pin<Box<dyn Future<Output = T>>>,
) -> Result<T, ForwardError> {
    let mut input_ended = pin!(client.wait_for_input_end());
    let mut half_close = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = later.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if half_close.is_none() && input_ended.as_mut().poll(cx).is_ready() {
            half_close = Some(HalfClose::new(half_close_timeout));
        }
        if let Some(half_close) = &mut half_close
            && half_close.poll_gone(cx, client, probe).is_ready()
        {
            return Poll::Ready(Err(ForwardError::ClientGone));
        }
        match deadline.has_passed(cx) {
            true => Poll::Ready(Err(ForwardError::Error(ProxyError::ResponseTimeout))),
            false => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;
    use tokio::task::yield_now;

    use super::*;
    use crate::runtime::timers::Timers;

    const PROBE: (Duration, Probe) = (Duration::from_secs(5), Probe::Interim);

    #[tokio::test(flavor = "current_thread")]
    async fn a_waiting_request_reads_no_input_and_ends_when_the_client_closes() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let ours = Stream::Unix(ours);
        let timers = Timers::new(Duration::from_millis(1));
        let deadline = timers.deadline();
        theirs.write_all(b"0123456789").await.unwrap();
        let later = Box::pin(async {
            for _ in 0..10 {
                yield_now().await;
            }
            "decided"
        });
        assert_eq!(
            unless_client_leaves(&ours, &deadline, PROBE, later).await.ok(),
            Some("decided")
        );

        let held = Rc::new(());
        let theirs_to_hold = held.clone();
        let never = Box::pin(async move {
            let _held = theirs_to_hold;
            std::future::pending::<()>().await;
        });
        drop(theirs);
        assert!(matches!(
            unless_client_leaves(&ours, &deadline, PROBE, never).await,
            Err(ForwardError::ClientGone)
        ));
        assert_eq!(Rc::strong_count(&held), 1, "and what was waited for is dropped");
        let mut bytes = [0; 20];
        let Stream::Unix(ours) = ours else { unreachable!() };
        assert_eq!(ours.try_read(&mut bytes).unwrap(), 10, "all of it was left unread");
    }
}
