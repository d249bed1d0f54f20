//! Errors whose cause is this process or its machine.

use std::error::Error;
use std::io;

use rustix::io::Errno;

const SHORTAGES: [Errno; 5] =
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::ADDRNOTAVAIL];

/// Whether `error`, or one of its causes, is a lack of descriptors, memory, socket buffers or local
/// addresses.
///
/// Such an error never means that the other side is absent, refuses or has died: a process without
/// free descriptors cannot connect to anybody.
pub fn is_local_shortage(error: &(dyn Error + 'static)) -> bool {
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
    let is_here = errno.is_some_and(|errno| SHORTAGES.contains(&errno));
    // An error that wraps another one hides it from `source`.
    is_here || error.get_ref().is_some_and(|inner| is_local_shortage(inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_resources_is_local_however_deep_it_is_wrapped() {
        // The numbers of Linux, independent of the library under test.
        for (name, errno) in [
            ("ENOMEM", 12),
            ("ENFILE", 23),
            ("EMFILE", 24),
            ("EADDRNOTAVAIL", 99),
            ("ENOBUFS", 105),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            assert!(is_local_shortage(&error), "{name}");
            let wrapped = io::Error::other(io::Error::other(error));
            assert!(is_local_shortage(&wrapped), "{name}: {wrapped}");
        }
    }

    #[test]
    fn an_error_of_the_other_side_is_not_local() {
        for errno in [Errno::CONNREFUSED, Errno::NOENT, Errno::CONNRESET, Errno::TIMEDOUT] {
            assert!(!is_local_shortage(&io::Error::from(errno)), "{errno}");
        }
        assert!(!is_local_shortage(&io::Error::other("closed")));
    }
}
