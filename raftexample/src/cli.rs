//! The command line: flags before variables before defaults, and every mistake in one line.
//!
//! Each flag may also be given as a variable, `--data-dir` as `RAFTEXAMPLE_DATA_DIR`. Nothing is
//! created or changed here; all that is looked at is whose data directory it is, so that a member
//! is started again by its directory alone.

use std::ffi::OsString;
use std::fmt::{Display, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use raftnode::membership::{self, Founder};
use raftnode::{Config, SnapshotPolicy};

use crate::command::MAX_OVERHEAD_BYTES;
use crate::logging::{Format, Level};

/// The exit code of a wrong command line.
pub const USAGE: u8 = 2;

/// The largest `--max-value-bytes`: what an entry may hold, less what a command adds.
const MAX_VALUE_BYTES: u64 = 3 << 20;
const _: () = assert!(MAX_VALUE_BYTES + MAX_OVERHEAD_BYTES as u64 <= raftnode::MAX_ENTRY_BYTES);

/// What `--version` prints after the name.
pub const VERSION: &str = env!("RAFTEXAMPLE_VERSION");

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// To run a member.
    Run(Box<Settings>),
    /// To run a subcommand.
    Command(Command),
    /// To print this and end well.
    Print(String),
    /// To be refused, with this line.
    Refuse(String),
}

/// Runs one member of a replicated key-value store.
///
/// Exit codes: 0 stopped or removed, 1 could not start, 2 wrong usage, 3 corrupt or foreign data
/// directory, 4 disk error, 5 acknowledged data lost, 70 broken invariant, 130 told twice to stop.
#[derive(Debug, clap::Parser)]
#[command(name = "raftexample", version = VERSION, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

/// What runs instead of a member.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Runs the processes of a Procfile and steers them by name.
    Cluster(crate::cluster::Args),
    /// Measures requests per second and their latency.
    Bench(Box<crate::bench::Args>),
    /// Shows or checks what a member keeps on disk, while it is down.
    ///
    /// Nothing is changed, and a directory whose member runs is refused.
    ///
    /// Exit codes: 0 sound, 1 cannot be read or is in use, or a dump cannot be written, 2 wrong
    /// usage, 3 corrupt. A torn end is sound: it is a batch that was never acknowledged, and the
    /// next start cuts it off.
    Wal(crate::inspect::Args),
}

impl Command {
    /// Runs it to its end.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self {
            Command::Cluster(args) => crate::cluster::run(args),
            Command::Bench(args) => crate::bench::run(*args),
            Command::Wal(args) => crate::inspect::run(args),
        }
    }
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// This member's id, a whole number from 1 [of a data directory in use: its member's]
    #[arg(long, env = "RAFTEXAMPLE_ID", default_value_t = 1)]
    id: u64,

    /// The members a new cluster begins with: peer URLs whose ids are their positions from 1, or
    /// id=URL pairs. Looked at only while the data directory is empty
    #[arg(long, env = "RAFTEXAMPLE_CLUSTER", value_name = "URL,...",
          default_value = "http://127.0.0.1:9021", value_parser = founders)]
    cluster: Founders,

    /// The port for clients, on 127.0.0.1
    #[arg(long, env = "RAFTEXAMPLE_PORT", default_value_t = 9121)]
    port: u16,

    /// The address for clients; wins over --port
    #[arg(long, env = "RAFTEXAMPLE_LISTEN", value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,

    /// How the disk fails, for tests
    #[cfg(feature = "faults")]
    #[arg(long, env = "RAFTEXAMPLE_FAULTS", value_name = "SCRIPT")]
    faults: Option<String>,

    /// The size of the log's segments, for tests that fill them
    #[cfg(feature = "faults")]
    #[arg(long, env = "RAFTEXAMPLE_WAL_SEGMENT_BYTES", value_name = "SIZE",
          default_value = "64MiB", value_parser = size)]
    wal_segment_bytes: u64,

    /// The address for peers, when it is not the one in this member's URL
    #[arg(long, env = "RAFTEXAMPLE_PEER_LISTEN", value_name = "ADDR:PORT")]
    peer_listen: Option<SocketAddr>,

    /// Join the running cluster whose members, and this one's own URL, --cluster lists. Looked at
    /// only while the data directory is empty
    #[arg(long, env = "RAFTEXAMPLE_JOIN")]
    join: bool,

    /// Where the log is kept [default: raftexample-<id>]
    #[arg(long, env = "RAFTEXAMPLE_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Where clients reach this member, told to clients of the others [default: the address it
    /// listens on, or its peer URL's host when that is every address]
    #[arg(long, env = "RAFTEXAMPLE_ADVERTISE_CLIENT_URL", value_name = "URL",
          value_parser = client_url)]
    advertise_client_url: Option<String>,

    /// Tells apart clusters that begin with the same members
    #[arg(long, env = "RAFTEXAMPLE_CLUSTER_TOKEN", value_name = "TEXT", default_value = "")]
    cluster_token: String,

    /// How often a leader makes itself heard
    #[arg(long, env = "RAFTEXAMPLE_HEARTBEAT_INTERVAL", value_name = "TIME",
          default_value = "100ms", value_parser = duration)]
    heartbeat_interval: Duration,

    /// Silence after which a member asks to be elected
    #[arg(long, env = "RAFTEXAMPLE_ELECTION_TIMEOUT", value_name = "TIME",
          default_value = "1000ms", value_parser = duration)]
    election_timeout: Duration,

    /// What bounds every request
    #[arg(long, env = "RAFTEXAMPLE_REQUEST_TIMEOUT", value_name = "TIME",
          default_value = "5s", value_parser = duration)]
    request_timeout: Duration,

    /// The largest value, at most 3MiB
    #[arg(long, env = "RAFTEXAMPLE_MAX_VALUE_BYTES", value_name = "SIZE",
          default_value = "1MiB", value_parser = size)]
    max_value_bytes: u64,

    /// How many client connections may be open; beyond that the one that idles longest is closed
    #[arg(long, env = "RAFTEXAMPLE_MAX_CONNECTIONS", value_name = "N", default_value_t = 1024,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,

    /// Take a snapshot after more entries than this; 0: never for that reason
    #[arg(long, env = "RAFTEXAMPLE_SNAPSHOT_COUNT", value_name = "N", default_value_t = 10_000)]
    snapshot_count: u64,

    /// Take a snapshot after more bytes of entries than this; 0: never for that reason. Unless
    /// this or --snapshot-count is given, it also waits until the log since the last one is half
    /// that one's size and, when due for bytes alone, four times that size or 256MiB, whichever
    /// is less
    #[arg(long, env = "RAFTEXAMPLE_SNAPSHOT_BYTES", value_name = "SIZE",
          default_value = "64MiB", value_parser = size)]
    snapshot_bytes: u64,

    /// How many snapshots are kept, with all of the log since the one before the newest; older
    /// ones only as long as the log reaches back to them
    #[arg(long, env = "RAFTEXAMPLE_SNAPSHOT_KEEP", value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u64).range(1..=1000))]
    snapshot_keep: u64,

    /// How many entries before a snapshot stay in the log, for members a little behind
    #[arg(
        long,
        env = "RAFTEXAMPLE_SNAPSHOT_CATCHUP_ENTRIES",
        value_name = "N",
        default_value_t = 10_000
    )]
    snapshot_catchup_entries: u64,

    /// How many bytes of log stay at most once a snapshot has been taken, unless the one before
    /// it needs more
    #[arg(long, env = "RAFTEXAMPLE_WAL_RETAIN_BYTES", value_name = "SIZE",
          default_value = "256MiB", value_parser = size)]
    wal_retain_bytes: u64,

    /// Refuse writes while fewer bytes than this are free on the disk of --data-dir; 0: never
    #[arg(long, env = "RAFTEXAMPLE_MIN_FREE_BYTES", value_name = "SIZE",
          default_value = "256MiB", value_parser = size)]
    min_free_bytes: u64,

    /// Write nothing to disk; a restart is a member that lost its data directory
    #[arg(long, env = "RAFTEXAMPLE_IN_MEMORY")]
    in_memory: bool,

    /// What is logged
    #[arg(long, env = "RAFTEXAMPLE_LOG_LEVEL", value_enum, default_value_t = Level::Info)]
    log_level: Level,

    /// How it is logged
    #[arg(long, env = "RAFTEXAMPLE_LOG_FORMAT", value_enum, default_value_t = Format::Term)]
    log_format: Format,

    /// Print the settings in effect, with where each comes from, and end
    #[arg(long, env = "RAFTEXAMPLE_PRINT_CONFIG")]
    print_config: bool,
}

/// Everything a member runs by: checked, and complete.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This member's id.
    pub id: u64,
    /// The members a new cluster begins with, or those to ask when joining; none when the data
    /// directory knows them and the command line does not say.
    pub founders: Vec<Founder>,
    /// Whether a new member joins a running cluster.
    pub join: bool,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where peers connect, when it is not the address in this member's URL.
    pub peer_listen: Option<SocketAddr>,
    /// How the disk fails, for tests.
    #[cfg(feature = "faults")]
    pub faults: Option<String>,
    /// The size of the log's segments, for tests that fill them.
    #[cfg(feature = "faults")]
    pub wal_segment_bytes: u64,
    /// Where the log is kept.
    pub data_dir: PathBuf,
    /// Where clients reach this member, when it was said.
    pub advertise_client_url: Option<String>,
    /// Tells apart clusters that begin with the same members.
    pub cluster_token: String,
    /// How often a leader makes itself heard.
    pub heartbeat_interval: Duration,
    /// Silence after which a member asks to be elected.
    pub election_timeout: Duration,
    /// What bounds every request.
    pub request_timeout: Duration,
    /// The largest value.
    pub max_value_bytes: u64,
    /// How many client connections may be open.
    pub max_connections: u32,
    /// When snapshots are taken, and what is kept after one.
    pub snapshots: SnapshotPolicy,
    /// Below how many free bytes on the data directory's disk writes are refused; 0: never.
    pub min_free_bytes: u64,
    /// Whether nothing is written to disk.
    pub in_memory: bool,
    /// What is logged.
    pub log_level: Level,
    /// How it is logged.
    pub log_format: Format,
}

/// A newtype, since clap takes a bare `Vec` for a flag that may be repeated.
#[derive(Debug, Clone)]
struct Founders(Vec<Founder>);

/// Reads a command line, its program's name first.
#[must_use]
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Request {
    let matches = match Cli::command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) if error.use_stderr() => return Request::Refuse(one_line(&error)),
        Err(help) => return Request::Print(help.to_string()),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return Request::Refuse(one_line(&error)),
    };
    if let Some(command) = cli.command {
        return Request::Command(command);
    }
    let print_config = cli.run.print_config;
    let sources = Sources(&matches);
    match cli.run.settings(&sources) {
        Err(line) => Request::Refuse(line),
        Ok(settings) if print_config => Request::Print(settings.describe(&sources)),
        Ok(settings) => Request::Run(Box::new(settings)),
    }
}

/// Where each value is from.
struct Sources<'a>(&'a ArgMatches);

impl Sources<'_> {
    fn name(&self, flag: &str) -> &'static str {
        match self.0.value_source(flag) {
            Some(ValueSource::CommandLine) => "flag",
            Some(ValueSource::EnvVariable) => "env",
            _ => "default",
        }
    }

    fn is_given(&self, flag: &str) -> bool {
        self.name(flag) != "default"
    }
}

/// Whose data directory it is.
enum Owner {
    /// Nobody's yet: it is missing or empty, or there is none.
    Nobody,
    Member(u64),
    /// It is in use, and cannot be read. The node says why, with an exit code of its own.
    Unreadable,
}

impl Owner {
    fn of(data_dir: &Path) -> Self {
        match raftnode::member_id(data_dir) {
            Ok(None) => Owner::Nobody,
            Ok(Some(id)) => Owner::Member(id),
            Err(_) => Owner::Unreadable,
        }
    }
}

impl RunArgs {
    fn settings(self, sources: &Sources<'_>) -> Result<Settings, String> {
        // In memory it is a name in messages only, whatever else was given.
        let data_dir = self.data_dir.filter(|_| !self.in_memory);
        let data_dir = data_dir.unwrap_or_else(|| format!("raftexample-{}", self.id).into());
        let owner = if self.in_memory { Owner::Nobody } else { Owner::of(&data_dir) };
        let id = match owner {
            Owner::Member(id) if !sources.is_given("id") => id,
            _ => self.id,
        };
        let is_new = matches!(owner, Owner::Nobody);
        let known = !is_new && !sources.is_given("cluster");
        let settings = Settings {
            id,
            founders: if known { Vec::new() } else { self.cluster.0 },
            join: self.join,
            listen: self.listen.unwrap_or((Ipv4Addr::LOCALHOST, self.port).into()),
            peer_listen: self.peer_listen,
            #[cfg(feature = "faults")]
            faults: self.faults,
            #[cfg(feature = "faults")]
            wal_segment_bytes: self.wal_segment_bytes,
            data_dir,
            advertise_client_url: self.advertise_client_url,
            cluster_token: self.cluster_token,
            heartbeat_interval: self.heartbeat_interval,
            election_timeout: self.election_timeout,
            request_timeout: self.request_timeout,
            max_value_bytes: self.max_value_bytes,
            max_connections: self.max_connections,
            snapshots: SnapshotPolicy {
                entries: self.snapshot_count,
                bytes: self.snapshot_bytes,
                // Whoever says when a snapshot is due gets it then.
                proportional: !sources.is_given("snapshot_count")
                    && !sources.is_given("snapshot_bytes"),
                keep: self.snapshot_keep,
                catchup_entries: self.snapshot_catchup_entries,
                retain_bytes: self.wal_retain_bytes,
            },
            min_free_bytes: self.min_free_bytes,
            in_memory: self.in_memory,
            log_level: self.log_level,
            log_format: self.log_format,
        };
        if is_new {
            settings.check_cluster(sources)?;
        }
        settings.check()?;
        Ok(settings)
    }
}

impl Settings {
    /// What the library needs to know of them. `bound` is where clients really connect.
    #[must_use]
    pub fn config(&self, bound: SocketAddr) -> Config {
        let mut config = Config::new(self.id, self.founders.clone(), self.data_dir.clone());
        config.cluster_token.clone_from(&self.cluster_token);
        config.peer_listen = self.peer_listen;
        #[cfg(feature = "faults")]
        {
            config.faults.clone_from(&self.faults);
            config.wal_segment_bytes = self.wal_segment_bytes;
        }
        config.client_url = self.client_url(bound);
        config.heartbeat_interval = self.heartbeat_interval;
        config.election_timeout = self.election_timeout;
        // The values of a txn together may be more than the largest one.
        config.max_entry_bytes = raftnode::MAX_ENTRY_BYTES;
        config.shutdown_timeout = self.request_timeout;
        config.join = self.join;
        config.snapshots = self.snapshots;
        config.min_free_bytes = self.min_free_bytes;
        config.in_memory = self.in_memory;
        config
    }

    /// This member's own peer URL, if it is among the founders.
    #[must_use]
    pub fn peer_url(&self) -> Option<&str> {
        self.founders.iter().find(|founder| founder.id == self.id).map(|own| own.url.as_str())
    }

    fn client_url(&self, bound: SocketAddr) -> String {
        if let Some(url) = &self.advertise_client_url {
            return url.clone();
        }
        // "Every address" is none that a client could connect to.
        let own = self.peer_url().filter(|_| bound.ip().is_unspecified());
        let host = own.and_then(|url| url::Url::parse(url).ok());
        match host.as_ref().and_then(url::Url::host_str) {
            Some(host) => format!("http://{host}:{}", bound.port()),
            None => format!("http://{bound}"),
        }
    }

    /// What only matters while the data directory is empty.
    fn check_cluster(&self, sources: &Sources<'_>) -> Result<(), String> {
        if self.join && !sources.is_given("cluster") {
            return Err("--join needs --cluster: the members to ask, and this member's own URL \
                        at its id's place or as id=URL"
                .into());
        }
        if self.peer_url().is_none() {
            let ids: Vec<_> = self.founders.iter().map(|founder| founder.id.to_string()).collect();
            return Err(format!(
                "--id {} is not in --cluster, whose ids are {}; choose one of them or add this \
                 member's own URL: --cluster {},{}=http://host:port",
                self.id,
                ids.join(", "),
                self.cluster(),
                self.id
            ));
        }
        if self.join && self.founders.len() == 1 {
            return Err("--join with nobody but this member in --cluster: add those to ask, \
                        or found a cluster without --join"
                .into());
        }
        Ok(())
    }

    /// The founders as `--cluster` takes them.
    fn cluster(&self) -> String {
        let founders = self.founders.iter();
        let pairs = founders.map(|founder| format!("{}={}", founder.id, founder.url));
        pairs.collect::<Vec<_>>().join(",")
    }

    fn check(&self) -> Result<(), String> {
        if self.id == 0 {
            return Err("--id 0: ids are whole numbers from 1".into());
        }
        let reachable = !self.listen.ip().is_unspecified() || self.peer_url().is_some();
        if !reachable && self.advertise_client_url.is_none() {
            return Err(format!(
                "--listen {} is every address: say with --advertise-client-url where clients \
                 reach this member, or with --cluster what its host is",
                self.listen
            ));
        }
        if !(1..=MAX_VALUE_BYTES).contains(&self.max_value_bytes) {
            return Err(format!(
                "--max-value-bytes {}: 1 to {MAX_VALUE_BYTES} (3MiB) work",
                self.max_value_bytes
            ));
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&self.request_timeout) {
            return Err(format!("--request-timeout {:?}: 1ms to 1h work", self.request_timeout));
        }
        self.config(self.listen).validate()
    }

    /// `flag = value` lines, each with where the value is from. What only the data directory knows
    /// is left out.
    fn describe(&self, sources: &Sources<'_>) -> String {
        let mut text = String::new();
        let mut line = |flag: &str, value: &dyn Display, source: &str| {
            writeln!(text, "{flag} = {value}  # {source}").expect("a string takes every write");
        };
        let source = |flag: &str| sources.name(flag);
        let time = |time: Duration| humantime::format_duration(time).to_string();
        let of_directory = self.founders.is_empty() && !sources.is_given("id");
        line("id", &self.id, if of_directory { "data-dir" } else { source("id") });
        if !self.founders.is_empty() {
            line("cluster", &self.cluster(), source("cluster"));
        }
        line("join", &self.join, source("join"));
        line(
            "port",
            &self.listen.port(),
            match source("listen") {
                "default" => source("port"),
                listen => listen,
            },
        );
        line(
            "listen",
            &self.listen,
            match source("listen") {
                "default" => source("port"),
                listen => listen,
            },
        );
        let own_address = self.peer_url().map(|url| url.replacen("http://", "", 1));
        let peer_listen = self.peer_listen.map(|address| address.to_string());
        if let Some(address) = peer_listen.or(own_address) {
            line("peer-listen", &address, source("peer_listen"));
        }
        if !self.in_memory {
            line("data-dir", &self.data_dir.display(), source("data_dir"));
        }
        let client_url = self.client_url(self.listen);
        line("advertise-client-url", &client_url, source("advertise_client_url"));
        line("cluster-token", &self.cluster_token, source("cluster_token"));
        line("heartbeat-interval", &time(self.heartbeat_interval), source("heartbeat_interval"));
        line("election-timeout", &time(self.election_timeout), source("election_timeout"));
        line("request-timeout", &time(self.request_timeout), source("request_timeout"));
        line("max-value-bytes", &self.max_value_bytes, source("max_value_bytes"));
        line("max-connections", &self.max_connections, source("max_connections"));
        let SnapshotPolicy { entries, bytes, keep, catchup_entries, retain_bytes, .. } =
            &self.snapshots;
        line("snapshot-count", entries, source("snapshot_count"));
        line("snapshot-bytes", bytes, source("snapshot_bytes"));
        line("snapshot-keep", keep, source("snapshot_keep"));
        line("snapshot-catchup-entries", catchup_entries, source("snapshot_catchup_entries"));
        line("wal-retain-bytes", retain_bytes, source("wal_retain_bytes"));
        line("min-free-bytes", &self.min_free_bytes, source("min_free_bytes"));
        line("in-memory", &self.in_memory, source("in_memory"));
        line("log-level", &self.log_level.name(), source("log_level"));
        line("log-format", &self.log_format.name(), source("log_format"));
        text
    }
}

fn founders(text: &str) -> Result<Founders, String> {
    membership::parse_cluster(text).map(Founders)
}

fn client_url(text: &str) -> Result<String, String> {
    let example = "a client URL looks like http://host:port";
    let url = url::Url::parse(text).map_err(|error| format!("no URL ({error}); {example}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(format!("not http or without a host; {example}"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = |error| format!("{error}; write a number and its unit, like 100ms or 5s");
    humantime::parse_duration(text).map_err(wrong)
}

fn size(text: &str) -> Result<u64, String> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1)];
    let parsed = units.iter().find_map(|(unit, bytes)| {
        let number = text.strip_suffix(unit)?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(*bytes)
    });
    parsed.ok_or_else(|| "write a number of bytes, or one with KiB, MiB or GiB".into())
}

/// clap explains itself over several lines; a log or a terminal needs one.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines = lines.filter(|line| !line.starts_with("For more information"));
    let lines = lines.take_while(|line| !line.starts_with("Usage:"));
    let mut parts: Vec<_> = lines.map(|line| line.trim_start_matches("error: ")).collect();
    parts.push("see raftexample --help");
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Request {
        parse(std::iter::once("raftexample").chain(words.split_whitespace()).map(OsString::from))
    }

    fn settings(words: &str) -> Settings {
        match parse_words(words) {
            Request::Run(settings) => *settings,
            other => panic!("{words:?} gave {other:?}"),
        }
    }

    /// clap checks its own definitions only when asked.
    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }

    /// A newcomer starts one member with no flag at all.
    #[test]
    fn defaults_are_the_originals() {
        let settings = settings("");
        assert_eq!(settings.listen.to_string(), "127.0.0.1:9121");
        assert_eq!(settings.peer_url(), Some("http://127.0.0.1:9021"));
        assert_eq!(settings.data_dir, PathBuf::from("raftexample-1"));
        assert_eq!(settings.config(settings.listen).client_url, "http://127.0.0.1:9121");
    }

    /// The address that others are sent to must be one they can reach.
    #[test]
    fn client_url_is_never_every_address() {
        let all = settings("--listen 0.0.0.0:80 --cluster http://a:1,http://b:2 --id 2");
        assert_eq!(all.config(all.listen).client_url, "http://b:80");
        let said = settings("--listen 0.0.0.0:80 --advertise-client-url https://c/");
        assert_eq!(said.config(said.listen).client_url, "https://c");
    }

    /// Every size that is accepted must fit into an entry.
    #[test]
    fn sizes_are_bytes_kib_or_mib_within_bounds() {
        assert_eq!(settings("--max-value-bytes 64KiB").max_value_bytes, 64 << 10);
        assert_eq!(settings("--max-value-bytes 17").max_value_bytes, 17);
        let largest = settings("--max-value-bytes 3MiB");
        assert_eq!(largest.config(largest.listen).validate(), Ok(()));
        for wrong in ["0", "3145729", "1GiB", "+1", "MiB", "1.5MiB", "99999999999999MiB"] {
            let request = parse_words(&format!("--max-value-bytes {wrong}"));
            assert!(matches!(request, Request::Refuse(_)), "{wrong}: {request:?}");
        }
    }

    /// Every mistake names the thing and the way out, in one line.
    #[test]
    fn mistakes_are_one_line() {
        let table = [
            ("--nope", "--nope"),
            ("--prot 1", "--port"),
            ("nope", "nope"),
            ("--port 65536", "--port"),
            ("--id 0", "--id 0"),
            ("--id x", "--id"),
            ("--id 4", "--id 4 is not in --cluster"),
            ("--cluster http://a:1,http://a:1", "stands twice"),
            ("--cluster a:1", "http://host:port"),
            ("--listen localhost", "--listen"),
            ("--election-timeout 1", "unit"),
            ("--election-timeout 200ms", "heartbeat"),
            ("--heartbeat-interval 1ms", "10ms"),
            ("--request-timeout 0s", "--request-timeout"),
            ("--max-connections 0", "--max-connections"),
            ("--log-level loud", "--log-level"),
            ("--log-format xml", "json"),
            ("--advertise-client-url x", "http://host:port"),
            ("--id 4", "--cluster 1=http://127.0.0.1:9021,4=http://host:port"),
            ("--snapshot-count x", "--snapshot-count"),
            ("--snapshot-count -1", "-1"),
            ("--snapshot-bytes 1TiB", "GiB"),
            ("--snapshot-keep 0", "1..=1000"),
            ("--snapshot-catchup-entries 1.5", "--snapshot-catchup-entries"),
            ("--wal-retain-bytes", "--wal-retain-bytes"),
            ("--join", "--join needs --cluster"),
            ("--join --cluster http://a:1", "nobody but this member"),
            ("--join --id 3 --cluster http://a:1,http://b:1", {
                "--cluster 1=http://a:1,2=http://b:1,3=http://host:port"
            }),
            ("--port 1 --port 2", "--port"),
        ];
        for (words, expected) in table {
            match parse_words(words) {
                Request::Refuse(line) => {
                    assert!(line.contains(expected) && !line.contains('\n'), "{words}: {line}");
                }
                other => panic!("{words:?} gave {other:?}"),
            }
        }
    }

    /// As the original joins: the list has this member's URL at its place, or by name.
    #[test]
    fn join_lists_those_to_ask_and_oneself() {
        for cluster in ["http://a:1,http://b:1,http://c:1", "1=http://a:1,3=http://c:1"] {
            let joining = settings(&format!("--id 3 --join --cluster {cluster}"));
            let config = joining.config(joining.listen);
            assert!(config.join && config.founders.len() >= 2, "{cluster}");
            assert_eq!(joining.peer_url(), Some("http://c:1"));
        }
    }

    /// Whoever says when snapshots are due gets them then; the rest is as documented.
    #[test]
    fn snapshot_flags_become_the_policy() {
        let default = settings("");
        assert_eq!(default.config(default.listen).snapshots, SnapshotPolicy::default());
        let flags = "--snapshot-count 4 --snapshot-bytes 5KiB --snapshot-keep 3 \
                     --snapshot-catchup-entries 0 --wal-retain-bytes 1GiB";
        let policy = SnapshotPolicy {
            entries: 4,
            bytes: 5 << 10,
            proportional: false,
            keep: 3,
            catchup_entries: 0,
            retain_bytes: 1 << 30,
        };
        assert_eq!(settings(flags).snapshots, policy);
        assert!(!settings("--snapshot-count 10000").snapshots.proportional);
        assert!(!settings("--snapshot-bytes 64MiB").snapshots.proportional);
        assert!(settings("--snapshot-keep 5").snapshots.proportional);
        assert_eq!(default.config(default.listen).min_free_bytes, 256 << 20);
        assert_eq!(settings("--min-free-bytes 0").config(default.listen).min_free_bytes, 0);
        let in_memory = settings("--in-memory --data-dir d");
        assert!(in_memory.config(in_memory.listen).in_memory);
    }

    /// A member is started again by its directory alone: who it is stands there, and who the
    /// others are is in its address book.
    #[test]
    fn a_directory_in_use_says_who_its_member_is() {
        // The identity of member 7, as the library pins it.
        let identity = include_bytes!("../../src/golden/identity-v1");
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("identity"), identity).unwrap();
        let path = directory.path().display();
        let again = settings(&format!("--data-dir {path}"));
        assert_eq!((again.id, again.founders.len(), again.peer_url()), (7, 0, None));
        let said = settings(&format!("--data-dir {path} --cluster http://a:1"));
        assert_eq!((said.id, said.founders.len()), (7, 1), "told, and not refused");
        let other = settings(&format!("--data-dir {path} --id 2"));
        assert_eq!(other.id, 2, "the node refuses it, with its own exit code");
        match parse_words(&format!("--data-dir {path} --print-config")) {
            Request::Print(text) => {
                assert!(text.starts_with("id = 7  # data-dir\njoin = false"), "{text}");
                assert!(!text.contains("peer-listen"), "{text}");
            }
            other => panic!("{other:?}"),
        }
        let everywhere = parse_words(&format!("--data-dir {path} --listen 0.0.0.0:1"));
        let Request::Refuse(line) = everywhere else { panic!("{everywhere:?}") };
        assert!(line.contains("--advertise-client-url"), "{line}");
        std::fs::write(directory.path().join("identity"), "damaged").unwrap();
        assert_eq!(settings(&format!("--data-dir {path}")).id, 1, "the node says what is wrong");
    }

    /// What is printed can be put back on the command line.
    #[test]
    fn print_config_says_what_and_where_from() {
        match parse_words("--print-config --id 2 --cluster http://a:1,http://b:2") {
            Request::Print(text) => {
                assert!(text.starts_with("id = 2  # flag\n"), "{text}");
                assert!(text.contains("cluster = 1=http://a:1,2=http://b:2  # flag\n"), "{text}");
                assert!(text.contains("data-dir = raftexample-2  # default\n"), "{text}");
                assert!(text.contains("election-timeout = 1s  # default\n"), "{text}");
                assert!(text.contains("snapshot-bytes = 67108864  # default\n"), "{text}");
                assert!(text.contains("in-memory = false  # default\n"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
}
