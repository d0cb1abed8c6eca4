//! One connection's requests, each with a check that its answer is what it must be (B1).

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{HeaderMap, HeaderName};
use hyper::{Method, Response, StatusCode};

use super::keys::{KeySpace, Values};
use super::target::{MAX_ANSWER_BYTES, Target};

/// Of a write: where the log has it, which is where its key was last changed.
const INDEX: HeaderName = HeaderName::from_static("x-raft-index");
/// Of a read: where the key was last changed.
const MOD_INDEX: HeaderName = HeaderName::from_static("x-raft-mod-index");

/// A connection to a server, and what it holds or is to hold.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) target: Target,
    pub(crate) sender: SendRequest<Full<Bytes>>,
    pub(crate) keys: KeySpace,
    pub(crate) values: Values,
}

/// What was wrong with an answer, and whether there was one at all: after one the connection can be
/// asked again.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) is_answer: bool,
    pub(crate) reason: String,
}

impl Client {
    /// Writes a key.
    pub(crate) async fn put(&mut self, key: u64) -> Result<(), Fault> {
        let path = self.keys.path(key);
        let value = self.values.of(&path[1..]);
        self.write(path, value).await?;
        Ok(())
    }

    /// Reads a key that is there; `query` says how.
    pub(crate) async fn get(&mut self, key: u64, query: &str) -> Result<(), Fault> {
        let name = self.keys.name(key);
        let response = self.send(Method::GET, format!("/{name}{query}"), Bytes::new()).await?;
        if response.status() != StatusCode::OK {
            return Err(unexpected(&Method::GET, response).await);
        }
        self.compare(&name, response.into_body()).await
    }

    /// Writes a key if this index was the last that changed it; the one that does now.
    pub(crate) async fn cas(&mut self, name: &str, mod_index: u64) -> Result<u64, Fault> {
        let value = self.values.of(name);
        let response = self.write(format!("/_kv/{name}?cas={mod_index}"), value).await?;
        let index = index(response.headers(), &INDEX)?;
        if index <= mod_index {
            return Err(wrong(format!("PUT was given index {index} after {mod_index}")));
        }
        Ok(index)
    }

    /// The index that last changed a key; 0 when there is none.
    pub(crate) async fn mod_index(&mut self, name: &str) -> Result<u64, Fault> {
        let response = self.send(Method::GET, format!("/_kv/{name}"), Bytes::new()).await?;
        let mod_index = match response.status() {
            StatusCode::OK => index(response.headers(), &MOD_INDEX)?,
            StatusCode::NOT_FOUND => 0,
            _ => return Err(unexpected(&Method::GET, response).await),
        };
        // What an earlier run wrote there may have any length.
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame.map_err(|error| cut(&Method::GET, &error))?;
        }
        Ok(mod_index)
    }

    async fn write(&mut self, path: String, value: Bytes) -> Result<Response<Incoming>, Fault> {
        let response = self.send(Method::PUT, path, value).await?;
        if response.status() != StatusCode::NO_CONTENT {
            return Err(unexpected(&Method::PUT, response).await);
        }
        Ok(response)
    }

    async fn send(
        &mut self,
        method: Method,
        path: String,
        body: Bytes,
    ) -> Result<Response<Incoming>, Fault> {
        let request = self.target.request(method.clone(), path, body);
        self.sender.send_request(request).await.map_err(|error| cut(&method, &error))
    }

    /// Holds a body against what must be in it. The next request waits until it is read, so it is,
    /// and costs no allocation.
    async fn compare(&self, name: &str, mut body: Incoming) -> Result<(), Fault> {
        let mut n_bytes = 0;
        let mut is_right = true;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| cut(&Method::GET, &error))?;
            if let Some(part) = frame.data_ref() {
                is_right &= self.values.holds(name, n_bytes, part);
                n_bytes += part.len();
            }
        }
        let wanted = self.values.n_bytes();
        if n_bytes != wanted {
            return Err(wrong(format!("GET gave {n_bytes} bytes, not {wanted}")));
        }
        if !is_right {
            return Err(wrong(format!("GET {name} gave another value than was written there")));
        }
        Ok(())
    }
}

fn index(headers: &HeaderMap, name: &HeaderName) -> Result<u64, Fault> {
    let text = headers.get(name).and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| wrong(format!("the answer has no index in {name}: {text:?}")))
}

fn wrong(reason: String) -> Fault {
    Fault { is_answer: true, reason }
}

fn cut(method: &Method, error: &hyper::Error) -> Fault {
    Fault { is_answer: false, reason: format!("{method}: {error}") }
}

async fn unexpected(method: &Method, response: Response<Incoming>) -> Fault {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    // The status says enough when the body cannot be had.
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    wrong(format!("{method} answered {status} {}", String::from_utf8_lossy(&body)))
}
