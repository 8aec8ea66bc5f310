//! The README's tables say what the code does.

use rollcall::config::KNOBS;
use rollcall::metrics::names::METRICS;
use rollcall::protocol::close::{CLOSE_CODES, ComeBack};
use rollcall::protocol::error::{ERROR_CODES, REFUSALS};

const README: &str = include_str!("../README.md");

/// The cells of the rows below the header that begins with `header`.
fn table(header: &str) -> Vec<Vec<String>> {
    let rows = README.lines().skip_while(|line| !line.starts_with(header)).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect())
        .collect()
}

#[test]
fn every_error_code_stands_there_with_its_sentence() {
    let said = table("| code | what was wrong |");
    // A sentence's own backticks at its ends go with those of the column.
    let expected: Vec<_> = ERROR_CODES
        .iter()
        .map(|(code, sentence)| vec![(*code).to_owned(), sentence.trim_matches('`').to_owned()])
        .collect();
    assert_eq!(said, expected);
}

#[test]
fn every_close_code_says_whether_to_come_back() {
    let said: Vec<_> =
        table("| code | meaning | come back |").into_iter().map(|row| (row[0].clone(), row[2].clone())).collect();
    let expected: Vec<_> = CLOSE_CODES
        .iter()
        .map(|code| {
            let words = match code.come_back() {
                ComeBack::Never => "never",
                ComeBack::AfterWait => "after a wait",
                ComeBack::AtOnce => "at once",
                ComeBack::WithToken => "with a new token",
            };
            (code.number().to_string(), words.to_owned())
        })
        .collect();
    assert_eq!(said, expected);
}

#[test]
fn every_refusal_stands_there_with_its_status() {
    let said = table("| reason | status | what is said |");
    let expected: Vec<_> = REFUSALS
        .iter()
        .map(|(refusal, status, reason)| vec![(*reason).to_owned(), status.to_string(), refusal.to_string()])
        .collect();
    assert_eq!(said, expected);
}

#[test]
fn every_metric_stands_there_with_its_type_and_help() {
    let said = table("| name | type | what |");
    let expected: Vec<_> = METRICS
        .iter()
        .map(|metric| {
            let label = metric.label.map(|label| format!("{{{label}}}")).unwrap_or_default();
            vec![format!("{}{label}", metric.name), metric.kind.word().to_owned(), metric.help.to_owned()]
        })
        .collect();
    assert_eq!(said, expected);
}

#[test]
fn the_knobs_that_people_set_first_exist() {
    let line = README.lines().find_map(|line| line.strip_prefix("What people set first: ")).unwrap_or_default();
    let named: Vec<_> = line.split('`').skip(1).step_by(2).collect();
    assert!(named.len() > 3);
    for name in named {
        assert!(KNOBS.iter().any(|knob| knob.name == name), "{name}");
    }
}

#[test]
fn every_row_of_a_table_has_as_many_cells_as_its_head() {
    let pages = [
        ("README.md", README),
        ("tuning.md", include_str!("../tuning.md")),
        ("SECURITY.md", include_str!("../SECURITY.md")),
        ("ARCHITECTURE.md", include_str!("../ARCHITECTURE.md")),
        ("benches/presence/README.md", include_str!("../benches/presence/README.md")),
    ];
    for (page, text) in pages {
        let mut head = None;
        for (index, line) in text.lines().enumerate() {
            let cells = line.starts_with('|').then(|| line.replace(r"\|", "").matches('|').count());
            assert!(cells.is_none() || head.is_none() || cells == head, "{page}:{}: {line}", index + 1);
            head = cells.and(head.or(cells));
        }
    }
}
