//! Reads a Procfile and the `.env` beside it: text in, processes and variables out.
//!
//! The grammar is the common part of what goreman and honcho accept: blank lines, `#` comments,
//! `name: command` with blanks allowed around both; in `.env` `KEY=value`, an optional `export`,
//! single and double quotes, backslashes, trailing comments.
//!
//! Refuses what those two skip in silence: a line that is neither, a name outside
//! `[A-Za-z0-9_-]+`, a name given twice, an empty command, a file without a process. A process
//! that is missing because of a typing error costs more time than the error. It expands no
//! `$VARIABLE`: the shell does that in commands, and in `.env` the two tools disagree.
//!
//! Invariants:
//! P1 names are unique and the order is the file's.
//! P2 process number n (from 0) has port base + 100 n, and every port fits in 16 bits.

use std::fmt;

/// The port of the first process when nothing says otherwise, as goreman and honcho have it.
const BASE_PORT: u16 = 5000;
const PORT_STEP: u16 = 100;

/// One process of the Procfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Given to `/bin/sh -c`.
    pub(super) command: String,
    /// Exported as `PORT`.
    pub(super) port: u16,
}

/// Why a file was refused: the line, counted from 1 where there is one, and what is wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    line: Option<usize>,
    reason: String,
}

impl Refusal {
    fn at(line: usize, reason: impl Into<String>) -> Refusal {
        Refusal { line: Some(line), reason: reason.into() }
    }

    fn whole(reason: impl Into<String>) -> Refusal {
        Refusal { line: None, reason: reason.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// Parses a Procfile. `port` is the text of the `PORT` variable, the base honcho counts from.
pub(super) fn parse_procfile(text: &str, port: Option<&str>) -> Result<Vec<Entry>, Refusal> {
    let base = match port {
        None | Some("") => BASE_PORT,
        Some(text) => text.parse().map_err(|_| {
            Refusal::whole(format!("PORT is '{text}', which is no port number; unset it"))
        })?,
    };
    let mut entries: Vec<Entry> = Vec::new();
    for (line, content) in significant_lines(text) {
        let Some((name, command)) = content.split_once(':') else {
            return Err(Refusal::at(
                line,
                format!("'{}' is not 'name: command'; comment it out with '#'", brief(content)),
            ));
        };
        let (name, command) = (name.trim(), command.trim());
        if name.is_empty() || !name.chars().all(is_name_char) {
            return Err(Refusal::at(
                line,
                format!("'{}' is no process name; use letters, digits, '_' and '-'", brief(name)),
            ));
        }
        if command.is_empty() {
            return Err(Refusal::at(line, format!("'{name}' has no command; add one after ':'")));
        }
        if entries.iter().any(|entry| entry.name == name) {
            return Err(Refusal::at(line, format!("'{name}' is named twice; rename one")));
        }
        let port = u16::try_from(entries.len())
            .ok()
            .and_then(|n| n.checked_mul(PORT_STEP))
            .and_then(|offset| base.checked_add(offset))
            .ok_or_else(|| {
                Refusal::at(line, format!("no port left for '{name}'; lower PORT from {base}"))
            })?;
        entries.push(Entry { name: name.to_owned(), command: command.to_owned(), port });
    }
    if entries.is_empty() {
        return Err(Refusal::whole("no process in it; add a line like 'name: command'"));
    }
    Ok(entries)
}

/// Parses a `.env` file into assignments, in the file's order; the later of two wins.
pub(super) fn parse_env(text: &str) -> Result<Vec<(String, String)>, Refusal> {
    significant_lines(text).map(|(line, content)| parse_assignment(line, content)).collect()
}

fn parse_assignment(line: usize, content: &str) -> Result<(String, String), Refusal> {
    let assignment = match content.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        _ => content,
    };
    let Some((key, value)) = assignment.split_once('=') else {
        return Err(Refusal::at(line, format!("'{}' is not 'KEY=value'", brief(content))));
    };
    let key = key.trim();
    let starts_well = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.')) {
        return Err(Refusal::at(line, format!("'{}' is no variable name", brief(key))));
    }
    let value = unquote(value.trim()).map_err(|reason| Refusal::at(line, reason))?;
    if value.contains('\0') {
        return Err(Refusal::at(line, format!("the value of {key} contains a zero byte")));
    }
    Ok((key.to_owned(), value))
}

/// Removes quotes, escapes and the trailing comment, as a shell would; blanks inside stay.
fn unquote(text: &str) -> Result<String, String> {
    let mut value = String::new();
    // Blanks count only once something follows them that is no comment.
    let mut blanks = String::new();
    let mut chars = text.chars().peekable();
    let mut at_word_start = true;
    while let Some(c) = chars.next() {
        if c == '#' && at_word_start {
            break;
        }
        if c.is_whitespace() {
            blanks.push(c);
            at_word_start = true;
            continue;
        }
        value.push_str(&blanks);
        blanks.clear();
        at_word_start = false;
        match c {
            '\'' => loop {
                match chars.next() {
                    Some('\'') => break,
                    Some(c) => value.push(c),
                    None => return Err("a ' is never closed on its line".to_owned()),
                }
            },
            '"' => loop {
                match chars.next() {
                    Some('"') => break,
                    Some('\\') => match chars.next() {
                        Some('n') => value.push('\n'),
                        Some('r') => value.push('\r'),
                        Some('t') => value.push('\t'),
                        Some(c @ ('"' | '\\' | '$' | '`')) => value.push(c),
                        Some(c) => value.extend(['\\', c]),
                        None => return Err("a \" is never closed on its line".to_owned()),
                    },
                    Some(c) => value.push(c),
                    None => return Err("a \" is never closed on its line".to_owned()),
                }
            },
            '\\' => value.push(chars.next().unwrap_or('\\')),
            c => value.push(c),
        }
    }
    Ok(value)
}

/// The lines that say something, trimmed, with their numbers. A byte order mark says nothing.
fn significant_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.strip_prefix('\u{feff}')
        .unwrap_or(text)
        .lines()
        .map(str::trim)
        .enumerate()
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(index, line)| (index + 1, line))
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

/// A refused text short enough for one line of a terminal.
fn brief(text: &str) -> String {
    const MAX_CHARS: usize = 40;
    let shown: String = text.chars().take(MAX_CHARS).filter(|c| !c.is_control()).collect();
    if text.chars().count() > MAX_CHARS { format!("{shown}...") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let entries = parse_procfile(text, None).expect("a good Procfile");
        entries.into_iter().map(|entry| (entry.name, entry.command)).collect()
    }

    #[test]
    fn procfiles_of_other_runners_are_taken() {
        // People bring the Procfile they have; each row is a shape goreman or honcho documents.
        let table: &[(&str, &[(&str, &str)])] = &[
            ("web: command\n", &[("web", "command")]),
            ("web: command", &[("web", "command")]),
            (
                "\r\n# all of it\r\nweb: a\r\n\r\nworker_1: b\r\n",
                &[("web", "a"), ("worker_1", "b")],
            ),
            ("one: 1\ntwo: 2\nthree: 3\n", &[("one", "1"), ("two", "2"), ("three", "3")]),
            ("  web :  padded  \n", &[("web", "padded")]),
            ("web:tight", &[("web", "tight")]),
            (
                "web: sh -c \"echo $FOOBAR\" >/dev/null 2>&1",
                &[("web", "sh -c \"echo $FOOBAR\" >/dev/null 2>&1")],
            ),
            (
                "# Use goreman to run\nraftexample1: ./raftexample --id 1 --cluster \
                 http://127.0.0.1:12379,http://127.0.0.1:22379 --port 12380 # one",
                &[(
                    "raftexample1",
                    "./raftexample --id 1 --cluster \
                     http://127.0.0.1:12379,http://127.0.0.1:22379 --port 12380 # one",
                )],
            ),
            ("\u{feff}a-b: x", &[("a-b", "x")]),
            ("#commented: command\nweb: x", &[("web", "x")]),
        ];
        for (text, expected) in table {
            let expected: Vec<_> =
                expected.iter().map(|(n, c)| ((*n).to_owned(), (*c).to_owned())).collect();
            assert_eq!(pairs(text), expected, "{text:?}");
        }
    }

    #[test]
    fn bad_procfiles_are_refused_by_line() {
        // Nothing may start from a file that was only half understood.
        let table = [
            ("", "no process in it"),
            ("\n# only words\n", "no process in it"),
            ("web: a\nworker b\n", "line 2: 'worker b' is not"),
            ("we b: a", "line 1: 'we b' is no process name"),
            (": a", "line 1: '' is no process name"),
            ("web: a\n\nweb: b", "line 3: 'web' is named twice"),
            ("web:   ", "line 1: 'web' has no command"),
        ];
        for (text, expected) in table {
            let refusal = parse_procfile(text, None).expect_err(text).to_string();
            assert!(refusal.starts_with(expected), "{text:?}: {refusal}");
            assert_eq!(refusal.lines().count(), 1, "{refusal}");
        }
    }

    #[test]
    fn ports_count_in_hundreds_from_the_base() {
        // Procfiles written for the other two use $PORT without saying where it comes from.
        let ports = |port| {
            parse_procfile("a: x\nb: x\nc: x", port)
                .map(|entries| entries.iter().map(|entry| entry.port).collect::<Vec<_>>())
                .map_err(|refusal| refusal.to_string())
        };
        assert_eq!(ports(None), Ok(vec![5000, 5100, 5200]));
        assert_eq!(ports(Some("8000")), Ok(vec![8000, 8100, 8200]));
        assert_eq!(ports(Some("65335")), Ok(vec![65335, 65435, 65535]));
        assert!(ports(Some("65336")).is_err_and(|e| e.contains("no port left for 'c'")));
        assert!(ports(Some("http")).is_err_and(|e| e.contains("PORT is 'http'")));
    }

    #[test]
    fn env_files_of_other_runners_are_taken() {
        // The rows are the shapes of honcho's and godotenv's own tables.
        let table: &[(&str, &[(&str, &str)])] = &[
            ("FOO=bar\nBAZ=qux", &[("FOO", "bar"), ("BAZ", "qux")]),
            ("#commented=x\n\n  # more\n", &[]),
            ("export FOO=bar", &[("FOO", "bar")]),
            ("exported=1", &[("exported", "1")]),
            ("FOO = bar", &[("FOO", "bar")]),
            ("EMPTY=", &[("EMPTY", "")]),
            ("A='hello\"world'", &[("A", "hello\"world")]),
            ("A=\"hello'world\"", &[("A", "hello'world")]),
            ("A='\"surrounded\"'", &[("A", "\"surrounded\"")]),
            ("A=\\\"escaped\\\"", &[("A", "\"escaped\"")]),
            ("A=\"two\\nlines\"", &[("A", "two\nlines")]),
            ("A='raw\\n'", &[("A", "raw\\n")]),
            ("A=some words  # why", &[("A", "some words")]),
            ("A=\"# kept\" # not", &[("A", "# kept")]),
            ("A=x#y", &[("A", "x#y")]),
            ("URL=http://h:1/?a=b&c=d", &[("URL", "http://h:1/?a=b&c=d")]),
            ("A=pre\"mid dle\"'post'", &[("A", "premid dlepost")]),
            ("A=$HOME", &[("A", "$HOME")]),
        ];
        for (text, expected) in table {
            let expected: Vec<_> =
                expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            assert_eq!(parse_env(text), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn bad_env_files_are_refused_by_line() {
        // A variable lost in silence makes a member run with a default nobody chose.
        for (text, expected) in [
            ("A=1\nnonsense", "line 2: 'nonsense' is not"),
            ("-foo=command", "line 1: '-foo' is no variable name"),
            ("1A=x", "line 1: '1A' is no variable name"),
            ("A='open", "line 1: a ' is never closed"),
            ("A=\"open\\\"", "line 1: a \" is never closed"),
        ] {
            let refusal = parse_env(text).expect_err(text).to_string();
            assert!(refusal.starts_with(expected), "{text:?}: {refusal}");
        }
    }
}
