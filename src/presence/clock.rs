//! Versions by a hybrid clock (Kulkarni et al., "Logical Physical Clocks", 2014): wall time where it moves on, a count
//! where it does not, never backwards.

use crate::protocol::cursor::Version;

/// Makes the versions of one partition.
#[derive(Debug)]
pub struct VersionClock {
    last: Version,
}

impl VersionClock {
    /// A clock of a process that began to serve at `began`: it makes nothing at or below that, although the wall clock
    /// may be set back since, for whoever has a cursor knows all of it.
    pub fn new(began: Version) -> Self {
        Self { last: began }
    }

    /// A version after all earlier ones, of the millisecond `unix_ms` unless the clock was set back.
    pub fn next(&mut self, unix_ms: u64) -> Version {
        self.last = Version(self.last.0 + 1).max(Version::at_ms(unix_ms));
        self.last
    }

    /// A version that no later one is at or below, not even where the wall clock is set back: all that was made up to
    /// it has been made.
    ///
    /// It is the end of a millisecond: whether something was made in the one that goes on, which nobody else may see,
    /// does not show in it.
    pub fn horizon(&mut self, unix_ms: u64) -> Version {
        let before = |unix_ms| Version(Version::at_ms(unix_ms).0.saturating_sub(1));
        self.last = self.last.max(before(unix_ms));
        before(unix_ms.max(self.last.unix_ms()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_follow_the_wall_clock_but_never_back() {
        let mut clock = VersionClock::new(Version::default());
        let first = clock.next(1_000);
        assert_eq!(first, Version::at_ms(1_000));
        assert!(clock.next(1_000) > first && clock.next(900) > first);
        assert_eq!(clock.next(2_000), Version::at_ms(2_000));
    }

    #[test]
    fn nothing_is_older_than_the_process() {
        let began = Version::at_ms(1_000);
        assert!(VersionClock::new(began).next(900) > began);
    }

    #[test]
    fn nothing_is_made_at_or_below_the_horizon() {
        let mut clock = VersionClock::new(Version::default());
        for (unix_ms, later_unix_ms) in [(5, 5), (5, 7), (7, 3), (3, 8), (9, 2)] {
            let horizon = clock.horizon(unix_ms);
            assert!(clock.next(later_unix_ms) > horizon);
        }
    }

    #[test]
    fn the_horizon_does_not_tell_whether_something_was_just_made() {
        let (mut busy, mut idle) = (VersionClock::new(Version::default()), VersionClock::new(Version::default()));
        for unix_ms in [5, 5, 6, 9] {
            busy.next(unix_ms);
            assert_eq!(busy.horizon(unix_ms), idle.horizon(unix_ms));
        }
    }
}
