//! Images from tarballs of `docker save`, on the real engine: loaded under a name of ours alone, refused when cut, and removed again.

use bollard::query_parameters::TagImageOptionsBuilder;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use orchestrator::driver::{Driver as _, DriverErrorCode, VolumeStream};
use protocol::images::{RegistryImage, uploaded_image};
use protocol::process::AppSpec;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::support::registry::{names_of, remove_name};
use crate::support::{Install, image};
use crate::wrapping::{BARE, with_overlay};

/// The tarball of an image that the engine no longer has, and the name by which it is loaded.
async fn saved(install: &Install, tag: &str, victim: &str) -> (Vec<u8>, RegistryImage) {
    let source = image::app(&install.client, tag, BARE).await;
    name_as(install, &source, victim).await;
    let pieces: Vec<_> = install.client.export_image(victim).try_collect().await.unwrap();
    let tarball = pieces.concat();
    remove_name(&install.client, victim).await.unwrap();
    image::remove(&install.client, &source).await;
    let digest: String =
        Sha256::digest(&tarball).iter().map(|byte| format!("{byte:02x}")).collect();
    (tarball, uploaded_image(&digest).unwrap())
}

async fn name_as(install: &Install, image: &str, name: &str) {
    let (repo, tag) = name.split_once(':').unwrap();
    let options = TagImageOptionsBuilder::default().repo(repo).tag(tag).build();
    install.client.tag_image(image, Some(options)).await.unwrap();
}

async fn id_of(install: &Install, name: &str) -> Option<String> {
    install.client.inspect_image(name).await.ok().and_then(|image| image.id)
}

fn pieces(tarball: &[u8]) -> VolumeStream {
    let pieces: Vec<_> = tarball.chunks(4_000).map(Bytes::copy_from_slice).map(Ok).collect();
    stream::iter(pieces).boxed()
}

#[tokio::test]
async fn a_tarball_takes_no_name_from_another_image() {
    with_overlay(async |install| {
        let victim = "cial-test-orchestrator-victim:1";
        let (tarball, name) = saved(install, "load-whole", victim).await;
        let other = image::app(&install.client, "load-other", BARE).await;
        name_as(install, &other, victim).await;
        let before = id_of(install, victim).await;
        let driver = install.driver();
        let whole = CancellationToken::new();
        let loaded = driver.load_image(&name, pieces(&tarball), &whole).await.unwrap();
        assert_eq!(id_of(install, victim).await, before, "the name stays with its image");
        let id = loaded.image_id.clone().unwrap();
        assert!(loaded.is_new && Some(&id) != before.as_ref());
        assert_eq!(driver.list_pulled().await.unwrap(), [id.as_str()]);
        let prepared = driver.prepare_image(&name.to_string(), &AppSpec::default()).await.unwrap();
        assert_eq!((prepared.image_id.as_str(), prepared.port), (id.as_str(), 3000));
        let again = driver.load_image(&name, pieces(&tarball), &whole).await.unwrap();
        assert_eq!((again.image_id, again.is_new), (Some(id.clone()), false));
        assert_eq!(driver.remove_pulled(&id).await, Ok(true));
        assert_eq!(id_of(install, &id).await, None, "the image is gone");
        assert_eq!(driver.list_pulled().await.unwrap(), [""; 0]);
        remove_name(&install.client, victim).await.unwrap();
        image::remove(&install.client, &other).await;
    })
    .await;
}

#[tokio::test]
async fn a_tarball_that_is_cut_or_none_leaves_nothing() {
    with_overlay(async |install| {
        let (tarball, name) = saved(install, "load-cut", "cial-test-orchestrator-cut:1").await;
        let driver = install.driver();
        for (part, reason) in [
            (&tarball[..tarball.len() / 2], "ends before its end"),
            (&tarball[..1_024], "ends before its end"),
            (&[0x1f_u8, 0x8b].repeat(1_024)[..], "is compressed or no tar"),
            (&[0; 1_024][..], "has no manifest.json"),
        ] {
            let whole = CancellationToken::new();
            let refused = driver.load_image(&name, pieces(part), &whole).await.unwrap_err();
            assert_eq!(refused.code, DriverErrorCode::ImageInvalid, "{refused}");
            assert!(refused.detail.contains(reason), "{refused}");
        }
        let whole = CancellationToken::new();
        whole.cancel();
        driver.load_image(&name, stream::pending().boxed(), &whole).await.unwrap_err();
        assert!(names_of(&install.client, name.host().as_str()).await.is_empty());
        assert_eq!(driver.list_pulled().await.unwrap(), [""; 0]);
    })
    .await;
}
