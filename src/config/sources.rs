//! Where values come from: flags over environment over file over default. What is wrong names its source.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::kinds::InvalidValue;
use super::knobs::{Config, KNOBS, Knob, VARIABLE_PREFIX};

/// The environment variable that names the configuration file.
pub const FILE_VARIABLE: &str = "ROLLCALL_CONFIG";

/// The environment variable with keys of the control port. No knob, because knobs are shown.
pub const CONTROL_KEYS_VARIABLE: &str = "ROLLCALL_CONTROL_KEYS";

/// The flag that names the configuration file, without its dashes.
pub const FILE_FLAG: &str = "config";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave one.
    Default,
    /// A key of the configuration file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// The line of the key, counted from 1.
        line: usize,
    },
    /// An environment variable, by its whole name.
    Environment(String),
    /// A flag, without its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(formatter, "default"),
            Self::File { path, line } => write!(formatter, "file {}, line {line}", printable(path)),
            Self::Environment(variable) => write!(formatter, "environment {variable}"),
            Self::Flag(flag) => write!(formatter, "flag --{flag}"),
        }
    }
}

/// What the flags said, as the command line's parser found it.
#[derive(Debug, Default)]
pub struct Flags {
    /// The value of `--config`.
    pub file: Option<OsString>,
    /// Each knob that was given, with its value.
    pub values: Vec<(&'static Knob, OsString)>,
}

/// Something wrong with a source. Displays as one sentence that names knob, source and what is allowed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A name that no knob has.
    #[error("{origin}: there is no knob `{name}`{}", suggestion(nearest.as_deref()))]
    UnknownName {
        /// The name as the source wrote it.
        name: String,
        /// The source.
        origin: Origin,
        /// The known name that looks most like it, as this source would write it.
        nearest: Option<String>,
    },
    /// A value that is not of the knob's kind.
    #[error("{}: {given:?} ({origin}) is not {}; allowed: {}", .knob.name, .knob.noun, allowed(.knob))]
    Malformed {
        /// The knob.
        knob: &'static Knob,
        /// The value as the source wrote it.
        given: String,
        /// The source.
        origin: Origin,
    },
    /// A value of the right kind that is not allowed.
    #[error("{}: {given:?} ({origin}) is out of range; allowed: {}", .knob.name, (.knob.range)())]
    OutOfRange {
        /// The knob.
        knob: &'static Knob,
        /// The value as the source wrote it.
        given: String,
        /// The source.
        origin: Origin,
    },
    /// A value that is not UTF-8.
    #[error("{}: the value ({origin}) is not UTF-8", .knob.name)]
    NotText {
        /// The knob.
        knob: &'static Knob,
        /// The source.
        origin: Origin,
    },
    /// A lower bound above its upper bound.
    #[error(
        "{low} must not be more than {high}, but {low} is {low_value} ({low_origin}) and {high} is {high_value} ({high_origin})"
    )]
    Contradiction {
        /// The lower bound's knob.
        low: &'static str,
        /// Its value.
        low_value: String,
        /// Its source.
        low_origin: Origin,
        /// The upper bound's knob.
        high: &'static str,
        /// Its value.
        high_value: String,
        /// Its source.
        high_origin: Origin,
    },
    /// A knob that does nothing without another.
    #[error("{knob} ({origin}) needs {needed} beside it")]
    Alone {
        /// The knob that was given.
        knob: &'static str,
        /// Its source.
        origin: Origin,
        /// The knob that was not.
        needed: &'static str,
    },
    /// A configuration file that cannot be read.
    #[error("cannot read the configuration file {path} ({origin}): {reason}")]
    UnreadableFile {
        /// The file as it was named.
        path: String,
        /// Who named it.
        origin: Origin,
        /// What the operating system said.
        reason: String,
    },
    /// A configuration file that is not TOML.
    #[error("{origin}: not valid TOML: {reason}")]
    InvalidToml {
        /// The file and the line.
        origin: Origin,
        /// What the parser said.
        reason: String,
    },
}

/// Every knob's value with its origin.
#[derive(Debug)]
pub struct Resolved {
    /// The values.
    pub config: Config,
    /// The origin of each knob's value, in the order of [`KNOBS`].
    origins: Vec<Origin>,
}

impl Resolved {
    /// Every knob in force as TOML that `--config` takes, each line with a comment that says where it came from.
    pub fn to_toml(&self) -> String {
        let mut toml = String::new();
        let mut group = None;
        for (knob, origin) in KNOBS.iter().zip(&self.origins) {
            if group != Some(knob.group) {
                let gap = if group.is_some() { "\n" } else { "" };
                toml.push_str(&format!("{gap}# {}\n", knob.group.title()));
                group = Some(knob.group);
            }
            let value = (knob.print)(&self.config);
            let quote = if knob.quoted { "\"" } else { "" };
            let origin = match origin {
                Origin::File { path, .. } => format!("file {}", printable(path)),
                other => other.to_string(),
            };
            toml.push_str(&format!("{} = {quote}{value}{quote} # {origin}\n", knob.name));
        }
        toml
    }
}

/// A value as its source wrote it.
struct Given {
    knob: &'static Knob,
    value: Result<String, ()>,
    origin: Origin,
}

/// Settles every knob. All that is wrong is reported at once, also where a stronger source overrides it.
///
/// `environment` is the whole environment; what does not begin with `ROLLCALL_` is not looked at. A variable with an
/// empty value counts as not set, because templates write it so; its name must be known all the same. The variables
/// that Kubernetes sets in every container for a service called `rollcall` are left alone.
///
/// # Errors
/// At least one [`ConfigError`].
pub fn resolve(
    flags: Flags,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Resolved, Vec<ConfigError>> {
    let mut errors = Vec::new();
    let (from_environment, file_variable) = read_environment(environment, &mut errors);
    let file = match (flags.file, file_variable) {
        (Some(path), _) => Some((path, Origin::Flag(FILE_FLAG.to_owned()))),
        (None, Some(path)) => Some((path, Origin::Environment(FILE_VARIABLE.to_owned()))),
        (None, None) => None,
    };
    let from_file = file.map(|(path, origin)| read_file(Path::new(&path), origin, &mut errors)).unwrap_or_default();
    let from_flags = flags.values.into_iter().map(|(knob, value)| Given {
        knob,
        value: value.into_string().map_err(drop),
        origin: Origin::Flag(knob.flag()),
    });

    let mut resolved = Resolved { config: Config::default(), origins: vec![Origin::Default; KNOBS.len()] };
    // The weakest source first: each later one replaces what it gives.
    for given in from_file.into_iter().chain(from_environment).chain(from_flags) {
        resolved.take(given, &mut errors);
    }
    if errors.is_empty() {
        errors.extend(resolved.contradictions().chain(resolved.lone_knobs()));
    }
    if errors.is_empty() { Ok(resolved) } else { Err(errors) }
}

impl Resolved {
    fn take(&mut self, given: Given, errors: &mut Vec<ConfigError>) {
        let Given { knob, value, origin } = given;
        let Ok(given) = value else {
            errors.push(ConfigError::NotText { knob, origin });
            return;
        };
        match (knob.set)(&mut self.config, &given) {
            Ok(()) => {
                if let Some((_, place)) = KNOBS.iter().zip(&mut self.origins).find(|(known, _)| known.name == knob.name)
                {
                    *place = origin;
                }
            }
            Err(InvalidValue::Malformed) => errors.push(ConfigError::Malformed { knob, given, origin }),
            Err(InvalidValue::OutOfRange) => errors.push(ConfigError::OutOfRange { knob, given, origin }),
        }
    }

    fn contradictions(&self) -> impl Iterator<Item = ConfigError> {
        let config = &self.config;
        [
            (
                "heartbeat_timeout_min",
                config.heartbeat_timeout_min,
                "heartbeat_timeout_max",
                config.heartbeat_timeout_max,
            ),
            ("reconnect_min", config.reconnect_min, "reconnect_max", config.reconnect_max),
        ]
        .into_iter()
        .filter(|(_, low, _, high)| low > high)
        .map(|(low, low_value, high, high_value)| ConfigError::Contradiction {
            low,
            low_value: super::units::print_duration(low_value),
            low_origin: self.origin(low),
            high,
            high_value: super::units::print_duration(high_value),
            high_origin: self.origin(high),
        })
    }

    fn lone_knobs(&self) -> impl Iterator<Item = ConfigError> {
        let Config { tls_certificate, tls_key, tls_client_ca, .. } = &self.config;
        [
            ("tls_certificate", tls_certificate, "tls_key", tls_key),
            ("tls_key", tls_key, "tls_certificate", tls_certificate),
            ("tls_client_ca", tls_client_ca, "tls_certificate", tls_certificate),
        ]
        .into_iter()
        .filter(|(_, given, _, needed)| given.is_some() && needed.is_none())
        .map(|(knob, _, needed, _)| ConfigError::Alone { knob, origin: self.origin(knob), needed })
    }

    fn origin(&self, name: &str) -> Origin {
        let place = KNOBS.iter().position(|knob| knob.name == name);
        place.and_then(|index| self.origins.get(index)).cloned().unwrap_or(Origin::Default)
    }
}

/// Finds the knobs' variables, and the one that names the file.
fn read_environment(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    errors: &mut Vec<ConfigError>,
) -> (Vec<Given>, Option<OsString>) {
    let mut given = Vec::new();
    let mut file = None;
    for (variable, value) in environment {
        if !variable.as_encoded_bytes().starts_with(VARIABLE_PREFIX.as_bytes())
            || variable == CONTROL_KEYS_VARIABLE
            || is_set_by_kubernetes(&variable)
        {
            continue;
        }
        let variable = variable.to_string_lossy().into_owned();
        let knob = KNOBS.iter().find(|knob| knob.variable() == variable);
        match knob {
            None if variable != FILE_VARIABLE => {
                let name = variable.trim_start_matches(VARIABLE_PREFIX).to_lowercase();
                let nearest = nearest(&name, KNOBS.iter().map(|knob| knob.name).chain([FILE_FLAG]));
                errors.push(ConfigError::UnknownName {
                    origin: Origin::Environment(printable(&variable)),
                    name: printable(&name),
                    nearest: nearest.map(|name| format!("{VARIABLE_PREFIX}{}", name.to_uppercase())),
                });
            }
            _ if value.is_empty() => {}
            None => file = Some(value),
            Some(knob) => given.push(Given {
                knob,
                value: value.into_string().map_err(drop),
                origin: Origin::Environment(variable),
            }),
        }
    }
    (given, file)
}

/// Whether Kubernetes sets this variable for a service called `rollcall`
/// (<https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>).
fn is_set_by_kubernetes(variable: &OsStr) -> bool {
    let variable = variable.to_string_lossy();
    let prefixes = ["ROLLCALL_SERVICE_PORT_", "ROLLCALL_PORT_"];
    matches!(&*variable, "ROLLCALL_SERVICE_HOST" | "ROLLCALL_SERVICE_PORT" | "ROLLCALL_PORT")
        || prefixes.iter().any(|prefix| variable.starts_with(prefix))
}

/// Reads the keys of the file at `path`, which `origin` named.
fn read_file(path: &Path, origin: Origin, errors: &mut Vec<ConfigError>) -> Vec<Given> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            errors.push(ConfigError::UnreadableFile { path: printable(path), origin, reason: error.to_string() });
            return Vec::new();
        }
    };
    read_keys(&text, path, errors)
}

/// Reads the keys of a file's `text`.
fn read_keys(text: &str, path: &Path, errors: &mut Vec<ConfigError>) -> Vec<Given> {
    let at = |offset: usize| Origin::File {
        path: path.to_owned(),
        line: 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count(),
    };
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let offset = error.span().map_or(0, |span| span.start);
            errors.push(ConfigError::InvalidToml { origin: at(offset), reason: error.message().to_owned() });
            return Vec::new();
        }
    };
    // The parser sorts by name; people read errors from the top of their file.
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut given = Vec::new();
    for (key, value) in entries {
        let origin = at(key.span().start);
        let name = key.get_ref();
        match KNOBS.iter().find(|knob| knob.name == name) {
            Some(knob) => given.push(Given { knob, value: Ok(value_text(value.get_ref(), knob)), origin }),
            None => errors.push(ConfigError::UnknownName {
                name: printable(&**name),
                origin,
                nearest: nearest(name, KNOBS.iter().map(|knob| knob.name)).map(str::to_owned),
            }),
        }
    }
    given
}

/// A value as the other sources would write it; what they cannot write becomes the name of its kind, which no
/// knob takes.
fn value_text(value: &DeValue<'_>, knob: &Knob) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(integer) => {
            let decimal = i128::from_str_radix(integer.as_str(), integer.radix());
            decimal.map_or_else(|_| integer.to_string(), |number| number.to_string())
        }
        DeValue::Boolean(switch) => switch.to_string(),
        DeValue::Float(float) => float.as_str().to_owned(),
        DeValue::Datetime(datetime) => datetime.to_string(),
        DeValue::Array(items) if knob.is_list => {
            let texts = items.iter().map(|item| item.get_ref().as_str());
            texts.collect::<Option<Vec<_>>>().map_or_else(|| "[…]".to_owned(), |texts| texts.join(","))
        }
        DeValue::Array(_) => "[…]".to_owned(),
        DeValue::Table(_) => "{…}".to_owned(),
    }
}

/// What a knob takes, with how it is written: for people who wrote it otherwise.
fn allowed(knob: &Knob) -> String {
    match knob.example {
        "" => (knob.range)(),
        example => format!("{}, written {example}", (knob.range)()),
    }
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(
        || "; `rollcall --help` shows them all".to_owned(),
        |nearest| format!("; did you mean `{nearest}`?"),
    )
}

/// The known name with the fewest letters to change, if that is no more than a third of its own.
fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    known
        .map(|known| (distance(name, known), known))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, known)| *distance <= known.len() / 3)
        .map(|(_, known)| known)
}

/// The Levenshtein distance: letters to insert, remove or replace.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().enumerate() {
        let mut diagonal = index;
        let mut left = index + 1;
        for (above, other) in row.iter_mut().skip(1).zip(&to) {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = *above;
            left = replaced.min(left + 1).min(*above + 1);
            *above = left;
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// The body of the fuzz target `configuration`: whatever a file holds is refused in sentences of one line each, or
/// taken, and then what is shown of it means the same.
///
/// # Panics
/// When a promise does not hold.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match settle(text) {
        Ok(resolved) => {
            let shown = resolved.to_toml();
            let again = settle(&shown).map(|again| again.config);
            assert_eq!(again.ok(), Some(resolved.config), "{shown}");
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            // What the parser of TOML says may quote the file.
            let ours = errors.iter().filter(|error| !matches!(error, ConfigError::InvalidToml { .. }));
            for error in ours {
                let sentence = error.to_string();
                assert!(!sentence.contains(['\n', '\u{1b}']), "{sentence:?}");
            }
        }
    }
}

/// What a file with this `text` amounts to by itself.
fn settle(text: &str) -> Result<Resolved, Vec<ConfigError>> {
    let mut errors = Vec::new();
    let mut resolved = Resolved { config: Config::default(), origins: vec![Origin::Default; KNOBS.len()] };
    for given in read_keys(text, Path::new("rollcall.toml"), &mut errors) {
        resolved.take(given, &mut errors);
    }
    if errors.is_empty() {
        errors.extend(resolved.contradictions());
    }
    if errors.is_empty() { Ok(resolved) } else { Err(errors) }
}

/// A name for one line of text: control characters are escaped, what is not UTF-8 is replaced.
fn printable(name: impl AsRef<OsStr>) -> String {
    let mut line = String::new();
    for letter in name.as_ref().to_string_lossy().chars() {
        if letter.is_control() {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// A configuration file that goes away with the test.
    struct TemporaryFile(PathBuf);

    impl TemporaryFile {
        fn new(name_end: &str, text: &[u8]) -> Self {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("rollcall-config-{}-{count}{name_end}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, text).unwrap();
            Self(path)
        }
    }

    impl Drop for TemporaryFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn knob(name: &str) -> &'static Knob {
        KNOBS.iter().find(|knob| knob.name == name).unwrap()
    }

    fn flags(values: &[(&str, &str)]) -> Flags {
        Flags { file: None, values: values.iter().map(|(name, value)| (knob(name), value.into())).collect() }
    }

    fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn from_file(text: &str) -> Result<Resolved, Vec<String>> {
        let file = TemporaryFile::new(".toml", text.as_bytes());
        let path = file.0.display().to_string();
        let flags = Flags { file: Some(file.0.clone().into()), values: Vec::new() };
        resolve(flags, [])
            .map_err(|errors| errors.iter().map(|error| error.to_string().replace(&path, "FILE")).collect())
    }

    fn from_environment(variables: &[(&str, &str)]) -> Result<Resolved, Vec<String>> {
        resolve(Flags::default(), environment(variables))
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn flag_over_environment_over_file_over_default() {
        let file = TemporaryFile::new(".toml", b"# first line\nheartbeat_timeout = \"30s\"\n");
        let variable = ("ROLLCALL_HEARTBEAT_TIMEOUT", "40s");
        let file_variable = (FILE_VARIABLE, file.0.to_str().unwrap());
        let in_file = Origin::File { path: file.0.clone(), line: 2 };
        let in_environment = Origin::Environment(variable.0.to_owned());
        let in_flags = Origin::Flag("heartbeat-timeout".to_owned());
        let flag = [("heartbeat_timeout", "50s")];
        let cases = [
            (flags(&[]), vec![], 75, Origin::Default),
            (flags(&[]), vec![file_variable], 30, in_file),
            (flags(&[]), vec![file_variable, variable], 40, in_environment),
            (flags(&flag), vec![file_variable, variable], 50, in_flags),
        ];
        for (flags, variables, seconds, origin) in cases {
            let resolved = resolve(flags, environment(&variables)).unwrap();
            assert_eq!(resolved.config.heartbeat_timeout, Duration::from_secs(seconds), "{origin}");
            assert_eq!(resolved.origin("heartbeat_timeout"), origin);
            assert_eq!(resolved.origin("probe_after"), Origin::Default);
        }
    }

    #[test]
    fn the_file_of_the_flag_replaces_that_of_the_environment() {
        let strong = TemporaryFile::new(".toml", b"shards = 2");
        let weak = TemporaryFile::new(".toml", b"backlog = 7");
        let flags = Flags { file: Some(strong.0.clone().into()), values: Vec::new() };
        let resolved = resolve(flags, environment(&[(FILE_VARIABLE, weak.0.to_str().unwrap())])).unwrap();
        assert_eq!((resolved.config.shards, resolved.config.backlog), (2, Config::default().backlog));
    }

    #[test]
    fn the_file_takes_native_numbers_and_switches() {
        let text = "shards = 0x10\nmax_frames = 1_000\nmax_message = 70000\npin = false\nheartbeat_timeout = 0\nbacklog = \"7\"";
        let config = from_file(text).unwrap().config;
        assert_eq!((config.shards, config.max_frames, config.max_message, config.backlog), (16, 1000, 70_000, 7));
        assert_eq!((config.pin, config.heartbeat_timeout), (false, Duration::ZERO));
    }

    #[test]
    fn values_that_no_knob_takes_are_refused_with_their_line() {
        let text =
            "shards = 2.5\n\nprobe_after = 45\npin = 1\nlisten = [\"[::]:1\"]\nlog_level = {}\nbacklog = 1979-05-27";
        let errors = from_file(text).unwrap_err();
        assert_eq!(
            errors,
            [
                "shards: \"2.5\" (file FILE, line 1) is not a whole number; allowed: 0 to 1024",
                "probe_after: \"45\" (file FILE, line 3) is not a duration; allowed: 100ms to 1d, or 0, written 500ms, 45s, 10m, 1h, 1d or 0",
                "pin: \"1\" (file FILE, line 4) is not a switch; allowed: true or false",
                "listen: \"[…]\" (file FILE, line 5) is not an address; allowed: IP address and port, written 0.0.0.0:3000 or [::]:3000",
                "log_level: \"{…}\" (file FILE, line 6) is not one of its words; allowed: error, warn, info, debug or trace",
                "backlog: \"1979-05-27\" (file FILE, line 7) is not a whole number; allowed: 1 to 65535",
            ]
        );
    }

    #[test]
    fn a_list_may_be_written_as_an_array_of_texts() {
        let lists = |text: &str| from_file(text).map(|resolved| resolved.config.jwt_issuer);
        for text in ["jwt_issuer = [\"a\", \"b\"]", "jwt_issuer = \"a,b\"", "jwt_issuer = \"a , b\""] {
            assert_eq!(lists(text).unwrap(), ["a", "b"], "{text}");
        }
        assert!(lists("jwt_issuer = []").unwrap().is_empty());
        for text in ["jwt_issuer = [1]", "jwt_issuer = [\"a\", [\"b\"]]", "jwt_issuer = [\"\", \"\"]"] {
            assert!(lists(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
        let errors = from_file("shards = 1\nheartbeat-timeout = \"45s\"\n[limits]\nmax_frames = 1").unwrap_err();
        assert_eq!(
            errors,
            [
                "file FILE, line 2: there is no knob `heartbeat-timeout`; did you mean `heartbeat_timeout`?",
                "file FILE, line 3: there is no knob `limits`; `rollcall --help` shows them all",
            ]
        );
    }

    #[test]
    fn an_unknown_variable_is_named_with_the_nearest_known_one() {
        let errors = from_environment(&[
            ("ROLLCALL_HEARTBEAT_TIMOUT", "1s"),
            ("ROLLCALL_CONFG", "x"),
            ("ROLLCALL_", ""),
            ("ROLLCALL_heartbeat_timeout", "1s"),
            ("ROLLCALLER", "not ours"),
            ("HOME", "/"),
        ]);
        assert_eq!(
            errors.unwrap_err(),
            [
                "environment ROLLCALL_HEARTBEAT_TIMOUT: there is no knob `heartbeat_timout`; did you mean `ROLLCALL_HEARTBEAT_TIMEOUT`?",
                "environment ROLLCALL_CONFG: there is no knob `confg`; did you mean `ROLLCALL_CONFIG`?",
                "environment ROLLCALL_: there is no knob ``; `rollcall --help` shows them all",
                "environment ROLLCALL_heartbeat_timeout: there is no knob `heartbeat_timeout`; did you mean `ROLLCALL_HEARTBEAT_TIMEOUT`?",
            ]
        );
    }

    #[test]
    fn what_kubernetes_sets_for_a_service_called_rollcall_is_left_alone() {
        let variables = [
            ("ROLLCALL_SERVICE_HOST", "10.0.0.11"),
            ("ROLLCALL_SERVICE_PORT", "3000"),
            ("ROLLCALL_SERVICE_PORT_WEBSOCKET", "3000"),
            ("ROLLCALL_PORT", "tcp://10.0.0.11:3000"),
            ("ROLLCALL_PORT_3000_TCP", "tcp://10.0.0.11:3000"),
            ("ROLLCALL_PORT_3000_TCP_PROTO", "tcp"),
        ];
        assert_eq!(from_environment(&variables).unwrap().config, Config::default());
        assert!(from_environment(&[("ROLLCALL_SERVICE", "x")]).is_err());
        assert!(from_environment(&[("ROLLCALL_PORTS", "x")]).is_err());
    }

    #[test]
    fn an_empty_variable_counts_as_not_set_but_its_name_is_checked() {
        let resolved = from_environment(&[("ROLLCALL_SHARDS", ""), (FILE_VARIABLE, "")]).unwrap();
        assert_eq!(resolved.config, Config::default());
        assert_eq!(resolved.origin("shards"), Origin::Default);
        assert!(from_environment(&[("ROLLCALL_SHARD", "")]).is_err());
    }

    #[test]
    fn a_wrong_value_is_refused_even_where_a_stronger_source_overrides_it() {
        let errors = resolve(flags(&[("shards", "1")]), environment(&[("ROLLCALL_SHARDS", "1025")])).unwrap_err();
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["shards: \"1025\" (environment ROLLCALL_SHARDS) is out of range; allowed: 0 to 1024"]
        );
    }

    #[cfg(unix)]
    #[test]
    fn names_and_values_that_are_not_utf_8_are_refused() {
        use std::os::unix::ffi::OsStringExt;
        let bad = || OsString::from_vec(b"\xff".to_vec());
        let mut name = OsString::from("ROLLCALL_");
        name.push(bad());
        let flags = Flags { file: None, values: vec![(knob("listen"), bad())] };
        let errors = resolve(flags, [("ROLLCALL_SHARDS".into(), bad()), (name, "x".into())]).unwrap_err();
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "environment ROLLCALL_\u{fffd}: there is no knob `\u{fffd}`; `rollcall --help` shows them all",
                "shards: the value (environment ROLLCALL_SHARDS) is not UTF-8",
                "listen: the value (flag --listen) is not UTF-8",
            ]
        );
    }

    #[test]
    fn a_lower_bound_above_its_upper_bound_is_refused_with_both_sources() {
        let flags = flags(&[("reconnect_min", "6s"), ("heartbeat_timeout_max", "2s")]);
        let errors = resolve(flags, environment(&[("ROLLCALL_HEARTBEAT_TIMEOUT_MIN", "3s")])).unwrap_err();
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "heartbeat_timeout_min must not be more than heartbeat_timeout_max, but heartbeat_timeout_min is 3s (environment ROLLCALL_HEARTBEAT_TIMEOUT_MIN) and heartbeat_timeout_max is 2s (flag --heartbeat-timeout-max)",
                "reconnect_min must not be more than reconnect_max, but reconnect_min is 6s (flag --reconnect-min) and reconnect_max is 5s (default)",
            ]
        );
        assert!(resolve(self::flags(&[("reconnect_min", "5s")]), []).is_ok());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_who_named_it() {
        let errors = from_environment(&[(FILE_VARIABLE, "/nowhere/rollcall.toml")]).unwrap_err().concat();
        let start = "cannot read the configuration file /nowhere/rollcall.toml (environment ROLLCALL_CONFIG): ";
        assert!(errors.starts_with(start), "{errors}");
        let file = TemporaryFile::new(".toml", b"shards = \"\xff\"");
        assert!(from_environment(&[(FILE_VARIABLE, file.0.to_str().unwrap())]).is_err());
    }

    #[test]
    fn a_file_that_is_not_toml_is_named_with_the_line() {
        for (text, line) in [("shards = 1\nbacklog = \"x", 2), ("pin = true\n\npin = false", 3), ("shards", 1)] {
            let errors = from_file(text).unwrap_err().concat();
            assert!(errors.starts_with(&format!("file FILE, line {line}: not valid TOML: ")), "{errors}");
        }
    }

    #[test]
    fn a_knob_that_does_nothing_without_another_is_refused_without_it() {
        let alone = |values: &[(&'static str, &'static str)]| {
            let errors = resolve(flags(values), []).unwrap_err();
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(alone(&[("tls_key", "k.pem")]), ["tls_key (flag --tls-key) needs tls_certificate beside it"]);
        assert_eq!(
            alone(&[("tls_certificate", "c.pem"), ("tls_client_ca", "a.pem")]),
            ["tls_certificate (flag --tls-certificate) needs tls_key beside it"]
        );
        assert_eq!(alone(&[("tls_client_ca", "a.pem")]).len(), 1);
        assert!(resolve(flags(&[("tls_certificate", "c.pem"), ("tls_key", "k.pem")]), []).is_ok());
    }

    /// A value for each knob that is not its default.
    fn other_values() -> Vec<(&'static str, &'static str)> {
        let others = |knob: &Knob| match knob.placeholder {
            "ADDRESS" => &["[fe80::1%2]:0", "10.0.0.1:1"][..],
            "BOOL" => &["false", "true"],
            "NETWORKS" => &["10.0.0.0/8,::1/128"],
            "COUNT" => &["17", "18"],
            "SIZE" => &["5KiB", "4097B"],
            "DURATION" => &["1s", "999ms"],
            "WORD" => &["json", "trace", "open", "close", "none", "newest"],
            "FILE" => &["/a b/c.pem"],
            "TEXT" => &["https://a/b?c=d#e"],
            "LIST" => &["one, two,3"],
            other => panic!("{}: values of a new kind, {other}", knob.name),
        };
        let differs = |knob: &Knob, value: &str| {
            let mut config = Config::default();
            (knob.set)(&mut config, value).is_ok() && config != Config::default()
        };
        let other = |knob: &Knob| others(knob).iter().find(|value| differs(knob, value)).expect(knob.name);
        KNOBS.iter().map(|knob| (knob.name, *other(knob))).collect()
    }

    #[test]
    fn what_print_config_shows_reads_back_as_the_same() {
        for values in [Vec::new(), other_values()] {
            let resolved = resolve(flags(&values), []).unwrap();
            let again = from_file(&resolved.to_toml()).unwrap();
            assert_eq!(again.config, resolved.config);
            assert!(again.origins.iter().all(|origin| matches!(origin, Origin::File { .. })));
        }
    }

    #[test]
    fn every_knob_can_be_given_by_its_variable() {
        let variables = other_values().into_iter().map(|(name, value)| (knob(name).variable().into(), value.into()));
        let resolved = resolve(Flags::default(), variables).unwrap();
        assert_eq!(resolved.config, resolve(flags(&other_values()), []).unwrap().config);
    }

    #[test]
    fn print_config_says_of_every_line_where_it_came_from() {
        let file = TemporaryFile::new("\n\u{1b}.toml", b"backlog = 7\npin = false");
        let variables = environment(&[(FILE_VARIABLE, file.0.to_str().unwrap()), ("ROLLCALL_PIN", "true")]);
        let toml = resolve(flags(&[("shards", "2")]), variables).unwrap().to_toml();
        let path = file.0.to_str().unwrap().replace("\n\u{1b}", "\\n\\u{1b}");
        let lines: Vec<&str> = toml.lines().collect();
        for line in [
            format!("backlog = 7 # file {path}"),
            "pin = true # environment ROLLCALL_PIN".to_owned(),
            "shards = 2 # flag --shards".to_owned(),
            "listen = \"[::]:3000\" # default".to_owned(),
        ] {
            assert!(lines.contains(&line.as_str()), "{line} is not in:\n{toml}");
        }
        assert!(DeTable::parse(&toml).is_ok(), "{toml}");
    }

    #[test]
    fn distance_counts_letters_to_change() {
        for (from, to, expected) in
            [("", "", 0), ("", "pin", 3), ("pin", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(distance(from, to), expected, "{from} to {to}");
        }
    }
}
