//! Replaces the key that encrypts secrets at rest: `app-api rotate-secrets`.
//!
//! `start` puts a new key in front of the file of keys, which makes it the one that seals, and seals every text anew; the older
//! keys go on opening. `finish` removes them once nothing needs them. Each step can be killed and called again: the files and the
//! rows show the rest of the work. Two steps at once would take each other's keys from the files, so a lock of the database lets
//! one begin.

pub mod key_files;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use anyhow::{Context as _, bail};
use protocol::images::RegistryHost;
use protocol::{TenantId, Timestamp};
use serde_json::json;
use service::Secret;
use service::sealing_keys::{KeyId, Keyring, Purpose, SSO_SECRET_ID, SealingKey, SealingKeys};
use uuid::Uuid;

use crate::audit::{Action, Actor, Entry, Resource};
use crate::auth::token::Token;
use crate::db::sealed_text::{self, SealedColumn, SealedText};
use crate::db::{Conn, Transaction as _};
use key_files::{Copies, KeyFiles, KeySets};

/// Texts that are read at once. Each is replaced by a statement of its own, which holds one row for a moment.
const BATCH: i64 = 100;
/// Texts and tenants that a message lists.
const MAX_LISTED: usize = 10;
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_RETRY_DELAY: Duration = Duration::from_millis(200);

/// The keys that a rotation replaces.
pub struct Rotation {
    pub files: KeyFiles,
    pub sso_secret: Secret,
}

/// The first step of `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// A new key is added: no earlier rotation is unfinished.
    AddKey,
    /// An earlier rotation is not finished. It goes on with its key.
    Continue,
    /// As [`Self::Continue`], after the key of the orchestrator is copied to app-api.
    CopyKey,
}

/// Decides what `start` begins with.
///
/// # Errors
/// A removal that was interrupted goes first, and files that were changed by hand are not touched.
fn plan_start(sets: &KeySets, has_older_texts: bool) -> anyhow::Result<Start> {
    match sets.compare() {
        Copies::AdditionUnfinished => Ok(Start::CopyKey),
        Copies::RemovalUnfinished => {
            bail!("the removal of the older keys was interrupted: call `finish` first")
        }
        Copies::Differ => bail!(
            "the files of app-api and of the orchestrator hold different keys: make them equal, with every key that either has"
        ),
        Copies::Equal if sets.app_api.is_empty() => Ok(Start::AddKey),
        Copies::Equal if sets.app_api.len() > 1 || has_older_texts => Ok(Start::Continue),
        Copies::Equal => Ok(Start::AddKey),
    }
}

/// The result of [`Rotation::start`].
#[derive(Debug, PartialEq, Eq)]
pub struct Resealed {
    pub start: Start,
    /// The key that seals.
    pub primary: KeyId,
    pub texts: usize,
    /// The texts that no key opens, as people read them.
    pub unopened: Vec<String>,
}

/// As people read it, without the texts that no key opens.
impl fmt::Display for Resealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { primary, .. } = self;
        match self.start {
            Start::AddKey => writeln!(f, "The key {primary} was added.")?,
            Start::Continue => writeln!(
                f,
                "No key was added: the rotation to {primary} goes on, and `finish` ends it."
            )?,
            Start::CopyKey => writeln!(
                f,
                "No key was added: the interrupted addition of {primary} was completed."
            )?,
        }
        let verb = if self.texts == 1 { "is" } else { "are" };
        writeln!(f, "{} {verb} encrypted with the new key.", texts(self.texts))
    }
}

impl Rotation {
    fn keyring(&self) -> anyhow::Result<Keyring> {
        let path = self.files.app_api.clone();
        Ok(SealingKeys::new(self.sso_secret.clone(), Some(path)).read()?)
    }

    /// Adds a key, unless an earlier rotation is not finished, and seals every text with it.
    ///
    /// # Errors
    /// The files or the database; another step is under way; the file of keys is gone. A text that cannot be opened is part of the
    /// result.
    pub async fn start(&self, conn: &mut Conn, now: Timestamp) -> anyhow::Result<Resealed> {
        begin_alone(conn).await?;
        let (sets, keyring) = (self.files.read()?, self.keyring()?);
        if sets.orchestrator.is_empty() {
            check_file(&keyring, &count_others(conn, &keyring).await?)?;
        }
        let start = plan_start(&sets, has_older_texts(conn, &keyring).await?)?;
        match start {
            Start::Continue => {}
            Start::CopyKey => self.files.add(&sets.orchestrator)?,
            Start::AddKey => {
                let key = SealingKey::new(Secret::new(Token::random()?.reveal()));
                // Before the key exists: a kill must not leave one that no entry names.
                append(conn, Action::SealingKeyAdd, &key.id, now).await?;
                let mut keys = vec![key];
                keys.extend(sets.app_api);
                self.files.add(&keys)?;
            }
        }
        let keyring = self.keyring()?;
        let primary = keyring.primary();
        let mut resealed = Resealed { start, primary, texts: 0, unopened: Vec::new() };
        reseal(conn, &keyring, &mut resealed).await?;
        Ok(resealed)
    }

    /// Removes all keys but the one that seals. Returns the ids of those that were removed.
    ///
    /// # Errors
    /// A text that an older key sealed, or a tenant whose text has not reached the orchestrator: each is named, and nothing is
    /// removed. Another step is under way.
    pub async fn finish(&self, conn: &mut Conn, now: Timestamp) -> anyhow::Result<Vec<KeyId>> {
        begin_alone(conn).await?;
        let sets = self.files.read()?;
        let Some((primary, older)) = sets.orchestrator.split_first() else { return Ok(Vec::new()) };
        match sets.compare() {
            Copies::Equal | Copies::RemovalUnfinished => {}
            Copies::AdditionUnfinished => bail!("a key was added by half: call `start` first"),
            Copies::Differ => plan_start(&sets, false).map(drop)?,
        }
        let older: Vec<_> = older.iter().map(|key| key.id.clone()).collect();
        let keyring = self.keyring()?;
        let mut attempts = 0;
        while let Err(error) = retire(conn, &keyring, &older, now).await {
            attempts += 1;
            if attempts == LOCK_ATTEMPTS || !sealed_text::is_lock_timeout(&error) {
                return Err(error);
            }
            tokio::time::sleep(LOCK_RETRY_DELAY).await;
        }
        if !older.is_empty() {
            self.files.remove(std::slice::from_ref(primary))?;
        }
        Ok(older)
    }

    /// Lists the key that seals, the others that open, and the texts that wait for the first one, for people.
    ///
    /// # Errors
    /// The files or the database.
    pub async fn status(&self, conn: &mut Conn) -> anyhow::Result<String> {
        let keyring = self.keyring()?;
        let others = count_others(conn, &keyring).await?;
        let mut text = format!("seals: {}\n", keyring.primary());
        for key in keyring.keys().iter().skip(1) {
            writeln!(text, "opens: {}", key.id)?;
        }
        if self.files.read()?.compare() != Copies::Equal {
            writeln!(text, "the orchestrator has other keys: call the last command again")?;
        }
        for (id, rows) in &others {
            let unknown = if keyring.knows(id) { "" } else { ", which is not in the file" };
            writeln!(text, "{} sealed with {id}{unknown}: {}", texts(rows.len()), listed(rows))?;
        }
        let behind = sealed_text::tenants_behind(conn).await?;
        if !behind.is_empty() {
            writeln!(text, "not yet with the orchestrator: {}", listed(&behind))?;
        }
        Ok(text)
    }
}

/// Refuses while another step is under way. The lock ends with the connection, also with that of a process that is killed.
async fn begin_alone(conn: &mut Conn) -> anyhow::Result<()> {
    if !sealed_text::try_lock_rotation(conn).await? {
        bail!(
            "nothing is done: another `rotate-secrets` is under way. Wait for its end, and call this again"
        );
    }
    Ok(())
}

/// Checks that keys were not lost with their file. A key that is added then would hide the loss.
///
/// # Errors
/// The file has no key, and a text names one.
fn check_file(keyring: &Keyring, others: &BTreeMap<KeyId, Vec<String>>) -> anyhow::Result<()> {
    let named = others.iter().find(|(id, _)| id.as_str() != SSO_SECRET_ID);
    match named {
        Some((id, rows)) if keyring.keys().is_empty() => bail!(
            "the file of sealing keys is missing or empty, and {} sealed with {id}: {}. Put the file back, for app-api and for the \
             orchestrator",
            if rows.len() == 1 {
                "1 text is".to_owned()
            } else {
                format!("{} texts are", rows.len())
            },
            listed(rows)
        ),
        _ => Ok(()),
    }
}

/// Logs an error where the file of keys is gone. The service runs: other functions need no key.
pub async fn report_missing_file(conn: &mut Conn, keys: &SealingKeys) {
    let checked = async {
        let keyring = keys.read()?;
        if keyring.keys().is_empty() {
            check_file(&keyring, &count_others(conn, &keyring).await?)?;
        }
        anyhow::Ok(())
    };
    if let Err(error) = checked.await {
        tracing::error!(error = format!("{error:#}"), "sealing keys unusable");
    }
}

/// Notes the removal of keys, unless something needs one of them. Nothing can be sealed with them afterwards. Without any, only
/// the check remains: the first rotation removes none, because `CIAL_SSO_SECRET` stays.
async fn retire(
    conn: &mut Conn,
    keyring: &Keyring,
    older: &[KeyId],
    now: Timestamp,
) -> anyhow::Result<()> {
    let ids: Vec<_> = older.iter().map(KeyId::as_str).collect();
    let resource = Resource::new("sealing_key", keyring.primary());
    let entry =
        Entry::new(Actor::command("app-api rotate-secrets"), Action::SealingKeyRemove, resource)
            .before(json!({ "ids": ids }));
    conn.transaction(async |conn| -> anyhow::Result<()> {
        sealed_text::lock_sealed_tables(conn).await?;
        let mut used = count_others(conn, keyring).await?;
        used.retain(|id, _| older.contains(id) || id.as_str() == SSO_SECRET_ID);
        if !used.is_empty() {
            let lines = used.iter().map(|(id, rows)| {
                format!("{} sealed with {id}: {}", texts(rows.len()), listed(rows))
            });
            bail!(
                "no key is removed, because older ones are in use: call `start` again\n{}",
                lines.collect::<Vec<_>>().join("\n")
            );
        }
        let behind = sealed_text::tenants_behind(conn).await?;
        if !behind.is_empty() {
            bail!(
                "no key is removed, because these tenants' variables have not reached the orchestrator: {}. They do so within seconds \
                 where it is reachable; see each tenant's state for the reason",
                listed(&behind)
            );
        }
        if !ids.is_empty() {
            sealed_text::retire(conn, &ids, &entry, now).await?;
        }
        Ok(())
    })
    .await
}

async fn append(
    conn: &mut Conn,
    action: Action,
    key: &KeyId,
    now: Timestamp,
) -> anyhow::Result<()> {
    let actor = Actor::command("app-api rotate-secrets");
    let entry = Entry::new(actor, action, Resource::new("sealing_key", key));
    let appended =
        conn.transaction(async |conn| crate::db::audit_log::append(conn, &entry, now).await);
    appended.await.context("the audit log")?;
    Ok(())
}

/// Seals every text with the primary key that another one sealed. A text that changes meanwhile is read again.
async fn reseal(conn: &mut Conn, keyring: &Keyring, resealed: &mut Resealed) -> anyhow::Result<()> {
    for column in SealedColumn::ALL {
        while reseal_column(conn, keyring, column, resealed).await? {}
    }
    Ok(())
}

/// Returns whether a text changed under the pass.
async fn reseal_column(
    conn: &mut Conn,
    keyring: &Keyring,
    column: SealedColumn,
    resealed: &mut Resealed,
) -> anyhow::Result<bool> {
    let (mut after, mut has_changed) = (String::new(), false);
    resealed.unopened.retain(|text| !text.starts_with(&column.to_string()));
    loop {
        let primary = primary_id(keyring);
        let rows =
            sealed_text::sealed_by_others(conn, column, primary.as_deref(), &after, BATCH).await?;
        let Some(last) = rows.last() else { return Ok(has_changed) };
        after.clone_from(&last.id);
        for row in &rows {
            match purpose(column, row).and_then(|to| Ok(keyring.reseal(&to, &row.text)?)) {
                Ok(text) if sealed_text::replace(conn, column, row, &text).await? => {
                    resealed.texts += 1;
                }
                Ok(_) => has_changed = true,
                Err(error) => {
                    resealed.unopened.push(format!("{column} {}: {error:#}", row.name));
                }
            }
        }
    }
}

/// The purpose of a row's text, from which its key derives.
fn purpose(column: SealedColumn, row: &SealedText) -> anyhow::Result<Purpose> {
    let scope = row.scope.as_str();
    let id = || scope.parse::<Uuid>().context("no id");
    Ok(match column {
        SealedColumn::AppEnv | SealedColumn::TenantAppEnv => Purpose::AppEnv(id()?),
        SealedColumn::TenantEnv => Purpose::TenantEnv(TenantId::new(id()?)),
        SealedColumn::Registry => {
            let host = scope.parse::<RegistryHost>();
            let host = host.map_err(|error| anyhow::anyhow!("the host {error}"))?;
            Purpose::Registry(host)
        }
        SealedColumn::SecondFactor => Purpose::SecondFactor(id()?),
        SealedColumn::Model => Purpose::Model,
        SealedColumn::Mail => Purpose::Mail,
    })
}

/// Returns whether the primary key has texts of others to seal. One that nothing opens is no such work: it would keep every further
/// key from being added.
async fn has_older_texts(conn: &mut Conn, keyring: &Keyring) -> anyhow::Result<bool> {
    let primary = primary_id(keyring);
    for column in SealedColumn::ALL {
        let rows =
            sealed_text::sealed_by_others(conn, column, primary.as_deref(), "", i64::MAX).await?;
        let opens = |row: &SealedText| {
            purpose(column, row).is_ok_and(|to| keyring.open(&to, &row.text).is_ok())
        };
        if rows.iter().any(opens) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The texts of each key but the primary, as people read them.
async fn count_others(
    conn: &mut Conn,
    keyring: &Keyring,
) -> anyhow::Result<BTreeMap<KeyId, Vec<String>>> {
    let mut others = BTreeMap::<_, Vec<_>>::new();
    let primary = primary_id(keyring);
    for column in SealedColumn::ALL {
        let rows =
            sealed_text::sealed_by_others(conn, column, primary.as_deref(), "", i64::MAX).await?;
        for row in rows {
            let named = format!("{column} {}", row.name);
            others.entry(KeyId::of_text(&row.text)).or_default().push(named);
        }
    }
    Ok(others)
}

/// `None` for the secret that seals without an id.
fn primary_id(keyring: &Keyring) -> Option<String> {
    let id = keyring.primary();
    (id.as_str() != SSO_SECRET_ID).then(|| id.to_string())
}

fn texts(count: usize) -> String {
    if count == 1 { "1 text".to_owned() } else { format!("{count} texts") }
}

fn listed(names: &[String]) -> String {
    let shown = names.iter().take(MAX_LISTED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_rotation_goes_on_with_its_key() {
        let key = |name: &str| SealingKey::new(Secret::new(name.repeat(32)));
        let sets = |names: &[&str]| {
            let keys: Vec<_> = names.iter().map(|name| key(name)).collect();
            KeySets { app_api: keys.clone(), orchestrator: keys }
        };
        // The texts of an installation without a file are sealed with the secret: they are what the first rotation is for.
        assert_eq!(plan_start(&sets(&[]), true).unwrap(), Start::AddKey);
        assert_eq!(plan_start(&sets(&["a"]), false).unwrap(), Start::AddKey);
        assert_eq!(plan_start(&sets(&["a"]), true).unwrap(), Start::Continue);
        assert_eq!(plan_start(&sets(&["b", "a"]), false).unwrap(), Start::Continue);
        let half = KeySets { orchestrator: vec![key("b"), key("a")], ..sets(&["a"]) };
        assert_eq!(plan_start(&half, false).unwrap(), Start::CopyKey);
        let removing = KeySets { orchestrator: vec![key("b"), key("a")], ..sets(&["b"]) };
        assert!(plan_start(&removing, false).unwrap_err().to_string().contains("`finish`"));
        let by_hand = KeySets { orchestrator: vec![key("c")], ..sets(&["b"]) };
        assert!(plan_start(&by_hand, false).unwrap_err().to_string().contains("different keys"));
    }

    #[test]
    fn a_lost_file_is_no_first_rotation() {
        let sso = Secret::new("s".repeat(32));
        let keyring = SealingKeys::new(sso, None).read().unwrap();
        let named = |text: &str| {
            let rows = vec!["key of model m".to_owned()];
            check_file(&keyring, &BTreeMap::from([(KeyId::of_text(text), rows)]))
        };
        named("AAAA").unwrap();
        let refused = named("0123456789ab:AAAA").unwrap_err().to_string();
        assert!(
            refused.contains("1 text is sealed with 0123456789ab: key of model m"),
            "{refused}"
        );
    }

    #[test]
    fn the_report_says_whether_a_key_was_added() {
        let shown = |start, texts| {
            let primary = KeyId::of_text("0123456789ab:");
            Resealed { start, primary, texts, unopened: Vec::new() }.to_string()
        };
        assert_eq!(
            shown(Start::AddKey, 1),
            "The key 0123456789ab was added.\n1 text is encrypted with the new key.\n"
        );
        for (start, reason) in
            [(Start::Continue, "goes on"), (Start::CopyKey, "interrupted addition")]
        {
            let text = shown(start, 2);
            assert!(text.starts_with("No key was added: ") && text.contains(reason), "{text}");
            assert!(text.ends_with("\n2 texts are encrypted with the new key.\n"), "{text}");
        }
    }
}
