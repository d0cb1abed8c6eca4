//! Building, once, every executable that a campaign runs.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The packages that have defects in them, or run what has.
const PACKAGES: [&str; 6] = ["wal", "raftnode", "raftexample", "tests", "crash", "sim"];

/// What has the defects compiled in.
const FEATURES: &str = "wal/defects,raftnode/defects,raftexample/defects,crash/defects,sim/defects";

/// The programs that campaigns run.
const BINARIES: [&str; 3] = ["crash", "simulate", "raftexample-defects"];

/// What an executable is to cargo: a kind of target, and its name; a test's is its source's path in
/// the workspace, for two packages may each have one of the same name.
type Target = (String, String);

/// Executables by what they are made of.
#[derive(Debug, Default)]
pub struct Built {
    executables: BTreeMap<Target, PathBuf>,
}

impl Built {
    /// Asks cargo for what all campaigns need. The same packages are named each time, so that they
    /// are compiled with the same features, and once.
    ///
    /// # Errors
    ///
    /// cargo does not run, or fails; what it said is on standard error.
    pub fn all(workspace: &Path) -> io::Result<Self> {
        let tests = ["crash", "damage", "model", "disk", "defects"];
        let tests = ["--lib"].into_iter().chain(tests.iter().flat_map(|test| ["--test", test]));
        let mut built = Self::new(workspace, &["test", "--no-run"], &PACKAGES, FEATURES, tests)?;
        let binaries = BINARIES.iter().flat_map(|binary| ["--bin", binary]);
        let binaries = Self::new(workspace, &["build"], &PACKAGES, FEATURES, binaries)?;
        built.executables.extend(binaries.executables);
        Ok(built)
    }

    /// Asks cargo for what the log's own campaigns need: seconds, where all takes minutes.
    ///
    /// # Errors
    ///
    /// As [`all`](Self::all).
    pub fn of_the_log(workspace: &Path) -> io::Result<Self> {
        let targets = ["--test", "crash", "--test", "damage", "--test", "model"];
        Self::new(workspace, &["test", "--no-run"], &["wal"], "wal/defects", targets.into_iter())
    }

    fn new<'a>(
        workspace: &Path,
        action: &[&str],
        packages: &[&str],
        features: &str,
        targets: impl Iterator<Item = &'a str>,
    ) -> io::Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(workspace).args(action).arg("--quiet");
        packages.iter().for_each(|package| {
            command.args(["--package", package]);
        });
        command.args(["--features", features]).args(targets);
        command.args(["--message-format", "json-render-diagnostics"]);
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(io::Error::other(format!("cargo {}: {}", action[0], output.status)));
        }
        Ok(Self::from_messages(workspace, &String::from_utf8_lossy(&output.stdout)))
    }

    fn from_messages(workspace: &Path, messages: &str) -> Self {
        let executables = messages
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|message| {
                let path = PathBuf::from(message["executable"].as_str()?);
                let target = &message["target"];
                let kind = target["kind"][0].as_str()?.to_owned();
                let source =
                    Path::new(target["src_path"].as_str()?).strip_prefix(workspace).ok()?;
                let name =
                    if kind == "test" { source.to_str()? } else { target["name"].as_str()? };
                // A binary's own unit tests are not the binary.
                let is_harness = message["profile"]["test"].as_bool()?;
                (kind != "bin" || !is_harness).then_some(((kind, name.to_owned()), path))
            })
            .collect();
        Self { executables }
    }

    /// The unit tests of a library.
    pub fn unit(&self, library: &str) -> Option<&Path> {
        self.get("lib", library)
    }

    /// A test executable, by its source's path in the workspace.
    pub fn test(&self, source: &str) -> Option<&Path> {
        self.get("test", source)
    }

    /// A program.
    pub fn binary(&self, name: &str) -> Option<&Path> {
        self.get("bin", name)
    }

    fn get(&self, kind: &str, name: &str) -> Option<&Path> {
        self.executables.get(&(kind.to_owned(), name.to_owned())).map(PathBuf::as_path)
    }
}
