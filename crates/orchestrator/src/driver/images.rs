//! Images of apps in registries.

use protocol::images::{PullPolicy, RegistryImage, SealedLogin};

/// An image that an app's release names.
#[derive(Clone, Debug)]
pub struct ImagePull {
    pub image: RegistryImage,
    pub policy: PullPolicy,
    /// The credentials for the image's registry.
    pub login: Option<SealedLogin>,
}

/// An image after its pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullOutcome {
    /// `None`: the engine lacks the image, and the policy wants no pull.
    pub image_id: Option<String>,
    /// The engine had no such image before.
    pub is_new: bool,
}
