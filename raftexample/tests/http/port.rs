//! A client port over real sockets, and clients that see its bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use raftexample::httpapi::{Api, BodyBudget, Crowd, Metrics, Server, ServerLimits};
use raftexample::kvstore;
use raftnode::Config;
use raftnode::membership::{Book, Founder};
use raftnode::testing::FakeNode;
use tokio::sync::{mpsc, watch};

pub(crate) const MAX_VALUE_BYTES: u64 = 100_000;

/// A client port with all that is behind it. Dropping it stops and joins everything.
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    pub(crate) node: FakeNode,
    pub(crate) handle: raftnode::Handle,
    pub(crate) stop: Option<watch::Sender<()>>,
    pub(crate) thread: Option<JoinHandle<()>>,
    calls: mpsc::UnboundedSender<Call>,
}

/// What is to be done on the server's own thread.
type Call = Box<dyn FnOnce() + Send>;

/// What a port may be opened with.
pub(crate) struct Options {
    pub(crate) request_timeout: Duration,
    pub(crate) limits: ServerLimits,
    pub(crate) stuck_after: Duration,
    pub(crate) watch_keep_alive: Duration,
    pub(crate) body_bytes: u32,
    pub(crate) max_pending: u64,
    /// How far the node's log was committed when it started.
    pub(crate) commit_index: u64,
}

impl Default for Options {
    fn default() -> Self {
        let long = Duration::from_secs(60);
        Self {
            request_timeout: Duration::from_secs(10),
            limits: ServerLimits::new(100),
            stuck_after: long,
            watch_keep_alive: long,
            body_bytes: 256 << 20,
            max_pending: 1000,
            commit_index: 1,
        }
    }
}

impl Port {
    pub(crate) fn open() -> Self {
        Self::open_with(Options::default())
    }

    pub(crate) fn open_with(options: Options) -> Self {
        let Options { request_timeout, limits, stuck_after, .. } = options;
        let founder = Founder { id: 1, url: "http://127.0.0.1:9021".into() };
        let mut config = Config::new(1, vec![founder.clone()], "unused".into());
        config.max_entry_bytes = raftnode::MAX_ENTRY_BYTES;
        config.max_pending = options.max_pending;
        let (node, channels) = FakeNode::start_replaying(&config, options.commit_index);
        node.update_status(|status| {
            status.book = Book::founding(&[founder]);
            status.cluster_id = 0xabc;
        });
        let handle = channels.handle.clone();
        let node_handle = handle.clone();
        let (store_handle, store, applier) = kvstore::start(channels).unwrap();
        let api = Arc::new(Api {
            metrics: Metrics::new(handle.metrics()),
            handle: store_handle,
            store,
            request_timeout,
            max_value_bytes: MAX_VALUE_BYTES,
            bodies: BodyBudget::new(options.body_bytes),
            crowd: Crowd::default(),
            stuck_after,
            watch_keep_alive: options.watch_keep_alive,
        });
        let (stop, stopped) = watch::channel(());
        let (address_tx, address_rx) = std::sync::mpsc::channel();
        let (calls, mut called) = mpsc::unbounded_channel::<Call>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
                address_tx.send(server.address()).unwrap();
                let listener = server.listen().unwrap();
                address_tx.send(listener.local_addr().unwrap()).unwrap();
                let logger = slog::Logger::root(slog::Discard, slog::o!());
                tokio::spawn(async move {
                    while let Some(call) = called.recv().await {
                        call();
                    }
                });
                api.run(listener, limits, stopped, logger).await;
            });
            handle.shutdown();
            drop(handle);
            applier.join().unwrap();
        });
        let taken = address_rx.recv().unwrap();
        let address = address_rx.recv().unwrap();
        assert_eq!(taken, address, "the port does not change between bind and listen");
        Self { address, node, handle: node_handle, stop: Some(stop), thread: Some(thread), calls }
    }

    /// Does something while the server does nothing, so that it finds all of it at once.
    pub(crate) fn meanwhile<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (done_tx, done_rx) = std::sync::mpsc::channel();
        self.calls.send(Box::new(move || done_tx.send(call()).unwrap())).ok().unwrap();
        done_rx.recv().unwrap()
    }

    pub(crate) fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        // Long enough for any machine, so that a hang fails instead of hanging.
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self, method: &str, target: &str, body: &[u8]) -> Reply {
        self.connect().ask(method, target, body)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))) || std::thread::panicking(), "the server panicked");
    }
}

pub(crate) struct Client {
    pub(crate) stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    pub(crate) fn ask(&mut self, method: &str, target: &str, body: &[u8]) -> Reply {
        self.ask_with(method, target, &[], body)
    }

    /// With these lines in its head.
    pub(crate) fn ask_with(
        &mut self,
        method: &str,
        target: &str,
        headers: &[&str],
        body: &[u8],
    ) -> Reply {
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n").into_bytes();
        if !body.is_empty() || ["PUT", "POST", "PATCH"].contains(&method) {
            request.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
        }
        for line in headers {
            request.extend(format!("{line}\r\n").bytes());
        }
        request.extend(b"\r\n");
        request.extend(body);
        self.send(&request);
        let reply = self.reply(method != "HEAD");
        crate::openapi::assert_described(method, target, &reply);
        reply
    }

    /// Reads one answer.
    pub(crate) fn reply(&mut self, has_body: bool) -> Reply {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no status in {line:?}"));
        let mut reply =
            Reply { status: status.parse().unwrap(), headers: Vec::new(), body: Vec::new() };
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            reply.headers.push((name.to_owned(), value.to_owned()));
        }
        let length = reply.header("Content-Length").map_or(0, |length| length.parse().unwrap());
        if has_body {
            reply.body = vec![0; length];
            self.stream.read_exact(&mut reply.body).unwrap();
        }
        reply
    }

    pub(crate) fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// By its exact name, as the contract writes it.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.header("Content-Type"), Some("application/json"));
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Where in the log an answer says that it comes from; the term goes with it.
    pub(crate) fn index(&self) -> Option<u64> {
        let index = self.header("X-Raft-Index").map(|index| index.parse().unwrap());
        assert!(index.is_none() || self.header("X-Raft-Term") == Some("1"));
        index
    }

    pub(crate) fn mod_index(&self) -> Option<u64> {
        self.header("X-Raft-Mod-Index").map(|index| index.parse().unwrap())
    }

    pub(crate) fn kind(&self) -> (u16, String) {
        let body = self.json();
        assert!(body["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
        assert_eq!(body.as_object().unwrap().len(), 2, "{body}");
        (self.status, body["error"].as_str().unwrap().to_owned())
    }
}

pub(crate) fn kind(status: u16, kind: &str) -> (u16, String) {
    (status, kind.to_owned())
}
