//! One attempt at a batch: requests out, replies understood.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use tidegate_proto::ids::{Seq, SinkId};
use tokio::time::Instant;

use super::body::{self, Caps, Compression, Pass, Request};
use super::mapping::Mapping;
use super::reply::{Outcome, Reply, words};
use super::state::{Holds, Settled, Skew};
use super::tenant::Tenant;
use super::transport::{Head, Transport};
use crate::{
    BatchLimits, BoxError, BoxFuture, DeliverError, Delivered, Object, RejectReason, Rejected, Sink,
    SinkBatch,
};

/// What the endpoint or the way to it said, without secrets.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Said(pub String);

fn said(why: String) -> BoxError {
    Box::new(Said(why))
}

/// What a sink is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub id: SinkId,
    pub mapping: Mapping,
    pub compression: Compression,
    pub caps: Caps,
    pub limits: BatchLimits,
    pub transport: Transport,
}

/// The sink. See the [module](super) for what it promises.
#[derive(Debug)]
pub struct EventsSink {
    pub(super) parts: Parts,
    skew: Mutex<Skew>,
    /// Held by the request that asks for the skew.
    handshake: tokio::sync::Mutex<()>,
    holds: Mutex<Holds>,
    settled: Mutex<Settled>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // what is in there is whole after every step
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one request came to.
enum Sent {
    Done { object: Object, rejected: Vec<Rejected> },
    Refused { reason: RejectReason, why: String, bytes: u64 },
}

impl EventsSink {
    async fn attempt(&self, batch: &SinkBatch) -> Result<Delivered, DeliverError> {
        let known = self.settled(batch);
        let mut delivered = Delivered::default();
        // planned anew when a reply, or the operator, holds a tenant in the middle of it
        'plan: loop {
            let held = self.holds()?;
            let settled = self.settled(batch);
            let planned = body::plan(&self.parts.mapping, batch, self.parts.caps, |seq, tenant| {
                if settled.binary_search(&seq).is_ok() {
                    Pass::Settled
                } else if held.get(tenant).copied().unwrap_or(false) {
                    Pass::Held
                } else {
                    Pass::Send
                }
            });
            delivered.rejected = planned.rejected;
            delivered.rejected.extend(planned.held.into_iter().map(|(seq, tenant)| self.held(seq, tenant)));
            for (number, request) in planned.requests.into_iter().enumerate() {
                // what is settled is kept, so each attempt gets on
                if let Some(rest) = self.rest().filter(|_| number > 0) {
                    let why = said("the endpoint asks to wait before the rest of the batch".to_owned());
                    return Err(DeliverError::Retry { after: Some(rest), source: why });
                }
                let now_held = self.holds()?;
                let unwanted = |tenant: &usize| now_held.get(*tenant).copied().unwrap_or(false);
                if request.tenants().iter().any(unwanted) {
                    continue 'plan;
                }
                let events = request.events.clone();
                match self.send(request).await? {
                    Sent::Refused { reason, why, .. } if events.len() == batch.len() => {
                        return Err(DeliverError::Reject { reason, source: said(why) });
                    }
                    Sent::Refused { reason, why, bytes } => {
                        delivered.bytes += bytes;
                        let mut settled = lock(&self.settled);
                        for (seq, _) in events {
                            settled.insert(seq, Some(Rejected { seq, reason, detail: words(&why) }));
                        }
                    }
                    Sent::Done { object, rejected } => {
                        delivered.bytes += object.len;
                        let mut settled = lock(&self.settled);
                        if let Some((first, _)) = events.first() {
                            settled.object(*first, object);
                        }
                        for (seq, _) in events {
                            settled.insert(seq, None);
                        }
                        for r in rejected {
                            settled.insert(r.seq, Some(r));
                        }
                    }
                }
            }
            break;
        }
        let mut settled = lock(&self.settled);
        for (seq, _) in batch.iter() {
            let (object, rejected) = settled.take(seq);
            delivered
                .objects
                .extend(object.map(|o| Object { found: known.binary_search(&seq).is_ok(), ..o }));
            delivered.rejected.extend(rejected);
        }
        delivered.rejected.sort_by_key(|r| r.seq);
        Ok(delivered)
    }

    /// Which tenants are held now.
    ///
    /// # Errors
    /// When all of them are.
    fn holds(&self) -> Result<Vec<bool>, DeliverError> {
        let now = Instant::now();
        let mut holds = lock(&self.holds);
        holds.extend_off(now);
        if let Some(left) = holds.all_left(now) {
            let why =
                "every tenant of this sink is to wait, by the endpoint or the remote settings".to_owned();
            return Err(DeliverError::Retry { after: Some(left), source: said(why) });
        }
        Ok((0..self.parts.mapping.tenants.len()).map(|t| holds.left(t, now).is_some()).collect())
    }

    /// The events of a batch whose outcome is known, in order.
    fn settled(&self, batch: &SinkBatch) -> Vec<Seq> {
        let mut settled = lock(&self.settled);
        settled.enter(batch.origin().epoch);
        batch.iter().map(|(seq, _)| seq).filter(|seq| settled.contains(*seq)).collect()
    }

    fn held(&self, seq: Seq, tenant: usize) -> Rejected {
        let key = self.parts.mapping.tenants.get(tenant).map(|t| t.key()).unwrap_or_default();
        let detail = format!("the endpoint holds tenant o:{key}; replay when it takes its events again");
        Rejected { seq, reason: RejectReason::Held, detail }
    }

    /// Sends one request and understands its reply.
    async fn send(&self, request: Request) -> Result<Sent, DeliverError> {
        let tenants = request.tenants();
        let Request { body, events } = request;
        let compression = self.parts.compression;
        // takes tens of milliseconds for a full body: not on a thread that others wait for
        let packed = tokio::task::spawn_blocking(move || compression.apply(body)).await;
        let packed = match packed {
            Ok(Ok(packed)) => bytes::Bytes::from(packed),
            Ok(Err(e)) => return Err(DeliverError::Retry { after: None, source: Box::new(e) }),
            Err(e) => return Err(DeliverError::Retry { after: None, source: Box::new(e) }),
        };
        let all = tenants.iter().filter_map(|t| self.parts.mapping.tenants.get(*t));
        let tokens: Result<Vec<String>, _> = all.map(Tenant::token_now).collect();
        let tokens = tokens.map_err(|e| DeliverError::Stop {
            after: None,
            advice: "mend the tenant tokens of this sink; for another tenant, reload".to_owned(),
            source: Box::new(e),
        })?;
        let unknown = *lock(&self.skew) == Skew::Unknown;
        let mut turn = if unknown { Some(self.handshake.lock().await) } else { None };
        let skew = *lock(&self.skew);
        if skew != Skew::Unknown {
            // the one before us was told
            turn = None;
        }
        let clock = self.parts.transport.client.clock().now();
        let head = Head {
            tokens: tokens.join(","),
            upload_time_ms: clock.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis()),
            time_delta: skew.header(),
            encoding: compression.encoding(),
        };
        let reply = self.parts.transport.post(&head, packed.clone()).await?;
        {
            let mut skew = lock(&self.skew);
            *skew = skew.after(reply.status, reply.time_delta.as_deref());
        }
        drop(turn);
        let outcome = reply.outcome(events.len(), clock);
        let (outcome, only_this) = self.killed(&reply, &tenants, outcome);
        let object = |events: usize| Object {
            destination: self.parts.transport.destination.clone(),
            sha256: Sha256::digest(&packed).into(),
            len: packed.len() as u64,
            events: u32::try_from(events).unwrap_or(u32::MAX),
            server_id: reply.request_id.clone(),
            found: false,
        };
        let set_aside = || {
            let mut settled = lock(&self.settled);
            for (seq, tenant) in events.iter().filter(|(_, t)| only_this.contains(t)) {
                settled.insert(*seq, Some(self.held(*seq, *tenant)));
            }
        };
        match outcome {
            Outcome::Delivered(list) => {
                let rejected: Vec<Rejected> = list
                    .into_iter()
                    .filter_map(|(place, reason, detail)| {
                        let (seq, _) = events.get(place)?;
                        Some(Rejected { seq: *seq, reason, detail })
                    })
                    .collect();
                Ok(Sent::Done { object: object(events.len() - rejected.len()), rejected })
            }
            Outcome::Reject(reason, why) => Ok(Sent::Refused { reason, why, bytes: packed.len() as u64 }),
            Outcome::Retry { after, why } => {
                set_aside();
                Err(DeliverError::Retry { after, source: said(why) })
            }
            Outcome::Split(why) => {
                set_aside();
                Err(DeliverError::Split { source: said(why) })
            }
            Outcome::Stop { after, advice, why } => {
                set_aside();
                Err(DeliverError::Stop { after, advice: advice.to_owned(), source: said(why) })
            }
        }
    }

    /// Holds the tenants that a reply kills. Gives what the reply means then, and the
    /// tenants whose events of this request alone are unwanted.
    fn killed(&self, reply: &Reply, tenants: &[usize], outcome: Outcome) -> (Outcome, Vec<usize>) {
        let Some(kill) = reply.kill() else { return (outcome, Vec::new()) };
        let now = Instant::now();
        let (named, none_free) = {
            let mut holds = lock(&self.holds);
            (holds.kill(&kill, &self.parts.mapping.tenants, now), holds.all_left(now).is_some())
        };
        for tenant in named.iter().filter_map(|t| self.parts.mapping.tenants.get(*t)) {
            let seconds = kill.duration.map(|d| d.as_secs());
            tracing::warn!(sink = %self.parts.id, tenant = tenant.key(), seconds, "the endpoint holds a tenant");
        }
        let here = tenants.iter().any(|t| named.contains(t));
        let mut aside = kill.duration.is_none();
        let outcome = match outcome {
            // the refusal was about the killed ones; without them the next attempt may pass
            Outcome::Stop { after, why, .. } if here && !none_free => Outcome::Retry { after, why },
            Outcome::Reject(_, why) if here && !none_free => {
                // even where the hold ends before
                aside = true;
                Outcome::Retry { after: None, why }
            }
            outcome => outcome,
        };
        let only_this = if aside { named } else { Vec::new() };
        (outcome, only_this)
    }
}

impl Sink for EventsSink {
    fn id(&self) -> &SinkId {
        &self.parts.id
    }

    fn limits(&self) -> BatchLimits {
        self.parts.limits
    }

    fn rest(&self) -> Option<Duration> {
        self.parts.transport.client.rest()
    }

    fn hold_tenants(&self, keys: &[String]) {
        let off = self.parts.mapping.tenants.iter().map(|t| keys.iter().any(|k| k == t.key())).collect();
        lock(&self.holds).set_off(off);
    }

    fn check(&self) -> BoxFuture<'_, Result<(), DeliverError>> {
        Box::pin(async {
            let reply = self.parts.transport.options().await?;
            match reply.outcome(1, self.parts.transport.client.clock().now()) {
                // the question needs no method of its own
                Outcome::Stop { .. } if reply.status == 405 || reply.status == 501 => Ok(()),
                Outcome::Stop { after, advice, why } => {
                    Err(DeliverError::Stop { after, advice: advice.to_owned(), source: said(why) })
                }
                Outcome::Retry { after, why } if reply.status != 200 => {
                    Err(DeliverError::Retry { after, source: said(why) })
                }
                _ => Ok(()),
            }
        })
    }

    fn deliver<'a>(&'a self, batch: &'a SinkBatch) -> BoxFuture<'a, Result<Delivered, DeliverError>> {
        Box::pin(self.attempt(batch))
    }
}

impl EventsSink {
    pub(super) fn assemble(parts: Parts) -> EventsSink {
        let holds = Mutex::new(Holds::new(parts.mapping.tenants.len()));
        EventsSink {
            parts,
            skew: Mutex::default(),
            handshake: tokio::sync::Mutex::default(),
            holds,
            settled: Mutex::default(),
        }
    }
}
