//! docs/testing.md names a test for each known bug: a name that has gone would be a promise that
//! nobody keeps.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The column of the tables that are promises.
const PROMISE: &str = "our test";

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The rows of all tables with a column of tests: what each says of a bug, and its tests.
fn promises(page: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut promises = Vec::new();
    let mut is_promise = false;
    for line in page.lines() {
        let Some(row) = line.strip_prefix('|') else {
            is_promise = false;
            continue;
        };
        let cells: Vec<_> = row.trim_end_matches('|').split('|').map(str::trim).collect();
        let last = cells[cells.len() - 1];
        if last == PROMISE {
            is_promise = true;
        } else if is_promise && !last.starts_with("---") {
            promises.push((cells[0].to_owned(), tests_of(last)));
        }
    }
    promises
}

/// `` `file.rs::name` `` in a cell, which holds nothing else.
fn tests_of(cell: &str) -> Vec<(String, String)> {
    let named = |test: &str| {
        let test = test.trim().trim_matches('`');
        let (file, name) = test.split_once("::").unwrap_or_else(|| panic!("{test} is no test"));
        (file.to_owned(), name.to_owned())
    };
    cell.split(',').map(named).collect()
}

/// Whether the source has a test function of this name, ignored or not.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let begins = format!("fn {name}(");
    lines.iter().enumerate().any(|(at, line)| {
        line.starts_with(&begins)
            && lines[..at]
                .iter()
                .rev()
                .take_while(|above| above.starts_with("#[") || above.starts_with("//"))
                .any(|above| *above == "#[test]")
    })
}

/// Every named test exists where it is said to.
#[test]
fn named_tests_exist() {
    let page = fs::read_to_string(root().join("docs/testing.md")).unwrap();
    let promises = promises(&page);
    assert!(promises.len() >= 50, "only {} bugs: the tables were not read", promises.len());
    let mut sources: BTreeMap<String, String> = BTreeMap::new();
    let mut missing = Vec::new();
    for (bug, tests) in promises {
        for (file, name) in tests {
            let source = sources
                .entry(file.clone())
                .or_insert_with(|| fs::read_to_string(root().join(&file)).unwrap_or_default());
            if !has_test(source, &name) {
                missing.push(format!("{file}::{name}, for: {bug}"));
            }
        }
    }
    assert!(missing.is_empty(), "there is no such test:\n{}", missing.join("\n"));
}

/// The test above can fail: a helper, a comment and another name are no test.
#[test]
fn only_tests_are_tests() {
    let source = "\
/// Why.
#[test]
#[ignore = \"a figure\"]
fn a_test() {}

fn helper() {}

// #[test]
fn commented() {}
";
    assert!(has_test(source, "a_test"));
    for name in ["helper", "commented", "a_tes", "test"] {
        assert!(!has_test(source, name), "{name}");
    }
    let page =
        "| a | our test |\n|---|---|\n| bug | `f.rs::x`, `g.rs::y` |\n\n| b |\n| `h.rs::z` |\n";
    let both = [("f.rs", "x"), ("g.rs", "y")].map(|(f, n)| (f.to_owned(), n.to_owned()));
    assert_eq!(promises(page), [("bug".to_owned(), both.to_vec())]);
}

/// The pages about tests link to files that are there.
#[test]
fn links_lead_somewhere() {
    for page in ["docs/testing.md", "docs/proof.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let file = link.split('#').next().unwrap();
            assert!(
                link.starts_with("https://") || root().join("docs").join(file).exists(),
                "{page}: {link}"
            );
        }
    }
}
