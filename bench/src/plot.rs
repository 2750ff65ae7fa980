//! Drawings for the report, as SVG.

use plotters::prelude::*;

/// Size of a drawing.
const WIDTH: u32 = 860;
/// Height of one bar with the space around it.
const BAR_HEIGHT: u32 = 34;

/// Bars that lie, longest scale at the bottom, in the order given; `None` when there is nothing to draw, or it cannot be drawn.
pub(crate) fn bars(title: &str, bars: &[(String, f64)]) -> Option<String> {
    let rows: Vec<(String, Vec<f64>)> = bars
        .iter()
        .map(|(name, value)| (name.clone(), vec![*value]))
        .collect();
    stacked(title, &[""], &rows)
}

/// The same with parts, which have names.
pub(crate) fn stacked(title: &str, parts: &[&str], rows: &[(String, Vec<f64>)]) -> Option<String> {
    let longest = rows
        .iter()
        .map(|(_name, values)| values.iter().sum())
        .fold(0.0, f64::max);
    if longest <= 0.0 {
        return None;
    }
    let mut text = String::new();
    draw_bars(&mut text, title, parts, rows, longest).ok()?;
    Some(text)
}

type Failure = Box<dyn std::error::Error>;

fn draw_bars(
    text: &mut String,
    title: &str,
    parts: &[&str],
    rows: &[(String, Vec<f64>)],
    longest: f64,
) -> Result<(), Failure> {
    let count = u32::try_from(rows.len())?;
    let area = SVGBackend::with_string(text, (WIDTH, 90 + BAR_HEIGHT * count)).into_drawing_area();
    area.fill(&WHITE)?;
    let bottom = f64::from(count);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(230)
        .build_cartesian_2d(0.0..longest * 1.12, bottom..0.0)?;
    let name = |place: &f64| {
        // Labels stand in the middle of each bar.
        let index = (place * 2.0).round();
        let is_middle = (index - place * 2.0).abs() < 0.01 && index.rem_euclid(2.0) > 0.5;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small index"
        )]
        let row = rows.get((index / 2.0) as usize);
        row.filter(|_row| is_middle)
            .map_or_else(String::new, |(name, _values)| name.clone())
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(rows.len() * 2 + 1)
        .y_label_formatter(&name)
        .label_style(("sans-serif", 13))
        .draw()?;
    for (index, part) in parts.iter().enumerate() {
        let color = Palette99::pick(index);
        let rectangles = rows.iter().zip(0_u32..).filter_map(|((_name, values), row)| {
            let from: f64 = values.iter().take(index).sum();
            let until = from + values.get(index)?;
            let top = f64::from(row);
            Some(Rectangle::new(
                [(from, top + 0.15), (until, top + 0.85)],
                color.filled(),
            ))
        });
        let drawn = chart.draw_series(rectangles)?;
        if !part.is_empty() {
            drawn.label(*part).legend(move |(x, y)| {
                Rectangle::new([(x, y - 5), (x + 12, y + 5)], Palette99::pick(index).filled())
            });
        }
    }
    chart.draw_series(rows.iter().zip(0_u32..).map(|((_name, values), row)| {
        let sum: f64 = values.iter().sum();
        Text::new(
            format!(" {sum:.0}"),
            (sum, f64::from(row) + 0.35),
            ("sans-serif", 13),
        )
    }))?;
    if parts.len() > 1 {
        let legend = SeriesLabelPosition::LowerRight;
        chart
            .configure_series_labels()
            .position(legend)
            .background_style(WHITE.mix(0.9))
            .border_style(BLACK)
            .draw()?;
    }
    area.present()?;
    Ok(())
}

/// Lines over a logarithmic scale of the first coordinate; `None` when there is nothing to draw, or it cannot be drawn.
pub(crate) fn lines(title: &str, x: &str, y: &str, series: &[(String, Vec<(f64, f64)>)]) -> Option<String> {
    let points = || series.iter().flat_map(|(_name, points)| points);
    let (first, last) = points().fold((f64::MAX, f64::MIN), |(first, last), (x, _)| {
        (first.min(*x), last.max(*x))
    });
    let highest = points().map(|(_, y)| *y).fold(0.0, f64::max);
    if first >= last || highest <= 0.0 {
        return None;
    }
    let mut text = String::new();
    draw_lines(&mut text, [title, x, y], series, first.max(1.0)..last, highest).ok()?;
    Some(text)
}

fn draw_lines(
    text: &mut String,
    [title, x, y]: [&str; 3],
    series: &[(String, Vec<(f64, f64)>)],
    across: std::ops::Range<f64>,
    highest: f64,
) -> Result<(), Failure> {
    let area = SVGBackend::with_string(text, (WIDTH, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(across.log_scale(), 0.0..highest * 1.1)?;
    chart
        .configure_mesh()
        .x_desc(x)
        .y_desc(y)
        .label_style(("sans-serif", 13))
        .draw()?;
    for (index, (name, points)) in series.iter().enumerate() {
        let color = Palette99::pick(index);
        let line = LineSeries::new(points.iter().copied(), color.stroke_width(2));
        chart
            .draw_series(line)?
            .label(name.as_str())
            .legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 16, y)], Palette99::pick(index).stroke_width(2))
            });
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_has_every_name_and_nothing_to_draw_is_no_drawing() {
        let rows = [
            ("one".to_owned(), vec![1.0, 2.0]),
            ("two".to_owned(), vec![3.0, 1.0]),
        ];
        let drawing = stacked("Title", &["sts", "gateway"], &rows).unwrap();
        for text in ["<svg", "Title", "one", "two", "sts", "gateway"] {
            assert!(drawing.contains(text), "no {text} in {drawing}");
        }
        assert_eq!(bars("Title", &[]), None);
        assert_eq!(lines("Title", "x", "y", &[]), None);
    }

    #[test]
    fn lines_have_their_names() {
        let drawing = lines(
            "Title",
            "connections",
            "us",
            &[("gateway".to_owned(), vec![(1.0, 5.0), (64.0, 3.0)])],
        );
        let drawing = drawing.unwrap();
        for text in ["connections", "gateway"] {
            assert!(drawing.contains(text), "no {text} in {drawing}");
        }
    }
}
