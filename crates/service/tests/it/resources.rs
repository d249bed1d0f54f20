//! A process that is out of descriptors knows that the failure is its own.

use std::time::Duration;

use axum::http::Method;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use service::Secret;
use service::client::{CallError, Client};
use tokio::net::TcpListener;

#[tokio::test]
async fn a_call_without_a_free_descriptor_does_not_read_as_an_unreachable_service() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = Client::new(format!("http://{address}"), Secret::new("t"));
    let maximum = getrlimit(Resource::Nofile).maximum;
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum }).unwrap();
    let files: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    let called = client.call::<()>(Method::GET, "/", None::<&()>, Duration::from_secs(5)).await;
    drop(files);
    setrlimit(Resource::Nofile, before).unwrap();
    let error = called.unwrap_err();
    assert!(matches!(error, CallError::OutOfResources(_)), "{error:?}");
}
