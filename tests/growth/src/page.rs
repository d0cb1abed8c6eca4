//! The page: method, machine, the rule and what broke it, and each picture with its table and text.

use std::fmt::{self, Write};

use crate::cliff::{Step, TOLERANCE, steepest, steps};
use crate::figures::{Axis, Figure, Growth, Meaning};
use crate::plot::short;
use crate::points::{Points, Series};
use crate::reasons;

/// A step beyond the rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Cliff<'a> {
    /// Where.
    pub figure: &'static Figure,
    /// Which line.
    pub series: &'a str,
    /// From where to where.
    pub step: Step,
    /// Why, if anybody knows.
    pub reason: Option<&'static str>,
}

/// Every step beyond the rule, in the page's order.
pub fn cliffs(points: &Points) -> Vec<Cliff<'_>> {
    let of_series = |figure: &'static Figure, series: &'_ Series| {
        steps(figure, series).into_iter().filter(Step::is_cliff).collect::<Vec<_>>()
    };
    let mut all = Vec::new();
    for figure in points.figures() {
        for series in points.of(figure) {
            for step in of_series(figure, series) {
                let reason = reasons::of_step(figure.name, &series.name, step);
                all.push(Cliff { figure, series: &series.name, step, reason });
            }
        }
    }
    all
}

/// What was done, in one line.
pub fn closing(points: &Points) -> String {
    let cliffs = cliffs(points);
    let unexplained = cliffs.iter().filter(|cliff| cliff.reason.is_none()).count();
    format!(
        "growth: {} points in {} pictures, {} steps beyond the rule, {unexplained} unexplained",
        points.n(),
        points.figures().count(),
        cliffs.len(),
    )
}

/// The page's text; its files' names begin with `stem`.
pub fn text(points: &Points, stem: &str) -> String {
    let mut text = String::new();
    write(points, stem, &mut text).expect("a string can be written");
    text
}

fn write(points: &Points, stem: &str, out: &mut String) -> fmt::Result {
    writeln!(
        out,
        "# Growth\n\n\
         What every cost grows to with members, keys and the bytes of a value. Written by `{}` at \
         commit\n{} on {} UTC; not by hand. All points are in [{stem}.csv]({stem}.csv).\n\n\
         Machine: {}; the data on {}. Members and load share it.\n\n\
         Three members, values of 128 bytes, 10,000 keys and 64 connections to the leader where \
         nothing else\nis said; default settings, every write synced; a closed loop of {} s after half \
         a second that does\nnot count, at members of their own for each number of members and \
         each size. Every answer is\nchecked. Each point was measured once: what differs by less than \
         a half may be noise.\n",
        points.fact("command"),
        points.fact("commit"),
        points.fact("when"),
        points.fact("machine"),
        points.fact("file system"),
        points.fact("seconds"),
    )?;
    write_rule(points, out)?;
    for axis in Axis::ALL {
        let mut figures = points.figures().filter(|figure| figure.axis == axis).peekable();
        if figures.peek().is_some() {
            writeln!(out, "\n## By {}", axis.name())?;
        }
        figures.try_for_each(|figure| write_figure(points, figure, stem, out))?;
    }
    Ok(())
}

fn write_rule(points: &Points, out: &mut String) -> fmt::Result {
    writeln!(
        out,
        "## The rule\n\n\
         A step from one point to the next is a cliff when the cost at the second is more than \
         {TOLERANCE} times\nwhat it may be: as many times that at the first as what is varied has grown \
         by, or, of a cost that\nis to stay as it is, that at the first. The cost of a rate is its \
         reciprocal. Each picture says\nwhich of both holds.\n"
    )?;
    let cliffs = cliffs(points);
    if cliffs.is_empty() {
        return writeln!(out, "No step is a cliff.");
    }
    writeln!(out, "| cliff | line | from | to | times the cost | without a reason | why |")?;
    writeln!(out, "|---|---|--:|--:|--:|--:|---|")?;
    for Cliff { figure, series, step, reason } in cliffs {
        writeln!(
            out,
            "| {} | {series} | {} | {} | {} | {} | {} |",
            figure.title,
            figure.axis.show(step.from),
            figure.axis.show(step.to),
            short(step.factor),
            short(step.allowed),
            reason.unwrap_or("**unexplained**"),
        )?;
    }
    Ok(())
}

fn write_figure(points: &Points, figure: &Figure, stem: &str, out: &mut String) -> fmt::Result {
    let all = points.of(figure);
    let Figure { name, axis, title, unit, .. } = figure;
    writeln!(out, "\n### {title}, by {}\n\n![{title}]({stem}-{name}.svg)\n", axis.name())?;
    let names: Vec<_> = all.iter().map(|series| format!("{}, {unit}", series.name)).collect();
    writeln!(
        out,
        "| {} | {} |\n|--:|{}",
        axis.name(),
        names.join(" | "),
        "--:|".repeat(all.len())
    )?;
    let mut places: Vec<u64> = all.iter().flat_map(|series| &series.points).map(|p| p.0).collect();
    places.sort_unstable();
    places.dedup();
    for place in places {
        let cell = |series: &Series| {
            let found = series.points.iter().find(|(x, _)| *x == place);
            found.map_or("–".to_owned(), |(_, value)| short(*value))
        };
        let cells: Vec<_> = all.iter().map(cell).collect();
        writeln!(out, "| {} | {} |", axis.show(place), cells.join(" | "))?;
    }
    writeln!(out, "\n{}", reasons::of_figure(name))?;
    if figure.meaning == Meaning::Shown {
        return Ok(());
    }
    let may = match figure.growth {
        Growth::InProportion => "may grow in proportion",
        Growth::NotAtAll => "is to stay as it is",
    };
    for series in all {
        let Some(step) = steepest(&steps(figure, series)) else { continue };
        writeln!(
            out,
            "\n{}: the cost {may}; from {} to {} it comes nearest to its limit, with {} of {} times{}.",
            series.name,
            axis.show(step.from),
            axis.show(step.to),
            short(step.factor),
            short(step.allowed),
            if step.is_cliff() { ": **a cliff**" } else { "" },
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{FIGURES, named};
    use crate::testing::points;

    /// Every point is in its table, and every row has as many cells as its heading.
    #[test]
    fn a_page_shows_every_point() {
        let text = text(&points(), "growth");
        for line in [
            "| 3 | 30k | 50k |",
            "| 10k | 29k |",
            "| 1 MiB | 120 |",
            "![Requests answered](growth-members-rate.svg)",
            "## By members",
            "## By keys",
            "## By bytes in a value",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
        }
        assert!(text.contains("`make growth` at commit\nabc1234"), "{text}");
        assert!(text.contains("Machine: a desk;"), "{text}");
        for table in text.split("\n\n").filter(|part| part.starts_with('|')) {
            let mut cells = table.lines().map(|row| row.matches('|').count());
            let head = cells.next();
            assert!(cells.all(|n| Some(n) == head), "{table}");
        }
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }

    /// G2: the made-up cliff is told, in the table of them, under its picture, and at the end.
    #[test]
    fn a_page_tells_its_cliffs() {
        let points = points();
        let cliffs = cliffs(&points);
        let found: Vec<_> =
            cliffs.iter().map(|c| (c.figure.name, c.series, c.step.from, c.step.to)).collect();
        assert_eq!(found, [("keys-rate", "PUT", 10_000, 100_000)]);
        let text = text(&points, "growth");
        assert!(text.contains("| PUTs committed | PUT | 10k | 100k | 3.22 | 1.5 | "), "{text}");
        assert_eq!(text.matches("**a cliff**").count(), 1, "{text}");
        let n_unexplained = cliffs.iter().filter(|cliff| cliff.reason.is_none()).count();
        assert_eq!(text.matches("**unexplained**").count(), n_unexplained);
        assert_eq!(
            closing(&points),
            format!(
                "growth: 11 points in 3 pictures, 1 steps beyond the rule, {n_unexplained} unexplained"
            )
        );
    }

    /// Nobody looks at a picture without its text; and a text of no picture is read by nobody.
    #[test]
    fn every_picture_has_its_text() {
        for figure in &FIGURES {
            assert!(!reasons::of_figure(figure.name).is_empty(), "{}", figure.name);
        }
        reasons::figures().for_each(|name| assert!(named(name).is_some(), "{name}"));
    }
}
