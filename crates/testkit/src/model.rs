//! An endpoint of the OpenAI API that plays a script for each request.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::peer::read_request;

/// The next act of the endpoint; after the last step it closes the connection.
#[derive(Clone, Debug)]
pub enum Step {
    Send(Vec<u8>),
    /// Waits until the gate is open.
    Wait(Gate),
    /// Sends nothing until the other side closes the connection.
    Hang,
    /// Sends comments, and nothing else, until the other side closes the connection.
    KeepAlive,
}

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(20);

/// Opens once, for all who wait.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        let (is_open, changed) = &*self.0;
        *is_open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    fn wait(&self) {
        let (is_open, changed) = &*self.0;
        let is_open = is_open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_while(is_open, |is_open| !*is_open));
    }
}

/// The endpoint. Its threads end with the process.
#[derive(Clone, Debug)]
pub struct ModelServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl ModelServer {
    /// Listens on a free port of `address`. `respond` receives the last message of a request, or nothing when there is none.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(
        address: IpAddr,
        respond: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let server = Self { address: listener.local_addr()?, requests: Arc::default() };
        let (requests, respond) = (server.requests.clone(), Arc::new(respond));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (requests, respond) = (requests.clone(), respond.clone());
                std::thread::spawn(move || serve(stream, &requests, &*respond));
            }
        });
        Ok(server)
    }

    /// The base address that an operator sets.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Head and body of each request so far.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.requests).clone()
    }
}

fn lock(requests: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    requests.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(
    mut stream: TcpStream,
    requests: &Mutex<Vec<String>>,
    respond: &dyn Fn(&str) -> Vec<Step>,
) {
    let Ok(request) = read_request(&mut stream) else { return };
    let body = request.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let messages = body["messages"].as_array();
    let last = messages.and_then(|all| all.last()?["content"].as_str()).unwrap_or_default();
    lock(requests).push(request.clone());
    for step in respond(last) {
        let done = match step {
            Step::Send(bytes) => stream.write_all(&bytes),
            Step::Wait(gate) => {
                gate.wait();
                Ok(())
            }
            Step::Hang => stream.read_to_end(&mut Vec::new()).map(drop),
            Step::KeepAlive => loop {
                if let Err(error) = stream.write_all(b": thinking\n\n") {
                    break Err(error);
                }
                std::thread::sleep(KEEP_ALIVE_INTERVAL);
            },
        };
        // A client that left is visible to the test on its own side.
        if done.is_err() {
            return;
        }
    }
}

/// The head of a stream of events, whose end is the end of the connection.
pub fn stream_head() -> Step {
    Step::Send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n".to_vec(),
    )
}

/// An event with this data.
pub fn event(data: &str) -> Step {
    Step::Send(format!("data: {data}\n\n").into_bytes())
}

/// A part of the text of a reply.
pub fn delta(text: &str) -> Step {
    event(&json!({ "choices": [{ "index": 0, "delta": { "content": text } }] }).to_string())
}

/// The end of a reply that used these tokens.
pub fn end(prompt_tokens: u64, completion_tokens: u64) -> Step {
    let stop = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
    let usage = json!({ "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens });
    let usage = json!({ "choices": [], "usage": usage });
    Step::Send(format!("data: {stop}\n\ndata: {usage}\n\ndata: [DONE]\n\n").into_bytes())
}

/// A whole reply of one part.
pub fn reply(text: &str, prompt_tokens: u64, completion_tokens: u64) -> Vec<Step> {
    vec![stream_head(), delta(text), end(prompt_tokens, completion_tokens)]
}

/// A response without a stream. `head`: lines of headers, each with its line break.
pub fn response(status: &str, head: &str, body: &str) -> Vec<Step> {
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\n{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    vec![Step::Send(text.into_bytes())]
}
