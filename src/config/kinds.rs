//! The kinds of values that knobs take: how each is read, written and bounded.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use super::units::{self, InvalidUnits};

/// Why a text is no value for a knob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidValue {
    /// Not of the knob's kind.
    Malformed,
    /// Of the right kind, outside the range.
    OutOfRange,
}

/// A kind of value with its bounds.
pub trait Kind {
    /// The type that the program reads.
    type Value;
    /// The kind as it follows "is not", as in `a duration`.
    const NOUN: &'static str;
    /// An example for people who wrote it differently; empty where the range says it all.
    const EXAMPLE: &'static str;
    /// What `--help` shows in place of the value.
    const PLACEHOLDER: &'static str;
    /// Whether the configuration file writes it in quotes.
    const QUOTED: bool;
    /// Whether the flag alone means `true`.
    const IS_SWITCH: bool = false;
    /// Whether the configuration file may write it as an array.
    const IS_LIST: bool = false;

    /// The values that are allowed, as `--help`, errors and tuning.md say them.
    fn range(&self) -> String;
    /// Reads a value, the same way from every source.
    ///
    /// # Errors
    /// [`InvalidValue`].
    fn parse(&self, text: &str) -> Result<Self::Value, InvalidValue>;
    /// Writes a value as [`Kind::parse`] reads it.
    fn print(&self, value: &Self::Value) -> String;
}

/// An IP address with a port; names are not looked up.
#[derive(Clone, Copy, Debug)]
pub struct Address;

impl Kind for Address {
    type Value = SocketAddr;
    const NOUN: &'static str = "an address";
    const EXAMPLE: &'static str = "0.0.0.0:3000 or [::]:3000";
    const PLACEHOLDER: &'static str = "ADDRESS";
    const QUOTED: bool = true;

    fn range(&self) -> String {
        "IP address and port".to_owned()
    }

    fn parse(&self, text: &str) -> Result<SocketAddr, InvalidValue> {
        text.parse().map_err(|_| InvalidValue::Malformed)
    }

    fn print(&self, value: &SocketAddr) -> String {
        value.to_string()
    }
}

/// IP networks, separated by commas; an address alone is a network of one.
#[derive(Clone, Copy, Debug)]
pub struct Networks;

impl Kind for Networks {
    type Value = Vec<IpNet>;
    const NOUN: &'static str = "a list of networks";
    const EXAMPLE: &'static str = "10.0.0.0/8,192.0.2.7,2001:db8::/32";
    const PLACEHOLDER: &'static str = "NETWORKS";
    const QUOTED: bool = true;

    fn range(&self) -> String {
        "IP networks, or none".to_owned()
    }

    fn parse(&self, text: &str) -> Result<Vec<IpNet>, InvalidValue> {
        if text.trim_ascii().is_empty() {
            return Ok(Vec::new());
        }
        let network = |text: &str| {
            let text = text.trim_ascii();
            text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| InvalidValue::Malformed)
        };
        text.split(',').map(network).collect()
    }

    fn print(&self, value: &Vec<IpNet>) -> String {
        let networks: Vec<String> = value.iter().map(ToString::to_string).collect();
        networks.join(",")
    }
}

/// On or off.
#[derive(Clone, Copy, Debug)]
pub struct Switch;

impl Kind for Switch {
    type Value = bool;
    const NOUN: &'static str = "a switch";
    const EXAMPLE: &'static str = "";
    const PLACEHOLDER: &'static str = "BOOL";
    const QUOTED: bool = false;
    const IS_SWITCH: bool = true;

    fn range(&self) -> String {
        "true or false".to_owned()
    }

    fn parse(&self, text: &str) -> Result<bool, InvalidValue> {
        text.parse().map_err(|_| InvalidValue::Malformed)
    }

    fn print(&self, value: &bool) -> String {
        value.to_string()
    }
}

/// On, off, or as the other knobs have it.
#[derive(Clone, Copy, Debug)]
pub struct AutoSwitch;

impl Kind for AutoSwitch {
    type Value = Option<bool>;
    const NOUN: &'static str = "a switch";
    const EXAMPLE: &'static str = "";
    const PLACEHOLDER: &'static str = "BOOL";
    const QUOTED: bool = true;
    const IS_SWITCH: bool = true;

    fn range(&self) -> String {
        "true, false or auto".to_owned()
    }

    fn parse(&self, text: &str) -> Result<Option<bool>, InvalidValue> {
        if text == "auto" {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| InvalidValue::Malformed)
    }

    fn print(&self, value: &Option<bool>) -> String {
        value.map_or_else(|| "auto".to_owned(), |on| on.to_string())
    }
}

/// Whether the file's own line, --print-config and a log can show `text` as it is. The dots stand for what is no text
/// in the file.
fn is_plain(text: &str) -> bool {
    !text.contains(|letter: char| letter.is_control() || matches!(letter, '"' | '\\' | '…'))
}

/// A file, or none.
#[derive(Clone, Copy, Debug)]
pub struct FilePath;

impl Kind for FilePath {
    type Value = Option<PathBuf>;
    const NOUN: &'static str = "a path";
    const EXAMPLE: &'static str = "/etc/rollcall/key.pem";
    const PLACEHOLDER: &'static str = "FILE";
    const QUOTED: bool = true;

    fn range(&self) -> String {
        "path of a file, or empty for none".to_owned()
    }

    fn parse(&self, text: &str) -> Result<Option<PathBuf>, InvalidValue> {
        Text.parse(text).map(|text| text.map(PathBuf::from))
    }

    fn print(&self, value: &Option<PathBuf>) -> String {
        value.as_deref().map(Path::display).map(|path| path.to_string()).unwrap_or_default()
    }
}

/// A text, or none.
#[derive(Clone, Copy, Debug)]
pub struct Text;

impl Kind for Text {
    type Value = Option<String>;
    const NOUN: &'static str = "a text without quotes, backslashes and control characters";
    const EXAMPLE: &'static str = "";
    const PLACEHOLDER: &'static str = "TEXT";
    const QUOTED: bool = true;

    fn range(&self) -> String {
        "text, or empty for none".to_owned()
    }

    fn parse(&self, text: &str) -> Result<Option<String>, InvalidValue> {
        match text {
            _ if !is_plain(text) => Err(InvalidValue::Malformed),
            "" => Ok(None),
            text => Ok(Some(text.to_owned())),
        }
    }

    fn print(&self, value: &Option<String>) -> String {
        value.clone().unwrap_or_default()
    }
}

/// Any number of texts, none of them with a comma.
#[derive(Clone, Copy, Debug)]
pub struct List;

impl Kind for List {
    type Value = Vec<String>;
    const NOUN: &'static str = "a list";
    const EXAMPLE: &'static str = "one,two";
    const PLACEHOLDER: &'static str = "LIST";
    const QUOTED: bool = true;
    const IS_LIST: bool = true;

    fn range(&self) -> String {
        "texts with commas between them, or empty for none".to_owned()
    }

    fn parse(&self, text: &str) -> Result<Vec<String>, InvalidValue> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let items: Vec<String> = text.split(',').map(|item| item.trim().to_owned()).collect();
        if items.iter().all(|item| !item.is_empty() && is_plain(item)) {
            Ok(items)
        } else {
            Err(InvalidValue::Malformed)
        }
    }

    fn print(&self, value: &Vec<String>) -> String {
        value.join(",")
    }
}

/// A whole number of things.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// The least that is allowed.
    pub min: usize,
    /// The most that is allowed.
    pub max: usize,
}

impl Kind for Count {
    type Value = usize;
    const NOUN: &'static str = "a whole number";
    const EXAMPLE: &'static str = "";
    const PLACEHOLDER: &'static str = "COUNT";
    const QUOTED: bool = false;

    fn range(&self) -> String {
        format!("{} to {}", self.min, self.max)
    }

    fn parse(&self, text: &str) -> Result<usize, InvalidValue> {
        // A negative number is a number all the same: its fault is the range.
        if text.strip_prefix('-').is_some_and(|digits| units::parse_digits(digits) != Err(InvalidUnits::Malformed)) {
            return Err(InvalidValue::OutOfRange);
        }
        let number = units::parse_digits(text)?;
        within(usize::try_from(number).map_err(|_| InvalidValue::OutOfRange)?, self.min, self.max)
    }

    fn print(&self, value: &usize) -> String {
        value.to_string()
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// The least that is allowed, in bytes.
    pub min: usize,
    /// The most that is allowed, in bytes.
    pub max: usize,
}

impl Kind for Size {
    type Value = usize;
    const NOUN: &'static str = "a size";
    const EXAMPLE: &'static str = "512B, 16KiB, 1MiB or a plain number of bytes";
    const PLACEHOLDER: &'static str = "SIZE";
    const QUOTED: bool = true;

    fn range(&self) -> String {
        format!("{} to {}", units::print_size(self.min), units::print_size(self.max))
    }

    fn parse(&self, text: &str) -> Result<usize, InvalidValue> {
        within(units::parse_size(text)?, self.min, self.max)
    }

    fn print(&self, value: &usize) -> String {
        units::print_size(*value)
    }
}

/// A span of time, whole milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// The shortest that is allowed, but for [`Time::or_zero`].
    pub min: Duration,
    /// The longest that is allowed.
    pub max: Duration,
    /// Whether 0 is allowed below `min`, to turn off what the knob is about.
    pub or_zero: bool,
}

impl Kind for Time {
    type Value = Duration;
    const NOUN: &'static str = "a duration";
    const EXAMPLE: &'static str = "500ms, 45s, 10m, 1h, 1d or 0";
    const PLACEHOLDER: &'static str = "DURATION";
    const QUOTED: bool = true;

    fn range(&self) -> String {
        let or_zero = if self.or_zero { ", or 0" } else { "" };
        format!("{} to {}{or_zero}", units::print_duration(self.min), units::print_duration(self.max))
    }

    fn parse(&self, text: &str) -> Result<Duration, InvalidValue> {
        match units::parse_duration(text)? {
            Duration::ZERO if self.or_zero => Ok(Duration::ZERO),
            duration => within(duration, self.min, self.max),
        }
    }

    fn print(&self, value: &Duration) -> String {
        units::print_duration(*value)
    }
}

/// A value with a name of its own.
pub trait Named: Copy + 'static {
    /// All values, in the order in which they are shown.
    const ALL: &'static [Self];
    /// The name by which sources give it.
    fn name(self) -> &'static str;
}

/// One of the few values of a type.
#[derive(Clone, Copy, Debug)]
pub struct Choice<T>(std::marker::PhantomData<T>);

impl<T> Choice<T> {
    /// All values of the type are allowed.
    pub const fn any() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<T: Named> Kind for Choice<T> {
    type Value = T;
    const NOUN: &'static str = "one of its words";
    const EXAMPLE: &'static str = "";
    const PLACEHOLDER: &'static str = "WORD";
    const QUOTED: bool = true;

    fn range(&self) -> String {
        let names: Vec<&str> = T::ALL.iter().map(|value| value.name()).collect();
        match names.split_last() {
            Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
            _ => names.concat(),
        }
    }

    fn parse(&self, text: &str) -> Result<T, InvalidValue> {
        T::ALL.iter().copied().find(|value| value.name() == text).ok_or(InvalidValue::Malformed)
    }

    fn print(&self, value: &T) -> String {
        value.name().to_owned()
    }
}

impl From<InvalidUnits> for InvalidValue {
    fn from(invalid: InvalidUnits) -> Self {
        match invalid {
            InvalidUnits::Malformed => Self::Malformed,
            InvalidUnits::TooLarge => Self::OutOfRange,
        }
    }
}

fn within<T: PartialOrd>(value: T, min: T, max: T) -> Result<T, InvalidValue> {
    if (min..=max).contains(&value) { Ok(value) } else { Err(InvalidValue::OutOfRange) }
}
