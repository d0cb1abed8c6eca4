//! Building, once, every executable that a campaign runs.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The features that have the defects compiled in.
const FEATURES: [&str; 3] = ["wal/defects", "raftnode/defects", "raftexample/defects"];

/// What an executable is to cargo: a kind of target, and its name.
type Target = (String, String);

/// Executables by what they are made of.
#[derive(Debug, Default)]
pub struct Built {
    executables: BTreeMap<Target, PathBuf>,
}

/// What to build.
#[derive(Debug, Default)]
pub struct Plan {
    /// Packages, with the features that they have beside the defects.
    pub packages: Vec<&'static str>,
    /// What of them, in cargo's words.
    pub targets: Vec<&'static str>,
}

impl Plan {
    /// What the log's own campaigns need, which is built in seconds.
    pub fn of_the_log() -> Self {
        let targets = vec!["--lib", "--test", "crash", "--test", "damage", "--test", "model"];
        Self { packages: vec!["wal"], targets }
    }

    /// What all campaigns need.
    pub fn whole() -> Self {
        let mut plan = Self::of_the_log();
        plan.packages.extend(["raftnode", "raftexample", "tests"]);
        plan.targets.extend(["--test", "disk", "--test", "defects"]);
        plan
    }
}

impl Built {
    /// Asks cargo for all of it in one go.
    ///
    /// # Errors
    ///
    /// cargo does not run, or what it said last when it fails.
    pub fn new(workspace: &Path, plan: &Plan) -> io::Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(workspace).args(["test", "--no-run", "--quiet"]);
        for package in &plan.packages {
            command.args(["--package", package]);
        }
        let of_plan = |feature: &&str| {
            plan.packages.iter().any(|package| feature.starts_with(&format!("{package}/")))
        };
        let features: Vec<&str> = FEATURES.iter().copied().filter(|f| of_plan(f)).collect();
        command.args(["--features", &features.join(",")]).args(&plan.targets);
        command.args(["--message-format", "json-render-diagnostics"]);
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(io::Error::other(format!("cargo: {}", output.status)));
        }
        Ok(Self::from_messages(&String::from_utf8_lossy(&output.stdout)))
    }

    fn from_messages(messages: &str) -> Self {
        let executables = messages
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|message| {
                let path = PathBuf::from(message["executable"].as_str()?);
                let target = &message["target"];
                let kind = target["kind"][0].as_str()?.to_owned();
                let name = target["name"].as_str()?.to_owned();
                // A binary's own unit tests are not the binary.
                let is_harness = message["profile"]["test"].as_bool()?;
                (kind != "bin" || !is_harness).then_some(((kind, name), path))
            })
            .collect();
        Self { executables }
    }

    /// The unit tests of a library.
    pub fn unit(&self, library: &str) -> Option<&Path> {
        self.get("lib", library)
    }

    /// A test executable.
    pub fn test(&self, name: &str) -> Option<&Path> {
        self.get("test", name)
    }

    /// A program.
    pub fn binary(&self, name: &str) -> Option<&Path> {
        self.get("bin", name)
    }

    fn get(&self, kind: &str, name: &str) -> Option<&Path> {
        self.executables.get(&(kind.to_owned(), name.to_owned())).map(PathBuf::as_path)
    }
}
