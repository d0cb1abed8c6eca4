use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::testing::{FakeNode, Verdict};
use crate::{Config, Read, Unknown};

/// What a machine was asked to do, in order.
type Story = Arc<Mutex<Vec<String>>>;

/// Keeps all commands, and tells its story. Does not understand "?".
struct Machine {
    commands: Vec<Bytes>,
    story: Story,
    /// Where reports arrive, looked at when something is shown.
    applied: Option<Applied>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no command")]
struct NoCommand(Bytes);

/// No `Clone`, no `PartialEq`: whatever can be sent can be an answer.
#[derive(Debug)]
struct Count(usize);

impl Machine {
    fn tell(&self, what: impl Into<String>) {
        self.story.lock().unwrap().push(what.into());
    }
}

impl StateMachine for Machine {
    type Response = Count;
    type Error = NoCommand;

    fn apply(&mut self, command: Command<'_>) -> Result<Count, NoCommand> {
        if command.data[..] == *b"?" {
            return Err(NoCommand(command.data.clone()));
        }
        self.tell(format!("apply {} of {}", command.index, command.term));
        self.commands.push(command.data.clone());
        Ok(Count(self.commands.len()))
    }

    fn show(&mut self, index: u64, term: u64) {
        if let Some(applied) = &self.applied {
            let reported = applied.cell.index.load(std::sync::atomic::Ordering::SeqCst);
            assert!(reported < index, "K2: {index} is reported as applied and not shown");
        }
        self.tell(format!("show {index} of {term}"));
    }

    fn capture(&self) -> impl FnOnce(&mut dyn io::Write) -> io::Result<()> + Send + 'static {
        let commands = self.commands.clone();
        move |state| commands.iter().try_for_each(|command| state.write_all(command))
    }

    fn restore(&mut self, state: &mut dyn io::Read, index: u64, term: u64) -> io::Result<()> {
        let mut bytes = Vec::new();
        state.read_to_end(&mut bytes)?;
        if bytes.contains(&b'?') {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a question"));
        }
        self.tell(format!("restore {index} of {term}: {}", bytes.escape_ascii()));
        self.commands = bytes.chunks(1).map(Bytes::copy_from_slice).collect();
        Ok(())
    }
}

struct Running {
    node: FakeNode,
    handle: Handle<Machine>,
    applier: Applier,
    story: Story,
}

impl Running {
    fn start() -> Self {
        let (node, channels) = FakeNode::start(&Config::new(1, vec![], "unused".into()));
        let story = Story::default();
        let applied = Some(channels.applied.clone());
        let machine = Machine { commands: Vec::new(), story: Arc::clone(&story), applied };
        let (handle, applier) = start(machine, channels).unwrap();
        Self { node, handle, applier, story }
    }

    fn propose(&self, data: &'static str) -> Outcome<Count> {
        self.handle.propose(data.into(), soon()).unwrap().wait()
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.story.lock().unwrap())
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn restore(index: u64, commit_index: u64, state: &'static str) -> Restore {
    Restore { index, term: 2, commit_index, state: Box::new(state.as_bytes()) }
}

/// The response comes back as what it is, by whatever way it is waited for.
#[test]
fn a_proposer_is_given_the_machines_own_response() {
    let running = Running::start();
    let Outcome::Applied { index: 2, term: 1, response: Count(1) } = running.propose("a") else {
        panic!("not applied");
    };
    let pending = running.handle.clone().propose("b".into(), soon()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let outcome = runtime.block_on(pending.into_future());
    assert!(matches!(outcome, Outcome::Applied { response: Count(2), .. }), "{outcome:?}");
    running.handle.node().shutdown();
    running.applier.join().unwrap();
}

/// Refusals and unknown outcomes reach a proposer of any type, at the door as from the loop.
#[test]
fn other_outcomes_need_no_response() {
    let running = Running::start();
    running.node.decide(Verdict::Refuse(Refusal::Superseded));
    let outcome = running.propose("a");
    assert!(matches!(outcome, Outcome::Refused(Refusal::Superseded)), "{outcome:?}");
    running.node.decide(Verdict::Lose(Unknown::Deadline));
    let outcome = running.propose("a");
    assert!(matches!(outcome, Outcome::Unknown(Unknown::Deadline)), "{outcome:?}");
    running.node.decide(Verdict::Hold);
    let held = running.handle.propose("a".into(), soon()).unwrap();
    running.handle.node().shutdown();
    running.applier.join().unwrap();
    let outcome = held.wait();
    assert!(matches!(outcome, Outcome::Unknown(Unknown::Stopped)), "{outcome:?}");
    let refused = running.handle.propose("a".into(), soon()).unwrap_err();
    assert_eq!(refused, Refusal::ShuttingDown);
}

/// K1 and K2: each command once and in order, shown before anybody hears of it; the machine itself
/// looks whether it was reported before it was shown.
#[test]
fn what_is_answered_has_been_shown() {
    let running = Running::start();
    for (data, index) in [("a", 2), ("b", 3)] {
        assert!(matches!(running.propose(data), Outcome::Applied { .. }));
        let last = running.told().pop();
        assert_eq!(last, Some(format!("show {index} of 1")));
    }
    let read = running.handle.node().read(crate::Consistency::Linearizable, 0, soon());
    assert_eq!(read.unwrap().wait(), Read::Ready { index: 3 });
}

/// K2, without the luck of timing: the answer is not there while the machine shows.
#[test]
fn the_answer_waits_for_the_report() {
    let (_, channels) = FakeNode::start(&Config::new(1, vec![], "unused".into()));
    let Channels { handle, commits, applied } = channels;
    let machine = Machine { commands: Vec::new(), story: Story::default(), applied: None };
    let mut runner = Runner::new(machine, applied);
    let mut pending = handle.propose_for::<Count>("a".into(), soon()).unwrap();
    for _ in 0..2 {
        runner.take(commits.recv().unwrap()).unwrap();
    }
    assert!(pending.try_wait().is_none());
    assert_eq!(runner.applied.cell.index.load(std::sync::atomic::Ordering::SeqCst), 0);
    runner.show_unless_replaying();
    assert_eq!(runner.applied.cell.index.load(std::sync::atomic::Ordering::SeqCst), 2);
    assert!(matches!(pending.try_wait(), Some(Outcome::Applied { index: 2, .. })));
}

/// K3: what the machine cannot apply stops the node, says where and why, and what stood behind it
/// is not applied.
#[test]
fn a_command_that_cannot_be_applied_stops_the_node() {
    let running = Running::start();
    let outcome = running.propose("?");
    assert!(matches!(outcome, Outcome::Unknown(Unknown::Stopped)), "{outcome:?}");
    let error = running.applier.join().unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot apply the command at index 2, term 1: b\"?\" is no command; \
         run the version that wrote it"
    );
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.is::<NoCommand>(), "{source:?}");
    // The node hears of it at its next commit.
    let outcome = running.handle.propose("a".into(), soon()).map(Pending::wait);
    assert!(!matches!(outcome, Ok(Outcome::Applied { .. })), "{outcome:?}");
}

/// K3: and so does a state that it cannot take.
#[test]
fn a_state_that_cannot_be_restored_stops_the_node() {
    let running = Running::start();
    running.node.restore(restore(9, 9, "a?"));
    let message = running.applier.join().unwrap_err().to_string();
    assert_eq!(message, "cannot restore the snapshot at index 9: a question");
}

/// K4: what was known to be committed is shown with the restored state, or not at all.
#[test]
fn a_restored_state_is_shown_when_it_is_complete() {
    let running = Running::start();
    running.propose("a");
    running.told();
    running.node.restore(restore(5, 6, "xy"));
    // More than are taken before something is shown: at least once it could have been.
    for _ in 0..=MAX_ITEMS_PER_SHOW {
        assert!(running.node.capture().is_some());
    }
    assert_eq!(running.told(), ["restore 5 of 2: xy"]);
    let Outcome::Applied { index: 6, response: Count(3), .. } = running.propose("z") else {
        panic!("not applied to what was restored");
    };
    assert_eq!(running.told(), ["apply 6 of 2", "show 6 of 2"]);
}

/// K4: what was applied and may be shown no more is unknown to its proposers.
#[test]
fn a_restore_before_the_answer_is_an_unknown_outcome() {
    let running = Running::start();
    running.node.restore(restore(5, 9, "xy"));
    let pending = running.handle.propose("z".into(), soon()).unwrap();
    // A capture comes behind the proposal, so that it is known to be in the channel.
    assert!(running.node.capture().is_some());
    running.node.restore(restore(20, 20, ""));
    let outcome = pending.wait();
    assert!(matches!(outcome, Outcome::Unknown(Unknown::Restored)), "{outcome:?}");
    assert!(matches!(running.propose("a"), Outcome::Applied { response: Count(1), .. }));
}

/// K5: a capture holds what came before it, whatever is applied while it is written.
#[test]
fn a_capture_holds_what_came_before_it() {
    let running = Running::start();
    running.propose("a");
    let write = running.node.capture().unwrap();
    running.propose("b");
    let mut state = Vec::new();
    write(&mut state).unwrap();
    assert_eq!(state, b"a");
}

/// What is applied and may be shown is shown and answered before a restore takes its place: its
/// proposers need not hear that nobody knows.
#[test]
fn what_may_be_shown_is_answered_before_a_restore() {
    let (node, channels) = FakeNode::start(&Config::new(1, vec![], "unused".into()));
    let story = Story::default();
    let machine = Machine { commands: Vec::new(), story: Arc::clone(&story), applied: None };
    let mut runner = Runner::new(machine, channels.applied);
    let pending = channels.handle.propose_for::<Count>("a".into(), soon()).unwrap();
    // Founded, then the command: both in one batch with the restore behind them.
    for commit in channels.commits.iter().take(2) {
        runner.take(commit).unwrap();
    }
    node.restore(restore(9, 9, "xy"));
    runner.take(channels.commits.recv().unwrap()).unwrap();
    let outcome = pending.wait();
    assert!(matches!(outcome, Outcome::Applied { index: 2, .. }), "{outcome:?}");
    let told = story.lock().unwrap().clone();
    assert_eq!(told, ["restore 1 of 1: ", "apply 2 of 1", "show 2 of 1", "restore 9 of 2: xy"]);
}

/// K5: a request that is taken at another index would give the snapshot a wrong name.
#[test]
#[should_panic(expected = "K5: a capture of index 1, term 1 at index 7, term 1")]
fn a_capture_at_another_index_is_a_bug() {
    let (node, channels) = FakeNode::start(&Config::new(1, vec![], "unused".into()));
    let machine = Machine { commands: Vec::new(), story: Story::default(), applied: None };
    let mut runner = Runner::new(machine, channels.applied);
    (runner.applied_index, runner.applied_term) = (7, 1);
    let asking = std::thread::spawn(move || node.capture().is_some());
    for commit in channels.commits {
        if let Commit::Snapshot(request) = commit {
            runner.capture(request);
        }
    }
    asking.join().unwrap();
}

/// C3: whoever waits for bytes is not given a number; it is the program that is wrong.
#[test]
fn an_answer_of_another_type_is_a_bug() {
    let running = Running::start();
    let pending = running.handle.node().propose("a".into(), soon()).unwrap();
    assert_eq!(pending.wait(), Outcome::Unknown(Unknown::Stopped));
    let joined = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| running.applier.join()));
    let message = *joined.unwrap_err().downcast::<String>().unwrap();
    assert!(
        message.starts_with("C3: the proposer of index 2") && message.contains("Count"),
        "{message}"
    );
}
