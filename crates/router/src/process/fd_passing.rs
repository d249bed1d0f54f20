//! The link between the parent and a child: the parent passes its listening sockets, the child
//! reports that it is ready. The end of the link requests the child to finish; an earlier message
//! reports that another child serves.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The kernel passes no more descriptors in one message (`SCM_MAX_FD`).
const MAX_SOCKETS: usize = 253;
const SOCKETS: &[u8] = b"s";
/// The child reports that it has a route table and serves.
pub(crate) const READY: &[u8] = b"r";
/// The parent reports that another child serves.
pub(crate) const REPLACED: &[u8] = b"n";

/// Sends the sockets in this order.
///
/// # Errors
/// There are more sockets than one message holds, or the link is broken.
pub(crate) fn send(link: &UnixStream, sockets: &[TcpListener]) -> io::Result<()> {
    let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(|socket| socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other(format!("no more than {MAX_SOCKETS} sockets can be passed")));
    }
    sendmsg(link, &[IoSlice::new(SOCKETS)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives the sockets of [`send`].
///
/// # Errors
/// The link is broken, or brings something else.
pub(crate) fn receive(link: &UnixStream) -> io::Result<Vec<TcpListener>> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut message = [0; SOCKETS.len()];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(link, &mut [IoSliceMut::new(&mut message)], &mut control, flags)?;
    if message != SOCKETS || received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("the parent passed no sockets"));
    }
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            sockets.extend(passed.map(TcpListener::from));
        }
    }
    Ok(sockets)
}

/// Waits until the parent requests a child to finish. Returns whether another child serves in its place.
pub(crate) async fn wait_for_end(link: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut message = [0; REPLACED.len()];
    link.read_exact(&mut message).await.is_ok() && message == REPLACED
}

/// The link of a child: its standard input.
pub(crate) fn link() -> io::Result<UnixStream> {
    let link: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    Ok(link.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn sockets_arrive_in_order_and_outlive_the_sender() {
        let (near, far) = UnixStream::pair().unwrap();
        let sockets = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
        send(&near, &sockets).unwrap();
        drop(sockets);
        let sockets = receive(&far).unwrap();
        let received: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert_eq!(received, addresses);
        let _client = std::net::TcpStream::connect(addresses[1]).unwrap();
        sockets[1].accept().unwrap();
    }

    #[tokio::test]
    async fn the_end_of_a_child_says_whether_another_serves() {
        assert!(wait_for_end(&mut &REPLACED[..]).await);
        for other in [&b""[..], READY, SOCKETS] {
            assert!(!wait_for_end(&mut &*other).await, "{other:?}");
        }
    }

    #[test]
    fn a_closed_link_is_an_error() {
        let (near, mut far) = UnixStream::pair().unwrap();
        drop(near);
        assert!(receive(&far).is_err());
        assert_eq!(far.read(&mut [0]).unwrap(), 0);
        let (near, _far) = UnixStream::pair().unwrap();
        assert!(send(&near, &[]).is_ok());
    }
}
