//! Codes of an authenticator app (RFC 6238), recovery codes, and the proof of a sign-in that waits for one of them.

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::Timestamp;
use qrcode::QrCode;
use qrcode::render::svg;
use service::sealing_keys::{Purpose, SealingKeys};
use service::secret::constant_time_eq;
use service::{Secret, keys};
use sha2::{Digest as _, Sha256};
use totp_rs::{Builder, Totp};
use uuid::Uuid;

use crate::auth::token::random_bytes;
use crate::db::user::User;

/// The 160 bits that RFC 4226 §4 recommends.
const SECRET_BYTES: usize = 20;
const STEP_SECONDS: u64 = 30;
/// A code of the step before and after counts, too: clocks differ, and typing takes time (RFC 6238 §5.2).
const ACCEPTED_SKEW: u16 = 1;
const ISSUER: &str = "Cial";
pub const RECOVERY_CODES: usize = 10;
/// 32 letters and digits, so that each is as probable; none looks like another.
const RECOVERY_ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// 80 random bits: nobody finds a code to a stored hash.
const RECOVERY_LENGTH: usize = 16;
const QR_PIXELS: u32 = 220;

/// The secret that an authenticator app shares with the server.
pub struct SharedSecret([u8; SECRET_BYTES]);

impl SharedSecret {
    /// # Errors
    /// When the system gives no random bytes.
    pub fn random() -> anyhow::Result<Self> {
        Ok(Self(random_bytes()?))
    }

    /// Encrypts the secret of `user`.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn seal(&self, keys: &SealingKeys, user: Uuid) -> anyhow::Result<String> {
        Ok(keys.seal(&Purpose::SecondFactor(user), &self.0)?)
    }

    /// # Errors
    /// When the text is not one that [`Self::seal`] made for this user in this installation.
    pub fn open(sealed: &str, keys: &SealingKeys, user: Uuid) -> anyhow::Result<Self> {
        let opened = keys.open(&Purpose::SecondFactor(user), sealed)?;
        Ok(Self(opened.as_slice().try_into().context("a secret of another length")?))
    }

    /// The text for people who type the secret in: base32 in groups of four.
    ///
    /// # Errors
    /// Never for a secret of this length.
    pub fn for_typing(&self) -> anyhow::Result<String> {
        let text = self.totp("")?.secret().to_base32();
        let groups: Vec<_> = text.as_bytes().chunks(4).map(String::from_utf8_lossy).collect();
        Ok(groups.join(" "))
    }

    /// The address that authenticator apps read, `otpauth://totp/…`.
    ///
    /// # Errors
    /// When `account` holds a colon, which an e-mail address does not.
    pub fn address(&self, account: &str) -> anyhow::Result<String> {
        Ok(self.totp(account)?.to_url()?)
    }

    /// A picture of [`Self::address`] as a data URL.
    ///
    /// # Errors
    /// As [`Self::address`].
    pub fn qr_image(&self, account: &str) -> anyhow::Result<String> {
        let code = QrCode::new(self.address(account)?)?;
        let picture = code.render::<svg::Color<'_>>().min_dimensions(QR_PIXELS, QR_PIXELS).build();
        Ok(format!("data:image/svg+xml;base64,{}", STANDARD.encode(picture)))
    }

    /// The time step of a valid code at `now`; `None` for any other text.
    ///
    /// # Errors
    /// Never for a secret of this length.
    pub fn step_of(&self, code: &str, now: Timestamp) -> anyhow::Result<Option<i64>> {
        let seconds = u64::try_from(now.timestamp()).unwrap_or_default();
        let code: String = code.chars().filter(|c| !c.is_whitespace()).collect();
        let step = self.totp("")?.check(&code, seconds);
        Ok(step.map(i64::try_from).transpose()?)
    }

    fn totp(&self, account: &str) -> anyhow::Result<Totp> {
        let builder = Builder::new()
            .with_secret(self.0.to_vec())
            .with_skew(ACCEPTED_SKEW)
            .with_step_duration(STEP_SECONDS)
            .with_account_name(account)
            .with_issuer(Some(ISSUER));
        Ok(builder.build()?)
    }
}

/// New recovery codes, like `abcd-efgh-ijkm-npqr`.
///
/// # Errors
/// When the system gives no random bytes.
pub fn recovery_codes() -> anyhow::Result<Vec<String>> {
    (0..RECOVERY_CODES)
        .map(|_| {
            let bytes = random_bytes::<RECOVERY_LENGTH>()?;
            let letter = |byte: &u8| char::from(RECOVERY_ALPHABET[usize::from(byte % 32)]);
            let groups = bytes.chunks(4).map(|group| group.iter().map(letter).collect::<String>());
            Ok(groups.collect::<Vec<_>>().join("-"))
        })
        .collect()
}

/// The hash of a recovery code in any case and spacing; `None` for a text that is none, such as a code of the app.
pub fn recovery_hash(text: &str) -> Option<Vec<u8>> {
    let plain: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
    let plain = plain.to_ascii_lowercase();
    (plain.len() == RECOVERY_LENGTH).then(|| Sha256::digest(plain).to_vec())
}

/// A sign-in after the password and before the second factor. The browser holds it in a cookie; the proof covers the
/// password's hash, so that another password ends it.
pub struct PendingSignIn {
    pub user: Uuid,
    expires_at: i64,
    proof: String,
}

impl PendingSignIn {
    pub fn new(master: &Secret, user: &User, expires_at: Timestamp) -> Self {
        let expires_at = expires_at.timestamp();
        Self { user: user.id, expires_at, proof: proof(master, user, expires_at) }
    }

    /// Reads the value of a cookie, which proves nothing yet.
    pub fn parse(value: &str) -> Option<Self> {
        let mut parts = value.splitn(3, '.');
        let (user, expires_at) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Self { user, expires_at, proof: parts.next()?.to_owned() })
    }

    /// The value of the cookie.
    pub fn to_value(&self) -> String {
        format!("{}.{}.{}", self.user, self.expires_at, self.proof)
    }

    /// Whether `user` passed the first step less than its lifetime ago.
    pub fn is_proven(&self, master: &Secret, user: &User, now: Timestamp) -> bool {
        self.user == user.id
            && now.timestamp() < self.expires_at
            && constant_time_eq(&self.proof, proof(master, user, self.expires_at))
    }
}

fn proof(master: &Secret, user: &User, expires_at: i64) -> String {
    keys::pending_sign_in_proof(master, user.id, &user.password_hash, expires_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASTER: &str = "8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa";
    const RFC_SECRET: SharedSecret = SharedSecret(*b"12345678901234567890");

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn codes_are_those_of_rfc_6238() {
        // Appendix B, SHA-1, the last six of eight digits.
        for (time, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
        ] {
            let step = Some(time / 30);
            assert_eq!(RFC_SECRET.step_of(code, at(time)).unwrap(), step, "{code}");
            assert_eq!(RFC_SECRET.step_of(code, at(time + 30)).unwrap(), step, "{code} late");
            assert_eq!(RFC_SECRET.step_of(code, at(time - 30)).unwrap(), step, "{code} early");
            assert_eq!(RFC_SECRET.step_of(code, at(time + 60)).unwrap(), None, "{code} too late");
        }
        assert_eq!(RFC_SECRET.step_of(" 287 082 ", at(59)).unwrap(), Some(1));
        for bad in ["", "28708", "2870820", "+87082", "28708x", "２８７０８２"] {
            assert_eq!(RFC_SECRET.step_of(bad, at(59)).unwrap(), None, "{bad}");
        }
    }

    #[test]
    fn a_sealed_secret_opens_for_its_user_in_its_installation_only() {
        let keys = |master: &str| SealingKeys::new(Secret::new(master), None);
        let (own, user) = (keys(MASTER), Uuid::from_u128(1));
        let secret = SharedSecret::random().unwrap();
        let sealed = secret.seal(&own, user).unwrap();
        assert_eq!(SharedSecret::open(&sealed, &own, user).unwrap().0, secret.0);
        assert!(SharedSecret::open(&sealed, &own, Uuid::from_u128(2)).is_err());
        assert!(SharedSecret::open(&sealed, &keys("another"), user).is_err());
    }

    #[test]
    fn apps_read_the_address_and_people_the_text() {
        let address = RFC_SECRET.address("ada@example.com").unwrap();
        assert_eq!(
            address,
            "otpauth://totp/Cial:ada%40example.com?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Cial"
        );
        assert_eq!(RFC_SECRET.for_typing().unwrap(), "GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ");
        let image = RFC_SECRET.qr_image("ada@example.com").unwrap();
        assert!(image.starts_with("data:image/svg+xml;base64,"), "{image}");
    }

    #[test]
    fn recovery_codes_differ_and_are_read_as_people_write_them() {
        let codes = recovery_codes().unwrap();
        let mut different = codes.clone();
        different.sort();
        different.dedup();
        assert_eq!((codes.len(), different.len(), codes[0].len()), (10, 10, 19));
        let hash = recovery_hash(&codes[0]).unwrap();
        assert_eq!(recovery_hash(&codes[0].to_uppercase().replace('-', " ")), Some(hash.clone()));
        assert_ne!(recovery_hash(&codes[1]), Some(hash));
        for other in ["", "123456", "abcd-efgh-ijkm-npq", "abcd-efgh-ijkm-npqrs"] {
            assert_eq!(recovery_hash(other), None, "{other}");
        }
    }

    #[test]
    fn a_pending_sign_in_is_of_one_person_one_password_and_a_few_minutes() {
        let master = Secret::new(MASTER);
        let user = |id, hash: &str| User {
            id: Uuid::from_u128(id),
            email: "ada@example.com".to_owned(),
            name: "Ada".to_owned(),
            role: "owner".to_owned(),
            password_hash: hash.to_owned(),
        };
        let ada = user(1, "a");
        let value = PendingSignIn::new(&master, &ada, at(300)).to_value();
        let read = |value: &str| PendingSignIn::parse(value).unwrap();
        assert!(read(&value).is_proven(&master, &ada, at(299)));
        assert!(!read(&value).is_proven(&master, &ada, at(300)));
        assert!(!read(&value).is_proven(&master, &user(1, "b"), at(0)), "another password");
        assert!(!read(&value).is_proven(&master, &user(2, "a"), at(0)), "another person");
        assert!(!read(&value).is_proven(&Secret::new("another"), &ada, at(0)));
        assert!(!read(&value.replace(".300.", ".900.")).is_proven(&master, &ada, at(299)));
        for bad in ["", ".", "..", &format!("{}.x.y", Uuid::nil()), "x.1.y"] {
            assert!(PendingSignIn::parse(bad).is_none(), "{bad}");
        }
    }
}
