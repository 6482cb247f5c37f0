//! Credentials that were handed out to us, kept until shortly before their end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;

use crate::DeliverError;
use crate::secret::Secret;

/// They are renewed so long before their end, or at half their life if that is shorter.
const MARGIN: Duration = Duration::from_secs(300);

/// What was handed out.
#[derive(Clone, Debug)]
pub(super) struct Fresh {
    pub secret: Secret<String>,
    /// How long they hold; `None` when that is not told: then until they are refused.
    pub life: Option<Duration>,
}

#[derive(Debug)]
struct Held {
    secret: Secret<String>,
    renew: Option<SystemTime>,
    number: u64,
}

/// Keeps them. They are numbered from 1, so that one can tell whether they are older than something.
#[derive(Debug, Default)]
pub(super) struct Kept {
    held: Mutex<Option<Held>>,
    newest: AtomicU64,
}

impl Kept {
    /// Those that are kept, or fresh ones, with their number. One at a time asks for fresh ones.
    pub async fn or(
        &self,
        now: SystemTime,
        fetch: impl Future<Output = Result<Fresh, DeliverError>>,
    ) -> Result<(Secret<String>, u64), DeliverError> {
        let mut held = self.held.lock().await;
        if let Some(h) = held.as_ref().filter(|h| h.renew.is_none_or(|renew| renew > now)) {
            return Ok((h.secret.clone(), h.number));
        }
        let Fresh { secret, life } = fetch.await?;
        let number = self.newest.fetch_add(1, Ordering::Relaxed) + 1;
        // no such time: no such end
        let renew = life.and_then(|life| now.checked_add(life - MARGIN.min(life / 2)));
        *held = Some(Held { secret: secret.clone(), renew, number });
        Ok((secret, number))
    }

    /// The number of the newest, 0 before the first.
    pub fn newest(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// Gives up those that the service has refused; newer ones stay.
    pub async fn give_up(&self, number: u64) {
        let mut held = self.held.lock().await;
        if held.as_ref().is_some_and(|h| h.number == number) {
            *held = None;
        }
    }
}
