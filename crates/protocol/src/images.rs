//! Names of images, and the registries from which the engine pulls them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The registry of images whose names mention none, to the engine.
const HUB: &str = "docker.io";
const HUB_ALIAS: &str = "index.docker.io";
/// The namespace of the hub's images that mention none.
const HUB_NAMESPACE: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const MAX_HOST_LENGTH: usize = 253;
/// The longest host, port and path: the engine's bound of 255, less the prefix of a marker.
const MAX_REPOSITORY_LENGTH: usize = 190;
const MAX_TAG_LENGTH: usize = 128;
/// The longest time from the preparation of an image to the end of the statements that write its release. The image is held
/// for twice as long.
pub const MAX_RELEASE_SECONDS: u64 = 30;

/// A registry: the name of a host in lower case, with the port unless it is the usual one. Always a text that the engine
/// takes for a host in the name of an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String))]
pub struct RegistryHost(String);

/// Why a text is no [`RegistryHost`]. The message names the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidRegistryHost {
    Scheme,
    Path,
    Port,
    Name,
    /// The engine would take it for the beginning of a path.
    Plain,
}

impl RegistryHost {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InvalidRegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "must be a host without a scheme, like registry.example.com",
            Self::Path => "must be a host without a path, like registry.example.com:5000",
            Self::Port => "must have a port from 1 to 65535 after the colon, or no colon",
            Self::Name => {
                "must be the name of a host, of letters, digits, hyphens and dots, like registry.example.com"
            }
            Self::Plain => {
                "must have a dot or a port, like registry.example.com or registry:5000, or be localhost"
            }
        })
    }
}

impl std::error::Error for InvalidRegistryHost {}

impl fmt::Display for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RegistryHost {
    type Err = InvalidRegistryHost;

    fn from_str(text: &str) -> Result<Self, InvalidRegistryHost> {
        use InvalidRegistryHost as Invalid;
        if text.contains("://") {
            return Err(Invalid::Scheme);
        }
        if text.contains('/') {
            return Err(Invalid::Path);
        }
        let text = text.to_ascii_lowercase();
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text.as_str(), None),
        };
        if port.is_some_and(|port| !is_port(port)) {
            return Err(Invalid::Port);
        }
        if name.len() > MAX_HOST_LENGTH || !name.split('.').all(is_label) {
            return Err(Invalid::Name);
        }
        if !looks_like_host(&text) {
            return Err(Invalid::Plain);
        }
        Ok(Self(if text == HUB_ALIAS { HUB.to_owned() } else { text }))
    }
}

impl TryFrom<String> for RegistryHost {
    type Error = InvalidRegistryHost;

    fn try_from(text: String) -> Result<Self, InvalidRegistryHost> {
        text.parse()
    }
}

impl From<RegistryHost> for String {
    fn from(host: RegistryHost) -> Self {
        host.0
    }
}

/// The engine's rule for the first part of a name of an image.
fn looks_like_host(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost"
}

fn is_label(label: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_edge = |edge: Option<u8>| edge.is_some_and(|b| b != b'-');
    label.len() <= 63
        && label.bytes().all(plain)
        && is_edge(label.bytes().next())
        && is_edge(label.bytes().last())
}

fn is_port(port: &str) -> bool {
    let digits = port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
    digits && port.parse::<u16>().is_ok()
}

/// A place of images in a registry, as the engine compares such places.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    host: RegistryHost,
    path: String,
}

impl Repository {
    /// # Errors
    /// The path breaks the engine's rules.
    pub fn new(host: RegistryHost, path: &str) -> Result<Self, InvalidImageName> {
        let is_bare = host.0 == HUB && !path.contains('/');
        let path = if is_bare { format!("{HUB_NAMESPACE}{path}") } else { path.to_owned() };
        if !path.split('/').all(is_path_part) {
            return Err(InvalidImageName::Path);
        }
        if host.0.len() + path.len() > MAX_REPOSITORY_LENGTH {
            return Err(InvalidImageName::Length);
        }
        Ok(Self { host, path })
    }

    pub fn host(&self) -> &RegistryHost {
        &self.host
    }

    /// Without the host.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Reads the repository of a name as the engine lists names: `name:tag` or `name@digest`, without the host for the hub.
    pub fn of_listed(name: &str) -> Option<Self> {
        let name = name.split_once('@').map_or(name, |(name, _)| name);
        let (host, path) = match name.split_once('/') {
            Some((host, path)) if looks_like_host(host) => (host, path),
            _ => (HUB, name),
        };
        let path = path.split_once(':').map_or(path, |(path, _)| path);
        Self::new(host.parse().ok()?, path).ok()
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

/// One part of a path: letters and digits, with single separators inside.
fn is_path_part(part: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = |edge: Option<u8>| edge.is_some_and(is_word);
    let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let is_separator =
        |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|b| b == b'-');
    ends(part.bytes().next())
        && ends(part.bytes().last())
        && separators.into_iter().all(is_separator)
}

/// The name of an image that mentions its registry: the only ones that are pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryImage {
    repository: Repository,
    tag: String,
    /// `sha256:…`; decides without regard to the tag.
    digest: Option<String>,
}

/// Why a text is no name of an image. The message names the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidImageName {
    Host(InvalidRegistryHost),
    Scheme,
    Path,
    Length,
    Tag,
    Digest,
}

impl fmt::Display for InvalidImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(error) => write!(f, "the registry in the name {error}"),
            Self::Scheme => {
                f.write_str("must have no scheme: registry.example.com/team/notes:1.4")
            }
            Self::Path => f.write_str(
                "must have a path of a-z, 0-9 and single separators after the registry, like team/notes",
            ),
            Self::Length => {
                write!(f, "must have at most {MAX_REPOSITORY_LENGTH} characters before the tag")
            }
            Self::Tag => f.write_str(
                "must have a tag of 1 to 128 letters, digits, dots, hyphens and underscores after the colon",
            ),
            Self::Digest => f.write_str("must have sha256: and 64 of 0-9 and a-f after the @"),
        }
    }
}

impl std::error::Error for InvalidImageName {}

impl RegistryImage {
    /// Reads the name of an image; `None` is one without a registry, which only the engine can know.
    ///
    /// # Errors
    /// The name mentions a registry and breaks the engine's rules.
    pub fn parse(name: &str) -> Result<Option<Self>, InvalidImageName> {
        if name.contains("://") {
            return Err(InvalidImageName::Scheme);
        }
        let Some((host, rest)) = name.split_once('/').filter(|(host, _)| looks_like_host(host))
        else {
            return Ok(None);
        };
        let host = host.parse().map_err(InvalidImageName::Host)?;
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, tag),
            None => (rest, DEFAULT_TAG),
        };
        if !is_tag(tag) {
            return Err(InvalidImageName::Tag);
        }
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(InvalidImageName::Digest);
        }
        let repository = Repository::new(host, path)?;
        Ok(Some(Self { repository, tag: tag.to_owned(), digest: digest.map(str::to_owned) }))
    }

    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    pub fn host(&self) -> &RegistryHost {
        self.repository.host()
    }

    /// The version to request from the registry: the digest, or the tag.
    pub fn version(&self) -> &str {
        self.digest.as_deref().unwrap_or(&self.tag)
    }

    /// Names the same image for ever.
    pub const fn has_digest(&self) -> bool {
        self.digest.is_some()
    }
}

/// The name by which the engine finds the image.
impl fmt::Display for RegistryImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.has_digest() { '@' } else { ':' };
        write!(f, "{}{mark}{}", self.repository, self.version())
    }
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG_LENGTH
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

/// Whether the text is `sha256:` with 64 digits.
pub fn is_digest(text: &str) -> bool {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let digits = text.strip_prefix("sha256:");
    digits.is_some_and(|digits| digits.len() == 64 && digits.bytes().all(is_digit))
}

/// The host in the names of images that were uploaded. Nothing has an address below `.invalid` (RFC 2606), so none is ever pulled.
const UPLOAD_HOST: &str = "upload.cial.invalid";

/// The name of the image from a tarball with this SHA-256, in hexadecimal digits; `None` where these are none.
pub fn uploaded_image(digest: &str) -> Option<RegistryImage> {
    if !is_digest(&format!("sha256:{digest}")) {
        return None;
    }
    RegistryImage::parse(&format!("{UPLOAD_HOST}/tarball:{digest}")).ok().flatten()
}

/// When an image is pulled from the registry that its name mentions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// Unless the name has a digest and the engine has the image.
    Always,
    /// If the engine has no image of this name.
    #[default]
    Missing,
    Never,
}

impl PullPolicy {
    pub const ALL: [Self; 3] = [Self::Always, Self::Missing, Self::Never];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Missing => "missing",
            Self::Never => "never",
        }
    }

    /// Decides whether to pull an image that the engine has or lacks.
    pub fn wants_pull(self, image: &RegistryImage, engine_has_it: bool) -> bool {
        match self {
            Self::Always => !(engine_has_it && image.has_digest()),
            Self::Missing => !engine_has_it,
            Self::Never => false,
        }
    }
}

impl FromStr for PullPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|known| known.as_str() == text);
        found.ok_or_else(|| "must be always, missing or never".to_owned())
    }
}

/// The credentials of a registry, in the clear: between app-api and the orchestrator it travels as [`SealedLogin`] only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryLogin {
    pub username: String,
    pub password: String,
}

/// Never shows the password: errors and logs print it.
impl fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryLogin").field("username", &self.username).finish_non_exhaustive()
    }
}

/// A [`RegistryLogin`], encrypted with a key of the registry: it opens for no other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedLogin {
    pub host: RegistryHost,
    pub sealed: String,
}

/// New credentials of a registry. The password is never shown again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetRegistry {
    pub username: String,
    pub password: String,
}

/// A registry with credentials. Times are RFC 3339, UTC, with milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Registry {
    pub host: RegistryHost,
    pub username: String,
    pub updated_by: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub updated_at: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegistryList {
    /// By host.
    pub registries: Vec<Registry>,
}

/// `GET /v1/images` of the orchestrator: the images that it pulled and that no preparation needs at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledImageList {
    pub images: Vec<PulledImage>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledImage {
    /// `sha256:…`
    pub image_id: String,
    /// Grows with each preparation of the image. `DELETE /v1/images/{id}?preparations=` removes the image unless it was
    /// prepared again since.
    pub preparations: u64,
}

/// The response of the orchestrator to `DELETE /v1/images/{id}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedImage {
    /// `false`: something needs the image.
    pub removed: bool,
}

/// The progress of a pull. The numbers grow while the engine learns of layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PullProgress {
    pub layers: u32,
    /// Those that are there, also the ones that the engine had before.
    pub layers_done: u32,
    /// The bytes that arrived, of the layers whose size is known.
    pub bytes: u64,
    pub bytes_total: u64,
}

/// The pull of an image, by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PullStatus {
    /// Null: no pull of this name is under way. All zero: it waits for other pulls, or for the registry.
    pub progress: Option<PullProgress>,
}

/// The most bytes of one part of an upload.
pub const MAX_UPLOAD_PART_BYTES: u64 = 50_000_000;
/// The largest tarball that is taken.
pub const MAX_UPLOAD_BYTES: u64 = 20 << 30;

/// Begins the upload of a tarball, or goes on with that of the same one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewImageUpload {
    /// The bytes of the whole tarball.
    pub size: u64,
    /// The SHA-256 of the whole tarball: 64 digits of 0-9 and a-f.
    pub sha256: String,
}

/// The upload of a tarball.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageUpload {
    pub id: uuid::Uuid,
    pub size: u64,
    /// The bytes that arrived: where the next part begins.
    pub offset: u64,
    pub max_part_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:7236f06299602bbe5e841b7fc0f44d9991dc04f5d21e9d718e0746fdc11f0dfe";

    #[test]
    fn a_host_has_a_name_and_maybe_a_port() {
        let long = format!("{}.example", "a".repeat(64));
        let table = [
            ("registry.example.com", "registry.example.com"),
            ("Registry.Example.com:5000", "registry.example.com:5000"),
            ("localhost", "localhost"),
            ("registry:5000", "registry:5000"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("index.docker.io", "docker.io"),
            ("https://registry.example.com", "without a scheme"),
            ("registry.example.com/team", "without a path"),
            ("registry.example.com/", "without a path"),
            ("registry.example.com:", "a port from"),
            ("registry.example.com:0", "a port from"),
            ("registry.example.com:05000", "a port from"),
            ("registry.example.com:65536", "a port from"),
            ("registry.example.com:+80", "a port from"),
            ("a:1:2", "a port from"),
            ("", "the name of a host"),
            ("bob@registry.example.com", "the name of a host"),
            ("registry..com", "the name of a host"),
            ("-registry.com", "the name of a host"),
            ("registry_1.com", "the name of a host"),
            ("r\u{e9}gistry.com", "the name of a host"),
            ("a b.com", "the name of a host"),
            (&long, "the name of a host"),
            ("registry", "a dot or a port"),
        ];
        for (text, expected) in table {
            let parsed = text.parse::<RegistryHost>();
            let found = parsed.map_or_else(|error| error.to_string(), String::from);
            assert!(found.contains(expected), "{text:?}: {found}");
        }
    }

    #[test]
    fn a_name_is_pulled_only_if_it_mentions_a_registry() {
        for name in ["notes", "notes:1", "team/notes:1", DIGEST, "sha256:1", "85c813bb4eae", ""] {
            assert_eq!(RegistryImage::parse(name), Ok(None), "{name}");
        }
        let [nginx, hub_nginx] = ["nginx:1", "library/nginx:1"].map(|path| format!("{HUB}/{path}"));
        let hub_notes = format!("{HUB}/team/notes:latest");
        let alias_notes = format!("{HUB_ALIAS}/team/notes");
        let at_digest = format!("r.example/notes@{DIGEST}");
        let with_tag = format!("r.example/notes:1@{DIGEST}");
        for (name, engine_name) in [
            ("r.example/team/notes:1.4", "r.example/team/notes:1.4"),
            ("R.Example:5000/notes", "r.example:5000/notes:latest"),
            ("localhost/a__b/c--d.e:_1", "localhost/a__b/c--d.e:_1"),
            (&nginx, &hub_nginx),
            (&alias_notes, &hub_notes),
            (&at_digest, &at_digest),
            (&with_tag, &at_digest),
        ] {
            let image = RegistryImage::parse(name).unwrap().unwrap();
            assert_eq!(image.to_string(), engine_name);
            assert_eq!(image.has_digest(), name.contains('@'));
        }
    }

    #[test]
    fn a_faulty_name_is_refused_with_the_rule() {
        let long = format!("r.example/{}", "a".repeat(190));
        let tag = format!("r.example/notes:{}", "a".repeat(129));
        for (name, rule) in [
            ("https://r.example/notes:1", "no scheme"),
            ("r_1.example/notes", "the name of a host"),
            ("r.example:99999/notes", "a port from"),
            ("r.example/", "a path of"),
            ("r.example//notes", "a path of"),
            ("r.example/Notes", "a path of"),
            ("r.example/../notes", "a path of"),
            ("r.example/a___b", "a path of"),
            ("r.example/a..b", "a path of"),
            ("r.example/notes?x=1", "a path of"),
            ("r.example/notes:", "a tag of"),
            ("r.example/notes:.1", "a tag of"),
            ("r.example/notes:1/2", "a tag of"),
            (&tag, "a tag of"),
            ("r.example/notes@", "after the @"),
            ("r.example/notes@sha256:12", "after the @"),
            ("r.example/notes@md5:0123", "after the @"),
            (&long, "at most 190"),
        ] {
            let error = RegistryImage::parse(name).unwrap_err().to_string();
            assert!(error.contains(rule), "{name}: {error}");
        }
    }

    #[test]
    fn what_the_engine_lists_is_compared_with_what_was_asked_for() {
        let digest = format!("nginx@{DIGEST}");
        let [nginx, notes] = ["library/nginx", "team/notes"].map(|path| format!("{HUB}/{path}"));
        for (listed, repository) in [
            ("127.0.0.1:5000/team/notes:1", Some("127.0.0.1:5000/team/notes")),
            ("nginx:1", Some(nginx.as_str())),
            (&digest, Some(&nginx)),
            ("team/notes:1", Some(&notes)),
            ("<none>:<none>", None),
        ] {
            let found = Repository::of_listed(listed).map(|found| found.to_string());
            assert_eq!(found.as_deref(), repository, "{listed}");
        }
    }

    #[test]
    fn a_digest_is_never_pulled_twice() {
        let tag = RegistryImage::parse("r.example/notes:1").unwrap().unwrap();
        let digest = RegistryImage::parse(&format!("r.example/notes@{DIGEST}")).unwrap().unwrap();
        let decide = |policy: PullPolicy| {
            [(&tag, true), (&tag, false), (&digest, true), (&digest, false)]
                .map(|(image, has)| policy.wants_pull(image, has))
        };
        assert_eq!(decide(PullPolicy::Always), [true, true, false, true]);
        assert_eq!(decide(PullPolicy::Missing), [false, true, false, true]);
        assert_eq!(decide(PullPolicy::Never), [false; 4]);
    }

    #[test]
    fn no_password_is_printed() {
        let login = RegistryLogin { username: "bob".to_owned(), password: "hunter2".to_owned() };
        assert_eq!(format!("{login:?}"), "RegistryLogin { username: \"bob\", .. }");
    }
}
