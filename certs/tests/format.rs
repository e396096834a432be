//! FORMAT.md says of the trust file what the code does.

#![allow(clippy::unwrap_used, reason = "a panic in a test is a failing test")]

use casemate_certs::trust::{NAMESPACE, SIGNATURES_MAX, Trust};

const FORMAT: &str = include_str!("../../recorder/FORMAT.md");

fn chapter() -> &'static str {
    let after = FORMAT.split_once("## 11. The trust file").unwrap().1;
    after.split_once("\n## ").map_or(after, |(chapter, _)| chapter)
}

#[test]
fn the_example_is_a_trust_file_and_the_table_names_its_fields() {
    let example = chapter().split_once("```toml\n").unwrap().1.split_once("```").unwrap().0;
    let trust = Trust::parse(example).unwrap();
    assert!(Trust::parse(&trust.to_text()).is_ok_and(|again| again == trust));
    let fields: Vec<&str> = chapter()
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(field, _)| field))
        .collect();
    assert_eq!(fields.len(), 18);
    // A field counts as known when another value of it is refused by its name, not as unknown.
    for field in &fields {
        let (table, name) = field.split_once('.').unwrap_or(("", field));
        let text = if table.is_empty() { format!("{name} = []\n") } else { format!("[[{table}]]\n{name} = []\n") };
        let error = Trust::parse(&text).unwrap_err().to_string();
        assert!(!error.contains("unknown field"), "{field}: {error}");
        assert!(error.contains(&format!("{field} has the wrong type")), "{field}: {error}");
    }
    // The reader names all the fields that it knows where it meets another.
    let error = Trust::parse("other = 1\n[[officer]]\nother = 1\n[[recipient]]\nother = 1\n[[node]]\nother = 1\n");
    let error = error.unwrap_err().to_string();
    let known =
        error.lines().filter_map(|line| line.split_once("known here: ")).flat_map(|(_, known)| known.split(", "));
    let tables = ["officer", "recipient", "node"];
    assert_eq!(known.filter(|name| !tables.contains(name)).count(), fields.len(), "{error}");
    assert!(chapter().contains(NAMESPACE) && chapter().contains(&format!("1 to {SIGNATURES_MAX}")));
}
