//! Replaces the key that encrypts secrets at rest: `app-api rotate-secrets`.
//!
//! `start` puts a new key in front of the file of keys, which makes it the one that seals, and seals every text anew; the older
//! keys go on opening. `finish` removes them once nothing needs them. Each step can be killed and called again: what remains to be
//! done is read from the files and the rows.

pub mod key_files;

use std::collections::BTreeMap;
use std::fmt::Write as _;
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
const HOLD_ATTEMPTS: u32 = 20;
const HOLD_RETRY_DELAY: Duration = Duration::from_millis(200);

/// What a rotation works on.
pub struct Rotation {
    pub files: KeyFiles,
    pub sso_secret: Secret,
}

/// What remains to be done before a new key makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Nothing: a new key is added.
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
fn plan_start(sets: &KeySets, others_in_use: bool) -> anyhow::Result<Start> {
    match sets.compare() {
        Copies::AdditionUnfinished => Ok(Start::CopyKey),
        Copies::RemovalUnfinished => {
            bail!("the removal of the older keys was interrupted: call `finish` first")
        }
        Copies::Differ => bail!(
            "the files of app-api and of the orchestrator hold different keys: make them equal, with every key that either has"
        ),
        Copies::Equal if sets.app_api.is_empty() => Ok(Start::AddKey),
        Copies::Equal if sets.app_api.len() > 1 || others_in_use => Ok(Start::Continue),
        Copies::Equal => Ok(Start::AddKey),
    }
}

/// The result of [`Rotation::start`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resealed {
    pub texts: usize,
    /// What no key opens, as people read it.
    pub unopened: Vec<String>,
}

impl Rotation {
    fn keyring(&self) -> anyhow::Result<Keyring> {
        let path = self.files.app_api.clone();
        Ok(SealingKeys::new(self.sso_secret.clone(), Some(path)).read()?)
    }

    /// Adds a key, unless an earlier rotation is not finished, and seals every text with it.
    ///
    /// # Errors
    /// The files or the database. A text that cannot be opened is part of the result.
    pub async fn start(&self, conn: &mut Conn, now: Timestamp) -> anyhow::Result<Resealed> {
        let sets = self.files.read()?;
        let others = count_others(conn, &self.keyring()?).await?;
        match plan_start(&sets, !others.is_empty())? {
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
        reseal(conn, &self.keyring()?).await
    }

    /// Removes all keys but the one that seals. Returns the ids of those that were removed.
    ///
    /// # Errors
    /// A text that an older key sealed, or a tenant whose text has not reached the orchestrator: each is named, and nothing is
    /// removed.
    pub async fn finish(&self, conn: &mut Conn, now: Timestamp) -> anyhow::Result<Vec<KeyId>> {
        let sets = self.files.read()?;
        let Some((primary, older)) = sets.orchestrator.split_first() else { return Ok(Vec::new()) };
        match sets.compare() {
            Copies::Equal | Copies::RemovalUnfinished => {}
            Copies::AdditionUnfinished => bail!("a key was added by half: call `start` first"),
            Copies::Differ => plan_start(&sets, false).map(drop)?,
        }
        let older: Vec<_> = older.iter().map(|key| key.id.clone()).collect();
        if older.is_empty() {
            return Ok(older);
        }
        let keyring = self.keyring()?;
        let mut attempts = 0;
        while let Err(error) = retire(conn, &keyring, &older, now).await {
            attempts += 1;
            if attempts == HOLD_ATTEMPTS || !sealed_text::is_lock_timeout(&error) {
                return Err(error);
            }
            tokio::time::sleep(HOLD_RETRY_DELAY).await;
        }
        self.files.remove(std::slice::from_ref(primary))?;
        Ok(older)
    }

    /// What seals, what else opens, and which texts wait, for people.
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

/// Notes the removal of keys, unless something needs one of them. Nothing can be sealed with them afterwards.
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
        sealed_text::hold_all(conn).await?;
        let mut used = count_others(conn, keyring).await?;
        used.retain(|id, _| older.contains(id));
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
        sealed_text::retire(conn, &ids, &entry, now).await?;
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
async fn reseal(conn: &mut Conn, keyring: &Keyring) -> anyhow::Result<Resealed> {
    let mut resealed = Resealed::default();
    for column in SealedColumn::ALL {
        while reseal_column(conn, keyring, column, &mut resealed).await? {}
    }
    Ok(resealed)
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

/// What the text of a row is for, which its key derives from.
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
}
