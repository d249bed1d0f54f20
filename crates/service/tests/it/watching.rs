//! A watcher receives a snapshot, then every change, and learns when it must list again.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::get;
use futures_util::StreamExt as _;
use protocol::watch::{Keyed, Message};
use serde::{Deserialize, Serialize};
use service::Secret;
use service::client::{CallError, Client};
use service::watch::{Feed, WatchEnded, follow};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Item {
    name: String,
    value: u32,
}

impl Keyed for Item {
    type Key = String;

    fn key(&self) -> String {
        self.name.clone()
    }
}

fn item(name: &str, value: u32) -> Item {
    Item { name: name.into(), value }
}

async fn serve_feed(feed: Feed<Item>) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().route("/watch", get(move || async move { feed.watch_response() }));
    (address, tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }))
}

#[tokio::test]
async fn changes_arrive_in_order_and_the_replica_is_the_set() {
    let feed = Feed::new(100);
    feed.put(item("a", 1));
    let (address, _server) = serve_feed(feed.clone()).await;
    let client = Client::new(format!("http://{address}"), Secret::new("t"));
    let held = Arc::new(Mutex::new(Vec::new()));
    let (sender, mut received) = mpsc::unbounded_channel();
    let watcher = tokio::spawn({
        let held = held.clone();
        async move {
            follow::<Item>(&client, "/watch", |replica, message| {
                let mut items: Vec<_> = replica.items().values().cloned().collect();
                items.sort_by(|x, y| x.name.cmp(&y.name));
                *held.lock().unwrap() = items;
                sender.send(matches!(message, Message::Snapshot { .. })).unwrap();
            })
            .await
        }
    });
    assert_eq!(received.recv().await, Some(true));
    assert!(!feed.put(item("a", 1)), "an equal item is not a change");
    feed.put(item("a", 2));
    feed.put(item("b", 1));
    feed.remove(&"a".to_owned());
    for _ in 0..3 {
        assert_eq!(received.recv().await, Some(false));
    }
    assert_eq!(*held.lock().unwrap(), [item("b", 1)]);
    feed.replace(vec![item("c", 1)]);
    for _ in 0..2 {
        received.recv().await;
    }
    assert_eq!(*held.lock().unwrap(), [item("c", 1)]);
    watcher.abort();
}

#[tokio::test]
async fn a_watch_reports_why_it_ended() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = Client::new(format!("http://{gone}"), Secret::new("t"));
    let ended = follow::<Item>(&client, "/watch", |_, _| {}).await;
    assert!(matches!(ended, WatchEnded::Call(CallError::Unreachable(_))), "{ended}");

    let (address, server) = serve_feed(Feed::new(1)).await;
    let client = Client::new(format!("http://{address}"), Secret::new("t"));
    let refused = follow::<Item>(&client, "/elsewhere", |_, _| {}).await;
    assert!(matches!(refused, WatchEnded::Call(CallError::Refused(_))), "{refused}");
    server.abort();
}

/// The clock stops with the first message, so the silence of three heartbeats passes at once.
#[tokio::test]
async fn a_stream_without_heartbeats_ends() {
    let snapshot = Message::<Item>::Snapshot { revision: 1, items: Vec::new() };
    let line = serde_json::to_string(&snapshot).unwrap() + "\n";
    let stream = move || {
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>(line.clone())]);
        axum::body::Body::from_stream(first.chain(futures_util::stream::pending()))
    };
    let app = Router::new().route("/watch", get(async move || stream()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = Client::new(format!("http://{address}"), Secret::new("t"));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let ended = follow::<Item>(&client, "/watch", |_, _| tokio::time::pause()).await;
    assert!(matches!(ended, WatchEnded::Silent), "{ended}");
}
