//! Errors whose cause is this process or its machine.
//!
//! A process without free descriptors or memory cannot connect to anybody. Such an error says nothing about the other side: it
//! must never count as an engine that is unreachable, or as a tenant that does not respond.

use std::error::Error;
use std::io;

use rustix::io::Errno;

const LOCAL_ERRNOS: [Errno; 5] =
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::ADDRNOTAVAIL];

/// Whether `error`, or one of its causes, is a lack of descriptors, memory, buffers or local addresses.
pub fn is_local(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(is_local_io) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn is_local_io(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    let is_here = errno.is_some_and(|errno| LOCAL_ERRNOS.contains(&errno));
    // An error that wraps another one hides it from `source`.
    is_here || error.get_ref().is_some_and(|inner| is_local(inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_resources_is_local_however_deep_it_is_wrapped() {
        for errno in LOCAL_ERRNOS {
            let error = io::Error::from(errno);
            assert!(is_local(&error), "{error}");
            let wrapped = io::Error::other(io::Error::other(error));
            assert!(is_local(&wrapped), "{wrapped}");
        }
    }

    #[test]
    fn an_error_of_the_other_side_is_not_local() {
        for errno in [Errno::CONNREFUSED, Errno::NOENT, Errno::CONNRESET, Errno::TIMEDOUT] {
            assert!(!is_local(&io::Error::from(errno)));
        }
        assert!(!is_local(&io::Error::other("closed")));
    }
}
