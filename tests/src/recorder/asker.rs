//! One client: what it chooses, how it asks, and what it may conclude.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{CLIENT_TIMEOUT, N_KEYS, OPS_PER_TURN, Recorded, Shared};
use crate::history::{Action, Answer, End, Op};
use crate::http::{Client, Failure, Response};
use crate::rng::Rng;

/// How many operations a client does at one member before it moves.
const OPS_PER_STAY: u64 = 20;
/// How often an operation that has a name of its own is sent at most, to whomever.
const MAX_SENT: usize = 3;
/// Who could not even connect asks the next time after this.
const AFTER_REFUSAL: Duration = Duration::from_millis(20);

pub(super) struct Asker {
    number: usize,
    /// It goes from member to member.
    moves: bool,
    every: Duration,
    shared: Arc<Shared>,
    rng: Rng,
    place: usize,
    member: usize,
    address: SocketAddr,
    http: Client,
    /// Where each key was written when it was last seen; 0 when it was not there.
    indexes: HashMap<String, u64>,
    n_numbers: u64,
}

/// How an operation is put.
#[derive(Debug, Clone, Copy)]
struct Manner {
    /// As a transaction: through the log, reads as well.
    is_txn: bool,
    /// With a name of its own, so that it can be sent again.
    is_named: bool,
}

impl Asker {
    pub(super) fn new(
        number: usize,
        moves: bool,
        every: Duration,
        shared: Arc<Shared>,
        rng: Rng,
    ) -> Asker {
        let (member, address) = shared.target(number);
        let http = Client::new(address).with_timeout(CLIENT_TIMEOUT);
        let (indexes, n_numbers) = (HashMap::new(), 0);
        let place = number;
        Asker {
            number,
            moves,
            every,
            shared,
            rng,
            place,
            member,
            address,
            http,
            indexes,
            n_numbers,
        }
    }

    pub(super) fn run(&mut self, stop: &Receiver<()>) -> Vec<Recorded> {
        let mut recorded = Vec::new();
        let mut next = Instant::now();
        let mut turn = 0;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            if stop.recv_timeout(left) != Err(RecvTimeoutError::Timeout) {
                return recorded;
            }
            // What an outage delayed is not made up for.
            next = (next + self.every).max(Instant::now());
            let n = self.shared.n_ops.fetch_add(1, Ordering::Relaxed);
            if n / OPS_PER_TURN != turn {
                turn = n / OPS_PER_TURN;
                self.indexes.clear();
            }
            self.settle(n);
            let key = format!("{turn}-{}", self.rng.below(N_KEYS));
            let op = self.ask(key);
            if op.op.end == End::Refused {
                next += AFTER_REFUSAL;
            }
            recorded.push(op);
        }
    }

    /// Goes where the next operation is asked.
    fn settle(&mut self, n: u64) {
        if self.moves && n.is_multiple_of(OPS_PER_STAY) {
            self.place = self.rng.below(1 << 16) as usize;
        }
        self.go_to(self.place);
    }

    fn go_to(&mut self, place: usize) {
        let (member, address) = self.shared.target(place);
        if address != self.address {
            self.http = Client::new(address).with_timeout(CLIENT_TIMEOUT);
            (self.member, self.address) = (member, address);
        }
    }

    fn ask(&mut self, key: String) -> Recorded {
        let (action, manner) = self.choose(&key);
        let number = match action {
            Action::Get => None,
            Action::Put { value } | Action::Cas { value, .. } => Some(value),
            Action::Delete => Some(self.number()),
        };
        let (member, call) = (self.member, self.shared.now());
        let mut is_unknown = false;
        let mut end = End::Unknown;
        for n_sent in 0..MAX_SENT {
            if n_sent > 0 {
                self.go_to(self.place + n_sent);
            }
            end = self.send(&key, action, manner, number);
            is_unknown |= end == End::Unknown;
            // One that was sent may still arrive, whatever becomes of its repetition.
            if is_unknown && end == End::Refused {
                end = End::Unknown;
            }
            if end != End::Unknown || !manner.is_named {
                break;
            }
        }
        self.learn(&key, end);
        Recorded { op: Op { client: self.number, member, key, action, call, end }, number }
    }

    fn send(&mut self, key: &str, action: Action, manner: Manner, number: Option<u64>) -> End {
        let name = number.map_or_else(String::new, |number| format!("op-{number}"));
        let named = [("Idempotency-Key", &*name)];
        let headers = if manner.is_named { &named[..] } else { &[] };
        let path = path(key);
        let http = &mut self.http;
        let answer = if manner.is_txn {
            http.request("POST", "/_txn", headers, txn(key, action).as_bytes())
        } else {
            match action {
                Action::Get => http.request("GET", &path, headers, b""),
                Action::Delete => http.request("DELETE", &path, headers, b""),
                Action::Put { value } => {
                    http.request("PUT", &path, headers, value.to_string().as_bytes())
                }
                Action::Cas { value, expected } => {
                    let path = format!("{path}?cas={expected}");
                    http.request("PUT", &path, headers, value.to_string().as_bytes())
                }
            }
        };
        end(action, manner.is_txn, &answer, &self.shared)
    }

    fn choose(&mut self, key: &str) -> (Action, Manner) {
        let action = match self.rng.below(20) {
            0..9 => Action::Get,
            9..13 => Action::Put { value: self.number() },
            13..18 => {
                let expected = self.indexes.get(key).copied().unwrap_or(0);
                Action::Cas { value: self.number(), expected }
            }
            _ => Action::Delete,
        };
        let manner = match action {
            Action::Get => Manner { is_txn: self.rng.below(8) == 0, is_named: false },
            Action::Put { .. } => Manner { is_txn: false, is_named: self.rng.below(4) == 0 },
            Action::Cas { .. } => {
                Manner { is_txn: self.rng.below(3) == 0, is_named: self.rng.below(4) == 0 }
            }
            Action::Delete => Manner { is_txn: false, is_named: true },
        };
        (action, manner)
    }

    /// Nobody else's, nor ever again (R1).
    fn number(&mut self) -> u64 {
        self.n_numbers += 1;
        (self.number as u64 + 1) * 1_000_000 + self.n_numbers
    }

    fn learn(&mut self, key: &str, end: End) {
        let End::Answered { answer, .. } = end else { return };
        let index = match answer {
            Answer::Found { mod_index, .. } => mod_index,
            Answer::Done { index } => index,
            Answer::Absent | Answer::Missing { .. } => Some(0),
            Answer::Mismatch { .. } => None,
        };
        match index {
            Some(index) => self.indexes.insert(key.to_owned(), index),
            None => self.indexes.remove(key),
        };
    }
}

pub(super) fn path(key: &str) -> String {
    format!("/_kv/{key}")
}

/// The same operation as a transaction.
fn txn(key: &str, action: Action) -> String {
    let get = json!({"op": "get", "key": key});
    let put =
        |value: u64| json!({"op": "put", "key": key, "value": STANDARD.encode(value.to_string())});
    let txn = match action {
        Action::Get => json!({"then": [get]}),
        Action::Put { value } => json!({"then": [put(value)]}),
        Action::Cas { value, expected } => {
            let compare = json!({"key": key, "mod_index": expected});
            json!({"compare": [compare], "then": [put(value)], "else": [get]})
        }
        Action::Delete => json!({"then": [{"op": "delete", "key": key}]}),
    };
    txn.to_string()
}

/// What a client may conclude. A request that was refused, or never sent, has no effect; one that
/// was sent and not answered may have one.
pub(super) fn end(
    action: Action,
    is_txn: bool,
    answer: &Result<Response, Failure>,
    shared: &Shared,
) -> End {
    let answer = match answer {
        Ok(answer) => answer,
        Err(Failure::NotSent(_)) => return End::Refused,
        Err(Failure::Unknown(_)) => return End::Unknown,
    };
    let number = |name| answer.header(name).and_then(|index| index.parse().ok());
    let index = number("x-raft-index");
    let is_write = action != Action::Get;
    let told = match (action, answer.status) {
        (_, 504) if is_write || is_txn => return End::Unknown,
        (_, 200) if is_txn => from_txn(action, &answer.body, index),
        (Action::Get, 200) => {
            Answer::Found { value: value(&answer.body), mod_index: number("x-raft-mod-index") }
        }
        (Action::Get, 404) => Answer::Absent,
        (Action::Put { .. } | Action::Cas { .. } | Action::Delete, 204) => Answer::Done { index },
        (Action::Cas { .. }, 412) => Answer::Mismatch { index },
        (Action::Delete, 404) => Answer::Missing { index },
        // No request of these is malformed; but whatever is answered like this has no effect.
        (_, 503 | 400..500) => return End::Refused,
        (_, other) => panic!("{action:?} was answered {other}: {}", answer.text()),
    };
    End::Answered { at: shared.now(), answer: told }
}

fn value(bytes: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(bytes);
    text.parse().unwrap_or_else(|_| panic!("nobody wrote {text:?}"))
}

fn from_txn(action: Action, body: &[u8], index: Option<u64>) -> Answer {
    let body: Value = serde_json::from_slice(body).expect("a transaction's answer is JSON");
    let got = &body["results"][0];
    match action {
        Action::Cas { .. } if body["succeeded"] == false => Answer::Mismatch { index },
        Action::Put { .. } | Action::Cas { .. } => Answer::Done { index },
        Action::Delete if got["existed"] == true => Answer::Done { index },
        Action::Delete => Answer::Missing { index },
        Action::Get if got["found"] == false => Answer::Absent,
        Action::Get => {
            let text = got["value"].as_str().expect("what is found has a value");
            let bytes = STANDARD.decode(text).expect("values are base64");
            Answer::Found { value: value(&bytes), mod_index: got["mod_index"].as_u64() }
        }
    }
}
