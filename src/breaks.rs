//! Deliberate faults: the simulation turns them on, one at a time, to show that it would find them.
//!
//! They are in no build without the feature `deliberate-breaks`, which no release has: there [`is_on`] is a constant.

/// A fault, named for what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// A user's first watcher is not told of changes.
    LostChange,
    /// A connection that was lost counts no more at once.
    MissingGrace,
    /// The status that decides last decides.
    WrongPrecedence,
    /// Users are followed on when their watcher has ended.
    LeakedWatch,
    /// A state does not tell who left while it was made.
    StaleSnapshot,
    /// A cursor claims what has not been told.
    CursorTooNew,
    /// Whoever takes over a session is offline for a moment.
    ResumeThatFlaps,
    /// Who left a room is still counted.
    CountDrift,
    /// A client that is looked at again is not told what it missed.
    InactiveMissesChange,
    /// That a user is offline is told once more.
    OfflineToldTwice,
    /// An invisible user who enters a room is counted.
    InvisibleCounted,
    /// What only an invisible user's own connections see moves the version that others are told.
    InvisibleMovesVersion,
    /// A full inbox loses what is told of users.
    FullInboxDrops,
    /// What waits for a full inbox is kept as it came.
    NothingFolded,
    /// Whoever fell silent has the grace, too.
    GraceForTheSilent,
    /// A watcher is told what another was.
    SharedTooWidely,
}

impl Break {
    /// Every one.
    pub const ALL: [Self; 16] = [
        Self::LostChange,
        Self::MissingGrace,
        Self::WrongPrecedence,
        Self::LeakedWatch,
        Self::StaleSnapshot,
        Self::CursorTooNew,
        Self::ResumeThatFlaps,
        Self::CountDrift,
        Self::InactiveMissesChange,
        Self::OfflineToldTwice,
        Self::InvisibleCounted,
        Self::InvisibleMovesVersion,
        Self::FullInboxDrops,
        Self::NothingFolded,
        Self::GraceForTheSilent,
        Self::SharedTooWidely,
    ];
}

/// Whether a fault is on in this thread.
#[cfg(not(feature = "deliberate-breaks"))]
#[inline(always)]
pub const fn is_on(_: Break) -> bool {
    false
}

#[cfg(feature = "deliberate-breaks")]
std::thread_local! {
    static ON: std::cell::Cell<Option<Break>> = const { std::cell::Cell::new(None) };
}

/// Whether a fault is on in this thread.
#[cfg(feature = "deliberate-breaks")]
pub fn is_on(fault: Break) -> bool {
    ON.get() == Some(fault)
}

/// Turns a fault on in this thread, and all others off.
#[cfg(feature = "deliberate-breaks")]
pub fn turn_on(fault: Option<Break>) {
    ON.set(fault);
}
