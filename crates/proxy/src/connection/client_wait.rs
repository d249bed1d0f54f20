//! Watches for the client to leave while a request waits for a decision or a response.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::connection::step::Failure;
use crate::error::ProxyError;
use crate::runtime::buffers::{BufferPool, ReadBuffer};
use crate::runtime::stream::{ReadHalf, Stream};
use crate::runtime::timers::Deadline;

/// Whether the client closed. Input that arrives early is kept as far as a buffer holds it.
pub(crate) fn client_is_gone(
    cx: &mut Context<'_>,
    from: &mut ReadHalf<'_>,
    ahead: &mut Option<ReadBuffer>,
    buffers: &Rc<BufferPool>,
) -> bool {
    if ahead.as_ref().is_some_and(|buf| !buf.is_empty()) {
        return false;
    }
    let buf = ahead.get_or_insert_with(|| buffers.take_read_buffer());
    let read = from.poll_read(cx, buf);
    ahead.take_if(|buf| buf.is_empty());
    // The wait may be long.
    ahead.iter_mut().for_each(ReadBuffer::shrink);
    matches!(read, Poll::Ready(Ok(0) | Err(_)))
}

/// Awaits `later` unless the client leaves or the deadline passes first. Reads no client input.
pub(crate) async fn unless_client_leaves<T>(
    client: &Stream,
    deadline: &Deadline,
    mut later: Pin<Box<dyn Future<Output = T>>>,
) -> Result<T, Failure> {
    let mut gone = pin!(client.wait_for_close());
    poll_fn(|cx| {
        if let Poll::Ready(verdict) = later.as_mut().poll(cx) {
            return Poll::Ready(Ok(verdict));
        }
        if gone.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Failure::ClientGone));
        }
        match deadline.has_passed(cx) {
            true => Poll::Ready(Err(Failure::Error(ProxyError::ResponseTimeout))),
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

    #[tokio::test(flavor = "current_thread")]
    async fn what_a_waiting_client_sends_stays_in_the_kernel_and_its_leaving_is_seen_behind_it() {
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
        assert_eq!(unless_client_leaves(&ours, &deadline, later).await.ok(), Some("decided"));

        let held = Rc::new(());
        let theirs_to_hold = held.clone();
        let never = Box::pin(async move {
            let _held = theirs_to_hold;
            std::future::pending::<()>().await;
        });
        drop(theirs);
        assert!(matches!(
            unless_client_leaves(&ours, &deadline, never).await,
            Err(Failure::ClientGone)
        ));
        assert_eq!(Rc::strong_count(&held), 1, "and what was waited for is dropped");
        let mut bytes = [0; 20];
        let Stream::Unix(ours) = ours else { unreachable!() };
        assert_eq!(ours.try_read(&mut bytes).unwrap(), 10, "all of it was left unread");
    }
}
