//! Do the generated files say what the code does? `./x gen` writes them anew.

use std::process::Command;

const PAGE: &str = include_str!("../../../docs/operating/command-line.md");

fn help(arguments: &str) -> String {
    let binary = std::env::var_os("CARACAL_BIN").expect("CARACAL_BIN names the executable; ./x test sets it");
    let output = Command::new(binary)
        .args(arguments.split_whitespace())
        .arg("--help")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_command_line_page_holds_every_help_text_as_it_is() {
    let sections: Vec<(&str, &str)> = PAGE
        .split("\n## caracal")
        .skip(1)
        .map(|section| {
            let (title, rest) = section.split_once('\n').unwrap();
            let text = rest
                .split_once("```text\n")
                .unwrap()
                .1
                .split_once("```")
                .unwrap()
                .0;
            (title.trim(), text)
        })
        .collect();
    for (command, text) in &sections {
        assert_eq!(
            *text,
            help(command),
            "the help of `caracal {command}` has changed: run ./x gen"
        );
        assert!(
            command.is_empty() || text.contains("Example"),
            "`caracal {command}` shows no example"
        );
    }
    let listed = |command: &str| {
        sections
            .iter()
            .any(|(title, _)| title.split_whitespace().next() == Some(command))
    };
    let top = help("");
    let commands = top
        .split("Commands:")
        .nth(1)
        .unwrap()
        .split("Options:")
        .next()
        .unwrap();
    for command in commands
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
    {
        assert!(
            listed(command),
            "`caracal {command}` is not on the page: run ./x gen"
        );
    }
}
