//! Where do the figures in the documentation come from? From a report: each place names the section that it holds.
//!
//! A place begins with a line `<!-- ./x bench: <title of a section> -->` and ends with `<!-- end -->`; everything between is the tool's.

use std::path::Path;

use anyhow::{Context, ensure};

use crate::report::{Report, Section, progress};

/// Documents with such places, from the root of the repository.
const DOCUMENTS: [&str; 2] = ["docs/performance.md", "README.md"];
const BEGIN: &str = "<!-- ./x bench: ";
const END: &str = "<!-- end -->";

/// Writes the sections of a report to their places. Places whose sections this run did not make stay as they are, and are named.
pub(crate) fn renew(report: &Report) -> anyhow::Result<()> {
    for path in DOCUMENTS {
        let path = Path::new(path);
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let (renewed, left) = filled(&text, report.sections()).with_context(|| path.display().to_string())?;
        std::fs::write(path, renewed)?;
        for title in left {
            progress(&format!(
                "{} keeps its old \"{title}\", which this run did not make",
                path.display()
            ));
        }
    }
    Ok(())
}

/// The text with its places filled, and the titles of those that were left as they are.
fn filled(text: &str, sections: &[Section]) -> anyhow::Result<(String, Vec<String>)> {
    let (mut renewed, mut left) = (String::new(), Vec::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        renewed.push_str(line);
        renewed.push('\n');
        let title = line
            .strip_prefix(BEGIN)
            .and_then(|rest| rest.strip_suffix(" -->"));
        let Some(title) = title else { continue };
        let mut old = String::new();
        let mut is_ended = false;
        for line in lines.by_ref() {
            is_ended = line == END;
            if is_ended {
                break;
            }
            old.push_str(line);
            old.push('\n');
        }
        ensure!(is_ended, "the place for \"{title}\" has no end");
        if let Some(section) = sections.iter().find(|section| section.title == title) {
            renewed.push_str(&["\n", without_drawings(&section.text).trim(), "\n\n"].concat());
        } else {
            renewed.push_str(&old);
            left.push(title.to_owned());
        }
        renewed.push_str(END);
        renewed.push('\n');
    }
    Ok((renewed, left))
}

/// Drawings stay with the report.
fn without_drawings(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with("!["));
    lines.map(|line| [line, "\n"].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Before\n<!-- ./x bench: Aims -->\nold\n<!-- end -->\nBetween\n<!-- ./x bench: Soak -->\nkept\n<!-- end -->\n";

    fn sections() -> Vec<Section> {
        vec![Section {
            title: "Aims".to_owned(),
            text: "| a |\n\n![drawing](a.svg)\n\nRemark\n".to_owned(),
        }]
    }

    #[test]
    fn places_get_their_sections_and_the_others_stay() {
        let (renewed, left) = filled(TEXT, &sections()).unwrap();
        assert!(
            renewed.starts_with("Before\n<!-- ./x bench: Aims -->\n\n| a |\n"),
            "{renewed}"
        );
        assert!(renewed.contains("Remark\n\n<!-- end -->\nBetween\n"), "{renewed}");
        assert!(
            !renewed.contains("old") && !renewed.contains("drawing"),
            "{renewed}"
        );
        assert!(
            renewed.ends_with("<!-- ./x bench: Soak -->\nkept\n<!-- end -->\n"),
            "{renewed}"
        );
        assert_eq!(left, ["Soak"]);
        assert_eq!(filled(&renewed, &sections()).unwrap().0, renewed, "twice is once");
    }

    #[test]
    fn a_place_without_end_is_not_filled_with_the_rest_of_the_document() {
        assert!(filled("<!-- ./x bench: Aims -->\nold\n", &sections()).is_err());
    }

    #[test]
    fn the_documents_have_places_with_ends() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for path in DOCUMENTS {
            let text = std::fs::read_to_string(root.join(path)).unwrap();
            assert!(text.contains(BEGIN), "{path} has no place for figures");
            filled(&text, &[]).unwrap();
        }
    }
}
