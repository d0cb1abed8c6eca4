# run · cluster · test · check · fix · bench · bench-compare · bench-compare-test
# simulate · crash · checker · histories · fuzz · mutants: campaigns, each with one closing line ·
# prove: all of them at their size, written to docs/proof.md (docs/testing.md says what they are)
# benches · budgets: what each step of a write costs by itself, and the page of it
# growth: every cost by members, keys and bytes, and the page of it
# restart · restart-keys · disk · memory · join · snapshot-bench · transfer · bench-reads · failover ·
# handover · deadlines · overload · slow · slow-sync · vet: figures, each with its limit ·
# peers: noise on the peer port
#
# A campaign says on stderr where its seeds begin: FIRST_SEED=<n> repeats it, SEED=<n> (of crash
# REPLAY, of fuzz FUZZ_SEED) one of its cases. histories has one seed for all that it chooses, SEED.
#
# PROFILE=dev builds faster and runs slower; it holds for run, cluster and bench.

PROFILE ?= release
TARGET_DIR ?= $(or $(CARGO_TARGET_DIR),target)
BIN = $(TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/raftexample

.PHONY: run cluster build test check fix bench bench-compare bench-compare-test fuzz restart \
	restart-keys disk memory join snapshot-bench transfer bench-reads failover handover deadlines \
	overload vet slow slow-sync peers simulate crash checker histories mutants prove benches budgets \
	growth

# Builds, says what to try, and runs the Procfile's three members until Ctrl-C.
run: build
	@echo "Three members start now; Ctrl-C stops them. In another terminal, try:"
	@echo "  curl -sL http://127.0.0.1:12380/my-key -XPUT -d bar"
	@echo "  curl -sL http://127.0.0.1:22380/my-key"
	@echo "  curl -sL http://127.0.0.1:32380/_status"
	@exec $(BIN) cluster start

# As run, without the hints.
cluster: build
	@exec $(BIN) cluster start

build:
	cargo build --profile $(PROFILE) -p raftexample

# The whole fast suite. Doc tests are part of it.
test:
	cargo test --workspace --all-targets
	cargo test --workspace --doc

# The read-only gate: changes nothing, runs no test. In the whole workspace the feature `simulation`
# is on; what is released is without it, mutants have the others, and the benches one of their own.
MUTABLE = $(addprefix -p ,wal raftnode raftexample tests crash sim)
MUTATED = wal/defects,wal/faults,raftexample/defects,raftexample/faults,crash/defects,sim/defects
check:
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --all-targets -- -D warnings
	cargo clippy $(MUTABLE) -p benches --all-targets --features $(MUTATED),benches/criterion -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# What `check` can have mended by itself.
fix:
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# Requests per second of three durable local members, and how long they take. BENCH_ARGS=--help
# shows what can be varied; --dir puts the members' data on the disk to be measured.
bench: build
	$(BIN) bench $(BENCH_ARGS)

# The same beside Debian's etcd-server, the Go original, and what fio writes (apt-get install
# etcd-server golang-go golang-etcd-server-dev fio; who is absent is left out), in turns, in one
# session of ROUNDS rounds of SECONDS each, some eight minutes. PAGE is written, and a picture beside
# it. PAGE= writes none. COMPARED is what must come of it: times etcd's writes at each level, p99 at
# 64 and a mix, times the original's stale reads, and times a third of fio's bytes.
ETCD_BENCH = tests/etcd-bench/Cargo.toml
PAGE ?= docs/benchmarks.md
COMPARED ?= --at-least 2.0,3.2,3.5,3.4 --p99-at-most 0.5 --mix-at-least 3 --reads-at-least 0.9 \
	--disk-at-least 0.6
bench-compare: ROUNDS = 3
bench-compare: SECONDS = 3
bench-compare: build
	tests/original.sh $(abspath $(TARGET_DIR))/original || true
	PROTOC="$$(cargo run --quiet --manifest-path $(ETCD_BENCH) -p vendored-protoc)" \
	cargo run --release --quiet --manifest-path $(ETCD_BENCH) -p etcd-bench -- \
	  --against $(BIN) --original $(TARGET_DIR)/original/raftexample \
	  --rounds $(ROUNDS) --seconds $(SECONDS) $(COMPARED) \
	  $(if $(PAGE),--page $(PAGE) --command "make bench-compare ROUNDS=$(ROUNDS) SECONDS=$(SECONDS)") \
	  $(BENCH_ARGS)

# What bench-compare is made of, which is no part of the workspace: formatted, linted and tested.
bench-compare-test:
	cargo fmt --manifest-path $(ETCD_BENCH) -- --check
	PROTOC="$$(cargo run --quiet --manifest-path $(ETCD_BENCH) -p vendored-protoc)" && \
	export PROTOC && \
	cargo clippy --manifest-path $(ETCD_BENCH) -p etcd-bench --all-targets -- -D warnings && \
	cargo test --manifest-path $(ETCD_BENCH) -p etcd-bench

# How long, and how often, what follows goes on where it takes these.
SECONDS ?= 60
ROUNDS ?= 1

# Every fuzz target, in SECONDS altogether, each from FIRST_SEED on. What one finds is repeated by the
# FUZZ_SEED that it prints: FUZZ_SEED=<name>:<seed> cargo test -p <its crate> fuzz_<name> -- --nocapture
fuzz:
	@SECONDS_IN_ALL=$(SECONDS) FIRST_SEED=$(FIRST_SEED) tests/fuzz/run

# How soon three members with a long log serve again after kill -9, and their peak memory.
ENTRIES ?= 1000000
restart:
	ENTRIES=$(ENTRIES) cargo test --release -p tests --test restart -- --ignored --nocapture \
	  --exact a_long_log_serves_again_soon

# How soon one of three members with KEYS keys serves a linearizable read after kill -9, ROUNDS times.
restart-keys:
	cargo test --release -p tests --test restart -- --ignored --nocapture \
	  --exact a_member_with_many_keys_serves_again_soon

# What keys, snapshots and joining cost (tests/tests/figures.rs). TMPDIR puts the data on the disk to
# be measured.
FIGURE = cargo test --release -p tests --test figures -- --ignored --nocapture --exact

# The most disk that a member takes while WRITES small writes hit a thousand keys.
disk:
	$(FIGURE) disk_is_bounded

# The most memory that a member with KEYS keys takes under SECONDS of load.
memory:
	$(FIGURE) memory_is_bounded

# How soon a member that joins a cluster of KEYS keys serves a linearizable read.
join:
	$(FIGURE) a_joining_member_serves_soon

# p99 of writes at 64 connections on KEYS keys, with snapshots and without, in ROUNDS turns.
snapshot-bench:
	$(FIGURE) snapshots_do_not_stall_writers

# The time and memory that a snapshot of MIB mebibytes takes to a joining member, beside curl's.
transfer:
	$(FIGURE) a_large_snapshot_moves_fast_and_in_little_memory

# What answers are worth (tests/tests/reads.rs, leaders.rs, deadlines.rs, overload.rs, slow.rs).
# ROUNDS and SECONDS make them longer or shorter.
ANSWERS = cargo test --release -p tests --test

# Linearizable reads beside the Go original's stale ones, in ROUNDS turns. Needs Debian's golang-go
# and golang-etcd-server-dev.
bench-reads:
	$(ANSWERS) reads -- --ignored --nocapture

# From kill -9 of the leader to the first write at the others, ROUNDS times.
failover:
	$(ANSWERS) leaders -- --ignored --nocapture --exact a_killed_leader_is_soon_replaced

# The gap between writes around a SIGTERM to the leader, ROUNDS times.
handover:
	$(ANSWERS) leaders -- --ignored --nocapture --exact a_stopping_leader_hands_over

# How late the latest answers come when a majority is away.
deadlines:
	$(ANSWERS) deadlines -- --ignored --nocapture --exact no_answer_comes_later_than_its_deadline

# How long refusals take at a full member, and how late ticks come under 2,000 connections.
overload:
	$(ANSWERS) overload -- --ignored --nocapture --test-threads 1

# What the wall in front of raft costs per append.
vet:
	cargo test --release -p raftnode --lib vetting_an_append -- --ignored --nocapture

# p99 of writes with SLOW slow clients attached (1,000), beside that without, in ROUNDS turns.
slow:
	$(ANSWERS) slow -- --ignored --nocapture --exact slow_clients_do_not_slow_others

# Writes per second of CONNECTIONS clients (256) when every sync of the log takes 5 ms.
slow-sync:
	$(ANSWERS) slow -- --ignored --nocapture --exact slow_syncs_are_shared_by_many

# ROUNDS of noise over every path of a member's peer port, while it serves: it must not grow.
# PEERS_SEED repeats a run's choices.
peers: ROUNDS = 10000
peers:
	ROUNDS=$(ROUNDS) cargo test -p tests --test peers -- --ignored --nocapture

# SEEDS simulated clusters of TICKS ticks each, judged after every step; SEED=<n> replays one of
# them with a trace. FIRST_SEED, MEMBERS (3, 5, both) and SIMULATE_ARGS=--help vary it.
SEEDS ?= 100
TICKS ?= 10000
MEMBERS ?= both
simulate:
	@cargo run --release --quiet -p sim --bin simulate -- --seeds $(SEEDS) --ticks $(TICKS) \
	  --members $(MEMBERS) $(if $(FIRST_SEED),--first-seed $(FIRST_SEED)) \
	  $(if $(SEED),--seed $(SEED)) $(SIMULATE_ARGS)

# STATES distinct states in which a crash can leave a disk, each opened again. FIRST_SEED draws other
# traces; REPLAY builds one state again, as a failure names it.
STATES ?= 1000000
crash:
	@cargo run --release --quiet -p crash -- --states $(STATES) \
	  $(if $(FIRST_SEED),--first-seed $(FIRST_SEED)) \
	  $(if $(REPLAY),--replay '$(REPLAY)')

# HISTORIES small random histories, judged by three linearizability checkers that share no code.
# FIRST_SEED repeats a campaign, SEED one history.
HISTORIES ?= 100000
checker:
	@cargo run --release --quiet -p tests --bin checker -- --histories $(HISTORIES) \
	  $(if $(FIRST_SEED),--first-seed $(FIRST_SEED)) $(if $(SEED),--seed $(SEED))

# Every campaign at its full size, into one table and docs/proof.md; SIZE=small tries it, and writes
# target/prove/proof.md instead. Hours: ONLY=simulate,crash runs some and keeps the rows of the
# others; `speed` is a simulate of three members. One that is slower at full size than is promised has
# failed. SECONDS, SEEDS, TICKS, STATES, HISTORIES and MINUTES override sizes; only what was said is
# passed on, not the defaults above.
said = $(if $(filter command% environment%,$(origin $(1))),--$(2) $($(1)))
prove:
	@cargo run --release --quiet -p prove -- $(call said,SIZE,size) $(call said,ONLY,only) \
	  $(call said,SECONDS,seconds) $(call said,SEEDS,seeds) $(call said,TICKS,ticks) \
	  $(call said,STATES,states) $(call said,HISTORIES,histories) $(call said,MINUTES,minutes)

# MINUTES of clients and every fault at three and five real members, all that clients were told
# checked. SEED repeats a campaign's choices.
MINUTES ?= 5
histories:
	@cargo run --release --quiet -p tests --bin histories -- --minutes $(MINUTES) \
	  $(if $(SEED),--seed $(SEED))

# Every deliberate defect against the campaigns that must find it: a survivor fails. ONLY=<name>,...
# runs some.
mutants:
	@cargo run --quiet -p mutants -- $(if $(ONLY),--only $(ONLY))

# What each step of a write costs by itself (docs/performance.md). BENCH=wal/append runs those whose
# names hold that; TMPDIR puts the log on the disk to be measured.
benches:
	cargo bench -p benches --features criterion --bench budgets -- $(BENCH)

# All of them, and docs/budgets.md written of what they found.
budgets: BENCH =
budgets: benches
	cargo run --release --quiet -p benches --features criterion --bin budgets-page

# Every cost by members, keys and bytes of a value, drawn, with the page docs/growth.md of it: some
# five minutes. KEYS and BYTES are the most of each, MEMBERS which (1,3,5,7), SECONDS the length of each
# load; smaller ones try it, and PAGE puts the page elsewhere. TMPDIR puts the data on the disk to be
# measured. Fails when a cost jumps and the page has no reason for it.
growth:
	@cargo run --release --quiet -p growth -- $(call said,KEYS,keys) $(call said,BYTES,bytes) \
	  $(call said,MEMBERS,members) $(call said,SECONDS,seconds) $(call said,PAGE,page)
