//! The closed loop of puts over gRPC, one client and one channel a connection.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, Error, StatusResponse};
use tokio::task::JoinSet;

use crate::round::{Failure, Keys, Recorder, Round, Window};

/// For a question that a healthy member answers at once.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);
const LEADER_TIMEOUT: Duration = Duration::from_secs(10);
const LEADER_POLL: Duration = Duration::from_millis(50);
/// etcd gives up on a write after 7 s by default: one unanswered this long is lost.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// One level's load.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) connections: u16,
    pub(crate) window: Window,
    pub(crate) n_keys: u64,
    pub(crate) value: Vec<u8>,
}

/// Whether every endpoint answers and follows a leader.
pub(crate) async fn all_follow_a_leader(endpoints: &[String]) -> bool {
    for endpoint in endpoints {
        match status(endpoint).await {
            Ok(status) if status.leader() != 0 => {}
            _ => return false,
        }
    }
    true
}

/// The endpoint of the member that leads.
pub(crate) async fn find_leader(endpoints: &[String]) -> Result<String, Failure> {
    let deadline = Instant::now() + LEADER_TIMEOUT;
    loop {
        let mut problem = String::from("nobody leads");
        for endpoint in endpoints {
            match status(endpoint).await {
                Ok(status) => {
                    let id = status.header().map(|header| header.member_id());
                    if id == Some(status.leader()) {
                        return Ok(endpoint.clone());
                    }
                }
                Err(error) => problem = format!("{endpoint}: {error}"),
            }
        }
        if Instant::now() > deadline {
            return Err(Failure::new(format!("no leader after {LEADER_TIMEOUT:?}: {problem}")));
        }
        tokio::time::sleep(LEADER_POLL).await;
    }
}

async fn status(endpoint: &str) -> Result<StatusResponse, Error> {
    let options =
        ConnectOptions::new().with_connect_timeout(QUESTION_TIMEOUT).with_timeout(QUESTION_TIMEOUT);
    Client::connect([endpoint], Some(options)).await?.status().await
}

impl Load {
    /// One round: connects, loads for the window, waits for the last answers.
    pub(crate) async fn run(&self, leader: &str) -> Result<Round, Failure> {
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            let client = Client::connect([leader], None).await;
            clients.push(
                client.map_err(|error| {
                    Failure::new(format!("cannot connect to {leader}: {error}"))
                })?,
            );
        }
        let recorder = Rc::new(RefCell::new(Recorder::start(self.window)));
        let mut tasks = JoinSet::new();
        for (number, client) in (0..self.connections).zip(clients) {
            let keys = Keys::of_connection(number, self.n_keys);
            let (value, recorder) = (self.value.clone(), recorder.clone());
            tasks.spawn_local(async move { drive(client, value, keys, &recorder).await });
        }
        let all = async { while tasks.join_next().await.is_some() {} };
        let timeout = self.window.warm_up + self.window.length + STALL_TIMEOUT;
        if tokio::time::timeout(timeout, all).await.is_err() {
            return Err(Failure::new(format!(
                "{} of {} connections got no answer for {STALL_TIMEOUT:?}",
                tasks.len(),
                self.connections,
            )));
        }
        let recorder = Rc::into_inner(recorder).expect("every task that shared it has ended");
        recorder.into_inner().finish()
    }
}

/// Writes on one connection until the round is over.
async fn drive(client: Client, value: Vec<u8>, mut keys: Keys, recorder: &RefCell<Recorder>) {
    let mut client = client.kv_client();
    let mut sent = Instant::now();
    loop {
        let key = format!("k{:08}", keys.pick());
        let answer = client.put(key, value.clone(), None).await;
        let now = Instant::now();
        let goes_on = match answer {
            Ok(_) => recorder.borrow_mut().succeeded(sent, now),
            Err(error) => recorder.borrow_mut().failed(now, || format!("put: {error}")),
        };
        if !goes_on {
            return;
        }
        sent = now;
    }
}
