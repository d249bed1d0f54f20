//! The settings of backups: the store, the schedule, and what stays.

use std::fs;
use std::path::PathBuf;

use service::{Secret, Setting, SettingsReader};
use url::Url;

use super::rules::Retention;
use crate::work::triggers::schedule::{Schedule, ScheduleError};

pub(crate) const URL: Setting = Setting::optional(
    "CIAL_BACKUP_URL",
    "where backups of tenants go: `file:///backups`, a volume of app-api, or `s3://bucket/prefix?region=…&endpoint=https://…`; \
     without it there are none; [backups](../backups.md)",
)
.for_operators();
pub(crate) const ACCESS_KEY: Setting = Setting::optional(
    "CIAL_BACKUP_ACCESS_KEY_FILE",
    "the access key of an S3 store: its id, a colon, its secret",
)
.for_operators();
pub(crate) const SCHEDULE: Setting = Setting::with_default(
    "CIAL_BACKUP_SCHEDULE",
    "0 2 * * *",
    "when tenants are due for a backup: minute, hour, day of the month, month, day of the week, in UTC. Each is copied once it \
     rests",
)
.for_operators();
pub(crate) const KEEP: Setting = Setting::with_default(
    "CIAL_BACKUP_KEEP",
    "7 daily, 4 weekly",
    "the backups of each tenant that stay: the last one of so many days and weeks. Those that a person requested stay until \
     somebody deletes them",
)
.for_operators();

#[derive(Clone, Debug)]
pub struct BackupSettings {
    pub store: StoreSettings,
    pub schedule: Schedule,
    pub retention: Retention,
}

/// Where archives lie.
#[derive(Clone, Debug)]
pub enum StoreSettings {
    Folder(PathBuf),
    S3 { place: S3Place, key: AccessKey },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Place {
    pub bucket: String,
    pub prefix: String,
    pub region: String,
    /// `None`: that of AWS.
    pub endpoint: Option<String>,
}

#[derive(Clone, Debug)]
pub struct AccessKey {
    pub id: String,
    pub secret: Secret,
}

/// The parts of `CIAL_BACKUP_URL`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Folder(PathBuf),
    S3(S3Place),
}

impl BackupSettings {
    /// `Some(None)`: there are no backups.
    pub fn read(vars: &mut SettingsReader<'_>) -> Option<Option<Self>> {
        let url = vars.optional::<String>(&URL);
        let key = vars.optional::<String>(&ACCESS_KEY);
        let schedule = read_schedule(vars);
        let retention = vars.value::<Retention>(&KEEP);
        let (url, key) = (url?, key?);
        let Some(url) = url else {
            return match key {
                None => Some(None),
                Some(_) => vars.reject(&ACCESS_KEY, "must not be set without CIAL_BACKUP_URL"),
            };
        };
        let place = match parse_url(&url) {
            Ok(place) => place,
            Err(rule) => return vars.reject(&URL, rule),
        };
        let store = match (place, key) {
            (Place::Folder(folder), None) => StoreSettings::Folder(folder),
            (Place::Folder(_), Some(_)) => {
                return vars.reject(&ACCESS_KEY, "must not be set for a folder");
            }
            (Place::S3(_), None) => {
                return vars.reject(&ACCESS_KEY, "must name the file of the key of the S3 store");
            }
            (Place::S3(place), Some(path)) => {
                StoreSettings::S3 { place, key: read_key(vars, &path)? }
            }
        };
        Some(Some(Self { store, schedule: schedule?, retention: retention? }))
    }
}

fn read_schedule(vars: &mut SettingsReader<'_>) -> Option<Schedule> {
    let text: String = vars.value(&SCHEDULE)?;
    match Schedule::parse(&text, "UTC") {
        Ok(schedule) => Some(schedule),
        Err(ScheduleError::Expression(why)) => {
            vars.reject(&SCHEDULE, &format!("must look like 0 2 * * *: {why}"))
        }
        Err(ScheduleError::UnknownZone) => vars.reject(&SCHEDULE, "cannot be read"),
    }
}

/// # Errors
/// The rule that the URL breaks. No rule repeats the URL, which may hold a key by mistake.
fn parse_url(text: &str) -> Result<Place, &'static str> {
    const FORM: &str = "must look like file:///backups or s3://bucket/prefix?region=eu-west-1&endpoint=https://s3.example";
    let url = Url::parse(text).map_err(|_| FORM)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must hold no key: name its file in CIAL_BACKUP_ACCESS_KEY_FILE");
    }
    match url.scheme() {
        "file" => {
            let is_bare = url.query().is_none() && url.fragment().is_none();
            let folder = url.to_file_path().ok().filter(|_| is_bare).ok_or(FORM)?;
            if folder.components().count() < 2 {
                return Err("must not be the root of the file system");
            }
            Ok(Place::Folder(folder))
        }
        "s3" => parse_s3(&url).map(Place::S3),
        _ => Err(FORM),
    }
}

fn parse_s3(url: &Url) -> Result<S3Place, &'static str> {
    let bucket = url.host_str().filter(|bucket| bucket.len() >= 3);
    let bucket = bucket.ok_or("must name a bucket of at least 3 characters")?.to_owned();
    if url.fragment().is_some() || url.port().is_some() {
        return Err("must have neither a port nor a fragment: the endpoint is a parameter");
    }
    let (mut region, mut endpoint) = (None, None);
    for (name, value) in url.query_pairs() {
        let field = match name.as_ref() {
            "region" => &mut region,
            "endpoint" => &mut endpoint,
            _ => return Err("knows only the parameters region and endpoint"),
        };
        *field = Some(value.into_owned());
    }
    if let Some(endpoint) = &endpoint {
        let is_http = Url::parse(endpoint).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https") && url.path() == "/" && url.query().is_none()
        });
        if !is_http {
            return Err("must have an endpoint like https://s3.example, with nothing behind it");
        }
    }
    let region = region.filter(|region| !region.is_empty());
    // A store of another maker than AWS mostly takes any region.
    let region = match (region, &endpoint) {
        (Some(region), _) => region,
        (None, Some(_)) => "us-east-1".to_owned(),
        (None, None) => return Err("must name a region, or an endpoint"),
    };
    Ok(S3Place { bucket, prefix: url.path().to_owned(), region, endpoint })
}

fn read_key(vars: &mut SettingsReader<'_>, path: &str) -> Option<AccessKey> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return vars.reject(&ACCESS_KEY, &format!("cannot read {path}: {error}")),
    };
    match text.trim().split_once(':') {
        Some((id, secret)) if !id.is_empty() && !secret.is_empty() => {
            Some(AccessKey { id: id.to_owned(), secret: Secret::new(secret) })
        }
        _ => vars
            .reject(&ACCESS_KEY, &format!("{path} must hold the key's id, a colon and its secret")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::read_pairs;

    #[test]
    fn a_url_names_a_folder_or_a_bucket() {
        let s3 = |prefix: &str, region: &str, endpoint: Option<&str>| {
            Ok(Place::S3(S3Place {
                bucket: "cial-backups".to_owned(),
                prefix: prefix.to_owned(),
                region: region.to_owned(),
                endpoint: endpoint.map(str::to_owned),
            }))
        };
        assert_eq!(parse_url("file:///backups"), Ok(Place::Folder("/backups".into())));
        assert_eq!(parse_url("s3://cial-backups?region=eu-west-1"), s3("", "eu-west-1", None));
        assert_eq!(
            parse_url("s3://cial-backups/a/b?endpoint=http://127.0.0.1:8333"),
            s3("/a/b", "us-east-1", Some("http://127.0.0.1:8333"))
        );
        for (url, rule) in [
            ("/backups", "must look like"),
            ("file://host/backups", "must look like"),
            ("file:///backups?x=1", "must look like"),
            ("file:///", "must not be the root"),
            ("https://bucket", "must look like"),
            ("s3://ab?region=x", "must name a bucket"),
            ("s3://abc", "must name a region"),
            ("s3://abc?region=x&acl=public", "knows only"),
            ("s3://abc:9000?region=x", "must have neither"),
            ("s3://id:hunter2@abc?region=x", "must hold no key"),
            ("s3://abc?endpoint=ftp://x", "must have an endpoint"),
            ("s3://abc?endpoint=https://x/y", "must have an endpoint"),
        ] {
            let broken = parse_url(url).unwrap_err();
            assert!(broken.starts_with(rule) && !broken.contains("hunter2"), "{url}: {broken}");
        }
    }

    /// `Ok`: whether there are backups.
    fn read(pairs: &[(&str, &str)]) -> Result<bool, String> {
        read_pairs(pairs, BackupSettings::read).map(|read| read.is_some())
    }

    #[test]
    fn half_a_configuration_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (good, bad) = (file("good", "id:hunter2\n"), file("bad", "hunter2"));
        const KEY: &str = "CIAL_BACKUP_ACCESS_KEY_FILE";
        let (good, bad, missing) = ((KEY, &*good), (KEY, &*bad), (KEY, "/nowhere"));
        let (local, s3) = (
            ("CIAL_BACKUP_URL", "file:///backups"),
            ("CIAL_BACKUP_URL", "s3://cial-backups?region=eu-west-1"),
        );
        assert_eq!(read(&[]), Ok(false));
        assert_eq!(read(&[local]), Ok(true));
        assert_eq!(read(&[s3, good]), Ok(true));
        for (pairs, rule) in [
            (&[good][..], "must not be set without CIAL_BACKUP_URL"),
            (&[local, good], "must not be set for a folder"),
            (&[s3], "must name the file of the key"),
            (&[s3, bad], "must hold the key's id"),
            (&[s3, missing], "cannot read /nowhere"),
            (&[local, ("CIAL_BACKUP_SCHEDULE", "often")], "must look like 0 2 * * *"),
            (&[local, ("CIAL_BACKUP_KEEP", "some")], "must look like 7 daily"),
        ] {
            let refused = read(pairs).expect_err(rule);
            assert!(refused.contains(rule) && !refused.contains("hunter2"), "{rule}: {refused}");
        }
    }
}
