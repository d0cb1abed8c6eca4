//! Whoever opens the picture of a violation must see which bars contradict each other.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use super::tests::op;
use super::{Verdict, Violation, check, timeline};
use crate::history::Op;

fn violation(history: &[Op]) -> Violation {
    match check(history, Duration::from_secs(20)) {
        Verdict::Violation(violation) => *violation,
        other => panic!("{other:?}"),
    }
}

/// Two clients write and read; the second reads what the first replaced, while a third hangs.
fn stale() -> Vec<Op> {
    let by = |client, line| Op { client, key: "<k & \"q\">".into(), ..op(line) };
    vec![
        by(0, "0-10 put 1 = ok 5"),
        by(2, "5-? put 9"),
        by(0, "20-30 put 2 = ok 6"),
        by(3, "25-26 put 8 = no"),
        by(1, "40-50 get = 2 6"),
        by(1, "60-70 get = 1 5"),
        by(0, "80-90 put 3 = ok 7"),
    ]
}

/// The groups of bars: their classes, by what they show when pointed at.
fn bars(page: &str) -> BTreeMap<String, String> {
    let groups = page.lines().filter_map(|line| line.strip_prefix("<g class=\"op "));
    let bar = |group: &str| {
        let (class, rest) = group.split_once("\"><title>").unwrap();
        let (title, _) = rest.split_once("</title>").unwrap();
        (title.split_once("member 1 ").unwrap().1.trim().to_owned(), class.trim().to_owned())
    };
    groups.map(bar).collect()
}

/// The marks are on the right bars, what ended long before or came after is not drawn, and the
/// file stands alone.
#[test]
fn the_contradiction_is_marked() {
    let history = stale();
    let violation = violation(&history);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("violation.html");
    timeline::write(&path, &violation, &history).unwrap();
    let page = fs::read_to_string(path).unwrap();

    let expected = [
        ("put 1 -&gt; done at 5", "writer"),
        ("put 9 -&gt; unknown", "open"),
        ("get -&gt; 2 at 6", "window"),
        ("get -&gt; 1 at 5", "offending"),
    ];
    let expected: BTreeMap<_, _> =
        expected.map(|(title, class)| (title.to_owned(), class.to_owned())).into();
    assert_eq!(bars(&page), expected);
    assert!(page.contains("<title>key &lt;k &amp; &quot;q&quot;&gt; is not linearizable</title>"));
    assert!(page.contains("the next answer cannot be:"), "the text is there as well");
    for outside in ["<script", "<link", "src=", "href=", "url(", "http"] {
        assert!(!page.contains(outside), "{outside} needs something else");
    }
    for client in 0..3 {
        assert_eq!(page.matches(&format!(">client {client}</text>")).count(), 1, "{client}");
    }
}

/// Every tag that is opened is closed, in its order: a browser would mend it, and show something
/// else.
#[test]
fn tags_are_balanced() {
    let history = stale();
    let page = timeline::render(&violation(&history), &history);
    let mut open = Vec::new();
    for tag in page.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()) {
        let name = tag.split([' ', '/']).find(|name| !name.is_empty()).unwrap();
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') && !["!doctype", "meta"].contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

/// Bars of one line never overlap, be a client's requests as concurrent as they like, and bars
/// begin and end in the order of time.
#[test]
fn bars_do_not_overlap() {
    let mut history = stale();
    history.extend((0..400).map(|n| {
        let line = format!("{}-{} put {} = ok {}", 41 + n / 20, 45 + n / 10, 100 + n, 100 + n);
        Op { client: n % 3, ..op(&line) }
    }));
    history.iter_mut().for_each(|op| op.key = "k".into());
    let page = timeline::render(&violation(&history), &history);
    let number = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}=\"")).unwrap();
        rest.split('"').next().unwrap().parse::<usize>().unwrap()
    };
    let mut rows: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    let mut n_bars = 0;
    for (_, bar) in page.lines().filter_map(|line| line.split_once("<rect ")) {
        let x = number(bar, "x");
        rows.entry(number(bar, " y")).or_default().push((x, x + number(bar, "width")));
        n_bars += 1;
    }
    assert_eq!(n_bars, 150, "more than can be read");
    for (y, mut bars) in rows {
        bars.sort_unstable();
        assert!(bars.windows(2).all(|two| two[0].1 <= two[1].0), "{y}: {bars:?}");
    }
}
