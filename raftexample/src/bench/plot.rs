//! Two charts in one SVG: how long requests took, and how many were answered.
//!
//! Latencies are drawn as usual for HDR histograms: each nine of the percentile is as wide as the one
//! before, so that the slowest of a thousand requests are as much to see as the slowest of ten.

use std::error::Error;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::round::Failure;

const SIZE: (u32, u32) = (1280, 520);
const MARGIN: u32 = 14;
const FONT: &str = "sans-serif";
const TITLE_SIZE: u32 = 20;
const LABEL_SIZE: u32 = 14;
const LINE_WIDTH: u32 = 2;
const MARK_RADIUS: u32 = 3;
/// Of a line's sample in the legend.
const SAMPLE_WIDTH: i32 = 18;
/// Beyond it a percentile has more nines than anybody measures for.
const MAX_NINES: f64 = 7.0;

/// Told apart by most eyes that do not see all colours, and on paper (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];
/// Room above the highest point, for the legend.
const HEADROOM: f64 = 1.3;
/// Thin lines between two thick ones.
const MAX_THIN_LINES: usize = 1;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One line of a chart, from left to right.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A scale with marks where the figures are.
struct Marked {
    range: Range<f64>,
    marks: Vec<f64>,
    show: fn(f64) -> String,
}

/// Draws latencies in milliseconds by quantile, one line per level, and requests per second by number
/// of connections.
pub(crate) fn svg(latencies: &[Series], throughput: &[Series]) -> Result<String, Failure> {
    let mut svg = String::new();
    draw(&mut svg, latencies, throughput)
        .map_err(|error| Failure::new(format!("cannot draw: {error}")))?;
    Ok(svg)
}

fn draw(
    svg: &mut String,
    latencies: &[Series],
    throughput: &[Series],
) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(SIZE.0 / 2);
    draw_latencies(&left, latencies)?;
    draw_throughput(&right, throughput)?;
    root.present()?;
    Ok(())
}

fn draw_latencies(area: &Area<'_>, latencies: &[Series]) -> Result<(), Box<dyn Error>> {
    let nines: Vec<_> = latencies.iter().map(in_nines).collect();
    let most_nines = max(&nines, |(x, _)| x).max(1.0).ceil();
    let marks = (0..=most_nines as u32).map(f64::from).collect();
    // From a whole decade on, for only those are divided and labelled; a latency of 0 has no place on
    // a logarithmic scale.
    let least = min(&nines, |(_, y)| y).clamp(0.001, 1e5);
    let decade = 10_f64.powf(least.log10().floor());
    let most = max(&nines, |(_, y)| y).max(10.0 * decade);
    let mut chart = ChartBuilder::on(area)
        .caption("Latency in ms by percentile", (FONT, TITLE_SIZE))
        .margin(MARGIN)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(
            Marked { range: 0.0..most_nines, marks, show: percentile },
            (decade..most * HEADROOM).log_scale(),
        )?;
    chart
        .configure_mesh()
        .label_style((FONT, LABEL_SIZE))
        .max_light_lines(MAX_THIN_LINES)
        .y_label_formatter(&|millis| format!("{millis}"))
        .draw()?;
    for (place, series) in nines.iter().enumerate() {
        let colour = colour(place);
        let line = LineSeries::new(series.points.clone(), colour.stroke_width(LINE_WIDTH));
        chart.draw_series(line)?.label(&series.name).legend(move |at| sample(at, colour));
    }
    let mut legend = chart.configure_series_labels();
    legend.position(SeriesLabelPosition::UpperLeft).label_font((FONT, LABEL_SIZE));
    legend.background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
    Ok(())
}

fn draw_throughput(area: &Area<'_>, throughput: &[Series]) -> Result<(), Box<dyn Error>> {
    let points = throughput.iter().flat_map(|series| &series.points);
    let mut marks: Vec<f64> = points.map(|(connections, _)| connections.log2()).collect();
    marks.sort_by(f64::total_cmp);
    marks.dedup();
    let show = |doublings: f64| format!("{:.0}", doublings.exp2());
    let x = Marked { range: doublings(throughput), marks, show };
    let most = max(throughput, |(_, y)| y).max(1.0);
    let mut chart = ChartBuilder::on(area)
        .caption("Requests per second by connections", (FONT, TITLE_SIZE))
        .margin(MARGIN)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(x, 0.0..most * HEADROOM)?;
    chart
        .configure_mesh()
        .label_style((FONT, LABEL_SIZE))
        .max_light_lines(MAX_THIN_LINES)
        .y_label_formatter(&|per_second| format!("{per_second:.0}"))
        .draw()?;
    for (place, series) in throughput.iter().enumerate() {
        let colour = colour(place);
        let points: Vec<_> = series.points.iter().map(|&(x, y)| (x.log2(), y)).collect();
        let line = LineSeries::new(points.clone(), colour.stroke_width(LINE_WIDTH));
        chart.draw_series(line)?.label(&series.name).legend(move |at| sample(at, colour));
        let mark = |at| Circle::new(at, MARK_RADIUS, colour.filled());
        chart.draw_series(points.into_iter().map(mark))?;
    }
    let mut legend = chart.configure_series_labels();
    legend.position(SeriesLabelPosition::UpperLeft).label_font((FONT, LABEL_SIZE));
    legend.background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
    Ok(())
}

impl Ranged for Marked {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (part * f64::from(limit.1 - limit.0)).round() as i32
    }

    /// Lines between the marks would have no meaning.
    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Marked {
    fn format_ext(&self, value: &f64) -> String {
        (self.show)(*value)
    }
}

fn colour(place: usize) -> RGBAColor {
    COLOURS[place % COLOURS.len()].to_rgba()
}

fn sample((x, y): (i32, i32), colour: RGBAColor) -> PathElement<(i32, i32)> {
    PathElement::new([(x, y), (x + SAMPLE_WIDTH, y)], colour.stroke_width(LINE_WIDTH))
}

/// The same latencies by how many nines their quantile has.
fn in_nines(series: &Series) -> Series {
    let nines = |quantile: f64| -(1.0 - quantile).log10();
    let points = series.points.iter().map(|&(quantile, millis)| (nines(quantile), millis));
    let points = points.filter(|(nines, millis)| *nines <= MAX_NINES && *millis > 0.0);
    Series { name: series.name.clone(), points: points.collect() }
}

/// 0, 90, 99, 99.9, ...
fn percentile(nines: f64) -> String {
    let decimals = (nines - 2.0).max(0.0) as usize;
    format!("{:.decimals$}", 100.0 - 100.0 * 10_f64.powf(-nines))
}

fn doublings(throughput: &[Series]) -> Range<f64> {
    let (least, most) = (min(throughput, |(x, _)| x).log2(), max(throughput, |(x, _)| x).log2());
    // One level alone is in the middle.
    if most > least { least..most } else { least - 1.0..least + 1.0 }
}

fn max(series: &[Series], of: impl Fn((f64, f64)) -> f64) -> f64 {
    series.iter().flat_map(|series| &series.points).map(|point| of(*point)).fold(0.0, f64::max)
}

fn min(series: &[Series], of: impl Fn((f64, f64)) -> f64) -> f64 {
    let all = series.iter().flat_map(|series| &series.points).map(|point| of(*point));
    all.fold(f64::INFINITY, f64::min).min(f64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, points: &[(f64, f64)]) -> Series {
        Series { name: name.to_owned(), points: points.to_vec() }
    }

    /// Whether every element is closed, in order: what a reader of SVG insists on.
    fn is_well_formed(svg: &str) -> bool {
        let mut open = Vec::new();
        for tag in svg.split('<').skip(1) {
            let Some((tag, text)) = tag.split_once('>') else { return false };
            if text.contains('&') && !text.contains(';') {
                return false;
            }
            let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next();
            if tag.starts_with(['?', '!']) || tag.ends_with('/') {
            } else if tag.starts_with('/') {
                if open.pop() != name {
                    return false;
                }
            } else {
                open.extend(name);
            }
        }
        open.is_empty()
    }

    /// Both charts are there, each level and each scale with its name.
    #[test]
    fn both_charts_are_drawn() {
        let latencies = [
            series("16 connections", &[(0.0, 0.2), (0.5, 0.6), (0.99, 2.0), (0.9995, 30.0)]),
            series("a < b & c", &[(0.0, 0.3), (0.9, 1.1)]),
        ];
        let throughput = [series("put=1", &[(1.0, 1000.0), (16.0, 9000.0), (256.0, 30_000.0)])];
        let svg = svg(&latencies, &throughput).expect("it can be drawn");
        assert!(svg.starts_with("<svg") && is_well_formed(&svg), "{svg}");
        for text in [
            "Latency in ms by percentile",
            "Requests per second by connections",
            "16 connections",
            "a &lt; b &amp; c",
            "put=1",
            "99.9",
            "256",
        ] {
            assert!(svg.contains(text), "no {text:?} in {svg}");
        }
        // A line for each level and for the throughput, and a mark for each of its points.
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.matches("<polyline").count() >= 3);
    }

    /// One level with one latency, and none at all, are drawn too.
    #[test]
    fn little_is_drawn_too() {
        let one = svg(&[series("1", &[(0.5, 0.5)])], &[series("put", &[(1.0, 0.0)])]);
        assert!(one.is_ok_and(|svg| is_well_formed(&svg) && svg.contains("<circle")));
        assert!(svg(&[], &[]).is_ok_and(|svg| is_well_formed(&svg)));
        assert!(svg(&[series("1", &[(1.0, 0.5), (0.5, 0.0)])], &[]).is_ok());
    }

    /// The names that everybody uses.
    #[test]
    fn nines_are_shown_as_percentiles() {
        let shown: Vec<_> = (0..=5).map(|nines| percentile(nines.into())).collect();
        assert_eq!(shown, ["0", "90", "99", "99.9", "99.99", "99.999"]);
    }
}
