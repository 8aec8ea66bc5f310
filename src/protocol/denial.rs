//! Why somebody is not let in.

/// Why somebody is not let in. The sentences go to clients: they say what was wrong, and nothing of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// No token where one is needed.
    Missing,
    /// Tokens in more than one place: which one was meant is not for the server to guess.
    Several,
    /// No compact JWS, or a header that is not one.
    Malformed,
    /// An algorithm that its key does not have, `none` among them.
    Algorithm,
    /// No key of that name.
    UnknownKey,
    /// Signed by somebody else, or changed.
    Signature,
    /// A claim that is missing, or of the wrong type.
    Claims,
    /// Too late.
    Expired,
    /// Too early.
    NotYetValid,
    /// For somebody else.
    Audience,
    /// From somebody else.
    Issuer,
    /// `userId` is not the token's `sub`.
    Subject,
    /// The operator's service said no.
    Denied,
    /// The keys or the operator's service cannot be had. No fault of the client's.
    Unavailable,
    /// AUTH did not come in time, or something else came first.
    Late,
}

/// Every denial with the label that `rollcall_auth_denials_total{reason}` gives it and its sentence, in the order of
/// the metric's cells.
pub const DENIALS: [(Denial, &str, &str); 15] = [
    (Denial::Missing, "missing", "A token is needed."),
    (Denial::Several, "several", "The token must be given once and in one place."),
    (Denial::Malformed, "malformed", "The token is malformed."),
    (Denial::Algorithm, "algorithm", "The token's algorithm is not accepted."),
    (Denial::UnknownKey, "unknown_key", "The token's key is not known."),
    (Denial::Signature, "signature", "The token's signature does not hold."),
    (Denial::Claims, "claims", "A claim of the token is missing or of the wrong type."),
    (Denial::Expired, "expired", "The token has expired."),
    (Denial::NotYetValid, "not_yet_valid", "The token is not valid yet."),
    (Denial::Audience, "audience", "The token is for another audience."),
    (Denial::Issuer, "issuer", "The token is from another issuer."),
    (Denial::Subject, "subject", "The token is for another userId."),
    (Denial::Denied, "denied", "You are not let in."),
    (Denial::Unavailable, "unavailable", "Who you are cannot be verified now; try again later."),
    (Denial::Late, "late", "The first message must be AUTH, and in time."),
];

impl Denial {
    /// The place of this denial in [`DENIALS`] and among the metric's cells.
    pub fn cell(self) -> usize {
        self as usize
    }

    /// The label of the metric.
    pub fn label(self) -> &'static str {
        DENIALS[self.cell()].1
    }

    /// What is said to the client.
    pub fn sentence(self) -> &'static str {
        DENIALS[self.cell()].2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_denial_stands_at_its_own_cell_and_fits_a_close_frame() {
        for (index, (denial, label, sentence)) in DENIALS.iter().enumerate() {
            assert_eq!((denial.cell(), denial.label(), denial.sentence()), (index, *label, *sentence));
            assert!(sentence.len() <= 123 && sentence.is_ascii() && !sentence.contains(['"', '\\']));
        }
    }
}
