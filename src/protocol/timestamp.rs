//! The text of a moment, as messages carry it.

const MS_PER_DAY: u64 = 86_400_000;

/// 9999-12-31T23:59:59.999Z: four digits hold no later year.
const UNIX_MS_MAX: u64 = 253_402_300_799_999;

/// A moment in UTC as ISO 8601 text with milliseconds: `2026-11-25T03:54:45.123Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp([u8; 24]);

impl Timestamp {
    /// The text of `unix_ms`, milliseconds since 1970-01-01T00:00:00Z without leap seconds. What lies past the year
    /// 9999 is given as the last millisecond of it.
    pub fn from_unix_ms(unix_ms: u64) -> Self {
        let unix_ms = unix_ms.min(UNIX_MS_MAX);
        let (year, month, day) = date(unix_ms / MS_PER_DAY);
        let ms_of_day = unix_ms % MS_PER_DAY;

        let mut text = *b"0000-00-00T00:00:00.000Z";
        write_digits(&mut text[0..4], year);
        write_digits(&mut text[5..7], month);
        write_digits(&mut text[8..10], day);
        write_digits(&mut text[11..13], ms_of_day / 3_600_000);
        write_digits(&mut text[14..16], ms_of_day / 60_000 % 60);
        write_digits(&mut text[17..19], ms_of_day / 1000 % 60);
        write_digits(&mut text[20..23], ms_of_day % 1000);
        Self(text)
    }

    /// The 24 characters, all ASCII.
    pub fn as_str(&self) -> &str {
        // ASCII by construction; to check it is what not being `unsafe` costs.
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The same as bytes, for those who write bytes.
    pub fn as_bytes(&self) -> &[u8; 24] {
        &self.0
    }
}

/// The year, month and day of the Gregorian calendar, `days` after 1970-01-01.
///
/// Counts from 0000-03-01, so that the leap day is a year's last and a month's first day is a linear function of the
/// month (`civil_from_days` in Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Fills `place` with the last decimal digits of `value`.
fn write_digits(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_have_their_known_text() {
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_578_885_123, "2026-11-25T03:54:45.123Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (UNIX_MS_MAX, "9999-12-31T23:59:59.999Z"),
            (UNIX_MS_MAX + 1, "9999-12-31T23:59:59.999Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Timestamp::from_unix_ms(unix_ms).as_str(), text);
        }
    }

    #[test]
    fn each_day_up_to_the_year_9999_follows_the_day_before() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..=UNIX_MS_MAX / MS_PER_DAY {
            assert_eq!(date(days), (year, month, day));
            let month_days = match month {
                2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > month_days {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
        assert_eq!((year, month, day), (10_000, 1, 1));
    }
}
