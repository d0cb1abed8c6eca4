//! The load of one round, closed or open, and the filling before it.
//!
//! It must cost little, for it shares the machine with what it measures: one task a connection on one
//! thread, the connection polled in the same task, nothing spawned for a request, and nothing but its
//! path and its value allocated.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::asker::Asker;
use super::client::{Client, Fault};
use super::keys::{KeySpace, Values};
use super::mix::Mix;
use super::round::{Failure, Pace, Recorder, Round, Window};
use super::schedule::{Arrivals, Next, Schedule};
use super::target::{Line, QUESTION_TIMEOUT, Target, until_closed};

/// Whatever is measured: one connection would take minutes.
const FILL_CONNECTIONS: u16 = 64;
const FILLED_POLL: Duration = Duration::from_millis(10);
/// Longer than any `--request-timeout` that makes sense: a request still unanswered then is lost.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// One level's load.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) mix: Mix,
    pub(crate) connections: u16,
    pub(crate) pace: Pace,
    pub(crate) window: Window,
    pub(crate) keys: KeySpace,
    pub(crate) values: Values,
}

/// What tells a round's connections when to ask.
enum Clock {
    Closed,
    Open(Arrivals),
}

impl Load {
    /// Writes every key once, so that there is something to read, and returns when all can be read at
    /// every target: a server may answer before it has applied a write, but applies them in order.
    pub(crate) async fn fill(&self, targets: &[Target]) -> Result<(), Failure> {
        let failed = |fault: Fault| Failure::new(format!("cannot fill: {}", fault.reason));
        let mut tasks = JoinSet::new();
        for number in 0..FILL_CONNECTIONS {
            let (client, line) = self.connect(number, targets).await?;
            let keys = (number.into()..self.keys.n_keys()).step_by(FILL_CONNECTIONS.into());
            tasks.spawn_local(until_closed(line, fill_share(client, keys)));
        }
        while let Some(ended) = tasks.join_next().await {
            let ended = ended.map_err(|error| Failure::new(format!("cannot fill: {error}")))?;
            ended.map_err(failed)?;
        }
        // What the last connection wrote at its target, the others may not have applied.
        let last = self.keys.n_keys() - 1;
        for (number, _) in (0..).zip(targets) {
            let (mut client, line) = self.connect(number, targets).await?;
            until_closed(line, in_time(client.get(last, ""))).await.map_err(failed)?;
        }
        Ok(())
    }

    /// One round: connects, loads for the window, waits for the last answers.
    pub(crate) async fn run(&self, targets: &[Target]) -> Result<Round, Failure> {
        let mut askers = Vec::new();
        for number in 0..self.connections {
            let (client, mut line) = self.connect(number, targets).await?;
            let mut asker = Asker::new(number, client, &self.mix);
            tokio::select! {
                biased;
                prepared = in_time(asker.prepare()) => prepared
                    .map_err(|fault| Failure::new(format!("cannot begin: {}", fault.reason)))?,
                _ = &mut line => return Err(Failure::new("a server closes what it just opened")),
            }
            askers.push((asker, line));
        }
        let recorder = Recorder::start(self.window, self.pace);
        let clock = match self.pace {
            Pace::Closed => Clock::Closed,
            Pace::Open { rate, .. } => {
                let schedule = Schedule::new(recorder.starts(), self.window, rate);
                let arrivals = Arrivals::start(schedule, self.connections)
                    .map_err(|error| Failure::new(format!("cannot start a clock: {error}")))?;
                Clock::Open(arrivals)
            }
        };
        let (clock, recorder) = (Rc::new(clock), Rc::new(RefCell::new(recorder)));
        let mut tasks = JoinSet::new();
        for (asker, line) in askers {
            let (clock, recorder) = (clock.clone(), recorder.clone());
            tasks.spawn_local(until_closed(line, drive(asker, clock, recorder)));
        }
        let all = async {
            while let Some(ended) = tasks.join_next().await {
                ended.map_err(|error| Failure::new(format!("a connection is lost: {error}")))?;
            }
            Ok(())
        };
        let timeout = self.window.warm_up + self.window.length + STALL_TIMEOUT;
        match tokio::time::timeout(timeout, all).await {
            Ok(ended) => ended?,
            Err(_) => {
                return Err(Failure::new(format!(
                    "{} of {} connections got no answer for {STALL_TIMEOUT:?}",
                    tasks.len(),
                    self.connections,
                )));
            }
        }
        let recorder = Rc::into_inner(recorder).expect("every task that shared it has ended");
        recorder.into_inner().finish()
    }

    /// The connection of this number, to its share of the targets.
    async fn connect(&self, number: u16, targets: &[Target]) -> Result<(Client, Line), Failure> {
        let target = targets[usize::from(number) % targets.len()].clone();
        let (sender, line) = target.connect().await?;
        let (keys, values) = (self.keys, self.values.clone());
        Ok((Client { target, sender, keys, values }, line))
    }
}

/// Asks on one connection until the round is over or the connection is.
async fn drive(mut asker: Asker, clock: Rc<Clock>, recorder: Rc<RefCell<Recorder>>) {
    let mut last = Instant::now();
    loop {
        let start = match &*clock {
            Clock::Closed => last,
            Clock::Open(arrivals) => match arrivals.take().await {
                Next::Start(start) => start,
                Next::Over => return,
                Next::Behind => return recorder.borrow_mut().give_up(Instant::now()),
            },
        };
        let (operation, answer) = asker.ask().await;
        last = Instant::now();
        let (goes_on, is_usable) = match answer {
            Ok(()) => (recorder.borrow_mut().succeeded(operation, start, last), true),
            Err(Fault { is_answer, reason }) => {
                (recorder.borrow_mut().failed(last, || reason), is_answer)
            }
        };
        // What an open loop meant to send in time is sent, however late that is.
        let is_over = !goes_on && matches!(*clock, Clock::Closed);
        if is_over || !is_usable {
            return;
        }
    }
}

/// Waits for what is not measured no longer than for what is.
async fn in_time<T>(answer: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let late = |_| {
        let reason = format!("no answer for {STALL_TIMEOUT:?}");
        Err(Fault { is_answer: false, reason })
    };
    tokio::time::timeout(STALL_TIMEOUT, answer).await.unwrap_or_else(late)
}

/// Writes these keys one after the other, and waits until the last can be read.
async fn fill_share(mut client: Client, keys: impl Iterator<Item = u64>) -> Result<(), Fault> {
    let mut last = None;
    for key in keys {
        in_time(client.put(key)).await?;
        last = Some(key);
    }
    let Some(last) = last else { return Ok(()) };
    let deadline = Instant::now() + QUESTION_TIMEOUT;
    loop {
        match in_time(client.get(last, "")).await {
            Err(Fault { is_answer: true, .. }) if Instant::now() < deadline => {
                tokio::time::sleep(FILLED_POLL).await;
            }
            read => return read,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tokio::runtime::Builder;
    use tokio::task::LocalSet;
    use url::Url;

    use super::super::asker::n_own_keys;
    use super::super::keys::Distribution;
    use super::super::mix::Operation;
    use super::*;

    /// A server that takes connections and answers nothing ends the load before its first round too:
    /// that was once waited for without end.
    #[test]
    fn a_mute_server_is_waited_for_in_vain() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let targets = [Target::of_url(&Url::parse(&url).unwrap()).unwrap()];
        let load = |operation| Load {
            mix: Mix::only(operation),
            connections: 1,
            pace: Pace::Closed,
            window: Window { warm_up: Duration::ZERO, length: Duration::from_secs(1) },
            keys: KeySpace::new(100, n_own_keys(1), 9, Distribution::Uniform).unwrap(),
            values: Values::new(16),
        };
        let runtime =
            Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let (filled, run) = LocalSet::new().block_on(&runtime, async {
            (load(Operation::Get).fill(&targets).await, load(Operation::Cas).run(&targets).await)
        });
        let said = |failure: Failure| failure.to_string();
        assert_eq!(filled.map_err(said), Err("cannot fill: no answer for 20s".into()));
        assert_eq!(run.map(drop).map_err(said), Err("cannot begin: no answer for 20s".into()));
    }
}
