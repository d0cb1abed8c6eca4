//! The command line: flags before variables before defaults, and every mistake in one line.
//!
//! Each flag may also be given as a variable, `--data-dir` as `RAFTEXAMPLE_DATA_DIR`. Nothing is
//! opened or created here.

use std::ffi::OsString;
use std::fmt::{Display, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use raftnode::Config;
use raftnode::membership::{self, Founder};

use crate::command;
use crate::logging::{Format, Level};

/// The exit code of a wrong command line.
pub const USAGE: u8 = 2;

/// The largest `--max-value-bytes`: what an entry may hold, less what a command adds.
const MAX_VALUE_BYTES: u64 = 3 << 20;

/// What `--version` prints after the name.
pub const VERSION: &str = env!("RAFTEXAMPLE_VERSION");

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// To run a member.
    Run(Settings),
    /// To run a subcommand.
    Command(Command),
    /// To print this and end well.
    Print(String),
    /// To be refused, with this line.
    Refuse(String),
}

/// Runs one member of a replicated key-value store.
///
/// Exit codes: 0 stopped, 1 could not start, 2 wrong usage, 3 corrupt or foreign data directory,
/// 4 disk error, 70 broken invariant, 130 told twice to stop.
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
pub enum Command {}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// This member's id, a whole number from 1
    #[arg(long, env = "RAFTEXAMPLE_ID", default_value_t = 1)]
    id: u64,

    /// The members a new cluster begins with: peer URLs whose ids are their positions from 1, or
    /// id=URL pairs
    #[arg(long, env = "RAFTEXAMPLE_CLUSTER", value_name = "URL,...",
          default_value = "http://127.0.0.1:9021", value_parser = founders)]
    cluster: Founders,

    /// The port for clients, on 127.0.0.1
    #[arg(long, env = "RAFTEXAMPLE_PORT", default_value_t = 9121)]
    port: u16,

    /// The address for clients; wins over --port
    #[arg(long, env = "RAFTEXAMPLE_LISTEN", value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,

    /// The address for peers, when it is not the one in this member's URL
    #[arg(long, env = "RAFTEXAMPLE_PEER_LISTEN", value_name = "ADDR:PORT")]
    peer_listen: Option<SocketAddr>,

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

    /// How many client connections may be open; more are told to come back
    #[arg(long, env = "RAFTEXAMPLE_MAX_CONNECTIONS", value_name = "N", default_value_t = 1024,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,

    /// What is logged
    #[arg(long, env = "RAFTEXAMPLE_LOG_LEVEL", value_enum, default_value_t = Level::Info)]
    log_level: Level,

    /// How it is logged
    #[arg(long, env = "RAFTEXAMPLE_LOG_FORMAT", value_enum, default_value_t = Format::Term)]
    log_format: Format,

    /// Print the settings in effect, with where each comes from, and end
    #[arg(long, env = "RAFTEXAMPLE_PRINT_CONFIG")]
    print_config: bool,

    /// Join a running cluster (not in this release)
    #[arg(long, env = "RAFTEXAMPLE_JOIN")]
    join: bool,
}

/// Everything a member runs by: checked, and complete.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This member's id.
    pub id: u64,
    /// The members a new cluster begins with.
    pub founders: Vec<Founder>,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where peers connect, when it is not the address in this member's URL.
    pub peer_listen: Option<SocketAddr>,
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
    match cli.run.settings() {
        Err(line) => Request::Refuse(line),
        Ok(settings) if print_config => Request::Print(settings.describe(&matches)),
        Ok(settings) => Request::Run(settings),
    }
}

impl RunArgs {
    fn settings(self) -> Result<Settings, String> {
        if self.join {
            return Err("--join comes with membership changes, in the next release; \
                        start every member of a new cluster with the same --cluster"
                .into());
        }
        let settings = Settings {
            id: self.id,
            founders: self.cluster.0,
            listen: self.listen.unwrap_or((Ipv4Addr::LOCALHOST, self.port).into()),
            peer_listen: self.peer_listen,
            data_dir: self.data_dir.unwrap_or_else(|| format!("raftexample-{}", self.id).into()),
            advertise_client_url: self.advertise_client_url,
            cluster_token: self.cluster_token,
            heartbeat_interval: self.heartbeat_interval,
            election_timeout: self.election_timeout,
            request_timeout: self.request_timeout,
            max_value_bytes: self.max_value_bytes,
            max_connections: self.max_connections,
            log_level: self.log_level,
            log_format: self.log_format,
        };
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
        config.client_url = self.client_url(bound);
        config.heartbeat_interval = self.heartbeat_interval;
        config.election_timeout = self.election_timeout;
        config.max_entry_bytes = self.max_value_bytes + command::MAX_OVERHEAD_BYTES as u64;
        config.shutdown_timeout = self.request_timeout;
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

    fn check(&self) -> Result<(), String> {
        if self.id == 0 {
            return Err("--id 0: ids are whole numbers from 1".into());
        }
        if self.peer_url().is_none() {
            let ids: Vec<_> = self.founders.iter().map(|founder| founder.id.to_string()).collect();
            return Err(format!(
                "--id {} is not in --cluster, whose ids are {}; choose one of them or name this \
                 member there",
                self.id,
                ids.join(", ")
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

    /// `flag = value` lines, each with where the value is from.
    fn describe(&self, matches: &ArgMatches) -> String {
        let mut text = String::new();
        let mut line = |flag: &str, value: &dyn Display, source: &str| {
            writeln!(text, "{flag} = {value}  # {source}").expect("a string takes every write");
        };
        let source = |id: &str| match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "flag",
            Some(ValueSource::EnvVariable) => "env",
            _ => "default",
        };
        let time = |time: Duration| humantime::format_duration(time).to_string();
        let founders =
            self.founders.iter().map(|founder| format!("{}={}", founder.id, founder.url));
        let founders: Vec<_> = founders.collect();
        let peer_listen = match self.peer_listen {
            Some(address) => address.to_string(),
            None => self.peer_url().unwrap_or_default().replacen("http://", "", 1),
        };
        line("id", &self.id, source("id"));
        line("cluster", &founders.join(","), source("cluster"));
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
        line("peer-listen", &peer_listen, source("peer_listen"));
        line("data-dir", &self.data_dir.display(), source("data_dir"));
        let client_url = self.client_url(self.listen);
        line("advertise-client-url", &client_url, source("advertise_client_url"));
        line("cluster-token", &self.cluster_token, source("cluster_token"));
        line("heartbeat-interval", &time(self.heartbeat_interval), source("heartbeat_interval"));
        line("election-timeout", &time(self.election_timeout), source("election_timeout"));
        line("request-timeout", &time(self.request_timeout), source("request_timeout"));
        line("max-value-bytes", &self.max_value_bytes, source("max_value_bytes"));
        line("max-connections", &self.max_connections, source("max_connections"));
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
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("", 1)];
    let parsed = units.iter().find_map(|(unit, bytes)| {
        let number = text.strip_suffix(unit)?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(*bytes)
    });
    parsed.ok_or_else(|| "write a number of bytes, or one with KiB or MiB".into())
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
            Request::Run(settings) => settings,
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
            ("--snapshot-count 5", "--snapshot-count"),
            ("--join", "membership"),
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

    /// What is printed can be put back on the command line.
    #[test]
    fn print_config_says_what_and_where_from() {
        match parse_words("--print-config --id 2 --cluster http://a:1,http://b:2") {
            Request::Print(text) => {
                assert!(text.starts_with("id = 2  # flag\n"), "{text}");
                assert!(text.contains("cluster = 1=http://a:1,2=http://b:2  # flag\n"), "{text}");
                assert!(text.contains("data-dir = raftexample-2  # default\n"), "{text}");
                assert!(text.contains("election-timeout = 1s  # default\n"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
}
