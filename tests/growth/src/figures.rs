//! The pictures: what each shows, by what, and how much its cost may grow.

/// What is varied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// How many members there are.
    Members,
    /// How many keys there are.
    Keys,
    /// How many bytes a value has.
    Bytes,
}

/// What a figure says of the cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// It is the cost.
    Cost,
    /// So many for the cost of a second: the cost of one is its reciprocal.
    Rate,
    /// The same as another figure says, in a unit that shows something else. It is not judged.
    Shown,
}

/// How much a cost may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// As much as what is varied.
    InProportion,
    /// Not at all.
    NotAtAll,
}

/// One picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figure {
    /// A part of its file's name.
    pub name: &'static str,
    /// What is varied in it.
    pub axis: Axis,
    /// What it shows.
    pub title: &'static str,
    /// In what.
    pub unit: &'static str,
    /// What that says of the cost.
    pub meaning: Meaning,
    /// What the cost may do.
    pub growth: Growth,
}

impl Axis {
    /// All of them, in the page's order.
    pub const ALL: [Axis; 3] = [Axis::Members, Axis::Keys, Axis::Bytes];

    /// As a heading and a column.
    pub fn name(self) -> &'static str {
        match self {
            Axis::Members => "members",
            Axis::Keys => "keys",
            Axis::Bytes => "bytes in a value",
        }
    }

    /// A place on it, as people write it.
    pub fn show(self, x: u64) -> String {
        let (units, base): (&[&str], u64) = match self {
            Axis::Members => return x.to_string(),
            Axis::Keys => (&["", "k", "M"], 1000),
            Axis::Bytes => (&[" B", " KiB", " MiB"], 1024),
        };
        let whole = |power: &usize| {
            x >= base.pow(*power as u32) && x.is_multiple_of(base.pow(*power as u32))
        };
        let power = (0..units.len()).rev().find(whole).unwrap_or(0);
        format!("{}{}", x / base.pow(power as u32), units[power])
    }
}

impl Figure {
    /// The cost, of which less is better, at a point with this value.
    pub fn cost(&self, value: f64) -> f64 {
        match self.meaning {
            Meaning::Rate => 1.0 / value,
            Meaning::Cost | Meaning::Shown => value,
        }
    }

    /// Whether decades are drawn alike: what grows with its axis is a straight line then.
    pub fn is_logarithmic(&self) -> bool {
        self.axis != Axis::Members && self.growth == Growth::InProportion
    }
}

const fn figure(
    axis: Axis,
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    meaning: Meaning,
    growth: Growth,
) -> Figure {
    Figure { name, axis, title, unit, meaning, growth }
}

/// The pictures, in the page's order.
pub const FIGURES: [Figure; 17] = {
    use Axis::{Bytes, Keys, Members};
    use Growth::{InProportion, NotAtAll};
    use Meaning::{Cost, Rate, Shown};
    [
        figure(Members, "members-rate", "Requests answered", "a second", Rate, InProportion),
        figure(Members, "members-p99", "p99 of a request", "ms", Cost, InProportion),
        figure(
            Members,
            "members-processor",
            "Processor time of all members for a request",
            "µs",
            Cost,
            InProportion,
        ),
        figure(Keys, "keys-rate", "PUTs committed", "a second", Rate, NotAtAll),
        figure(Keys, "keys-p99", "p99 of a PUT", "ms", Cost, NotAtAll),
        figure(
            Keys,
            "keys-processor",
            "Processor time of all members for a PUT",
            "µs",
            Cost,
            NotAtAll,
        ),
        figure(Keys, "keys-memory", "Memory of a member", "MiB", Cost, InProportion),
        figure(
            Keys,
            "keys-memory-each",
            "Memory of a member for each key",
            "bytes",
            Cost,
            NotAtAll,
        ),
        figure(Keys, "keys-snapshot", "Size of a snapshot", "MiB", Cost, InProportion),
        figure(Keys, "keys-time", "Time of a snapshot and of a restart", "s", Cost, InProportion),
        figure(Bytes, "bytes-rate", "PUTs committed", "a second", Rate, InProportion),
        figure(Bytes, "bytes-moved", "Values committed", "MB/s", Shown, InProportion),
        figure(Bytes, "bytes-p99", "p99 of a PUT", "ms", Cost, InProportion),
        figure(
            Bytes,
            "bytes-processor",
            "Processor time of all members for a PUT",
            "µs",
            Cost,
            InProportion,
        ),
        figure(
            Bytes,
            "bytes-processor-each",
            "Processor time of all members for a MB of values",
            "ms",
            Shown,
            InProportion,
        ),
        figure(
            Bytes,
            "bytes-disk",
            "Bytes that the disk takes for a PUT and a member",
            "bytes",
            Cost,
            InProportion,
        ),
        figure(
            Bytes,
            "bytes-disk-each",
            "Bytes that the disk takes for each byte of a value and a member",
            "bytes",
            Shown,
            InProportion,
        ),
    ]
};

/// The figure of a name.
pub fn named(name: &str) -> Option<&'static Figure> {
    FIGURES.iter().find(|figure| figure.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names are names of files.
    #[test]
    fn every_figure_has_its_name() {
        for figure in &FIGURES {
            assert_eq!(named(figure.name), Some(figure));
            assert!(
                figure
                    .name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            );
        }
        assert_eq!(named("members"), None);
    }

    /// What people read at the bottom of a picture.
    #[test]
    fn places_are_shown_short() {
        let shown = [1_000, 10_000, 1_000_000, 1_500].map(|x| Axis::Keys.show(x));
        assert_eq!(shown, ["1k", "10k", "1M", "1500"]);
        let shown = [1, 128, 1024, 65_536, 1 << 20].map(|x| Axis::Bytes.show(x));
        assert_eq!(shown, ["1 B", "128 B", "1 KiB", "64 KiB", "1 MiB"]);
        assert_eq!(Axis::Members.show(7), "7");
    }
}
