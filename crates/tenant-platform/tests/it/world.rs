//! Both services of the platform on free ports, and a client for them.

use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tenant_platform::{back, front};
use tenant_service::{BoundedListener, Drain};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct Platform {
    pub(crate) front: SocketAddr,
    pub(crate) back: SocketAddr,
    pub(crate) stop: CancellationToken,
    running: [JoinHandle<()>; 2],
}

impl Platform {
    pub(crate) async fn start(tenant: &str) -> Self {
        let (front_door, back_door) = (listen().await, listen().await);
        let (front, back) = (front_door.local_addr().unwrap(), back_door.local_addr().unwrap());
        let stop = CancellationToken::new();
        let drain = || Drain::new(stop.clone());
        let home = front::Front::new(tenant.to_owned(), back, drain());
        let running = [
            tokio::spawn(front::run(BoundedListener::new(front_door, 64), home)),
            tokio::spawn(back::run(
                BoundedListener::new(back_door, 64),
                tenant.to_owned(),
                drain(),
            )),
        ];
        Self { front, back, stop, running }
    }

    pub(crate) async fn stopped(self) {
        self.stop.cancel();
        for service in self.running {
            service.await.unwrap();
        }
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

pub(crate) async fn ask(
    address: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Response<String> {
    ask_with_body(address, method, path, headers, "").await
}

pub(crate) async fn ask_with(
    address: SocketAddr,
    method: Method,
    path: &str,
    body: &'static str,
) -> Response<String> {
    ask_with_body(address, method, path, &[], body).await
}

async fn ask_with_body(
    address: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &'static str,
) -> Response<String> {
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = request.body(Full::<Bytes>::from(body)).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Response::from_parts(head, String::from_utf8(body.to_vec()).unwrap())
}
