//! How is what was measured shown: as a page with tables and plots for people, and flat for machines?

use std::path::Path;

use serde_json::{Map, Value, json};

/// What the scenarios have measured so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Map<String, Value>,
    /// Everything that figures were made of.
    raw: Map<String, Value>,
    page: String,
    /// Name and text of each drawing.
    plots: Vec<(String, String)>,
}

impl Report {
    /// Keeps one figure for the JSON file.
    pub(crate) fn figure(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.figures.insert(name.into(), value.into());
    }

    /// Keeps what a figure was made of.
    pub(crate) fn raw(&mut self, name: impl Into<String>, values: impl Into<Value>) {
        self.raw.insert(name.into(), values.into());
    }

    /// Every figure, flat.
    pub(crate) fn json(&self) -> String {
        format!("{:#}\n", Value::Object(self.figures.clone()))
    }

    /// Writes the page, its drawings, the figures and what they were made of into a folder.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("report.md"), &self.page)?;
        std::fs::write(folder.join("figures.json"), self.json())?;
        let raw = json!({"figures": self.figures, "raw": self.raw});
        std::fs::write(folder.join("raw.json"), format!("{raw:#}\n"))?;
        for (name, text) in &self.plots {
            std::fs::write(folder.join(name), text)?;
        }
        Ok(())
    }

    /// Adds a drawing (SVG) to the page.
    pub(crate) fn plot(&mut self, title: &str, name: &str, text: String) {
        self.page.push_str(&["\n![", title, "](", name, ")\n"].concat());
        self.plots.push((name.to_owned(), text));
    }

    /// Adds a line to the page and prints it.
    pub(crate) fn say(&mut self, line: &str) {
        self.page.push_str(line);
        self.page.push('\n');
        say(line);
    }

    /// Adds a Markdown table with aligned columns: the first holds names, the others numbers.
    pub(crate) fn table(&mut self, title: &str, head: &[&str], rows: &[Vec<String>]) {
        let width = |column: usize| {
            let cells = rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count());
            cells
                .chain(head.get(column).map(|name| name.chars().count()))
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
        self.say(&format!("\n## {title}\n"));
        self.say(&line(head.to_vec()));
        self.say(&format!(
            "|{}|",
            rules
                .iter()
                .map(|rule| format!(" {rule} "))
                .collect::<Vec<_>>()
                .join("|")
        ));
        for row in rows {
            self.say(&line(row.iter().map(String::as_str).collect()));
        }
    }

    /// Adds a remark under a table.
    pub(crate) fn remark(&mut self, text: &str) {
        self.say(&format!("\n{text}"));
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
