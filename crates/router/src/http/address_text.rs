//! Formats a client's address without `std::fmt`, because every request carries the address.

use std::net::IpAddr;

/// The text of an IP address: at most 45 bytes.
pub(crate) struct AddressText {
    bytes: [u8; 45],
    length: usize,
}

impl AsRef<[u8]> for AddressText {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

pub(crate) fn format_address(address: IpAddr) -> AddressText {
    let mut text = AddressText { bytes: [0; 45], length: 0 };
    match address {
        IpAddr::V4(address) => {
            for (place, octet) in address.octets().into_iter().enumerate() {
                if place > 0 {
                    text.push(b'.');
                }
                if octet >= 100 {
                    text.push(b'0' + octet / 100);
                }
                if octet >= 10 {
                    text.push(b'0' + octet / 10 % 10);
                }
                text.push(b'0' + octet % 10);
            }
        }
        IpAddr::V6(address) => address.to_string().bytes().for_each(|b| text.push(b)),
    }
    text
}

impl AddressText {
    fn push(&mut self, byte: u8) {
        if let Some(room) = self.bytes.get_mut(self.length) {
            *room = byte;
            self.length += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_text_is_what_display_writes(address in any::<IpAddr>()) {
            let (ours, displayed) = (format_address(address), address.to_string());
            prop_assert_eq!(ours.as_ref(), displayed.as_bytes());
        }
    }
}
