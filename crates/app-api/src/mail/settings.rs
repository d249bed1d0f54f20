//! The settings of the mail server: all of them, or none.

use std::fs;

use lettre::Address;
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::Certificate;
use percent_encoding::percent_decode_str;
use service::{Setting, SettingsReader};
use url::Url;

pub(crate) const URL: Setting = Setting::optional(
    "CIAL_SMTP_URL",
    "the mail server: `smtps://user@host` with TLS from the first byte (port 465), `smtp://user@host` with STARTTLS \
     (port 587), or `smtp+plain://host` without TLS and user (port 25); without it no mail is sent; [mail](../mail.md)",
)
.for_operators();
pub(crate) const PASSWORD: Setting =
    Setting::optional("CIAL_SMTP_PASSWORD_FILE", "the password of the user in `CIAL_SMTP_URL`")
        .for_operators();
pub(crate) const CA: Setting = Setting::optional(
    "CIAL_SMTP_CA_FILE",
    "the certificates, as PEM, of the authorities that may sign the certificate of the mail server, in the place of the public ones",
)
.for_operators();
pub(crate) const FROM: Setting =
    Setting::optional("CIAL_MAIL_FROM", "the sender of mails, like `Cial <cial@example.com>`")
        .for_operators();

#[derive(Clone, Debug)]
pub struct MailSettings {
    pub server: Server,
    /// Never without TLS.
    pub credentials: Option<Credentials>,
    /// The authorities that may sign the server's certificate; empty: the public ones.
    pub authorities: Vec<Certificate>,
    pub from: Mailbox,
}

/// Where the mail server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub host: String,
    pub port: u16,
    pub encryption: Encryption,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// TLS from the first byte.
    Tls,
    /// By STARTTLS. A server that does not offer it gets no mail.
    StartTls,
    None,
}

impl MailSettings {
    /// `Some(None)`: no mail is sent.
    pub fn read(vars: &mut SettingsReader<'_>) -> Option<Option<Self>> {
        let url = vars.optional::<String>(&URL)?;
        let password = vars.optional::<String>(&PASSWORD)?;
        let ca = vars.optional::<String>(&CA)?;
        let from = vars.optional::<String>(&FROM)?;
        let Some(url) = url else {
            let others = [(&PASSWORD, password), (&CA, ca), (&FROM, from)];
            let alone = others.into_iter().filter(|(_, value)| value.is_some());
            let rejected = alone.map(|(setting, _)| {
                vars.reject::<()>(setting, "must not be set without CIAL_SMTP_URL")
            });
            return if rejected.count() == 0 { Some(None) } else { None };
        };
        let (server, user) = match parse_url(&url) {
            Ok(parsed) => parsed,
            Err(rule) => return vars.reject(&URL, rule),
        };
        let credentials = match (user, password) {
            (None, None) => Some(None),
            (Some(user), Some(path)) => read_credentials(vars, user, &path).map(Some),
            (Some(_), None) => {
                vars.reject(&PASSWORD, "must name the file of the password of CIAL_SMTP_URL's user")
            }
            (None, Some(_)) => vars.reject(&URL, "must name a user beside CIAL_SMTP_PASSWORD_FILE"),
        };
        let authorities = match ca {
            None => Some(Vec::new()),
            Some(_) if server.encryption == Encryption::None => {
                vars.reject(&CA, "must not be set for a server without TLS")
            }
            Some(path) => read_authorities(vars, &path),
        };
        let from = match from.map(|text| text.parse::<Mailbox>()) {
            None => vars.reject(&FROM, "must be set beside CIAL_SMTP_URL"),
            Some(Err(_)) => vars.reject(&FROM, "must look like Cial <cial@example.com>"),
            Some(Ok(from)) => Some(from),
        };
        Some(Some(Self {
            server,
            credentials: credentials?,
            authorities: authorities?,
            from: from?,
        }))
    }

    /// The domain of the sender, for the ids of messages.
    pub fn domain(&self) -> &str {
        Address::domain(&self.from.email)
    }
}

/// The server and the user that a URL names.
///
/// # Errors
/// The rule that the URL breaks. No rule repeats the URL, which may hold a password by mistake.
fn parse_url(text: &str) -> Result<(Server, Option<String>), &'static str> {
    const FORM: &str =
        "must look like smtps://user@host, smtp://user@host:587 or smtp+plain://host:25";
    let url = Url::parse(text).map_err(|_| FORM)?;
    let (encryption, default_port) = match url.scheme() {
        "smtps" => (Encryption::Tls, 465),
        "smtp" => (Encryption::StartTls, 587),
        "smtp+plain" => (Encryption::None, 25),
        _ => return Err(FORM),
    };
    if url.password().is_some() {
        return Err("must hold no password: name its file in CIAL_SMTP_PASSWORD_FILE");
    }
    let is_bare =
        matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    let host = url.host_str().filter(|_| is_bare).ok_or(FORM)?;
    let user = percent_decode_str(url.username()).decode_utf8().map_err(|_| FORM)?;
    let user = Some(user.into_owned()).filter(|user| !user.is_empty());
    if user.is_some() && encryption == Encryption::None {
        return Err(
            "must name no user with smtp+plain: everybody on the way could read the password",
        );
    }
    // The URL standard keeps the brackets of an IPv6 address.
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((Server { host, port: url.port().unwrap_or(default_port), encryption }, user))
}

fn read_credentials(
    vars: &mut SettingsReader<'_>,
    user: String,
    path: &str,
) -> Option<Credentials> {
    match fs::read_to_string(path) {
        Err(error) => vars.reject(&PASSWORD, &format!("cannot read {path}: {error}")),
        Ok(text) => match text.trim_end_matches(['\r', '\n']) {
            "" => vars.reject(&PASSWORD, &format!("{path} is empty")),
            password => Some(Credentials::new(user, password.to_owned())),
        },
    }
}

fn read_authorities(vars: &mut SettingsReader<'_>, path: &str) -> Option<Vec<Certificate>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = match read {
        Err(error) => return vars.reject(&CA, &format!("cannot read {path}: {error}")),
        Ok(read) if read.is_empty() => {
            return vars.reject(&CA, &format!("{path} holds no certificate"));
        }
        Ok(read) => read,
    };
    let parsed = certificates.into_iter().map(|der| Certificate::from_der(der.to_vec()));
    match parsed.collect() {
        Ok(parsed) => Some(parsed),
        Err(error) => vars.reject(&CA, &format!("{path} holds no certificate: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::read_pairs;

    #[test]
    fn a_url_names_server_encryption_and_user() {
        let server =
            |host: &str, port, encryption| Server { host: host.to_owned(), port, encryption };
        for (url, expected, user) in [
            ("smtps://a.example", server("a.example", 465, Encryption::Tls), None),
            ("smtp://ada@a.example", server("a.example", 587, Encryption::StartTls), Some("ada")),
            (
                "smtp://ada%40b.example@a.example:2525/",
                server("a.example", 2525, Encryption::StartTls),
                Some("ada@b.example"),
            ),
            ("smtp+plain://mail", server("mail", 25, Encryption::None), None),
            ("smtps://[::1]:25", server("::1", 25, Encryption::Tls), None),
        ] {
            assert_eq!(parse_url(url), Ok((expected, user.map(str::to_owned))), "{url}");
        }
        for (url, rule) in [
            ("mail.example", "must look like"),
            ("smtp:", "must look like"),
            ("https://a.example", "must look like"),
            ("smtp://a.example/x", "must look like"),
            ("smtp://a.example?tls=none", "must look like"),
            ("smtp://ada:hunter2@a.example", "must hold no password"),
            ("smtp+plain://ada@a.example", "must name no user"),
        ] {
            let broken = parse_url(url).unwrap_err();
            assert!(broken.starts_with(rule) && !broken.contains("hunter2"), "{url}: {broken}");
        }
    }

    /// `Ok`: whether mail is sent.
    fn read(pairs: &[(&str, &str)]) -> Result<bool, String> {
        read_pairs(pairs, MailSettings::read).map(|read| read.is_some())
    }

    #[test]
    fn half_a_configuration_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (password, empty) = (file("password", "hunter2\n"), file("empty", "\n"));
        let (url, from) = (("CIAL_SMTP_URL", "smtp://mail"), ("CIAL_MAIL_FROM", "Cial <a@b.c>"));
        let with_user = ("CIAL_SMTP_URL", "smtp://ada@mail");
        let (good, blank) =
            (("CIAL_SMTP_PASSWORD_FILE", &*password), ("CIAL_SMTP_PASSWORD_FILE", &*empty));
        let missing = ("CIAL_SMTP_PASSWORD_FILE", "/nowhere");
        let ca = ("CIAL_SMTP_CA_FILE", &*password);
        let plain = ("CIAL_SMTP_URL", "smtp+plain://mail");
        assert_eq!(read(&[]), Ok(false));
        assert_eq!(read(&[("CIAL_SMTP_URL", ""), ("CIAL_MAIL_FROM", "")]), Ok(false));
        assert_eq!(read(&[url, from]), Ok(true));
        assert_eq!(read(&[with_user, from, good]), Ok(true));
        for (pairs, rule) in [
            (&[url][..], "CIAL_MAIL_FROM must be set"),
            (&[from], "CIAL_MAIL_FROM must not be set without"),
            (&[good], "CIAL_SMTP_PASSWORD_FILE must not be set without"),
            (&[ca], "CIAL_SMTP_CA_FILE must not be set without"),
            (&[url, ("CIAL_MAIL_FROM", "Cial")], "CIAL_MAIL_FROM must look like"),
            (&[with_user, from], "CIAL_SMTP_PASSWORD_FILE must name the file"),
            (&[with_user, from, missing], "CIAL_SMTP_PASSWORD_FILE cannot read /nowhere"),
            (&[with_user, from, blank], "is empty"),
            (&[url, from, good], "CIAL_SMTP_URL must name a user"),
            (&[url, from, ca], "holds no certificate"),
            (&[plain, from, ca], "CIAL_SMTP_CA_FILE must not be set for a server without TLS"),
        ] {
            let refused = read(pairs).expect_err(rule);
            assert!(refused.contains(rule) && !refused.contains("hunter2"), "{rule}: {refused}");
        }
    }
}
