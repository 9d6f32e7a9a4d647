//! Standard output: on a terminal a table that is drawn over itself, else a line per change.

use std::io::{self, IsTerminal as _, Stdout, Write as _};

use super::table::{self, Frame};
use super::view::View;

/// The size to assume when the terminal does not say.
const ROWS_DEFAULT: u16 = 24;
const COLUMNS_DEFAULT: u16 = 80;

/// Where the clusters are shown.
pub(super) struct Screen {
    output: Stdout,
    kind: Kind,
    frame: Frame,
    shown: View,
    /// Whether the commands to try have been told; once is enough where nothing is drawn over.
    hinted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// With the number of lines that stand there now.
    Terminal {
        lines: u16,
    },
    Lines,
}

impl Screen {
    /// Standard output, as what it is.
    pub(super) fn new(frame: Frame) -> Self {
        let output = io::stdout();
        let kind = if output.is_terminal() { Kind::Terminal { lines: 0 } } else { Kind::Lines };
        Self { output, kind, frame, shown: View::default(), hinted: false }
    }

    /// Shows the clusters as they are now; does nothing when they are as shown.
    pub(super) fn show(&mut self, view: &View) {
        if *view == self.shown {
            return;
        }
        match self.kind {
            Kind::Terminal { lines } => self.draw(view, lines),
            Kind::Lines => self.tell(view),
        }
        self.shown = view.clone();
    }

    /// Says something below all that was shown; a table is not drawn over after that.
    pub(super) fn say(&mut self, line: &str) {
        if let Kind::Terminal { lines } = &mut self.kind {
            *lines = 0;
        }
        self.write(&format!("{line}\n"));
    }

    fn draw(&mut self, view: &View, before: u16) {
        let (rows, columns) = self.size();
        let lines = fit(table::table(view, &self.frame), rows, columns);
        self.write(&redraw(&lines, before));
        self.kind = Kind::Terminal { lines: u16::try_from(lines.len()).unwrap_or(u16::MAX) };
    }

    fn tell(&mut self, view: &View) {
        let mut lines = table::changes(&self.shown, view);
        let hints = table::hints(view);
        if !self.hinted && !hints.is_empty() {
            self.hinted = true;
            lines.extend(hints);
        }
        self.write(&lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    }

    fn write(&self, text: &str) {
        let mut output = self.output.lock();
        // A reader that has gone away is no reason to stop the clusters.
        let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    }

    fn size(&self) -> (u16, u16) {
        let told = rustix::termios::tcgetwinsize(&self.output).ok();
        let or = |value: u16, default: u16| if value == 0 { default } else { value };
        told.map_or((ROWS_DEFAULT, COLUMNS_DEFAULT), |size| (or(size.ws_row, ROWS_DEFAULT), or(size.ws_col, COLUMNS_DEFAULT)))
    }
}

/// As much as the terminal holds: a line that wraps, or one that scrolled away, could not be drawn over.
fn fit(lines: Vec<String>, rows: u16, columns: u16) -> Vec<String> {
    let most = usize::from(rows).saturating_sub(1).max(1);
    let total = lines.len();
    let mut kept: Vec<String> = if total <= most {
        lines
    } else {
        // The end says what to do next, so the middle goes.
        let tail = (most / 3).min(6);
        let head = most.saturating_sub(tail).saturating_sub(1);
        let hidden = total.saturating_sub(head).saturating_sub(tail);
        let note = format!("  … {hidden} more lines; endpoints.json has every node");
        lines[..head].iter().cloned().chain([note]).chain(lines[total.saturating_sub(tail)..].iter().cloned()).collect()
    };
    for line in &mut kept {
        *line = line.chars().take(usize::from(columns)).collect();
    }
    kept
}

/// Goes back over the lines drawn before, and writes the new ones.
fn redraw(lines: &[String], before: u16) -> String {
    let mut text = if before > 0 { format!("\x1b[{before}A\r\x1b[J") } else { String::new() };
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("line {number}")).collect()
    }

    #[test]
    fn what_fits_is_shown_whole_and_never_wraps() {
        assert_eq!(fit(numbered(5), 24, 80), numbered(5));
        assert_eq!(fit(vec!["×".repeat(100)], 24, 10), ["×".repeat(10)]);
    }

    #[test]
    fn a_tall_table_keeps_its_head_and_its_end() {
        let lines = fit(numbered(100), 24, 80);
        assert_eq!(lines.len(), 23);
        assert_eq!(lines[0], "line 0");
        assert_eq!(lines[22], "line 99");
        assert_eq!(lines[16], "  … 78 more lines; endpoints.json has every node");
        assert!(fit(numbered(100), 1, 80).len() <= 2);
    }

    #[test]
    fn a_table_is_drawn_over_the_one_before() {
        assert_eq!(redraw(&numbered(1), 0), "line 0\n");
        assert_eq!(redraw(&numbered(1), 3), "\x1b[3A\r\x1b[Jline 0\n");
    }
}
