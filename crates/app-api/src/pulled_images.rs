//! Images that were pulled for releases leave the engine once no release has them.
//!
//! The orchestrator knows what it pulled, and the database what is needed. An image that is prepared meanwhile stays.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::app::App;
use crate::db::app;

/// Also finds what a process that died left.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Removes what no release needs, at once after releases were deleted, and again and again. Never ends.
pub async fn run(app: &App) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = app.releases_deleted.notified() => {}
        }
        if let Err(error) = sweep(app).await {
            tracing::debug!(error = format!("{error:#}"), "sweep of pulled images failed");
        }
    }
}

/// The list comes first: what is prepared afterwards is not in it, or is refused to be removed.
async fn sweep(app: &App) -> anyhow::Result<()> {
    let pulled = app.orchestrator.pulled_images().await?.images;
    if pulled.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = pulled.iter().map(|image| image.image_id.clone()).collect();
    let needed = app::images_of_releases(&mut *app.database.conn().await?, &ids).await?;
    let needed: HashSet<_> = needed.into_iter().collect();
    for image in pulled.iter().filter(|image| !needed.contains(&image.image_id)) {
        let removed = app.orchestrator.remove_image(image).await?;
        tracing::info!(image = %image.image_id, removed, "pulled image that no release has");
    }
    Ok(())
}
