//! The images that tenants may be made from: the installation's own and those that its operator
//! lists.

use std::fmt;
use std::str::FromStr;

#[derive(Clone, Debug)]
pub struct AllowedImages {
    /// The image for specs without an image.
    default_tag: String,
    extra_tags: ImageTags,
}

impl AllowedImages {
    pub fn new(default_tag: impl Into<String>, extra_tags: ImageTags) -> Self {
        Self { default_tag: default_tag.into(), extra_tags }
    }

    pub fn default_tag(&self) -> &str {
        &self.default_tag
    }

    /// Allows an exact tag only: other images on the engine were not built to be tenants.
    pub fn allow(&self, tag: &str) -> bool {
        tag == self.default_tag || self.extra_tags.0.iter().any(|listed| listed == tag)
    }
}

/// Image tags separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageTags(Vec<String>);

impl FromStr for ImageTags {
    type Err = InvalidImageTags;

    fn from_str(text: &str) -> Result<Self, InvalidImageTags> {
        let tags = text.split(',').map(str::trim).map(|tag| is_tag(tag).then(|| tag.to_owned()));
        tags.collect::<Option<_>>().map(Self).ok_or(InvalidImageTags)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct InvalidImageTags;

impl fmt::Display for InvalidImageTags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be names of images with their tags, separated by commas")
    }
}

/// Whether the text can name an image of the engine.
pub fn is_tag(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    !name.is_empty() && name.len() <= 255 && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_image_and_listed_ones_are_allowed() {
        let none = AllowedImages::new("cial-tenant:dev", ImageTags::default());
        let two = AllowedImages::new("cial-tenant:dev", "a/b:1, c:2".parse().unwrap());
        for (tag, by_none, by_two) in [
            ("cial-tenant:dev", true, true),
            ("a/b:1", false, true),
            ("c:2", false, true),
            ("cial-tenant:other", false, false),
            ("a/b", false, false),
            ("postgres:16", false, false),
            ("", false, false),
        ] {
            assert_eq!((none.allow(tag), two.allow(tag)), (by_none, by_two), "{tag}");
        }
    }

    #[test]
    fn a_list_with_anything_but_tags_is_refused() {
        for text in ["", "a,", "a b", "a;b", &"x".repeat(256)] {
            assert_eq!(text.parse::<ImageTags>(), Err(InvalidImageTags), "{text}");
        }
    }
}
