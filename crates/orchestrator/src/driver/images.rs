//! Images of apps in registries.

use std::sync::{Arc, Mutex, PoisonError};

use protocol::images::{PullPolicy, PullProgress, RegistryImage, SealedLogin};

/// An image that an app's release names.
#[derive(Clone, Debug)]
pub struct ImagePull {
    pub image: RegistryImage,
    pub policy: PullPolicy,
    /// The credentials for the image's registry.
    pub login: Option<SealedLogin>,
    /// Shows what the pull does.
    pub meter: PullMeter,
}

/// The progress of a pull: the driver writes, others read.
#[derive(Clone, Debug, Default)]
pub struct PullMeter(Arc<Mutex<PullProgress>>);

impl PullMeter {
    pub fn set(&self, progress: PullProgress) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    pub fn get(&self) -> PullProgress {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// An image after its pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullOutcome {
    /// `None`: the engine lacks the image, and the policy wants no pull.
    pub image_id: Option<String>,
    /// The engine had no such image before.
    pub is_new: bool,
}
