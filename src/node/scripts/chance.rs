//! Random histories: what clients hear must be true whatever is cut, crashes, lags or is asked of
//! whom, and in whichever order the members' lines deliver.

use super::*;

/// Which history is tried, instead of some that are new each time.
const SEED: &str = "CHANCE_SEED";
/// From which on the histories are tried, instead of from where chance says.
const FIRST_SEED: &str = "CHANCE_FIRST_SEED";

/// How many histories, and how many events each has.
const HISTORIES: u64 = 12;
const EVENTS: u64 = 1_500;

struct Write {
    command: Bytes,
    pending: Pending<Outcome>,
    outcome: Option<Outcome>,
}

struct Asked {
    /// The highest index that was acknowledged when it was asked.
    acknowledged: u64,
    pending: Pending<Read>,
    answered: bool,
}

struct History {
    cluster: Cluster,
    chance: ::fuzz::Rng,
    seed: u64,
    writes: Vec<Write>,
    reads: Vec<Asked>,
    barriers: Vec<(u64, Pending<Outcome<()>>)>,
    acknowledged: u64,
}

impl History {
    fn run(seed: u64) {
        let recipe = Recipe {
            policy: SnapshotPolicy {
                entries: 10,
                bytes: 0,
                catchup_entries: 2,
                proportional: false,
                retain_bytes: 4 << 10,
                keep: 1,
            },
            segment_bytes: 4 << 10,
            ..Recipe::founder(&[1, 2, 3])
        };
        let mut history = Self {
            cluster: Cluster::with(recipe, seed),
            chance: ::fuzz::Rng::new(seed),
            seed,
            writes: Vec::new(),
            reads: Vec::new(),
            barriers: Vec::new(),
            acknowledged: 0,
        };
        history.cluster.elect();
        for _ in 0..EVENTS {
            history.event();
            history.observe();
        }
        history.end();
    }

    fn event(&mut self) {
        let id = 1 + self.chance.below(3);
        match self.chance.below(100) {
            0..25 => {
                let command = Bytes::from(format!("{}-{}", self.seed, self.writes.len()));
                let pending = self.cluster.propose(id, command.clone());
                self.writes.push(Write { command, pending, outcome: None });
            }
            25..40 => {
                let pending = self.cluster.read(id, Consistency::Linearizable);
                let acknowledged = self.acknowledged;
                self.reads.push(Asked { acknowledged, pending, answered: false });
            }
            40..43 => {
                let pending = self.cluster.barrier(id);
                self.barriers.push((self.acknowledged, pending));
            }
            43..45 => {
                let to = [None, Some(1 + self.chance.below(3))][self.chance.below(2) as usize];
                drop(self.cluster.transfer(id, to));
            }
            45 => {
                if self.cluster.cut.is_empty() {
                    self.cluster.cut.insert(id);
                } else {
                    self.cluster.cut.clear();
                }
            }
            47 => {
                let loss = [Loss::Everything, Loss::Nothing][self.chance.below(2) as usize];
                let member = self.cluster.members.remove(&id).unwrap();
                let survived = member.fs.crash(loss);
                drop(member);
                // Its lines broke: nothing that was on them arrives.
                let concerns = |(from, to, _): &(u64, u64, Wire)| [*from, *to].contains(&id);
                let (broken, left) = std::mem::take(&mut self.cluster.network)
                    .into_iter()
                    .partition::<VecDeque<_>, _>(concerns);
                self.cluster.network = left;
                for (from, to, wire) in broken {
                    self.cluster.lost(from, to, wire);
                }
                let recipe = self.cluster.recipe.clone();
                self.cluster.start(id, survived, &recipe).unwrap();
                for other in (1..=3).filter(|other| *other != id) {
                    self.cluster.member(other).core.unreachable(id);
                }
            }
            46 => {
                let change = match self.chance.below(3) {
                    0 => Change::Update { id, wants: Some(MemberRole::Learner), url: None },
                    _ => Change::Update { id, wants: Some(MemberRole::Voter), url: None },
                };
                let asked = 1 + self.chance.below(3);
                drop(self.cluster.change(asked, change, ChangeOptions::default()));
            }
            48 => {
                let member = self.cluster.member(id);
                member.consumes = !member.consumes;
                // The channel has no room for what was next.
                if let Some(commit) = member.core.next_commit() {
                    member.core.return_commit(commit);
                }
            }
            49 => {
                self.break_line(id);
                // And some disk is quick from now on, or slow.
                let (is_slow, syncs) = (self.chance.below(3) > 0, self.chance.below(3) > 0);
                let member = self.cluster.member(id);
                member.core.pretend_slow(is_slow);
                member.syncs = syncs;
            }
            50..60 => {
                // One member's clock may run ahead for a while.
                for _ in 0..=self.chance.below(30) {
                    self.cluster.now += Duration::from_millis(10);
                    self.cluster.turn(id, true).unwrap();
                }
            }
            60..70 => self.cluster.turn(id, false).unwrap(),
            70..72 => {
                for _ in 0..60 {
                    self.cluster.now += Duration::from_millis(10);
                    for id in 1..=3 {
                        self.cluster.turn(id, true).unwrap();
                    }
                    self.deliver(20);
                }
            }
            _ => {
                let n = 1 + self.chance.below(15);
                self.deliver(n);
            }
        }
        for attempt in std::mem::take(&mut self.cluster.unwritten) {
            let origin = attempt.key.node;
            self.cluster.member(origin).core.unsent(attempt);
        }
    }

    /// Lines are independent of one another, and each keeps its order.
    fn deliver(&mut self, n: u64) {
        for _ in 0..n {
            let lines: BTreeSet<(u64, u64)> =
                self.cluster.network.iter().map(|(from, to, _)| (*from, *to)).collect();
            let Some(line) =
                lines.iter().nth(self.chance.below(lines.len().max(1) as u64) as usize)
            else {
                return;
            };
            let at = self.cluster.network.iter().position(|(f, t, _)| (*f, *t) == *line).unwrap();
            let (from, to, wire) = self.cluster.network.remove(at).unwrap();
            self.cluster.deliver(from, to, wire).unwrap();
        }
    }

    /// A line from a member breaks: what was written to it and has not arrived is lost, and what
    /// was not comes back.
    fn break_line(&mut self, from: u64) {
        let to = 1 + (from + self.chance.below(2)) % 3;
        let written = self.chance.below(4);
        let mut n = 0;
        let mut lost = Vec::new();
        for (f, t, wire) in std::mem::take(&mut self.cluster.network) {
            if (f, t) != (from, to) {
                self.cluster.network.push_back((f, t, wire));
                continue;
            }
            n += 1;
            match wire.attempt() {
                Some(attempt) if n > written => self.cluster.unwritten.push(attempt),
                _ => lost.push((f, t, wire)),
            }
        }
        for (f, t, wire) in lost {
            self.cluster.lost(f, t, wire);
        }
        self.cluster.member(from).core.unreachable(to);
    }

    fn observe(&mut self) {
        for write in self.writes.iter_mut().filter(|write| write.outcome.is_none()) {
            write.outcome = write.pending.try_wait();
            if let Some(Outcome::Applied { index, .. }) = write.outcome {
                self.acknowledged = self.acknowledged.max(index);
            }
        }
        for read in self.reads.iter_mut().filter(|read| !read.answered) {
            match read.pending.try_wait() {
                None => {}
                Some(Read::Ready { index }) => {
                    assert!(index >= read.acknowledged, "a stale read; {SEED}={}", self.seed);
                    read.answered = true;
                }
                Some(Read::Refused(_)) => read.answered = true,
            }
        }
        let seed = self.seed;
        self.barriers.retain_mut(|(acknowledged, pending)| match pending.try_wait() {
            None => true,
            Some(Outcome::Applied { index, .. }) => {
                assert!(index > *acknowledged, "an early barrier; {SEED}={seed}");
                false
            }
            Some(_) => false,
        });
    }

    fn end(mut self) {
        self.cluster.cut.clear();
        self.cluster.members.values_mut().for_each(|member| member.consumes = true);
        for _ in 0..900 {
            self.cluster.tick();
            for attempt in std::mem::take(&mut self.cluster.unwritten) {
                self.cluster.member(attempt.key.node).core.unsent(attempt);
            }
            self.observe();
        }
        let seed = self.seed;
        assert!(self.barriers.is_empty(), "a barrier without an answer; {SEED}={seed}");
        assert!(self.reads.iter().all(|read| read.answered), "no answer to a read; {SEED}={seed}");
        self.cluster.assert_same_logs();
        let log = &self.cluster.members[&1].log;
        let mut seen: BTreeMap<&Bytes, Vec<u64>> = BTreeMap::new();
        for (index, command) in log {
            seen.entry(command).or_default().push(*index);
        }
        for Write { command, outcome, .. } in &self.writes {
            let indexes = seen.get(command).cloned().unwrap_or_default();
            let outcome = outcome.as_ref();
            let outcome = outcome.unwrap_or_else(|| panic!("{command:?} has none; {SEED}={seed}"));
            let is_true = match outcome {
                Outcome::Applied { index, .. } => indexes == [*index],
                Outcome::Refused(_) => indexes.is_empty(),
                Outcome::Unknown(_) => indexes.len() <= 1,
            };
            assert!(is_true, "{command:?}: {outcome:?}, at {indexes:?}; {SEED}={seed}");
        }
    }
}

/// Runs some histories, or what the environment names.
#[expect(clippy::print_stderr, reason = "a history that fails must be repeatable")]
fn run() {
    let named = |name| std::env::var(name).ok().map(|seed| seed.parse().expect(name));
    let one = named(SEED);
    let histories = if one.is_some() { 1 } else { HISTORIES };
    let first = one.or_else(|| named(FIRST_SEED));
    let first = first.unwrap_or_else(|| u64::from_le_bytes(crate::identity::random()) >> 16);
    eprintln!("{FIRST_SEED}={first}: {histories} histories");
    for seed in first..first + histories {
        History::run(seed);
    }
}

/// N8 and R2: an outcome that was told is true for ever, a refused command is nowhere and none is
/// there twice; no read is behind what was acknowledged before it; and everybody is answered.
#[test]
fn whatever_happens_what_is_told_is_true() {
    run();
}
