//! The first messages of a client of Postgres, and what the proxy answers to them by itself. Pure.
//!
//! [Message flow](https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP) and
//! [formats](https://www.postgresql.org/docs/current/protocol-message-formats.html). These messages have no type byte: a
//! length, then a code.

/// The longest first message, as in Postgres itself.
const MAX_LENGTH: usize = 10_000;
const LENGTH_BYTES: usize = 4;
const CODE_BYTES: usize = 4;

const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const MAJOR_VERSION: u32 = 3;

/// The answer to a request for encryption: the client goes on in the clear.
pub(super) const NO_ENCRYPTION: &[u8] = b"N";

/// The process and the secret by which a query is cancelled: the payload of the server's `BackendKeyData`, and the end of
/// a client's `CancelRequest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CancelKey(Vec<u8>);

impl CancelKey {
    /// By version 3.2 of the protocol, a secret has 4 to 256 bytes, after the 4 bytes of the process.
    pub(super) const MAX_BYTES: usize = 4 + 256;

    pub(super) fn new(bytes: &[u8]) -> Option<Self> {
        (8..=Self::MAX_BYTES).contains(&bytes.len()).then(|| Self(bytes.to_vec()))
    }

    /// The `CancelRequest` that carries this key.
    pub(super) fn request(&self) -> Vec<u8> {
        message(CANCEL_REQUEST, &self.0)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum FirstMessage {
    /// A request for TLS or GSSAPI.
    EncryptionRequest,
    Cancel(CancelKey),
    Startup(Startup),
}

/// The parameters of a session, as the client asks for them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Startup {
    version: u32,
    parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why the proxy ends a connection by itself, with the texts of Postgres' own errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartupError {
    Malformed,
    UnsupportedVersion,
    OtherRole,
    OtherDatabase,
    Replication,
    TooManyOfTenant,
    TooManyOfInstallation,
    ServerUnreachable,
}

impl StartupError {
    /// Code, message and hint.
    const fn describe(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Malformed => (
                "08P01",
                "the startup message is malformed",
                "Connect with a client of Postgres, by the URL in DATABASE_URL.",
            ),
            Self::UnsupportedVersion => (
                "0A000",
                "the version of the frontend protocol is not supported",
                "Use a client that speaks version 3 of the protocol.",
            ),
            Self::OtherRole => (
                "28000",
                "this tenant connects as its own role only",
                "Use the user of DATABASE_URL.",
            ),
            Self::OtherDatabase => (
                "3D000",
                "this tenant connects to its own database only",
                "Use the database of DATABASE_URL, or name none.",
            ),
            Self::Replication => (
                "42501",
                "replication is not available to tenants",
                "Connect without the parameter \"replication\".",
            ),
            Self::TooManyOfTenant => (
                "53300",
                "too many connections of this tenant",
                "Close connections, or use a smaller pool.",
            ),
            Self::TooManyOfInstallation => (
                "53300",
                "too many connections of all tenants together",
                "Try again later; the operator can raise CIAL_TENANT_DATABASE_CONNECTIONS.",
            ),
            Self::ServerUnreachable => {
                ("57P03", "the database server cannot be reached", "Try again in some seconds.")
            }
        }
    }

    /// The `ErrorResponse` of this error.
    pub(super) fn response(self) -> Vec<u8> {
        let (code, message, hint) = self.describe();
        let fields =
            [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', code), (b'M', message), (b'H', hint)];
        let mut body = Vec::new();
        for (kind, text) in fields {
            body.push(kind);
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        let length = u32::try_from(LENGTH_BYTES + body.len()).unwrap_or(u32::MAX);
        [b"E".as_slice(), &length.to_be_bytes(), &body].concat()
    }
}

/// The number of bytes that follow the length of a first message.
///
/// # Errors
/// A length that no first message has.
pub(super) fn rest_of(length: [u8; LENGTH_BYTES]) -> Result<usize, StartupError> {
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if (LENGTH_BYTES + CODE_BYTES..=MAX_LENGTH).contains(&length) {
        Ok(length - LENGTH_BYTES)
    } else {
        Err(StartupError::Malformed)
    }
}

/// Parses the bytes that follow the length.
///
/// # Errors
/// A message of none of the kinds.
pub(super) fn parse(message: &[u8]) -> Result<FirstMessage, StartupError> {
    let (code, body) = message.split_first_chunk().ok_or(StartupError::Malformed)?;
    match u32::from_be_bytes(*code) {
        SSL_REQUEST | GSSENC_REQUEST if body.is_empty() => Ok(FirstMessage::EncryptionRequest),
        SSL_REQUEST | GSSENC_REQUEST => Err(StartupError::Malformed),
        CANCEL_REQUEST => {
            CancelKey::new(body).map(FirstMessage::Cancel).ok_or(StartupError::Malformed)
        }
        version if version >> 16 == MAJOR_VERSION => {
            let parameters = parameters(body).ok_or(StartupError::Malformed)?;
            Ok(FirstMessage::Startup(Startup { version, parameters }))
        }
        _ => Err(StartupError::UnsupportedVersion),
    }
}

/// Names and values that each end with a NUL, and a NUL after all.
fn parameters(body: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let texts = body.strip_suffix(&[0])?;
    if texts.is_empty() {
        return Some(Vec::new());
    }
    let texts: Vec<&[u8]> = texts.strip_suffix(&[0])?.split(|byte| *byte == 0).collect();
    let pairs = texts.chunks(2).map(|pair| match pair {
        [name, value] if !name.is_empty() => Some((name.to_vec(), value.to_vec())),
        _ => None,
    });
    pairs.collect()
}

impl Startup {
    /// The message that the server receives: with the tenant's own role and the database of the installation. A client
    /// names `role` as the database, or none, which Postgres takes for the role's name.
    ///
    /// # Errors
    /// The client wants to be somebody else, or somewhere else.
    pub(super) fn pin(self, role: &str, database: &str) -> Result<Vec<u8>, StartupError> {
        let named = |wanted: &[u8]| {
            let values = self.parameters.iter().filter(|(name, _)| name == wanted);
            values.map(|(_, value)| value.as_slice()).collect::<Vec<_>>()
        };
        if named(b"user") != [role.as_bytes()] {
            return Err(StartupError::OtherRole);
        }
        if !matches!(named(b"database").as_slice(), [] | [b""])
            && named(b"database") != [role.as_bytes()]
        {
            return Err(StartupError::OtherDatabase);
        }
        if !named(b"replication").is_empty() {
            return Err(StartupError::Replication);
        }
        let mut body = Vec::new();
        let mut add = |name: &[u8], value: &[u8]| {
            for text in [name, value] {
                body.extend_from_slice(text);
                body.push(0);
            }
        };
        add(b"user", role.as_bytes());
        add(b"database", database.as_bytes());
        let others = self.parameters.iter();
        for (name, value) in others.filter(|(name, _)| name != b"user" && name != b"database") {
            add(name, value);
        }
        body.push(0);
        Ok(message(self.version, &body))
    }
}

fn message(code: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(LENGTH_BYTES + CODE_BYTES + body.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), &code.to_be_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V3: u32 = 3 << 16;

    fn first(code: u32, body: &[u8]) -> Result<FirstMessage, StartupError> {
        let whole = message(code, body);
        let (length, rest) = whole.split_first_chunk().unwrap();
        assert_eq!(rest_of(*length), Ok(rest.len()));
        parse(rest)
    }

    fn pinned(body: &str) -> Result<String, StartupError> {
        let FirstMessage::Startup(startup) = first(V3, body.as_bytes())? else {
            panic!("no startup message: {body:?}")
        };
        let message = startup.pin("t_acme", "cial")?;
        assert_eq!(rest_of(message[..4].try_into().unwrap()), Ok(message.len() - 4));
        Ok(String::from_utf8(message[8..].to_vec()).unwrap())
    }

    #[test]
    fn only_the_tenants_role_and_its_database_get_through() {
        let through = "user\0t_acme\0database\0cial\0\0".to_owned();
        for (body, expected) in [
            ("user\0t_acme\0\0", Ok(through.clone())),
            ("user\0t_acme\0database\0\0\0", Ok(through.clone())),
            ("database\0t_acme\0user\0t_acme\0\0", Ok(through)),
            (
                "user\0t_acme\0options\0-c x=y\0application_name\0\0\0",
                Ok("user\0t_acme\0database\0cial\0options\0-c x=y\0application_name\0\0\0".into()),
            ),
            ("\0", Err(StartupError::OtherRole)),
            ("user\0t_globex\0\0", Err(StartupError::OtherRole)),
            ("user\0T_ACME\0\0", Err(StartupError::OtherRole)),
            ("user\0t_acme \0\0", Err(StartupError::OtherRole)),
            ("user\0postgres\0database\0t_acme\0\0", Err(StartupError::OtherRole)),
            // Postgres takes the last of two.
            ("user\0t_acme\0user\0t_globex\0\0", Err(StartupError::OtherRole)),
            (
                "user\0t_acme\0database\0t_acme\0database\0postgres\0\0",
                Err(StartupError::OtherDatabase),
            ),
            ("user\0t_acme\0database\0cial\0\0", Err(StartupError::OtherDatabase)),
            ("user\0t_acme\0database\0postgres\0\0", Err(StartupError::OtherDatabase)),
            ("user\0t_acme\0database\0template1\0\0", Err(StartupError::OtherDatabase)),
            ("user\0t_acme\0replication\0database\0\0", Err(StartupError::Replication)),
            ("user\0t_acme\0replication\0false\0\0", Err(StartupError::Replication)),
            ("user\0t_acme\0", Err(StartupError::Malformed)),
            ("user\0t_acme", Err(StartupError::Malformed)),
            ("user\0\0", Err(StartupError::Malformed)),
            ("\0\0\0", Err(StartupError::Malformed)),
            ("", Err(StartupError::Malformed)),
        ] {
            assert_eq!(pinned(body), expected, "{body:?}");
        }
    }

    #[test]
    fn every_other_first_message_is_recognised_or_refused() {
        let key = CancelKey::new(&[0, 0, 0, 7, 1, 2, 3, 4]).unwrap();
        for (code, body, expected) in [
            (SSL_REQUEST, [].as_slice(), Ok(FirstMessage::EncryptionRequest)),
            (GSSENC_REQUEST, &[], Ok(FirstMessage::EncryptionRequest)),
            (SSL_REQUEST, &[0], Err(StartupError::Malformed)),
            (CANCEL_REQUEST, &[0, 0, 0, 7, 1, 2, 3, 4], Ok(FirstMessage::Cancel(key.clone()))),
            (CANCEL_REQUEST, &[0, 0, 0, 7, 1, 2, 3], Err(StartupError::Malformed)),
            (CANCEL_REQUEST, &[0; CancelKey::MAX_BYTES + 1], Err(StartupError::Malformed)),
            (2 << 16, b"user\0t_acme\0\0", Err(StartupError::UnsupportedVersion)),
            (4 << 16, b"user\0t_acme\0\0", Err(StartupError::UnsupportedVersion)),
            (u32::from_be_bytes(*b"GET "), b"/ HTTP/1.1", Err(StartupError::UnsupportedVersion)),
        ] {
            assert_eq!(first(code, body), expected, "{code} {body:?}");
        }
        let request = key.request();
        assert_eq!(parse(&request[4..]), Ok(FirstMessage::Cancel(key)));
    }

    #[test]
    fn a_length_is_that_of_a_first_message() {
        for (length, expected) in [
            (0, Err(StartupError::Malformed)),
            (7, Err(StartupError::Malformed)),
            (8, Ok(4)),
            (10_000, Ok(9_996)),
            (10_001, Err(StartupError::Malformed)),
            (u32::MAX, Err(StartupError::Malformed)),
        ] {
            assert_eq!(rest_of(length.to_be_bytes()), expected, "{length}");
        }
    }

    #[test]
    fn every_error_has_the_form_of_the_protocol() {
        let text = String::from_utf8(StartupError::OtherRole.response()).unwrap();
        assert_eq!(
            text,
            "E\0\0\0dSFATAL\0VFATAL\0C28000\0Mthis tenant connects as its own role only\0\
             HUse the user of DATABASE_URL.\0\0"
        );
    }

    proptest! {
        #[test]
        fn whatever_gets_through_names_the_role_and_the_database_once(
            body in prop::collection::vec(
                prop_oneof![
                    Just(b"user\0t_acme\0".to_vec()), Just(b"user\0postgres\0".to_vec()),
                    Just(b"database\0t_acme\0".to_vec()), Just(b"database\0cial\0".to_vec()),
                    Just(b"\0".to_vec()), prop::collection::vec(any::<u8>(), 0..12),
                ],
                0..8,
            ),
        ) {
            let mut body = body.concat();
            body.push(0);
            if let Ok(FirstMessage::Startup(startup)) = first(V3, &body)
                && let Ok(through) = startup.pin("t_acme", "cial")
            {
                let Ok(FirstMessage::Startup(sent)) = parse(&through[4..]) else { panic!("{through:?}") };
                let all = |wanted: &[u8]| -> Vec<_> {
                    let values = sent.parameters.iter().filter(|(name, _)| name == wanted);
                    values.map(|(_, value)| value.clone()).collect()
                };
                prop_assert_eq!(all(b"user"), [b"t_acme"]);
                prop_assert_eq!(all(b"database"), [b"cial"]);
                prop_assert!(all(b"replication").is_empty());
            }
        }
    }
}
