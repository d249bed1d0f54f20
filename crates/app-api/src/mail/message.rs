//! The text of each mail, as plain text and as HTML without pictures, styles and remote parts. Pure.

use askama::Template;
use protocol::Timestamp;

use super::Mail;

/// The content of a mail, in both forms.
#[derive(Clone, Debug, PartialEq, Eq, Template)]
#[template(path = "mail.html")]
pub struct Message {
    pub subject: String,
    /// The paragraphs before the link.
    before: Vec<String>,
    /// Label and address.
    link: Option<(&'static str, String)>,
    after: Vec<String>,
}

impl Message {
    /// `admin` is the origin of the admin; `reset_link` belongs to a mail that resets a password.
    pub fn new(mail: &Mail, admin: &str, reset_link: Option<String>) -> Self {
        match mail {
            Mail::Invitation { url, invited_by, role, tenant, expires_at } => {
                let place = match tenant {
                    Some(name) => format!("the members of “{name}”"),
                    None => format!("the operators of {admin}"),
                };
                Self {
                    subject: "An invitation".to_owned(),
                    before: vec![format!("{invited_by} invites you to join {place}, as {role}.")],
                    link: Some(("Accept the invitation", url.clone())),
                    after: vec![
                        format!("The link works once, for this address, until {}.", time(*expires_at)),
                        "If you do not know the sender, ignore this mail.".to_owned(),
                    ],
                }
            }
            Mail::PasswordReset => Self {
                subject: "A new password".to_owned(),
                before: vec![format!("Somebody asked for a new password of your account at {admin}.")],
                link: reset_link.map(|url| ("Choose a new password", url)),
                after: vec![
                    "The link works once, for 30 minutes.".to_owned(),
                    "If you did not ask for it, ignore this mail: your password stays as it is.".to_owned(),
                ],
            },
            Mail::SignIn { at, device, address } => Self {
                subject: "A sign-in on a new device".to_owned(),
                before: vec![
                    format!("The password or a passkey of your account at {admin} was used on a device that is not known."),
                    format!("{device}, from {address}, {}.", time(*at)),
                    "If it was you, there is nothing to do. If not, choose a new password, which ends every session and removes every passkey:".to_owned(),
                ],
                link: Some(("Choose a new password", format!("{admin}/admin/forgot"))),
                after: Vec::new(),
            },
        }
    }

    pub fn text(&self) -> String {
        let link = self.link.as_ref().map(|(label, url)| format!("{label}:\n{url}"));
        let parts: Vec<_> =
            self.before.iter().chain(&link).chain(&self.after).map(String::as_str).collect();
        parts.join("\n\n") + "\n"
    }

    /// # Errors
    /// The formatter of a value fails.
    pub fn html(&self) -> askama::Result<String> {
        self.render()
    }
}

/// `29 November 2026, 22:37 UTC`
fn time(at: Timestamp) -> String {
    at.format("%-d %B %Y, %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mail_says_why_it_comes_and_what_to_do() {
        let at = Timestamp::from_timestamp(1_800_000_000, 0).unwrap();
        let text = str::to_owned;
        let invitation = |tenant| Mail::Invitation {
            url: text("http://localhost:3100/admin/invitations/token"),
            invited_by: text("ada@example.com"),
            role: text("viewer"),
            tenant,
            expires_at: at,
        };
        let reset = text("http://localhost:3100/admin/reset?token=token");
        let sign_in =
            Mail::SignIn { at, device: text("Firefox on Linux"), address: text("203.0.113.7") };
        let all = [
            (invitation(Some(text("<b>Acme"))), None),
            (invitation(None), None),
            (Mail::PasswordReset, Some(reset)),
            (sign_in, None),
        ];
        let shown = all.map(|(mail, link)| {
            let message = Message::new(&mail, "http://localhost:3100", link);
            format!("{}\n\n{}\n{}", message.subject, message.text(), message.html().unwrap())
        });
        insta::assert_snapshot!(shown.join("\n\n"));
    }
}
