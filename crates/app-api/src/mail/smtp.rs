//! Sends one mail over SMTP. Each attempt has a connection of its own: mails are rare, and servers close idle connections.

use std::time::Duration;

use anyhow::Context as _;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::client::{CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use protocol::Timestamp;
use uuid::Uuid;

use super::message::Message;
use super::settings::{Encryption, MailSettings};

/// Bounds one attempt, from the look-up of the server's name to the server's last response.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// Bounds each command of an attempt.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    domain: String,
}

/// Why a mail was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The server does not take this mail, today or later.
    #[error("the mail server refuses the mail: {0}")]
    Refused(String),
    /// The server never received this mail, and never will.
    #[error("the mail cannot be sent: {0}")]
    Undeliverable(String),
    #[error("{0}")]
    Temporary(String),
}

impl Mailer {
    /// `host` is the name by which this installation greets the server.
    ///
    /// # Errors
    /// A certificate is not usable.
    pub fn new(settings: MailSettings, host: &str) -> anyhow::Result<Self> {
        let server = &settings.server;
        let parameters = || {
            let mut tls = TlsParameters::builder(server.host.clone());
            if !settings.authorities.is_empty() {
                tls = tls.certificate_store(CertificateStore::None);
            }
            let authorities = settings.authorities.iter().cloned();
            authorities.fold(tls, |tls, authority| tls.add_root_certificate(authority)).build()
        };
        let tls = match server.encryption {
            Encryption::Tls => Tls::Wrapper(parameters()?),
            Encryption::StartTls => Tls::Required(parameters()?),
            Encryption::None => Tls::None,
        };
        let mut builder =
            AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(server.host.clone())
                .port(server.port)
                .tls(tls)
                .hello_name(ClientId::Domain(host.to_owned()))
                .timeout(Some(COMMAND_TIMEOUT));
        if let Some(credentials) = settings.credentials.clone() {
            builder = builder.credentials(credentials);
        }
        let domain = settings.domain().to_owned();
        Ok(Self { transport: builder.build(), from: settings.from, domain })
    }

    /// Sends a message. `id` stays the same when the mail is sent again, so that a receiver can drop repetitions.
    pub async fn send(
        &self,
        id: Uuid,
        recipient: &str,
        message: &Message,
        now: Timestamp,
    ) -> Result<(), SendError> {
        let mail = self.mail(id, recipient, message, now);
        let mail = mail.map_err(|error| SendError::Undeliverable(format!("{error:#}")))?;
        match tokio::time::timeout(ATTEMPT_TIMEOUT, self.transport.send(mail)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.status().is_some_and(|code| is_final(u16::from(code))) => {
                Err(SendError::Refused(error.to_string()))
            }
            Ok(Err(error)) => Err(SendError::Temporary(error.to_string())),
            Err(_) => Err(SendError::Temporary("no response in time".to_owned())),
        }
    }

    fn mail(
        &self,
        id: Uuid,
        recipient: &str,
        message: &Message,
        now: Timestamp,
    ) -> anyhow::Result<lettre::Message> {
        let to: Address = recipient.parse().context("the address is none for SMTP")?;
        // RFC 3834: no responder answers.
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        let built = lettre::Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(message.subject.clone())
            .date(now.into())
            .message_id(Some(format!("<{id}@{}>", self.domain)))
            .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()))
            .multipart(MultiPart::alternative_plain_html(message.text(), message.html()?))?;
        Ok(built)
    }
}

/// Whether a response of the server is about this mail and will not change: the mailbox does not exist or the message is
/// not wanted (RFC 5321 §4.2.3). A refused sign-in is a fault of the settings, which are corrected, so that the mail waits.
fn is_final(code: u16) -> bool {
    matches!(code, 550 | 551 | 553 | 554 | 556)
}

#[test]
fn only_a_refusal_of_the_mail_itself_is_final() {
    for (code, is_final_code) in [
        (550, true),
        (553, true),
        (554, true),
        // The mailbox is full.
        (552, false),
        (421, false),
        (451, false),
        // Authentication.
        (530, false),
        (535, false),
    ] {
        assert_eq!(is_final(code), is_final_code, "{code}");
    }
}
