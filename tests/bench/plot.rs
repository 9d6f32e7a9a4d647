//! Plots as SVG, by hand: lines over connections, both axes logarithmic. Both colour schemes can read them.

use crate::curve::Curve;
use crate::figures::{Figures, number};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 5] = ["#3b82f6", "#ef4444", "#10b981", "#f59e0b", "#a855f7"];

/// One line through the points that have the value.
struct Line<'a> {
    name: &'a str,
    points: Vec<(f64, f64)>,
}

/// A plot of one figure of every curve.
pub(crate) fn plot(title: &str, curves: &[Curve], of: impl Fn(&Figures) -> Option<f64>) -> String {
    let line = |curve: &'_ Curve| {
        let point = |(connections, figures): &(usize, Figures)| {
            Some((f64::from(u32::try_from(*connections).ok()?), of(figures).filter(|value| *value > 0.0)?))
        };
        curve.points.iter().filter_map(point).collect::<Vec<_>>()
    };
    let lines: Vec<Line<'_>> = curves.iter().map(|curve| Line { name: &curve.name, points: line(curve) }).collect();
    let (xs, ys) = (bounds(&lines, |point| point.0), bounds(&lines, |point| point.1));
    let x = |value: f64| scale(value, xs, LEFT, WIDTH - RIGHT);
    let y = |value: f64| scale(value, ys, HEIGHT - BOTTOM, TOP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#808080\">\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{title}</text>\n"
    );
    for tick in ticks(ys) {
        let at = y(tick);
        let end = WIDTH - RIGHT;
        svg.push_str(&format!("<line x1=\"{LEFT}\" x2=\"{end}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#80808040\"/>\n"));
        svg.push_str(&format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n", LEFT - 8.0, at + 4.0, number(tick)));
    }
    for (connections, _) in lines.first().into_iter().flat_map(|line| &line.points) {
        let (at, below) = (x(*connections), HEIGHT - BOTTOM + 20.0);
        svg.push_str(&format!("<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{connections}</text>\n"));
    }
    svg.push_str(&format!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">connections</text>\n",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 10.0
    ));
    for (index, (line, colour)) in lines.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let points: Vec<String> = line.points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        svg.push_str(&format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
            points.join(" ")
        ));
        let at = TOP + 18.0 * f64::from(u32::try_from(index).unwrap_or_default());
        svg.push_str(&format!("<text x=\"{}\" y=\"{at}\" fill=\"{colour}\">{}</text>\n", WIDTH - RIGHT + 12.0, line.name));
    }
    svg.push_str("</svg>\n");
    svg
}

fn bounds(lines: &[Line<'_>], of: impl Fn(&(f64, f64)) -> f64) -> (f64, f64) {
    let values = lines.iter().flat_map(|line| &line.points).map(of);
    let (least, most) = values.fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
    if least < most { (least, most) } else { (most.max(1e-3) / 2.0, most.max(1e-3) * 2.0) }
}

fn scale(value: f64, (least, most): (f64, f64), from: f64, to: f64) -> f64 {
    (value.ln() - least.ln()) / (most.ln() - least.ln()) * (to - from) + from
}

/// 1, 2 and 5 times the powers of ten within the bounds.
fn ticks((least, most): (f64, f64)) -> Vec<f64> {
    let decades = (-4..9).map(|power| 10_f64.powi(power));
    decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * decade)).filter(|tick| (least..=most).contains(tick)).collect()
}
