//! The pulled images whose removal is under way: nobody wraps them. Pure.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::driver::{DriverError, DriverErrorCode};

#[derive(Debug, Default)]
pub(in crate::driver::docker) struct Removals(Mutex<HashSet<String>>);

/// Until this is dropped, the removal is under way.
#[derive(Debug)]
pub(super) struct Removal<'a> {
    removals: &'a Removals,
    image_id: String,
}

impl Removals {
    /// Returns nothing if a removal of the image is under way.
    pub(super) fn begin(&self, image_id: &str) -> Option<Removal<'_>> {
        let is_first = self.ids().insert(image_id.to_owned());
        is_first.then(|| Removal { removals: self, image_id: image_id.to_owned() })
    }

    /// # Errors
    /// The image is being removed.
    pub(in crate::driver::docker) fn check(&self, image_id: &str) -> Result<(), DriverError> {
        if !self.ids().contains(image_id) {
            return Ok(());
        }
        let detail = format!(
            "The image {image_id} is being removed, because no release has it. Try again in a minute: it is pulled anew."
        );
        Err(DriverError::new(DriverErrorCode::ImageMissing, detail))
    }

    fn ids(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        self.removals.ids().remove(&self.image_id);
    }
}
