//! A violation as a picture: one HTML file that needs nothing else, to be opened in a browser.
//!
//! A row for each client, a bar from each call to its end. Order is drawn to scale and time is
//! not: each call and each end has a column of its own, so that a microsecond beside a second can
//! still be read. Times are in the title that a bar shows when it is pointed at.
//!
//! The operation that cannot be explained is marked, and so are those that it contradicts and the
//! one that wrote what it saw.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use super::Violation;
use crate::history::{Action, Answer, End, Op};

/// How many operations are drawn at most: those nearest to the one that cannot be explained.
const MAX_DRAWN: usize = 150;
/// In pixels.
const COLUMN: usize = 28;
const ROW: usize = 34;
const BAR: usize = 24;
const MARGIN: usize = 130;

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:14px/1.4 system-ui,sans-serif;margin:24px}\
svg{display:block}\
.scroll{overflow-x:auto;margin:16px 0}\
text{font:11px system-ui,sans-serif;fill:CanvasText}\
.lane{stroke:GrayText;stroke-opacity:.25}\
rect{fill:#8a8f98;fill-opacity:.25;stroke:#8a8f98}\
.window rect{fill:#e0a100;fill-opacity:.35;stroke:#e0a100;stroke-width:2}\
.writer rect{fill:#2b7de9;fill-opacity:.3;stroke:#2b7de9;stroke-width:2}\
.offending rect{fill:#d92d20;fill-opacity:.4;stroke:#d92d20;stroke-width:3}\
.open rect{stroke-dasharray:5 3}\
.refused{opacity:.5}\
.key span{display:inline-block;margin-right:18px}\
.key i{display:inline-block;width:12px;height:12px;margin-right:5px;border:2px solid}\
pre{overflow-x:auto;padding:12px;border:1px solid GrayText}";

/// Writes the picture of this violation of this history.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write(path: &Path, violation: &Violation, history: &[Op]) -> io::Result<()> {
    fs::write(path, render(violation, history))
}

/// The picture as text.
pub fn render(violation: &Violation, history: &[Op]) -> String {
    let drawn = drawn(violation, history);
    let mut page = String::new();
    let title = format!("key {} is not linearizable", escape(&violation.key));
    let push = |page: &mut String, text: &str| page.push_str(text);
    push(&mut page, "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\n");
    push(&mut page, &format!("<title>{title}</title>\n<style>{STYLE}</style></head>\n<body>\n"));
    push(&mut page, &format!("<h1>{title}</h1>\n"));
    push(
        &mut page,
        "<p>Each row is a client, each bar a request from its call to its end. What is left of \
         another came before it. A dashed bar has no known end. Point at a bar for its times.</p>\n",
    );
    push(
        &mut page,
        "<p class=\"key\"><span><i style=\"color:#d92d20\"></i>cannot be explained</span>\
         <span><i style=\"color:#e0a100\"></i>contradicts it</span>\
         <span><i style=\"color:#2b7de9\"></i>wrote what it saw</span></p>\n",
    );
    push(&mut page, "<div class=\"scroll\">\n");
    draw(&mut page, violation, &drawn);
    push(&mut page, "</div>\n");
    push(&mut page, &format!("<pre>{}</pre>\n</body>\n</html>\n", escape(&violation.to_string())));
    page
}

/// What is shown: the operations on the key that were under way between the first of the window
/// and the end of the last, and who wrote what was seen; the latest calls when those are too many.
fn drawn<'a>(violation: &'a Violation, history: &'a [Op]) -> Vec<&'a Op> {
    let marked = || violation.window.iter().chain([&violation.offending]);
    let from = marked().map(|op| op.call).min().unwrap_or(0);
    let to = violation.offending.answered_at().unwrap_or(u64::MAX);
    let runs = |op: &&Op| {
        let ended = op.answered_at().or((op.end == End::Refused).then_some(op.call));
        op.key == violation.key && op.call <= to && ended.is_none_or(|at| at >= from)
    };
    let mut others: Vec<_> =
        history.iter().filter(runs).filter(|op| !is_marked(op, violation)).collect();
    others.sort_by_key(|op| std::cmp::Reverse(op.call));
    let mut drawn: Vec<&Op> = history.iter().filter(|op| is_marked(op, violation)).collect();
    drawn.extend(others.into_iter().take(MAX_DRAWN.saturating_sub(drawn.len())));
    drawn.sort_by_key(|op| (op.client, op.call));
    drawn
}

fn is_marked(op: &Op, violation: &Violation) -> bool {
    !mark(op, violation).is_empty()
}

/// What this operation is to the violation.
fn mark(op: &Op, violation: &Violation) -> &'static str {
    // In the window, what ended later is shown as it was known then.
    let is = |other: &Op| {
        (op.client, op.call, op.action, &op.key)
            == (other.client, other.call, other.action, &other.key)
    };
    if is(&violation.offending) {
        "offending"
    } else if violation.window.iter().any(is) {
        "window"
    } else if violation.writer.as_ref().is_some_and(is) {
        "writer"
    } else {
        ""
    }
}

/// The picture itself.
fn draw(page: &mut String, violation: &Violation, drawn: &[&Op]) {
    let columns = columns(drawn);
    let lanes = lanes(drawn);
    let width = MARGIN + (columns.len() + 2) * COLUMN;
    let n_lanes = lanes.iter().max().map_or(0, |lane| lane + 1);
    let height = n_lanes * ROW + 10;
    let mut line = |text: String| {
        page.push_str(&text);
        page.push('\n');
    };
    line(format!(
        "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\">"
    ));
    let mut last_client = None;
    for (op, &lane) in drawn.iter().zip(&lanes) {
        let y = lane * ROW + 5;
        if last_client != Some(op.client) {
            let middle = y + BAR / 2;
            line(format!(
                "<line class=\"lane\" x1=\"0\" x2=\"{width}\" y1=\"{middle}\" y2=\"{middle}\"/>\
                 <text x=\"4\" y=\"{}\">client {}</text>",
                middle + 4,
                op.client
            ));
            last_client = Some(op.client);
        }
        let x = MARGIN + columns[&(op.call, false)] * COLUMN;
        let end = match op.end {
            End::Answered { at, .. } => MARGIN + columns[&(at, true)] * COLUMN,
            End::Unknown => width - COLUMN / 2,
            End::Refused => x + COLUMN,
        };
        let kind = match op.end {
            End::Answered { .. } => "",
            End::Unknown => " open",
            End::Refused => " refused",
        };
        line(format!(
            "<g class=\"op {}{kind}\"><title>{}</title>\
             <rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{BAR}\" rx=\"4\"/>\
             <text x=\"{}\" y=\"{}\">{}</text></g>",
            mark(op, violation),
            escape(op.to_string().trim()),
            end - x,
            x + 4,
            y + 16,
            escape(&label(op)),
        ));
    }
    line("</svg>".to_owned());
}

/// A column for each call and each end, in their order; at one moment calls come first.
fn columns(drawn: &[&Op]) -> BTreeMap<(u64, bool), usize> {
    let ends = drawn.iter().filter_map(|op| op.answered_at());
    let mut columns: BTreeMap<_, _> = ends.map(|at| ((at, true), 0)).collect();
    columns.extend(drawn.iter().map(|op| ((op.call, false), 0)));
    columns.values_mut().enumerate().for_each(|(number, column)| *column = number);
    columns
}

/// The line that each is drawn on: its client's, or one below while that one is taken, as it is
/// for ever by what never ended.
fn lanes(drawn: &[&Op]) -> Vec<usize> {
    let mut lanes = Vec::new();
    let (mut client, mut first) = (None, 0);
    let mut taken: Vec<u64> = Vec::new();
    for op in drawn {
        if client != Some(op.client) {
            first += taken.len();
            (client, taken) = (Some(op.client), Vec::new());
        }
        let until = match op.end {
            End::Refused => op.call,
            End::Unknown => u64::MAX,
            End::Answered { at, .. } => at,
        };
        let lane = taken.iter().position(|&busy| busy < op.call).unwrap_or(taken.len());
        if lane == taken.len() {
            taken.push(until);
        } else {
            taken[lane] = until;
        }
        lanes.push(first + lane);
    }
    lanes
}

/// As short as it can be understood.
fn label(op: &Op) -> String {
    let mut text = match op.action {
        Action::Get => "get".to_owned(),
        Action::Put { value } => format!("put {value}"),
        Action::Cas { value, expected } => format!("put {value} if @{expected}"),
        Action::Delete => "delete".to_owned(),
    };
    let at = |at: Option<u64>| at.map_or_else(String::new, |at| format!("@{at}"));
    let told = match op.end {
        End::Unknown => " ?".to_owned(),
        End::Refused => " refused".to_owned(),
        End::Answered { answer, .. } => match answer {
            Answer::Found { value, mod_index } => format!(" = {value}{}", at(mod_index)),
            Answer::Absent => " = absent".to_owned(),
            Answer::Done { index } => format!(" {}", at(index)),
            Answer::Mismatch { .. } => " no".to_owned(),
            Answer::Missing { .. } => " = absent".to_owned(),
        },
    };
    text.push_str(&told);
    text
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // A key is any text, and a control character may be one that HTML knows nothing of.
            c if c.is_control() && c != '\n' => {
                write!(escaped, "\\x{:02x}", c as u32).expect("a String takes anything");
            }
            c => escaped.push(c),
        }
    }
    escaped
}
