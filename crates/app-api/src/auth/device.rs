//! Known devices: a cookie that proves an earlier sign-in of an account on this device (OWASP "device cookies").
//!
//! The cookie signs no visitor in. A sign-in with a proven device uses a lane and a limit of its own, so that a flood of
//! unknown devices locks out no owner.

use axum::http::{HeaderMap, header};
use service::secret::constant_time_eq;
use service::{Secret, cookies, keys};
use uuid::Uuid;

pub const COOKIE: &str = "cial_device";
pub const COOKIE_SECURE: &str = "__Host-cial_device";

/// Returns the device of the request, if the device's cookie proves a sign-in of `account`.
pub fn proven(key: &Secret, headers: &HeaderMap, account: &str) -> Option<Uuid> {
    let mut values = [COOKIE, COOKIE_SECURE].into_iter().flat_map(|name| {
        cookies::all(headers.get_all(header::COOKIE).iter().map(|line| line.as_bytes()), name)
    });
    values.find_map(|value| {
        let (device, proof) = value.split_once('.')?;
        let device: Uuid = device.parse().ok()?;
        constant_time_eq(proof, keys::device_proof(key, device, account)).then_some(device)
    })
}

/// The value of the cookie for a new device of `account`.
pub fn cookie_value(key: &Secret, account: &str) -> String {
    let device = Uuid::new_v4();
    format!("{device}.{}", keys::device_proof(key, device, account))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_proven_for_its_own_account_only() {
        let key = Secret::new("8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa");
        let headers = |value: &str| {
            let mut headers = HeaderMap::new();
            let line = format!("{COOKIE}={value}");
            headers.insert(header::COOKIE, line.parse().unwrap());
            headers
        };
        let value = cookie_value(&key, "ada@example.com");
        assert!(proven(&key, &headers(&value), "ada@example.com").is_some());
        assert!(proven(&key, &headers(&value), "eve@example.com").is_none());
        assert!(proven(&Secret::new("another"), &headers(&value), "ada@example.com").is_none());
        for bad in ["", "x", "x.y", &format!("{}.x", Uuid::nil())] {
            assert!(proven(&key, &headers(bad), "ada@example.com").is_none(), "{bad}");
        }
    }
}
