//! Time against bytes, drawn for a person to look at: a panel for each direction and layout, a line for the floor, a colour
//! for each subject.

use std::collections::BTreeMap;

use batchnorm::{Dtype, Layout};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::measured::{Measured, OURS};
use super::report::Report;

/// A drawing has one dtype: of those with as many rows the first.
const SIZE: (u32, u32) = (1280, 960);
const FONT: &str = "sans-serif";
/// Ours first, then the peers in the order of their names. Told apart also by who sees no red or green.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(110, 110, 110),
];

/// Points of bytes and microseconds.
type Points = Vec<(f64, f64)>;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The drawing, of the dtype that has most rows, of several f16. A panel without any says so.
pub(super) fn svg(report: &Report) -> Result<String, String> {
    let of_dtype =
        |dtype: Dtype| report.measured().iter().filter(move |it| it.row.dtype == dtype && it.ours().is_some());
    let dtype = Dtype::ALL
        .iter()
        .copied()
        .max_by_key(|&dtype| (of_dtype(dtype).count(), dtype == Dtype::F16))
        .unwrap_or(Dtype::F16);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        draw(&root, report, dtype, &of_dtype(dtype).collect::<Vec<_>>()).map_err(|error| format!("--plot: {error}"))?;
        root.present().map_err(|error| format!("--plot: {error}"))?;
    }
    Ok(text)
}

fn draw(
    root: &Area<'_>,
    report: &Report,
    dtype: Dtype,
    measured: &[&Measured],
) -> Result<(), Box<dyn std::error::Error>> {
    root.fill(&WHITE)?;
    let title = format!("Batch norm, {dtype}, on {} ({})", report.device(), report.model());
    let root = root.titled(&title, (FONT, 26))?;
    let panels = root.split_evenly((2, 2));
    let directions = [("train", "training forward"), ("backward", "backward")];
    let layouts = [Layout::ChannelsFirst, Layout::ChannelsLast];
    for (i, panel) in panels.iter().enumerate() {
        let ((operation, words), layout) = (directions[i / 2], layouts[i % 2]);
        let here = measured.iter().filter(|it| it.operation.name() == operation && it.row.shape.layout() == layout);
        let here: Vec<&Measured> = here.copied().collect();
        draw_panel(panel, &format!("{words}, {layout}"), &here)?;
    }
    Ok(())
}

fn draw_panel(panel: &Area<'_>, title: &str, measured: &[&Measured]) -> Result<(), Box<dyn std::error::Error>> {
    if measured.is_empty() {
        let style = (FONT, 18).into_text_style(panel).color(&BLACK);
        panel.draw_text(&format!("{title}: not measured"), &style, (60, 40))?;
        return Ok(());
    }
    let (mut floor, mut subjects) = (Points::new(), BTreeMap::<String, Points>::new());
    for it in measured {
        let bytes = it.bytes();
        floor.extend(it.floor().map(|time| (bytes, time * 1e6)));
        let ours = it.ours().map(|summary| (OURS, summary.median));
        for (name, time) in ours.into_iter().chain(it.peers()) {
            subjects.entry(name.into()).or_default().push((bytes, time * 1e6));
        }
    }
    // The least of rows with as many bytes: the line is what is possible.
    floor.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    floor.dedup_by_key(|point| point.0);
    let all = || floor.iter().chain(subjects.values().flatten());
    let range = |of: fn(&(f64, f64)) -> f64| {
        let least = all().map(of).fold(f64::INFINITY, f64::min);
        let most = all().map(of).fold(0.0, f64::max);
        // A logarithmic scale has no 0, and would be divided without end.
        least.max(1e-3) * 0.7..most.max(1e-3) * 1.5
    };
    let mut chart = ChartBuilder::on(panel)
        .caption(title, (FONT, 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(range(|point| point.0).log_scale(), range(|point| point.1).log_scale())?;
    chart
        .configure_mesh()
        .x_labels(4)
        .max_light_lines(2)
        .x_desc("bytes that must be moved")
        .y_desc("time")
        .x_label_formatter(&|bytes| with_unit(*bytes, &["B", "kB", "MB", "GB"]))
        .y_label_formatter(&|time| with_unit(*time, &["us", "ms", "s"]))
        .light_line_style(RGBColor(238, 238, 238))
        .label_style((FONT, 13))
        .draw()?;
    chart
        .draw_series(LineSeries::new(floor, BLACK.stroke_width(2)))?
        .label("floor: reads and writes, nothing else")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK.stroke_width(2)));
    let ours = subjects.remove_entry(OURS);
    for ((name, points), colour) in ours.into_iter().chain(subjects).zip(COLOURS.iter().cycle()) {
        chart
            .draw_series(points.into_iter().map(|point| Circle::new(point, 3, colour.filled())))?
            .label(name)
            .legend(|(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .label_font((FONT, 13))
        .draw()?;
    Ok(())
}

/// A number with the largest unit of a thousand that it reaches.
fn with_unit(value: f64, units: &[&str]) -> String {
    let steps = (value.abs().max(1e-9).log10() / 3.0).floor().clamp(0.0, units.len() as f64 - 1.0);
    let scaled = value / 1000f64.powi(steps as i32);
    let unit = units[steps as usize];
    if scaled >= 10.0 { format!("{scaled:.0} {unit}") } else { format!("{scaled:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::with_unit;

    #[test]
    fn numbers_have_units() {
        let bytes = ["B", "kB", "MB", "GB"];
        assert_eq!(with_unit(3.0, &bytes), "3.0 B");
        assert_eq!(with_unit(51_380_224.0, &bytes), "51 MB");
        assert_eq!(with_unit(2.5e13, &bytes), "25000 GB");
        assert_eq!(with_unit(1500.0, &["us", "ms", "s"]), "1.5 ms");
    }
}
