//! How is what was measured shown: as a page with tables and plots for people, and flat for machines?

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::headline;

/// What the scenarios have measured so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Map<String, Value>,
    /// Everything that figures were made of.
    raw: Map<String, Value>,
    sections: Vec<Section>,
    /// Name and text of each drawing, and of what is kept beside it.
    files: Vec<(String, String)>,
    /// What failed, in all scenarios together.
    errors: u64,
    /// Scenarios that did not run to their end.
    unfinished: Vec<String>,
}

/// A part of the page, with what follows its heading.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) text: String,
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

    /// Counts what failed, under a name of its own and among all.
    pub(crate) fn errors(&mut self, of: &str, count: u64) {
        self.errors += count;
        self.figure(format!("{of}_errors"), count);
        self.figure("errors", self.errors);
    }

    /// Notes how a scenario ended. One that failed stands on the page and among the errors, and the others go on.
    pub(crate) fn ended(&mut self, scenario: &str, ran: anyhow::Result<()>) {
        let Err(error) = ran else { return };
        progress(&format!("{scenario} failed: {error:#}"));
        self.section(&format!("Failed: {scenario}"));
        self.remark(&format!("{error:#}"));
        self.errors += 1;
        self.figure("errors", self.errors);
        self.unfinished.push(scenario.to_owned());
    }

    /// Those that did not run to their end.
    pub(crate) fn unfinished(&self) -> &[String] {
        &self.unfinished
    }

    /// Every figure.
    pub(crate) fn figures(&self) -> &Map<String, Value> {
        &self.figures
    }

    /// The headline figures, flat.
    pub(crate) fn json(&self) -> String {
        format!("{:#}\n", Value::Object(headline::of(&self.figures)))
    }

    /// The parts of the page.
    pub(crate) fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Writes the page, its drawings, the figures and what they were made of into a folder.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut page = "# What the bench measured\n".to_owned();
        for section in &self.sections {
            page.push_str(&["\n## ", &section.title, "\n\n", &section.text].concat());
        }
        std::fs::write(folder.join("report.md"), page)?;
        std::fs::write(
            folder.join("figures.json"),
            format!("{:#}\n", json!(self.figures)),
        )?;
        let raw = json!({"figures": self.figures, "raw": self.raw});
        std::fs::write(folder.join("raw.json"), format!("{raw:#}\n"))?;
        for (name, text) in &self.files {
            std::fs::write(folder.join(name), text)?;
        }
        Ok(())
    }

    /// Adds a drawing (SVG) to the section before.
    pub(crate) fn plot(&mut self, title: &str, name: &str, text: String) {
        self.file(name.to_owned(), text);
        self.add(&["\n![", title, "](", name, ")\n"].concat());
    }

    /// Keeps a file beside the page.
    pub(crate) fn file(&mut self, name: String, text: String) {
        self.files.push((name, text));
    }

    /// Puts the last `count` sections first: what is known at the end and read at the beginning.
    pub(crate) fn put_first(&mut self, count: usize) {
        self.sections.rotate_right(count);
    }

    /// Begins a section.
    pub(crate) fn section(&mut self, title: &str) {
        say(&format!("\n## {title}\n"));
        self.sections.push(Section {
            title: title.to_owned(),
            text: String::new(),
        });
    }

    /// Adds a line to the section and prints it.
    fn say(&mut self, line: &str) {
        say(line);
        self.add(line);
        self.add("\n");
    }

    fn add(&mut self, text: &str) {
        if let Some(section) = self.sections.last_mut() {
            section.text.push_str(text);
        }
    }

    /// Adds a section that begins with a Markdown table with aligned columns: the first holds names, the others numbers.
    pub(crate) fn table(&mut self, title: &str, head: &[&str], rows: &[Vec<String>]) {
        self.section(title);
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
