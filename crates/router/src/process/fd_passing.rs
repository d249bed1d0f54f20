//! The link between the parent and a process that serves: listening sockets one way, the word that it serves the
//! other way. Its end asks the process to finish; a word before says that another serves in its place.

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

/// What the kernel takes at once.
const MOST: usize = 253;
const SOCKETS: &[u8] = b"s";
pub(crate) const SERVES: &[u8] = b"r";
pub(crate) const RELIEVED: &[u8] = b"n";

/// Sends all of them, in this order.
pub(crate) fn send(link: &UnixStream, sockets: &[TcpListener]) -> io::Result<()> {
    let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(|socket| socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other(format!("no more than {MOST} sockets can be handed over")));
    }
    sendmsg(link, &[IoSlice::new(SOCKETS)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// What [`send`] sent.
pub(crate) fn receive(link: &UnixStream) -> io::Result<Vec<TcpListener>> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0; SOCKETS.len()];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(link, &mut [IoSliceMut::new(&mut word)], &mut control, flags)?;
    if word != SOCKETS || got.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("not handed over whole"));
    }
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(handed) = message {
            sockets.extend(handed.map(TcpListener::from));
        }
    }
    Ok(sockets)
}

/// Waits for the end of a process that the parent started: whether another serves in its place.
pub(crate) async fn is_relieved(link: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut word = [0; RELIEVED.len()];
    link.read_exact(&mut word).await.is_ok() && word == RELIEVED
}

/// The link of a process that the parent started: its standard input.
pub(crate) fn link() -> io::Result<UnixStream> {
    let link: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    Ok(link.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn sockets_arrive_in_order_and_outlive_their_sender() {
        let (near, far) = UnixStream::pair().unwrap();
        let sockets = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
        send(&near, &sockets).unwrap();
        drop(sockets);
        let got = receive(&far).unwrap();
        let heard: Vec<_> = got.iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert_eq!(heard, addresses);
        let _client = std::net::TcpStream::connect(addresses[1]).unwrap();
        got[1].accept().unwrap();
    }

    #[tokio::test]
    async fn whoever_is_told_to_finish_hears_whether_another_serves() {
        assert!(is_relieved(&mut &RELIEVED[..]).await);
        for other in [&b""[..], SERVES, SOCKETS] {
            assert!(!is_relieved(&mut &*other).await, "{other:?}");
        }
    }

    #[test]
    fn a_link_that_brings_nothing_is_told() {
        let (near, mut far) = UnixStream::pair().unwrap();
        drop(near);
        assert!(receive(&far).is_err());
        assert_eq!(far.read(&mut [0]).unwrap(), 0);
        let (near, _far) = UnixStream::pair().unwrap();
        assert!(send(&near, &[]).is_ok());
    }
}
