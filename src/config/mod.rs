//! Configuration: one table of knobs, three sources. The program reads [`Config`] and nothing else.
//!
//! Flags (`--heartbeat-timeout 45s`) override the environment (`ROLLCALL_HEARTBEAT_TIMEOUT`), which overrides the TOML
//! file that `--config` or `ROLLCALL_CONFIG` names (`heartbeat_timeout = "45s"`), which overrides the default.

mod kinds;
mod knobs;
mod sources;
mod units;

pub use kinds::{InvalidValue, Named};
pub use knobs::{
    AuthFailure, AuthRefusal, Config, ControlPages, DefaultReach, Group, KNOBS, Knob, LogFormat, LogLevel,
    VARIABLE_PREFIX, Yields,
};
#[doc(hidden)]
pub use sources::fuzz;
pub use sources::{CONTROL_KEYS_VARIABLE, ConfigError, FILE_FLAG, FILE_VARIABLE, Flags, Origin, Resolved, resolve};
pub use units::parse_duration;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const TUNING: &str = include_str!("../../tuning.md");

    /// The rows of tuning.md's tables of knobs: name, default, range, effect; without backticks.
    fn rows() -> Vec<[String; 4]> {
        let mut rows = Vec::new();
        let mut in_table = false;
        for line in TUNING.lines() {
            if line.starts_with("| knob | default | range |") {
                in_table = true;
            } else if !line.starts_with('|') {
                in_table = false;
            } else if in_table && !line.starts_with("| ---") {
                let cells: Vec<String> =
                    line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
                rows.push(cells.try_into().expect("four cells a row"));
            }
        }
        rows
    }

    /// The headings of tuning.md that name knobs, each with the text up to the next heading.
    fn paragraphs() -> Vec<(String, String)> {
        let mut paragraphs: Vec<(String, String)> = Vec::new();
        let mut open = false;
        for line in TUNING.lines() {
            if let Some(name) = line.strip_prefix("### `") {
                paragraphs.push((name.trim_end_matches('`').to_owned(), String::new()));
                open = true;
            } else if line.starts_with('#') {
                open = false;
            } else if open {
                paragraphs.last_mut().unwrap().1.push_str(line.trim());
            }
        }
        paragraphs
    }

    #[test]
    fn tuning_md_has_a_row_for_every_knob_and_no_other() {
        let rows: Vec<_> = rows().into_iter().map(|[name, default, range, _]| (name, default, range)).collect();
        let knobs: Vec<_> = KNOBS.iter().map(|knob| (knob.name.to_owned(), knob.default(), (knob.range)())).collect();
        assert_eq!(rows, knobs);
    }

    #[test]
    fn tuning_md_has_a_paragraph_for_every_knob_and_no_other() {
        let paragraphs = paragraphs();
        let names: Vec<_> = paragraphs.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, KNOBS.iter().map(|knob| knob.name).collect::<Vec<_>>());
        for (name, text) in paragraphs {
            assert!(text.len() > 80, "{name}: a paragraph says what it buys and what it costs");
        }
    }

    #[test]
    fn tuning_md_says_of_every_knob_what_it_buys() {
        for [name, _, _, effect] in rows() {
            assert!(effect.len() > 20, "{name}: {effect}");
        }
    }

    #[test]
    fn tuning_md_has_the_groups_as_headings() {
        for knob in KNOBS {
            let heading = format!("\n## {}\n", knob.group.title());
            assert!(TUNING.contains(&heading), "{}", knob.group.title());
        }
    }
}
