//! Keys, sessions, users, members, invitations, webhooks, audit.

use clap::{Args, Subcommand, ValueEnum};
use protocol::api_keys::Role;
use protocol::people::{MemberRole, PlatformRole};

use super::tenants::Confirm;
use super::words_of;

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// list keys; --tenant lists those of one tenant
    List(ListKeys),
    /// create a key and print it once
    Create(CreateKey),
    /// revoke a key at once
    #[command(alias = "delete")]
    Revoke(RevokeKey),
}

#[derive(Debug, Default, Args)]
pub struct ListKeys {
    /// only the keys that you got by `cial login`
    #[arg(long)]
    pub mine: bool,
}

#[derive(Debug, Args)]
pub struct CreateKey {
    /// name that tells what the key is for
    pub name: String,
    /// what the key may do in its tenant
    #[arg(long, value_name = "ROLE", value_parser = words_of(Role::ALL, Role::as_str))]
    pub role: Role,
    /// days until the key expires
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub expires_in_days: u32,
    /// create a key that does not expire
    #[arg(long, conflicts_with = "expires_in_days")]
    pub never_expires: bool,
    /// create a key for the whole installation, above every role
    #[arg(long, conflicts_with = "tenant")]
    pub is_admin: bool,
}

#[derive(Debug, Args)]
pub struct RevokeKey {
    /// id of the key, from `cial keys list`
    pub id: String,
    /// the key is one that you got by `cial login`
    #[arg(long)]
    pub mine: bool,
    #[command(flatten)]
    pub confirm: Confirm,
}

#[derive(Debug, Subcommand)]
pub enum SessionsCommand {
    /// list the sessions of the signed-in person
    List,
    /// end sessions at once
    Revoke(RevokeSessions),
}

#[derive(Debug, Args)]
#[group(id = "sessions", required = true, multiple = false)]
pub struct RevokeSessions {
    /// id of the session, from `cial sessions list`
    #[arg(group = "sessions")]
    pub id: Option<String>,
    /// every session of the person
    #[arg(long, group = "sessions")]
    pub all: bool,
    #[command(flatten)]
    pub confirm: Confirm,
}

#[derive(Debug, Subcommand)]
pub enum UsersCommand {
    /// list the people of the installation
    List,
    /// show a person
    Get(UserArg),
    /// change a person's role in the installation, or their name
    Set(SetUser),
    /// end the second factor of a person who lost it; only for owners
    ResetSecondFactor(ConfirmedUser),
    /// delete a person; their sessions end
    Delete(ConfirmedUser),
}

#[derive(Debug, Args)]
pub struct SetUser {
    /// id of the person, from `cial users list`
    pub user: String,
    /// role in the installation
    #[arg(long, value_name = "ROLE", required_unless_present = "name", value_parser = words_of(PlatformRole::ALL.iter().rev().copied(), PlatformRole::as_str))]
    pub role: Option<PlatformRole>,
    /// name of the person
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
pub struct UserArg {
    /// id of the person, from `cial users list`
    pub user: String,
}

#[derive(Debug, Args)]
pub struct ConfirmedUser {
    /// id of the person, from `cial users list`
    pub user: String,
    #[command(flatten)]
    pub confirm: Confirm,
}

#[derive(Debug, Subcommand)]
pub enum MembersCommand {
    /// list the members of a tenant
    List,
    /// give a person a role in a tenant
    Set(SetMember),
    /// remove a person from a tenant; their sessions there end
    Remove(RemoveMember),
}

#[derive(Debug, Args)]
pub struct SetMember {
    /// id of the person, from `cial users list` or `cial members list`
    pub user: String,
    /// role in the tenant
    #[arg(long, value_name = "ROLE", value_parser = words_of(MemberRole::ALL.iter().rev().copied(), MemberRole::as_str))]
    pub role: MemberRole,
}

#[derive(Debug, Args)]
pub struct RemoveMember {
    /// id of the person, from `cial members list`
    pub user: String,
    #[command(flatten)]
    pub confirm: Confirm,
}

#[derive(Debug, Subcommand)]
pub enum InvitationsCommand {
    /// list open invitations; --tenant lists those to one tenant
    List,
    /// create a one-time link and print it once
    Create(CreateInvitation),
    /// withdraw an open invitation
    Revoke(RevokeInvitation),
}

#[derive(Debug, Args)]
pub struct RevokeInvitation {
    /// id of the invitation, from `cial invitations list`
    pub id: String,
    #[command(flatten)]
    pub confirm: Confirm,
}

#[derive(Debug, Args)]
pub struct CreateInvitation {
    /// e-mail address of the person
    pub email: String,
    /// role after acceptance; with --tenant in that tenant
    #[arg(long, value_name = "ROLE", value_parser = ["owner", "admin", "member", "viewer"])]
    pub role: String,
}

#[derive(Debug, Subcommand)]
pub enum MailsCommand {
    /// list the mails that wait to be sent, newest first
    List,
}

#[derive(Debug, Subcommand)]
pub enum WebhooksCommand {
    /// list webhooks
    List,
    /// create a webhook and print its signing secret once
    Create(CreateWebhook),
    /// delete a webhook
    Delete(DeleteWebhook),
    /// list the deliveries of a webhook
    Deliveries(WebhookArg),
    /// send a delivery again
    Replay(ReplayDelivery),
}

#[derive(Debug, Args)]
pub struct CreateWebhook {
    /// address that receives the events
    pub url: String,
}

#[derive(Debug, Args)]
pub struct WebhookArg {
    /// id of the webhook, from `cial webhooks list`
    pub id: String,
}

#[derive(Debug, Args)]
pub struct DeleteWebhook {
    /// id of the webhook, from `cial webhooks list`
    pub id: String,
    #[command(flatten)]
    pub confirm: Confirm,
}

#[derive(Debug, Args)]
pub struct ReplayDelivery {
    /// id of the delivery, from `cial webhooks deliveries`
    pub delivery: String,
    /// id of the webhook
    #[arg(long, value_name = "ID")]
    pub webhook: String,
}

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// list entries, newest first
    List(ListAudit),
    /// write every entry to standard output
    Export(ExportAudit),
}

#[derive(Debug, Default, Args)]
pub struct AuditFilter {
    /// only entries of this person or key
    #[arg(long, value_name = "TEXT")]
    pub actor: Option<String>,
    /// only entries of this action, like tenant.delete
    #[arg(long, value_name = "ACTION")]
    pub action: Option<String>,
    /// only entries about this resource
    #[arg(long, value_name = "TEXT")]
    pub resource: Option<String>,
    /// only entries after this: a time of RFC 3339, or an age like 7d
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// only entries before this: a time of RFC 3339, or an age like 1h
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

#[derive(Debug, Args)]
pub struct ListAudit {
    #[command(flatten)]
    pub filter: AuditFilter,
    /// at most this many entries
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
}

#[derive(Debug, Args)]
pub struct ExportAudit {
    #[command(flatten)]
    pub filter: AuditFilter,
    /// format of the export
    #[arg(long, value_name = "FORMAT", default_value = "csv")]
    pub format: ExportFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    Csv,
    Json,
}

impl ExportFormat {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
        }
    }
}
