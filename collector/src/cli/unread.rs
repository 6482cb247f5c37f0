//! A reader of standard output that goes away (`| head`) ends a replay, as it ends every other command.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_proto::ids::SinkId;
use tidegate_sinks::{BatchLimits, BoxFuture, DeliverError, Delivered, Sink, SinkBatch};
use tokio_util::sync::CancellationToken;

use crate::pipeline::{Parts, Progress, Summary};

/// The sinks of a run that write to standard output, and whether its reader has gone.
#[derive(Clone, Debug, Default)]
pub(super) struct Reader {
    sinks: BTreeSet<String>,
    gone: CancellationToken,
}

impl Reader {
    /// Has these sinks tell it, instead of holding until someone acts.
    pub(super) fn of(parts: &mut Parts, sinks: BTreeSet<String>) -> Reader {
        let reader = Reader { sinks, gone: CancellationToken::new() };
        for part in &mut parts.sinks {
            if reader.has(part.sink.id().as_str()) {
                let (inner, gone) = (Arc::clone(&part.sink), reader.gone.clone());
                part.sink = Arc::new(Told { inner, gone });
            }
        }
        reader
    }

    fn has(&self, sink: &str) -> bool {
        self.sinks.contains(sink)
    }

    /// Whether nobody reads any more.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Whether nobody reads any more, and no other sink has anything to do.
    pub(super) fn ends(&self, progress: &Progress) -> bool {
        let all_read = progress.sources_running == 0 && progress.read == progress.stored + progress.dropped;
        let mut others = progress.sinks.iter().filter(|(name, _)| !self.has(name)).map(|(_, s)| s);
        self.is_gone()
            && others.all(|s| {
                all_read && s.waiting == 0 && s.delivered + s.rejected + s.left_out >= progress.stored
            })
    }

    /// Whether a run that it ended has left nothing to do but for that reader.
    pub(super) fn alone_waits(&self, summary: &Summary) -> bool {
        let mut others = summary.total.sinks.iter().filter(|(id, _)| !self.has(id.as_str())).peekable();
        let whole =
            others.peek().is_none() || summary.sources.iter().all(|s| s.error.is_none() && !s.stopped);
        self.is_gone() && summary.account_error.is_none() && whole && others.all(|(_, s)| s.held == [0; 4])
    }
}

/// A sink to standard output whose end is told; the delivery waits then, until the run is ended.
#[derive(Debug)]
struct Told {
    inner: Arc<dyn Sink>,
    gone: CancellationToken,
}

impl Sink for Told {
    fn id(&self) -> &SinkId {
        self.inner.id()
    }

    fn limits(&self) -> BatchLimits {
        self.inner.limits()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), DeliverError>> {
        self.inner.check()
    }

    fn deliver<'a>(&'a self, batch: &'a SinkBatch) -> BoxFuture<'a, Result<Delivered, DeliverError>> {
        Box::pin(async move {
            match self.inner.deliver(batch).await {
                // it stops over nothing else
                Err(DeliverError::Stop { .. }) => {
                    self.gone.cancel();
                    std::future::pending().await
                }
                done => done,
            }
        })
    }
}
