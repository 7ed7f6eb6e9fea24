//! Loss curves, drawn for a person to look at.

use std::error::Error;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::training::Outcome;

const SIZE: (u32, u32) = (1200, 520);
const FONT: &str = "sans-serif";
/// Colours that differ also for readers who see no red or green.
const COLOURS: [RGBColor; 3] = [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(110, 110, 110)];

/// Two plots side by side: a network that batch norm helps, and one that it harms.
pub(crate) fn svg(helped: &[Outcome], harmed: &[Outcome]) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (left, right) = root.split_horizontally(SIZE.0 / 2);
        panel(&left, "Convolutional network", helped)?;
        panel(&right, "Dense network, batches of 2", harmed)?;
        root.present()?;
    }
    Ok(text)
}

fn panel(area: &DrawingArea<SVGBackend<'_>, Shift>, title: &str, outcomes: &[Outcome]) -> Result<(), Box<dyn Error>> {
    let points = || outcomes.iter().flat_map(|outcome| &outcome.losses);
    let epochs = points().map(|(epoch, _)| *epoch).fold(0.0, f64::max);
    let most = points().map(|(_, loss)| *loss).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 22))
        .margin(14)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..epochs.max(1.0), 0.0..1.05 * most.max(0.1))?;
    chart.configure_mesh().light_line_style(WHITE).x_desc("epoch").y_desc("training loss").draw()?;
    for outcome in outcomes {
        let colour = match outcome.name {
            "candle_batchnorm" => COLOURS[0],
            "candle_nn" => COLOURS[1],
            _ => COLOURS[2],
        };
        // The two batch norms lie on each other.
        let width = match outcome.name {
            "candle_batchnorm" => 6,
            _ => 2,
        };
        let label = format!("{}, held out {:.1}%", outcome.name, 100.0 * outcome.accuracy);
        chart
            .draw_series(LineSeries::new(outcome.losses.iter().copied(), colour.stroke_width(width)))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(width)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font((FONT, 15))
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    Ok(())
}
