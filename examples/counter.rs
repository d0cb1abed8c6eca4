//! A replicated counter in 60 lines: raftnode with a state of one's own.
//!
//! One member: `cargo run --example counter`. Three members, each in its own terminal:
//! `cargo run --example counter -- 1 http://127.0.0.1:9021,http://127.0.0.1:9022,http://127.0.0.1:9023`,
//! and so on with 2 and 3. Type numbers; each line adds to the counter of all members.

use std::error::Error;
use std::io::{BufRead, Read, Write};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use raftnode::{Commit, Config, Node, Outcome, membership};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let id = args.next().map_or(Ok(1), |id| id.parse())?;
    let cluster = args.next().unwrap_or_else(|| "http://127.0.0.1:9021".into());
    let founders = membership::parse_cluster(&cluster)?;
    let config = Config::new(id, founders, format!("counter-{id}").into());
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let (node, channels) = Node::start(config, &logger, &AtomicBool::new(false))?;

    // The state machine: it owns the counter, takes commits in order, and answers each proposer
    // with the value its own addition led to. The same on every member, because the log is.
    let (commits, applied) = (channels.commits, channels.applied);
    let state = std::thread::spawn(move || {
        let mut counter = 0_i64;
        for commit in commits {
            match commit {
                Commit::Restore(mut snapshot) => {
                    let mut text = String::new();
                    snapshot.state.read_to_string(&mut text).expect("a snapshot that was verified");
                    counter = text.parse().unwrap_or(0);
                    applied.report(snapshot.index);
                }
                Commit::Snapshot(request) => {
                    request.capture(move |file| write!(file, "{counter}"));
                }
                Commit::Entries(entries) => {
                    for item in entries.items {
                        let added =
                            std::str::from_utf8(&item.data).ok().and_then(|n| n.parse().ok());
                        counter = counter.wrapping_add(added.unwrap_or(0));
                        item.answer(counter.to_string().into());
                    }
                    applied.report(entries.last_index);
                }
            }
        }
    });

    let handle = channels.handle;
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let deadline = Instant::now() + Duration::from_secs(5);
        match handle.propose(line?.trim().to_owned().into(), deadline)?.wait() {
            Outcome::Applied { index, response, .. } => {
                writeln!(output, "{} (index {index})", String::from_utf8_lossy(&response))?;
            }
            Outcome::Refused(why) => writeln!(output, "not added: {why}")?,
            Outcome::Unknown(why) => writeln!(output, "perhaps added: {why}")?,
        }
    }
    handle.shutdown();
    node.join()?;
    state.join().map_err(|_| "the state machine panicked")?;
    Ok(())
}
