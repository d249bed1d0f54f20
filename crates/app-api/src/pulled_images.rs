//! Garbage collection of pulled images: an image leaves the engine once no release needs it.
//!
//! The orchestrator lists the pulled images, and the database the needed ones. An image that is being prepared stays.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::app::App;
use crate::db::app;

/// Also finds what a process that died left.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// The most sweeps that leave out an image that stayed again and again.
const MAX_PAUSE: u32 = 59;

/// Removes what no release needs, at once after releases were deleted, and again and again. Never ends.
pub async fn run(app: &App) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut attempts = Attempts::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = app.releases_deleted.notified() => {}
        }
        if let Err(error) = sweep(app, &mut attempts).await {
            tracing::debug!(error = format!("{error:#}"), "sweep of pulled images failed");
        }
    }
}

/// The list comes first: what is prepared afterwards is not in it, or is refused to be removed. An image that stays is in nobody's way.
async fn sweep(app: &App, attempts: &mut Attempts) -> anyhow::Result<()> {
    let pulled = app.orchestrator.pulled_images().await?.images;
    if pulled.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = pulled.iter().map(|image| image.image_id.clone()).collect();
    let needed = app::images_of_releases(&mut *app.database.conn().await?, &ids).await?;
    let needed: HashSet<_> = needed.into_iter().collect();
    let unneeded = pulled.iter().filter(|image| !needed.contains(&image.image_id));
    let unneeded: Vec<_> = unneeded.collect();
    let due = attempts.begin_sweep(unneeded.iter().map(|image| image.image_id.as_str()));
    for image in unneeded.into_iter().filter(|image| due.contains(&image.image_id)) {
        let id = &image.image_id;
        match app.orchestrator.remove_image(image).await {
            Ok(true) => {
                attempts.forget(id);
                tracing::info!(image = %id, "pulled image removed that no release has");
            }
            Ok(false) => {
                let pause = attempts.note_stay(id);
                tracing::info!(image = %id, pause, "pulled image stays, something needs it");
            }
            Err(error) => {
                let pause = attempts.note_stay(id);
                tracing::warn!(image = %id, pause, %error, "pulled image not removed");
            }
        }
    }
    Ok(())
}

/// The images that stayed, and when each is tried again. Pure.
#[derive(Debug, Default)]
struct Attempts(HashMap<String, Attempt>);

#[derive(Debug, Default)]
struct Attempt {
    pause: u32,
    /// The sweeps that leave the image out from now on.
    rest: u32,
}

impl Attempts {
    /// Those of the images that are tried in this sweep. What is not among them is forgotten.
    fn begin_sweep<'a>(&mut self, unneeded: impl Iterator<Item = &'a str>) -> HashSet<String> {
        let mut kept = HashMap::new();
        let mut due = HashSet::new();
        for id in unneeded {
            let Some(mut attempt) = self.0.remove(id) else {
                due.insert(id.to_owned());
                continue;
            };
            if attempt.rest == 0 {
                due.insert(id.to_owned());
            }
            attempt.rest = attempt.rest.saturating_sub(1);
            kept.insert(id.to_owned(), attempt);
        }
        self.0 = kept;
        due
    }

    /// Returns the number of sweeps that leave the image out.
    fn note_stay(&mut self, id: &str) -> u32 {
        let attempt = self.0.entry(id.to_owned()).or_default();
        attempt.rest = attempt.pause;
        attempt.pause = (2 * attempt.pause + 1).min(MAX_PAUSE);
        attempt.rest
    }

    fn forget(&mut self, id: &str) {
        self.0.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_stays_is_tried_more_and_more_seldom() {
        let mut attempts = Attempts::default();
        let mut tried = Vec::new();
        for sweep in 0..200 {
            if attempts.begin_sweep(["a"].into_iter()).contains("a") {
                tried.push(sweep);
                attempts.note_stay("a");
            }
        }
        assert_eq!(tried, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
        let due = attempts.begin_sweep(["a", "b"].into_iter());
        assert_eq!(due, HashSet::from(["b".to_owned()]));
        attempts.begin_sweep(["b"].into_iter());
        assert_eq!(attempts.begin_sweep(["a"].into_iter()).len(), 1, "a release had it meanwhile");
    }
}
