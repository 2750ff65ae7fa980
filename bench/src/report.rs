//! How is what was measured shown: as tables for people, and flat for machines?

use serde_json::{Map, Value};

/// What the scenarios have measured so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Map<String, Value>,
}

impl Report {
    /// Keeps one figure for the JSON file.
    pub(crate) fn figure(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.figures.insert(name.into(), value.into());
    }

    /// Every figure, flat.
    pub(crate) fn json(&self) -> String {
        format!("{:#}\n", Value::Object(self.figures.clone()))
    }

    /// Prints a Markdown table with aligned columns: the first holds names, the others numbers.
    pub(crate) fn table(title: &str, head: &[&str], rows: &[Vec<String>]) {
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(String::len);
            cells
                .chain(head.get(column).map(|name| name.len()))
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let line = |cells: Vec<&str>| {
            let padded = cells
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, width))| {
                    if column == 0 {
                        format!("{cell:<width$}")
                    } else {
                        format!("{cell:>width$}")
                    }
                });
            format!("| {} |", padded.collect::<Vec<_>>().join(" | "))
        };
        let rules = widths.iter().enumerate().map(|(column, width)| {
            let dashes = "-".repeat(width.saturating_sub(1).max(1));
            if column == 0 {
                format!("-{dashes}")
            } else {
                format!("{dashes}:")
            }
        });
        let rules: Vec<String> = rules.collect();
        say(&format!("\n## {title}\n"));
        say(&line(head.to_vec()));
        say(&format!(
            "|{}|",
            rules
                .iter()
                .map(|rule| format!(" {rule} "))
                .collect::<Vec<_>>()
                .join("|")
        ));
        for row in rows {
            say(&line(row.iter().map(String::as_str).collect()));
        }
    }

    /// Prints a remark under a table.
    pub(crate) fn remark(text: &str) {
        say(&format!("\n{text}"));
    }
}

/// Says what is being done, apart from the tables.
#[expect(clippy::print_stderr, reason = "progress of a command for people")]
pub(crate) fn progress(text: &str) {
    eprintln!("bench: {text}");
}

#[expect(clippy::print_stdout, reason = "the report of a command for people")]
fn say(line: &str) {
    println!("{line}");
}
