//! Whether the service answers at all, by a question in which no client has a word.
//!
//! What a client's question comes to may be the client's own doing: a header that the service stumbles over, a target
//! that takes it long. Where a failure lets clients in (`auth_failure=open`), that must not be for them to bring about.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{anyhow, bail};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use ureq::Agent;

use super::{Question, put};

/// From one check's end to the next check.
const INTERVAL: Duration = Duration::from_secs(1);

/// What checks one service, on a thread of its own.
pub struct HealthCheck {
    /// What asks.
    pub agent: Agent,
    /// Whom.
    pub url: String,
    /// How long an answer may take.
    pub deadline: Duration,
    /// Where it is told what the last check found.
    pub is_down: Arc<AtomicBool>,
    /// Disconnected when nobody wants to know any more.
    pub ended: Receiver<Infallible>,
}

impl HealthCheck {
    /// Checks until [`HealthCheck::ended`] is disconnected.
    pub fn run(self) {
        loop {
            // What was found before must not stay for good, whatever an answer did to us.
            let checked = catch_unwind(AssertUnwindSafe(|| self.check()))
                .unwrap_or_else(|_| Err(anyhow!("the answer could not be read")));
            match (self.is_down.swap(checked.is_err(), Ordering::Relaxed), checked) {
                (false, Err(error)) => tracing::error!(
                    error = %format_args!("{error:#}"),
                    "auth_url answers nobody: by auth_failure=open clients come in as whom they say they are"
                ),
                (true, Ok(())) => tracing::warn!("auth_url answers again: clients come in as it says"),
                _ => {}
            }
            if self.ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    /// Asks once. Whatever the service makes of a question without a client is an answer, unless it says that it is
    /// the service's own fault (RFC 9110 §15.6).
    fn check(&self) -> anyhow::Result<()> {
        let answer = put(&self.agent, &self.url, &Question::of_nobody(), self.deadline)?;
        match answer.status().as_u16() {
            ..500 => Ok(()),
            status => bail!("the answer's status is {status}"),
        }
    }
}
