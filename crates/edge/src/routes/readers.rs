//! Other readers of a path, for the tests and the fuzz target of [`classify`](super::classify).

use percent_encoding::percent_decode_str;

/// A transformation of a path that some server, framework or cache is known to apply. Independent
/// of the code under test.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reader {
    Decode,
    Backslash,
    Merge,
    Dots,
    Parameters,
    Cut,
    Browser,
}

impl Reader {
    pub(crate) const ALL: [Self; 7] = [
        Self::Decode,
        Self::Backslash,
        Self::Merge,
        Self::Dots,
        Self::Parameters,
        Self::Cut,
        Self::Browser,
    ];

    pub(crate) fn read(self, path: &str) -> String {
        match self {
            Self::Decode => percent_decode_str(path).decode_utf8_lossy().into_owned(),
            Self::Backslash => path.replace('\\', "/"),
            Self::Merge => {
                let mut path = path.to_owned();
                while path.contains("//") {
                    path = path.replace("//", "/");
                }
                path
            }
            Self::Dots => {
                let mut kept: Vec<&str> = Vec::new();
                for part in path.split('/').skip(1) {
                    match part {
                        "." => {}
                        ".." => drop(kept.pop()),
                        part => kept.push(part),
                    }
                }
                format!("/{}", kept.join("/"))
            }
            Self::Parameters => {
                let bare = |part: &str| part.split(';').next().unwrap_or_default().to_owned();
                path.split('/').map(bare).collect::<Vec<_>>().join("/")
            }
            Self::Cut => path.split(['?', '#']).next().unwrap_or_default().to_owned(),
            Self::Browser => {
                let mut url = url::Url::parse("http://tenant.localhost/").expect("a URL");
                url.set_path(path);
                url.path().to_owned()
            }
        }
    }
}

pub(crate) fn is_core(path: &str) -> bool {
    path == "/.cial" || path.starts_with("/.cial/")
}

pub(crate) fn is_api(path: &str) -> bool {
    path == "/.cial/api" || path.starts_with("/.cial/api/")
}
