//! The load generator: what it measures on real members, and what it refuses to call a result.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// How a server answers, given the method, the path and what was put there: status and body.
type Answer = fn(&str, &str, Option<&[u8]>) -> (u16, Vec<u8>);

/// Runs it for one short round, unless told otherwise.
fn bench(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raftexample"));
    command.arg("bench").args(args);
    for (flag, value) in [("--seconds", "1"), ("--rounds", "1"), ("--warm-up-ms", "100")] {
        if !args.contains(&flag) {
            command.args([flag, value]);
        }
    }
    command.output().unwrap()
}

/// A server that keeps what is put, and answers as it likes. Its threads end with the process.
fn serve(answer: Answer) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let store = Arc::new(Mutex::new(HashMap::new()));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let store = store.clone();
            thread::spawn(move || serve_one(stream, &store, answer));
        }
    });
    url
}

/// Answers until the client goes.
fn serve_one(
    mut stream: TcpStream,
    store: &Mutex<HashMap<String, Vec<u8>>>,
    answer: Answer,
) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut head).ok()? == 0 {
                return None;
            }
        }
        let head = String::from_utf8(head).ok()?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        reader.read_exact(&mut body).ok()?;
        let mut words = head.split(' ');
        let (method, path) = (words.next()?, words.next()?);
        if method == "PUT" {
            store.lock().unwrap().insert(path.to_owned(), body);
        }
        let kept = store.lock().unwrap().get(path).cloned();
        let (status, body) = answer(method, path, kept.as_deref());
        let length = match status {
            204 => String::new(),
            _ => format!("content-length: {}\r\n", body.len()),
        };
        let reply = format!("HTTP/1.1 {status} X\r\n{length}\r\n").into_bytes();
        stream.write_all(&[reply, body].concat()).ok()?;
    }
}

fn honest(method: &str, _: &str, kept: Option<&[u8]>) -> (u16, Vec<u8>) {
    match (method, kept) {
        ("PUT", _) => (204, Vec::new()),
        (_, Some(kept)) => (200, kept.to_vec()),
        (_, None) => (404, Vec::new()),
    }
}

/// B1: a server that lies is found out, however it does, and there is no figure then. The same load
/// at an honest one has a figure.
#[test]
fn wrong_answers_are_no_result() {
    let lies: [(Answer, &str); 7] = [
        (honest, ""),
        (
            |method, path, kept| match method {
                "PUT" => (200, Vec::new()),
                _ => honest(method, path, kept),
            },
            "PUT answered 200",
        ),
        (
            |method, path, kept| match (method, path) {
                ("GET", "/k00000007") => (200, kept.unwrap().iter().map(|byte| byte ^ 1).collect()),
                _ => honest(method, path, kept),
            },
            "another value than was written",
        ),
        (
            // The value of another key: its first bytes are the only ones that differ.
            |method, path, kept| match (method, path, kept) {
                ("GET", "/k00000007", Some(kept)) => (200, [b"k00000003", &kept[9..]].concat()),
                _ => honest(method, path, kept),
            },
            "GET k00000007 gave another value",
        ),
        (
            |method, path, kept| match (method, kept) {
                ("GET", Some(kept)) => (200, kept[1..].to_vec()),
                _ => honest(method, path, kept),
            },
            "GET gave 127 bytes, not 128",
        ),
        (
            |method, path, kept| match (method, path) {
                ("GET", "/k00000007") => (404, b"no such key".to_vec()),
                _ => honest(method, path, kept),
            },
            "GET answered 404 Not Found no such key",
        ),
        (
            |method, path, kept| match method {
                "PUT" => (503, b"nobody leads".to_vec()),
                _ => honest(method, path, kept),
            },
            "PUT answered 503 Service Unavailable nobody leads",
        ),
    ];
    thread::scope(|scope| {
        for (answer, named) in lies {
            scope.spawn(move || check_lie(answer, named));
        }
    });
}

fn check_lie(answer: Answer, named: &str) {
    let url = serve(answer);
    let args = ["--at", &url, "--mix", "put=1,get=9", "--connections", "2", "--keys", "8"];
    let output = bench(&args);
    let said = String::from_utf8_lossy(&output.stderr);
    let n_lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
    if named.is_empty() {
        assert!(output.status.success(), "{said}");
        // The heading, the level, and its two operations.
        assert_eq!(n_lines, 4);
    } else {
        assert_eq!(output.status.code(), Some(1), "{named}");
        assert!(said.contains(named), "not {named:?} but {said}");
        assert!(n_lines <= 1, "{named}: a result was printed");
    }
}

/// Coordinated omission: who was to ask while the server stalled has waited, although one request
/// alone was under way.
#[test]
fn a_stall_is_charged_to_all_who_were_to_ask_meanwhile() {
    let url = serve(|method, path, kept| {
        if path == "/k00000003" {
            thread::sleep(Duration::from_millis(300));
        }
        honest(method, path, kept)
    });
    // One in sixteen requests takes 300 ms, and the rate has twelve more come meanwhile.
    let args = ["--at", &url, "--connections", "1", "--keys", "16", "--json"];
    let closed = bench(&args);
    let open = bench(&[&args[..], &["--rate", "40", "--seconds", "3"]].concat());
    let p50 = |output: &Output| {
        let line: Value = serde_json::from_slice(&output.stdout).unwrap();
        line["p50_micros"].as_u64().unwrap()
    };
    assert!(p50(&closed) < 30_000, "{}", p50(&closed));
    assert!(p50(&open) > 30_000, "{}", p50(&open));
}

/// A rate that a server cannot keep is an error and not a figure, and does not take for ever.
#[test]
fn a_rate_that_is_not_reached_is_an_error() {
    let url = serve(|method, path, kept| {
        thread::sleep(Duration::from_millis(5));
        honest(method, path, kept)
    });
    let output = bench(&["--at", &url, "--connections", "1", "--rate", "5000", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("not reached: 5000 a second at 1 connections"), "{said}");
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&line["reached"], &line["rate"]), (&Value::from(false), &Value::from(5000)));
    assert!(line["writes_per_second"].as_f64().unwrap() < 250.0, "{line}");
}

/// Everything at once on real members: each kind of request is answered as it must be at every one
/// of them, twice, for the second round finds what the first left.
#[test]
fn all_kinds_of_requests_are_measured_on_members() {
    let directory = tempfile::tempdir().unwrap();
    let plot = directory.path().join("out.svg");
    let output = bench(&[
        "--mix",
        "put=2,get=3,stale=3,cas=2",
        "--spread",
        "--distribution",
        "zipfian",
        "--connections",
        "6",
        "--keys",
        "500",
        "--key-bytes",
        "16",
        "--value-bytes",
        "100",
        "--rounds",
        "2",
        "--json",
        "--plot",
        plot.to_str().unwrap(),
        "--dir",
        directory.path().to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(line["mix"], "put=2,get=3,stale=3,cas=2");
    assert_eq!(line["rounds"].as_array().unwrap().len(), 2);
    for operation in ["put", "get", "stale", "cas"] {
        assert!(line["operations"][operation]["per_second"].as_f64() > Some(0.0), "{line}");
    }
    let both = |a: &str, b: &str| {
        let per_second = |name: &str| line["operations"][name]["per_second"].as_f64().unwrap();
        per_second(a) + per_second(b)
    };
    let about = |a: f64, b: &Value| (a - b.as_f64().unwrap()).abs() < 0.01;
    assert!(about(both("put", "cas"), &line["writes_per_second"]), "{line}");
    assert!(about(both("get", "stale"), &line["reads_per_second"]), "{line}");
    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.contains("6 connections") && svg.contains("put=2,get=3,stale=3,cas=2"), "{svg}");
    // B2: what was started is gone, and only the plot is left.
    assert_eq!(directory.path().read_dir().unwrap().count(), 1);
}

/// What is wrong with the arguments is said before anything is started.
#[test]
fn bad_arguments_are_named() {
    let table: [(&[&str], i32, &str); 9] = [
        (&["--mix", "put=x"], 2, "the weight of put is \"x\""),
        (&["--mix", "post=1"], 2, "no operation \"post\": put, get, stale and cas"),
        (&["--mix", "put=0"], 2, "every weight is 0"),
        (&["--mix", "put=1", "--reads"], 2, "--reads"),
        (&["--rate", "0"], 2, "--rate"),
        (&["--distribution", "normal"], 2, "uniform, zipfian"),
        (&["--at", "http://a:1", "--spread"], 2, "--spread"),
        (&["--key-bytes", "4"], 1, "--key-bytes 4 cannot tell 100000 keys apart: it takes 6"),
        (&["--plot", "/nonexistent/out.svg"], 1, "--plot /nonexistent/out.svg"),
    ];
    for (args, code, named) in table {
        let output = bench(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(named), "{args:?}: {said}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}
