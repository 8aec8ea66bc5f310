//! How durations and sizes are written: `45s`, `500ms`, `16KiB`. Printing and parsing are each other's inverse.

use std::time::Duration;

/// The units of durations with their milliseconds, the largest first.
const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The units of sizes with their bytes, the largest first.
const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Why a text is no number with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidUnits {
    /// Not digits followed by a unit that is known here.
    Malformed,
    /// Well written, but more than 64 bits of milliseconds or bytes.
    TooLarge,
}

/// Reads a duration: digits and one of the units `ms`, `s`, `m`, `h`, `d`, or `0`, which needs none.
///
/// # Errors
/// [`InvalidUnits`]; a number other than 0 without a unit is malformed, because seconds and milliseconds are both
/// common guesses.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidUnits> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    parse(text, &DURATION_UNITS).map(Duration::from_millis)
}

/// Writes a duration in the largest unit that divides it; what is below a millisecond is cut off.
pub fn print_duration(duration: Duration) -> String {
    match u64::try_from(duration.as_millis()).unwrap_or(u64::MAX) {
        0 => "0".to_owned(),
        ms => print(ms, &DURATION_UNITS),
    }
}

/// Reads a size in bytes: digits and one of the units `B`, `KiB`, `MiB`, `GiB` (powers of 1024), or digits alone.
///
/// # Errors
/// [`InvalidUnits`].
pub fn parse_size(text: &str) -> Result<usize, InvalidUnits> {
    let bytes = match parse_digits(text) {
        Err(InvalidUnits::Malformed) => parse(text, &SIZE_UNITS)?,
        plain => plain?,
    };
    usize::try_from(bytes).map_err(|_| InvalidUnits::TooLarge)
}

/// Writes a size in the largest unit that divides it.
pub fn print_size(bytes: usize) -> String {
    match bytes as u64 {
        0 => "0B".to_owned(),
        bytes => print(bytes, &SIZE_UNITS),
    }
}

/// Reads a number without sign, unit or separators.
///
/// # Errors
/// [`InvalidUnits`].
pub fn parse_digits(text: &str) -> Result<u64, InvalidUnits> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidUnits::Malformed);
    }
    // Only digits are left, so that the one way to fail is their number.
    text.parse().map_err(|_| InvalidUnits::TooLarge)
}

fn parse(text: &str, units: &[(&str, u64)]) -> Result<u64, InvalidUnits> {
    let unit_start = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_start);
    let Some((_, factor)) = units.iter().find(|(known, _)| *known == unit) else {
        return Err(InvalidUnits::Malformed);
    };
    parse_digits(digits)?.checked_mul(*factor).ok_or(InvalidUnits::TooLarge)
}

fn print(number: u64, units: &[(&str, u64)]) -> String {
    units
        .iter()
        .find(|(_, factor)| number.is_multiple_of(*factor))
        .map_or_else(|| number.to_string(), |(unit, factor)| format!("{}{unit}", number / factor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_take_every_unit() {
        let cases =
            [("500ms", 500), ("45s", 45_000), ("10m", 600_000), ("1h", 3_600_000), ("1d", 86_400_000), ("0", 0)];
        for (text, ms) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn durations_without_a_known_unit_are_malformed() {
        for text in ["", "45", "s", "45 s", " 45s", "45S", "1.5s", "-1s", "+1s", "1m30s", "45sec", "٤s", "1µs"] {
            assert_eq!(parse_duration(text), Err(InvalidUnits::Malformed), "{text}");
        }
    }

    #[test]
    fn sizes_take_every_unit_and_plain_bytes() {
        let cases =
            [("512B", 512), ("16KiB", 16_384), ("1MiB", 1_048_576), ("1GiB", 1 << 30), ("70000", 70_000), ("0", 0)];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_in_other_units_are_malformed() {
        for text in ["", "B", "16K", "16KB", "16kib", "16 KiB", "0x10", "1_000", "-1", "1.5MiB"] {
            assert_eq!(parse_size(text), Err(InvalidUnits::Malformed), "{text}");
        }
    }

    #[test]
    fn numbers_beyond_64_bits_are_too_large() {
        assert_eq!(parse_duration("99999999999999999999s"), Err(InvalidUnits::TooLarge));
        assert_eq!(parse_duration("18446744073709551615d"), Err(InvalidUnits::TooLarge));
        assert_eq!(parse_size("18446744073709551615KiB"), Err(InvalidUnits::TooLarge));
        assert_eq!(parse_size("99999999999999999999"), Err(InvalidUnits::TooLarge));
    }

    proptest! {
        #[test]
        fn a_printed_duration_reads_as_itself(count in 0u64..100_000, unit in 0usize..DURATION_UNITS.len()) {
            let duration = Duration::from_millis(count * DURATION_UNITS[unit].1);
            prop_assert_eq!(parse_duration(&print_duration(duration)), Ok(duration));
        }

        #[test]
        fn a_printed_size_reads_as_itself(count in 0usize..4_000, shift in 0u32..20) {
            let bytes = count << shift;
            prop_assert_eq!(parse_size(&print_size(bytes)), Ok(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,12}|[0-9]{0,24}[a-zA-Z]{0,3}") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
