//! One figure as one SVG.
//!
//! Points are marked, for there is nothing between them. What may grow in proportion is drawn by
//! decades on both sides, where proportion is a straight line of slope one; everything else begins
//! at 0, so that what does not grow looks as it is.

use std::error::Error;
use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;

use crate::figures::{Axis, Figure};
use crate::points::Series;

const SIZE: (u32, u32) = (720, 360);
const MARGIN: u32 = 14;
const FONT: &str = "sans-serif";
const TITLE_SIZE: u32 = 18;
const LABEL_SIZE: u32 = 13;
const LINE_WIDTH: u32 = 2;
const MARK_RADIUS: u32 = 3;
/// Of a line's sample in the legend.
const SAMPLE_WIDTH: i32 = 18;
/// Room above the highest point, for the legend.
const HEADROOM: f64 = 1.35;

/// Told apart by most eyes that do not see all colours, and on paper (Okabe and Ito).
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

/// A scale with marks where the figures are: lines between them would have no meaning.
struct Marked {
    range: Range<f64>,
    marks: Vec<f64>,
}

/// What stands at a mark.
type Show<'a> = &'a dyn Fn(&f64) -> String;

/// The picture of a figure.
///
/// # Errors
///
/// When it cannot be drawn.
pub fn svg(figure: &Figure, all: &[Series]) -> Result<String, Box<dyn Error>> {
    let points = || all.iter().flat_map(|series| &series.points);
    let mut places: Vec<u64> = points().map(|(x, _)| *x).collect();
    places.sort_unstable();
    places.dedup();
    let place = |x: u64| match figure.axis {
        Axis::Members => x as f64,
        Axis::Keys | Axis::Bytes => (x as f64).log10(),
    };
    let height = |y: f64| if figure.is_logarithmic() { y.log10() } else { y };
    let marks: Vec<_> = places.iter().map(|&x| place(x)).collect();
    let at = |wanted: &f64| {
        let found = places.iter().find(|&&x| (place(x) - wanted).abs() < 1e-9);
        found.map_or_else(String::new, |&x| figure.axis.show(x))
    };
    let (low, high) = bounds(points().map(|(_, y)| height(*y)), figure.is_logarithmic());
    let lines: Vec<_> = all
        .iter()
        .map(|series| {
            let drawn = series.points.iter().map(|&(x, y)| (place(x), height(y))).collect();
            (series.name.as_str(), drawn)
        })
        .collect();
    let mut svg = String::new();
    let decades = |y: &f64| short(10_f64.powf(*y));
    let plain = |y: &f64| short(*y);
    let show: Show<'_> = if figure.is_logarithmic() { &decades } else { &plain };
    draw(&mut svg, figure, (&marks, &at), (low..high, show), &lines)?;
    Ok(svg)
}

fn draw(
    svg: &mut String,
    figure: &Figure,
    (marks, at): (&[f64], Show<'_>),
    (heights, show): (Range<f64>, Show<'_>),
    lines: &[(&str, Vec<(f64, f64)>)],
) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (first, last) =
        (marks.first().copied().unwrap_or(0.0), marks.last().copied().unwrap_or(1.0));
    // One point alone is in the middle.
    let width = if last > first { first..last } else { first - 1.0..first + 1.0 };
    let whole: Vec<_> = (heights.start.ceil() as i64..=heights.end.floor() as i64)
        .map(|decade| decade as f64)
        .collect();
    let rows = if figure.is_logarithmic() { whole } else { quarters(&heights) };
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("{}, {}", figure.title, figure.unit), (FONT, TITLE_SIZE))
        .margin(MARGIN)
        .margin_right(3 * MARGIN)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(
            Marked { range: width, marks: marks.to_vec() },
            Marked { range: heights, marks: rows },
        )?;
    chart
        .configure_mesh()
        .label_style((FONT, LABEL_SIZE))
        .x_desc(figure.axis.name())
        .x_label_formatter(&at)
        .y_label_formatter(&show)
        .draw()?;
    for (number, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()].to_rgba();
        let line = LineSeries::new(points.clone(), colour.stroke_width(LINE_WIDTH));
        chart.draw_series(line)?.label(*name).legend(move |(x, y)| {
            PathElement::new([(x, y), (x + SAMPLE_WIDTH, y)], colour.stroke_width(LINE_WIDTH))
        });
        let mark = |&at: &(f64, f64)| Circle::new(at, MARK_RADIUS, colour.filled());
        chart.draw_series(points.iter().map(mark))?;
    }
    let mut legend = chart.configure_series_labels();
    legend.position(SeriesLabelPosition::UpperLeft).label_font((FONT, LABEL_SIZE));
    legend.background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
    root.present()?;
    Ok(())
}

impl Ranged for Marked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (part * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// From 0 to beyond the highest; or whole decades.
fn bounds(heights: impl Iterator<Item = f64>, is_logarithmic: bool) -> (f64, f64) {
    let (low, high) = heights.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), height| {
        (low.min(height), high.max(height))
    });
    if !low.is_finite() {
        (0.0, 1.0)
    } else if is_logarithmic {
        // Half a decade more leaves room for the legend.
        (low.floor(), (high + 0.5).ceil().max(low.floor() + 1.0))
    } else {
        (0.0, high * HEADROOM)
    }
}

/// Five or so round heights.
fn quarters(heights: &Range<f64>) -> Vec<f64> {
    let rough = heights.end / 4.0;
    let decade = 10_f64.powf(rough.log10().floor());
    let mut steps = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|times| times * decade);
    let step = steps.rfind(|step| *step <= rough).unwrap_or(decade);
    let n = (heights.end / step) as u32;
    (0..=n).map(|times| f64::from(times) * step).collect()
}

/// Three digits that count.
pub(crate) fn short(value: f64) -> String {
    let (value, suffix) = match value {
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e4 => (value / 1e3, "k"),
        value => (value, ""),
    };
    let digits = match value {
        0.0 => 0,
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        value if value >= 0.9995 => 2,
        value => (2.0 - value.log10().floor()).min(6.0) as usize,
    };
    let shown = format!("{value:.digits$}");
    let shown = match shown.contains('.') {
        true => shown.trim_end_matches('0').trim_end_matches('.'),
        false => &shown,
    };
    format!("{shown}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::named;
    use crate::testing::points;

    /// Every line and every point is there, with the words that say what they are.
    #[test]
    fn a_figure_is_drawn() {
        let points = points();
        let figure = named("members-rate").expect("there is one");
        let svg = svg(figure, points.of(figure)).expect("it can be drawn");
        for text in ["Requests answered, a second", "PUT", "GET", "members", "\n5\n", "\n40k\n"] {
            assert!(svg.contains(text), "no {text:?} in {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 6);
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
    }

    /// Decades are labelled as what they stand for; one point, and none, are drawn too.
    #[test]
    fn decades_and_little_are_drawn() {
        let points = points();
        let figure = named("bytes-moved").expect("there is one");
        let drawn = svg(figure, points.of(figure)).expect("it can be drawn");
        for text in ["\n1 B\n", "\n1 MiB\n", "\n0.01\n", "\n100\n"] {
            assert!(drawn.contains(text), "no {text:?} in {drawn}");
        }
        let one = [Series { name: "x".to_owned(), points: vec![(1, 1.0)] }];
        assert!(svg(figure, &one).is_ok_and(|svg| svg.contains("<circle")));
        assert!(svg(figure, &[]).is_ok());
    }

    /// As many digits as were measured.
    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.00123, 0.5, 1.0, 12.34, 512.0, 9_999.0, 12_345.0, 2.5e6].map(short);
        assert_eq!(shown, ["0", "0.00123", "0.5", "1", "12.3", "512", "9999", "12.3k", "2.5M"]);
        assert_eq!(quarters(&(0.0..54_000.0)).len(), 6);
    }
}
