//! The command line: which subcommand, and for `serve` which configuration.

use std::ffi::OsString;
use std::fmt;
use std::sync::LazyLock;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches};

use crate::config::{self, Config, ConfigError, FILE_FLAG, FILE_VARIABLE, Flags, KNOBS, Knob};

const SERVE: &str = "serve";
const LOAD: &str = "load";
const TOKEN: &str = "token";
const PRINT_CONFIG: &str = "print-config";

/// What the program was asked to do.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "made once, at start")]
pub enum Command {
    /// `rollcall` or `rollcall serve`.
    Serve {
        /// Every knob's value.
        config: Config,
        /// With `--print-config`: the text to write to standard output before a successful exit, instead of serving.
        print: Option<String>,
    },
    /// `rollcall load`, with the arguments that follow, none of them looked at.
    Load(Vec<OsString>),
    /// `rollcall token`, likewise.
    Token(Vec<OsString>),
}

/// Why there is no [`Command`]: help was asked for, or something is wrong. Displays the whole text to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliError {
    text: String,
    exit_code: u8,
}

impl CliError {
    /// 0 where help or the version was asked for, which belongs on standard output; 2 where the command line or the
    /// configuration is wrong, which belongs on standard error.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl std::error::Error for CliError {}

impl From<clap::Error> for CliError {
    fn from(error: clap::Error) -> Self {
        let exit_code = match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
            _ => 2,
        };
        Self { text: error.render().to_string().trim_end().to_owned(), exit_code }
    }
}

impl From<Vec<ConfigError>> for CliError {
    fn from(errors: Vec<ConfigError>) -> Self {
        let lines: Vec<String> = errors.iter().map(|error| format!("error: {error}")).collect();
        Self { text: lines.join("\n"), exit_code: 2 }
    }
}

/// Reads the command line, and for `serve` the environment and the configuration file.
///
/// `arguments` come without the program's own name; `environment` is the whole environment.
///
/// # Errors
/// [`CliError`], also for `--help` and `--version`.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Command, CliError> {
    let mut arguments = arguments.into_iter().peekable();
    // Before clap, which would take `--` and `--help` out of what belongs to the subcommand.
    if arguments.next_if(|first| first == LOAD).is_some() {
        return Ok(Command::Load(arguments.collect()));
    }
    if arguments.next_if(|first| first == TOKEN).is_some() {
        return Ok(Command::Token(arguments.collect()));
    }
    let matches = command().try_get_matches_from(arguments)?;
    let matches = matches.subcommand_matches(SERVE).unwrap_or(&matches);
    let resolved = config::resolve(flags(matches), environment)?;
    let print = matches.get_flag(PRINT_CONFIG).then(|| resolved.to_toml());
    Ok(Command::Serve { config: resolved.config, print })
}

/// Each knob's flag, in the order of [`KNOBS`]: clap keeps names for ever and does not copy them.
static FLAGS: LazyLock<Vec<String>> = LazyLock::new(|| KNOBS.iter().map(Knob::flag).collect());

fn command() -> clap::Command {
    clap::Command::new("rollcall")
        .bin_name("rollcall")
        .display_name("rollcall")
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .version(env!("CARGO_PKG_VERSION"))
        .no_binary_name(true)
        .propagate_version(true)
        .args_conflicts_with_subcommands(true)
        .args(serve_arguments())
        .after_help(AFTER_HELP)
        .subcommand(
            clap::Command::new(SERVE)
                .display_name("rollcall")
                .about("Serve; what `rollcall` does without a subcommand")
                .args(serve_arguments())
                .after_help(AFTER_HELP),
        )
        .subcommand(clap::Command::new(LOAD).about("Put a server under load; `rollcall load --help` says how"))
        .subcommand(clap::Command::new(TOKEN).about("Make and explain tokens; `rollcall token --help` says how"))
}

const AFTER_HELP: &str = "\
Every knob is also an environment variable (--heartbeat-timeout is ROLLCALL_HEARTBEAT_TIMEOUT) and a key of the TOML
file (heartbeat_timeout = \"45s\"). Flags override the environment, the environment overrides the file.
A switch takes its value after an equals sign, as in --pin=false; alone it means true.
Durations are written 500ms, 45s, 10m, 1h, 1d or 0; sizes 512B, 16KiB, 1MiB or as a plain number of bytes.";

fn serve_arguments() -> Vec<Arg> {
    let mut arguments = vec![
        Arg::new(FILE_FLAG)
            .long(FILE_FLAG)
            .value_name("FILE")
            .value_parser(clap::value_parser!(OsString))
            .help(format!("Read knobs from this TOML file; {FILE_VARIABLE} does the same")),
        Arg::new(PRINT_CONFIG)
            .long(PRINT_CONFIG)
            .action(ArgAction::SetTrue)
            .help("Show every knob in force as TOML, each with where it came from, and exit"),
    ];
    arguments.extend(KNOBS.iter().zip(FLAGS.iter()).map(|(knob, flag)| {
        let argument = Arg::new(knob.name)
            .long(flag.as_str())
            .value_name(knob.placeholder)
            .value_parser(clap::value_parser!(OsString))
            .allow_negative_numbers(true)
            .help_heading(knob.group.title())
            .next_line_help(true)
            .help(format!("{}\n[default: {}] [allowed: {}]", knob.help, knob.default(), (knob.range)()));
        if knob.is_switch {
            // With a value only after `=`, `--pin serve` cannot mean two things.
            argument.num_args(0..=1).require_equals(true).default_missing_value("true")
        } else {
            argument
        }
    }));
    arguments
}

fn flags(matches: &ArgMatches) -> Flags {
    let value = |name: &str| matches.get_one::<OsString>(name).cloned();
    Flags {
        file: value(FILE_FLAG),
        values: KNOBS.iter().filter_map(|knob| value(knob.name).map(|value| (knob, value))).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::time::Duration;

    fn run(arguments: &[&str]) -> Result<Command, CliError> {
        parse(arguments.iter().map(OsString::from), [])
    }

    fn config(arguments: &[&str]) -> Config {
        match run(arguments) {
            Ok(Command::Serve { config, print: None }) => config,
            other => panic!("{arguments:?}: {other:?}"),
        }
    }

    fn error(arguments: &[&str]) -> CliError {
        run(arguments).expect_err("refused")
    }

    #[test]
    fn serve_is_what_happens_without_a_subcommand() {
        assert_eq!(config(&[]), Config::default());
        assert_eq!(config(&["serve"]), Config::default());
        let expected = Config { heartbeat_timeout: Duration::from_secs(45), ..Config::default() };
        assert_eq!(config(&["--heartbeat-timeout", "45s"]), expected);
        assert_eq!(config(&["serve", "--heartbeat-timeout=45s"]), expected);
    }

    #[test]
    fn load_and_token_get_their_arguments_untouched() {
        let Ok(Command::Load(arguments)) = run(&["load", "--", "--help", "-x", "serve"]) else {
            panic!("not load");
        };
        assert_eq!(arguments, ["--", "--help", "-x", "serve"]);
        let Ok(Command::Token(arguments)) = run(&["token", "--help", "load"]) else { panic!("not token") };
        assert_eq!(arguments, ["--help", "load"]);
    }

    #[test]
    fn a_switch_is_on_alone_and_takes_its_value_after_an_equals_sign_only() {
        assert!(config(&["--pin"]).pin);
        assert!(config(&["--pin=true"]).pin);
        assert!(!config(&["--pin=false"]).pin);
        assert!(!config(&["serve", "--own-descriptor-tables=false"]).own_descriptor_tables);
        for arguments in [&["--pin", "false"][..], &["serve", "--pin", "false"]] {
            assert_eq!(error(arguments).exit_code(), 2);
        }
    }

    #[test]
    fn help_shows_every_knob_with_default_and_range_under_its_heading() {
        for arguments in [&["--help"][..], &["serve", "--help"], &["-h"]] {
            let help = error(arguments);
            assert_eq!(help.exit_code(), 0);
            let help = help.to_string();
            for knob in KNOBS {
                let (_, group) = help.split_once(&format!("\n{}:\n", knob.group.title())).expect("a heading");
                let group = group.split("\n\n").take_while(|part| part.starts_with("      --")).collect::<String>();
                let flag = format!("      --{}", knob.flag());
                let start = group
                    .match_indices(&flag)
                    .find(|(index, _)| group[index + flag.len()..].starts_with([' ', '[']))
                    .map(|(index, _)| index)
                    .expect(knob.name);
                let section: String = group[start..].lines().take(3).collect();
                assert!(section.contains(knob.help), "{section}");
                let bounds = format!("[default: {}] [allowed: {}]", knob.default(), (knob.range)());
                assert!(section.contains(&bounds), "{section}");
            }
        }
    }

    #[test]
    fn version_says_name_and_version() {
        for arguments in [&["--version"][..], &["serve", "-V"]] {
            let version = error(arguments);
            assert_eq!(
                (version.to_string(), version.exit_code()),
                (format!("rollcall {}", env!("CARGO_PKG_VERSION")), 0)
            );
        }
    }

    #[test]
    fn an_unknown_flag_is_told_the_nearest_one() {
        let error = error(&["--hartbeat-timeout", "3s"]);
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("'--heartbeat-timeout'"), "{error}");
    }

    #[test]
    fn a_bad_value_is_told_knob_flag_and_range() {
        let error = error(&["--shards", "-1"]);
        assert_eq!(error.exit_code(), 2);
        assert_eq!(error.to_string(), "error: shards: \"-1\" (flag --shards) is out of range; allowed: 0 to 1024");
    }

    #[test]
    fn a_flag_given_twice_is_refused() {
        let error = error(&["--shards", "1", "--shards", "2"]);
        assert!(error.to_string().contains("--shards"), "{error}");
    }

    #[test]
    fn the_environment_is_read_and_flags_override_it() {
        let environment = [("ROLLCALL_SHARDS".into(), "3".into()), ("ROLLCALL_BACKLOG".into(), "7".into())];
        let Ok(Command::Serve { config, .. }) = parse(["--shards=2".into()], environment) else {
            panic!("refused");
        };
        assert_eq!((config.shards, config.backlog), (2, 7));
    }

    #[test]
    fn print_config_shows_every_knob() {
        let Ok(Command::Serve { print: Some(text), .. }) = run(&["serve", "--print-config", "--pin=false"]) else {
            panic!("nothing to print");
        };
        assert!(text.contains("\npin = false # flag --pin\n"), "{text}");
        assert!(KNOBS.iter().all(|knob| text.contains(&format!("\n{} = ", knob.name))), "{text}");
    }
}
