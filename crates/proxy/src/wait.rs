//! What a request waits for: a head, a decision; and whether its client still does.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::buffers::{Buf, Buffers};
use crate::error::ProxyError;
use crate::step::Trouble;
use crate::stream::{ReadHalf, Stream};
use crate::sweep::Deadline;

/// Whether the client closed. What it sends ahead is kept, as much as fits; beyond that nobody looks.
pub(crate) fn is_gone(
    cx: &mut Context<'_>,
    from: &mut ReadHalf<'_>,
    ahead: &mut Option<Buf>,
    buffers: &Rc<Buffers>,
) -> bool {
    if ahead.as_ref().is_some_and(|buf| !buf.is_empty()) {
        return false;
    }
    let buf = ahead.get_or_insert_with(|| buffers.read());
    let read = from.poll_read(cx, buf);
    ahead.take_if(|buf| buf.is_empty());
    // It may have to wait for as long as the answer takes.
    ahead.iter_mut().for_each(Buf::shrink);
    matches!(read, Poll::Ready(Ok(0) | Err(_)))
}

/// What `later` says, unless the client leaves or time passes first. Nothing that the client sent is read.
pub(crate) async fn unless_gone<T>(
    client: &Stream,
    deadline: &Deadline,
    mut later: Pin<Box<dyn Future<Output = T>>>,
) -> Result<T, Trouble> {
    let mut gone = pin!(client.closed());
    poll_fn(|cx| {
        if let Poll::Ready(verdict) = later.as_mut().poll(cx) {
            return Poll::Ready(Ok(verdict));
        }
        if gone.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Trouble::Gone));
        }
        match deadline.has_passed(cx) {
            true => Poll::Ready(Err(Trouble::Error(ProxyError::ResponseTimeout))),
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
    use crate::sweep::Sweep;

    #[tokio::test(flavor = "current_thread")]
    async fn what_a_waiting_client_sends_stays_in_the_kernel_and_its_leaving_is_seen_behind_it() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let ours = Stream::Unix(ours);
        let sweep = Sweep::new(Duration::from_millis(1));
        let deadline = sweep.deadline();
        theirs.write_all(b"0123456789").await.unwrap();
        let later = Box::pin(async {
            for _ in 0..10 {
                yield_now().await;
            }
            "decided"
        });
        assert_eq!(unless_gone(&ours, &deadline, later).await.ok(), Some("decided"));

        let held = Rc::new(());
        let theirs_to_hold = held.clone();
        let never = Box::pin(async move {
            let _held = theirs_to_hold;
            std::future::pending::<()>().await;
        });
        drop(theirs);
        assert!(matches!(unless_gone(&ours, &deadline, never).await, Err(Trouble::Gone)));
        assert_eq!(Rc::strong_count(&held), 1, "and what was waited for is dropped");
        let mut bytes = [0; 20];
        let Stream::Unix(ours) = ours else { unreachable!() };
        assert_eq!(ours.try_read(&mut bytes).unwrap(), 10, "all of it was left unread");
    }
}
