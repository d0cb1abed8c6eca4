//! All points, and the file that holds them: what a picture is drawn of, here and by others.
//!
//! Lines that begin with `#` say of what the points are; the others are `figure,series,x,value`, the
//! value in the figure's unit.

use std::collections::BTreeMap;
use std::fmt;

use crate::figures::{FIGURES, Figure, named};

const HEAD: &str = "figure,series,x,value";

/// What was measured, and where.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Points {
    /// What must be known of a measurement: names and values.
    pub facts: Vec<(String, String)>,
    /// Of each figure, of each series, in the order of what is varied.
    pub(crate) figures: BTreeMap<&'static str, Vec<Series>>,
}

/// One line of a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What it is called.
    pub name: String,
    /// What was varied, and what was found.
    pub points: Vec<(u64, f64)>,
}

impl Points {
    /// Adds a point to a figure; what is varied must grow.
    ///
    /// # Panics
    ///
    /// When there is no such figure, or when the value is none.
    pub fn add(&mut self, figure: &str, series: &str, x: u64, value: f64) {
        self.try_add(figure, series, x, value).unwrap_or_else(|why| panic!("{why}"));
    }

    fn try_add(&mut self, figure: &str, series: &str, x: u64, value: f64) -> Result<(), String> {
        let known = named(figure).ok_or_else(|| format!("there is no figure {figure}"))?;
        if series.contains([',', '|', '\n']) {
            return Err(format!("{figure}, {series:?}: that would be more than one cell"));
        }
        if !value.is_finite() || value <= 0.0 || x == 0 {
            return Err(format!("{figure}, {series} at {x}: {value} has no place in a picture"));
        }
        let all = self.figures.entry(known.name).or_default();
        let place = all.iter().position(|known| known.name == series).unwrap_or_else(|| {
            all.push(Series { name: series.to_owned(), points: Vec::new() });
            all.len() - 1
        });
        let points = &mut all[place].points;
        if points.last().is_some_and(|(last, _)| *last >= x) {
            return Err(format!("{figure}, {series}: {x} does not come after the one before"));
        }
        points.push((x, value));
        Ok(())
    }

    /// The lines of a picture; none when nothing of it was measured.
    pub fn of(&self, figure: &Figure) -> &[Series] {
        self.figures.get(figure.name).map_or(&[], Vec::as_slice)
    }

    /// The figures of which there is something, in the page's order.
    pub fn figures(&self) -> impl Iterator<Item = &'static Figure> {
        FIGURES.iter().filter(|figure| !self.of(figure).is_empty())
    }

    /// How many there are.
    pub fn n(&self) -> usize {
        self.figures.values().flatten().map(|series| series.points.len()).sum()
    }

    /// A fact by its name.
    pub fn fact(&self, name: &str) -> &str {
        let fact = self.facts.iter().find(|(known, _)| known == name);
        fact.map_or("unknown", |(_, value)| value)
    }

    /// What such a file says.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn read(text: &str) -> Result<Points, String> {
        let mut points = Points::default();
        let mut has_head = false;
        for line in text.lines() {
            if let Some(fact) = line.strip_prefix("# ") {
                let (name, value) = fact.split_once(": ").ok_or_else(|| bad(line))?;
                points.facts.push((name.to_owned(), value.to_owned()));
            } else if line == HEAD {
                has_head = true;
            } else {
                let cells: Vec<_> = line.split(',').collect();
                let [figure, series, x, value] = cells[..] else { return Err(bad(line)) };
                let (x, value) =
                    (x.parse().map_err(|_| bad(line))?, value.parse().map_err(|_| bad(line))?);
                points.try_add(figure, series, x, value)?;
            }
        }
        if has_head { Ok(points) } else { Err(format!("there is no line {HEAD}")) }
    }
}

fn bad(line: &str) -> String {
    format!("{line:?} is no line of {HEAD}")
}

impl fmt::Display for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.facts {
            writeln!(f, "# {name}: {value}")?;
        }
        writeln!(f, "{HEAD}")?;
        for figure in self.figures() {
            for series in self.of(figure) {
                for (x, value) in &series.points {
                    writeln!(f, "{},{},{x},{value}", figure.name, series.name)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::points;

    /// G1: nothing is lost between the measurement and whoever draws it again.
    #[test]
    fn points_are_read_as_they_were_written() {
        let points = points();
        assert_eq!(Points::read(&points.to_string()), Ok(points.clone()));
        assert_eq!(points.fact("machine"), "a desk");
        assert_eq!(points.fact("moon"), "unknown");
    }

    /// G1: a name that would be read as two is not written.
    #[test]
    fn names_are_one_cell() {
        let tried = Points::default().try_add("keys-time", "kill, then start", 1, 1.0);
        assert!(tried.is_err_and(|why| why.contains("one cell")));
    }

    /// What is no such file is not taken for one with little in it.
    #[test]
    fn other_files_are_refused() {
        let head = HEAD.to_owned() + "\n";
        for (text, why) in [
            (String::new(), "no line figure,"),
            (head.clone() + "keys-rate,PUT,1000\n", "is no line of"),
            (head.clone() + "keys-rate,PUT,1000,fast\n", "is no line of"),
            (head.clone() + "colour,PUT,1000,1\n", "no figure colour"),
            (head.clone() + "keys-rate,PUT,1000,NaN\n", "has no place"),
            (head.clone() + "keys-rate,PUT,10,1\nkeys-rate,PUT,10,2\n", "does not come after"),
        ] {
            let read = Points::read(&text);
            assert!(read.as_ref().is_err_and(|error| error.contains(why)), "{text}: {read:?}");
        }
    }
}
