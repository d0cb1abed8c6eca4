//! A replicated register on the state machine trait: no channels, and a response of its own type.
//!
//! `cargo run --example register` runs one member; `counter.rs` says how to run three. Each line
//! that is typed is what the register holds from then on.

use std::convert::Infallible;
use std::io::{self, BufRead, Read, Write};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use raftnode::machine::{self, Command, StateMachine};
use raftnode::{Config, Node, Outcome, membership};

#[derive(Default)]
struct Register(Vec<u8>);

impl StateMachine for Register {
    type Response = Vec<u8>; // What the register held before.
    type Error = Infallible;

    fn apply(&mut self, command: Command<'_>) -> Result<Vec<u8>, Infallible> {
        Ok(std::mem::replace(&mut self.0, command.data.to_vec()))
    }

    fn capture(&self) -> impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static {
        let held = self.0.clone();
        move |state| state.write_all(&held)
    }

    fn restore(&mut self, state: &mut dyn Read, _index: u64, _term: u64) -> io::Result<()> {
        self.0.clear();
        state.read_to_end(&mut self.0).map(|_| ())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let id = args.next().map_or(Ok(1), |id| id.parse())?;
    let cluster = args.next().unwrap_or_else(|| "http://127.0.0.1:9021".into());
    let founders = membership::parse_cluster(&cluster)?;
    let config = Config::new(id, founders, format!("register-{id}").into());
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let (node, channels) = Node::start(config, &logger, &AtomicBool::new(false))?;
    let (handle, applier) = machine::start(Register::default(), channels)?;
    for line in io::stdin().lock().lines() {
        let deadline = Instant::now() + Duration::from_secs(5);
        let answer = match handle.propose(line?.into(), deadline).map(|pending| pending.wait()) {
            Ok(Outcome::Applied { index, response, .. }) => {
                format!("instead of {:?} (index {index})", String::from_utf8_lossy(&response))
            }
            Ok(Outcome::Refused(why)) | Err(why) => format!("not written: {why}"),
            Ok(Outcome::Unknown(why)) => format!("perhaps written: {why}"),
        };
        writeln!(io::stdout(), "{answer}")?;
    }
    drop(handle); // Nobody else has one: the node stops.
    node.join()?;
    Ok(applier.join()?)
}
