//! Where in the code a defect has its place.

use std::io;
use std::path::{Path, PathBuf};

use wal::defects::Defect;

/// Where defects may be; the list of them is none of their places.
const SOURCES: [&str; 3] = ["wal/src", "src", "raftexample/src"];
const LIST: &str = "wal/src/defects.rs";

/// Every line of the sources that asks for a defect.
#[derive(Debug)]
pub struct Places(Vec<(String, String)>);

impl Places {
    /// Looks through the sources.
    ///
    /// # Errors
    ///
    /// They cannot be read.
    pub fn find(workspace: &Path) -> io::Result<Self> {
        let mut found = Vec::new();
        let mut left: Vec<PathBuf> = SOURCES.map(|source| workspace.join(source)).into();
        while let Some(path) = left.pop() {
            if path.is_dir() {
                for entry in path.read_dir()? {
                    left.push(entry?.path());
                }
                continue;
            }
            let name = path.strip_prefix(workspace).unwrap_or(&path).display().to_string();
            if path.extension().is_none_or(|extension| extension != "rs") || name == LIST {
                continue;
            }
            for (at, line) in (1..).zip(std::fs::read_to_string(&path)?.lines()) {
                for rest in line.split("Defect::").skip(1) {
                    let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
                    found.push((rest[..end].to_owned(), format!("{name}:{at}")));
                }
            }
        }
        found.sort();
        Ok(Self(found))
    }

    /// The first place of a defect.
    #[must_use]
    pub fn of(&self, defect: Defect) -> Option<&str> {
        let name = format!("{defect:?}");
        self.0.iter().find(|(found, _)| *found == name).map(|(_, place)| place.as_str())
    }
}
