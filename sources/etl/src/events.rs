//! A trace as events: decoded, in time order, with gaps where something is missing.

use crate::buffer::{FLAG_BUFFER_LOST, FLAG_EVENTS_LOST};
use crate::decode::{Coverage, PayloadDecoder};
use crate::error::{EtlError, Problem};
use crate::file::{EtlFile, Kept};
use crate::merge::RecordReader;
use crate::read_at::ReadAt;
use crate::record::{Record, RecordKind};
use std::collections::VecDeque;
use tidegate_proto::batch::Batch;
use tidegate_proto::own::{Gap, push_gap};
use tidegate_proto::time::filetime_to_unix_ns;

/// A batch is handed over when its events take more memory than this.
const BATCH_BYTES: usize = 8 << 20;
/// Memory for schemas and the buffers that the pass for them has expanded.
const KEPT_BYTES: usize = 24 << 20;

/// Reads a trace as events. Each record is one event; each lost or unreadable part is one more,
/// a gap. The order is that of [`RecordReader`] and always the same for the same trace, so that
/// [`EventReader::events`] is a position to [`EventReader::skip`] to.
#[derive(Debug)]
pub struct EventReader<'f, R> {
    reader: RecordReader<'f, R>,
    decoder: PayloadDecoder,
    /// Gaps that come before the next record.
    gaps: VecDeque<Gap>,
    /// Problems that became gaps.
    told: usize,
    events: u64,
    last_ns: i64,
    ended: bool,
}

/// What comes next.
enum Step<'a> {
    Gap(&'a Gap),
    Record(&'a Record<'a>, i64),
}

impl<'f, R: ReadAt> EventReader<'f, R> {
    /// Starts at the first event. Reads the whole trace once for the schemas it carries: they
    /// mostly stand behind the events they explain.
    ///
    /// # Errors
    /// When the source fails.
    pub fn new(file: &'f EtlFile<R>, mut decoder: PayloadDecoder) -> Result<EventReader<'f, R>, EtlError> {
        let mut kept = Kept::up_to(KEPT_BYTES);
        let mut learn = |record: &Record<'_>| {
            decoder.learn(record);
            decoder.learnt_bytes()
        };
        file.walk_some(RecordKind::explains, &mut learn, &mut kept)?;
        let start = file.header().clock.unix_ns(file.header().clock_start());
        let mut reader = EventReader {
            reader: RecordReader::with_kept(file, kept),
            decoder,
            gaps: VecDeque::new(),
            told: 0,
            events: 0,
            last_ns: start,
            ended: false,
        };
        reader.tell_losses();
        Ok(reader)
    }

    fn gap(&mut self, reason: &str, events: Option<u64>, detail: String, offset: Option<u64>, time_ns: i64) {
        self.gaps.push_back(Gap {
            origin: self.decoder.origin().to_owned(),
            reason: reason.to_owned(),
            events,
            detail,
            offset,
            time_ns,
        });
    }

    /// What the header says the session lost.
    fn tell_losses(&mut self) {
        let header = self.reader.file().header();
        let (events, buffers) = (header.events_lost, header.buffers_lost);
        let time_ns = if header.closed() { filetime_to_unix_ns(header.end_time) } else { self.last_ns };
        if events > 0 {
            let detail = format!("the session lost {events} events");
            self.gap("lost_events", Some(u64::from(events)), detail, None, time_ns);
        }
        if buffers > 0 {
            self.gap("lost_buffer", None, format!("the session lost {buffers} buffers"), None, time_ns);
        }
    }

    /// What has come to light since the last record: flagged buffers, damage.
    #[inline]
    fn tell_problems(&mut self) {
        if !self.reader.lossy.is_empty() || self.reader.problems().len() > self.told || self.ended {
            self.tell_new_problems();
        }
    }

    fn tell_new_problems(&mut self) {
        let mut lossy = std::mem::take(&mut self.reader.lossy);
        lossy.sort_unstable();
        for (offset, flags) in lossy {
            for (bit, reason, what) in [
                (FLAG_EVENTS_LOST, "lost_events", "events were lost before this buffer"),
                (FLAG_BUFFER_LOST, "lost_buffer", "a buffer was lost before this one"),
            ] {
                if flags & bit != 0 {
                    self.gap(reason, None, what.to_owned(), Some(offset), self.last_ns);
                }
            }
        }
        while let Some(problem) = self.reader.problems().get(self.told) {
            let (detail, offset) = (problem.to_string(), problem.offset);
            self.told += 1;
            self.gap("damaged", None, detail, Some(offset), self.last_ns);
        }
        let untold = self.reader.problem_count() - self.told as u64;
        if self.ended && untold > 0 {
            self.gap("damaged", None, format!("{untold} more damaged parts"), None, self.last_ns);
        }
    }

    /// Appends events until `batch` holds `max_events` or several MiB; at least one. False when
    /// there is nothing more to read: whatever was appended by then is all.
    ///
    /// # Errors
    /// When the source fails; what was appended before stays.
    pub fn next_batch(&mut self, batch: &mut Batch, max_events: usize) -> Result<bool, EtlError> {
        self.next_batch_where(batch, max_events, |_, _| true)
    }

    /// The same for those records that `wanted` accepts by their header and time (nanoseconds
    /// since 1970); gaps always come. What is refused is not decoded, but counts in
    /// [`EventReader::events`].
    ///
    /// # Errors
    /// When the source fails; what was appended before stays.
    pub fn next_batch_where(
        &mut self,
        batch: &mut Batch,
        max_events: usize,
        mut wanted: impl FnMut(&Record<'_>, i64) -> bool,
    ) -> Result<bool, EtlError> {
        while batch.len() < max_events.max(1) && batch.bytes() < BATCH_BYTES {
            let more = self.step(|decoder, step| match step {
                Step::Gap(gap) => push_gap(batch, gap),
                Step::Record(record, time_ns) => {
                    if wanted(record, time_ns) {
                        decoder.decode(record, time_ns, batch);
                    }
                }
            })?;
            if !more {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Shows the next gap or record; false at the end.
    fn step(&mut self, show: impl FnOnce(&mut PayloadDecoder, Step<'_>)) -> Result<bool, EtlError> {
        let clock = self.reader.file().header().clock;
        if self.gaps.is_empty() && !self.ended {
            if let Some(record) = self.reader.next_record()? {
                self.last_ns = record.time.map_or(self.last_ns, |t| clock.unix_ns(t));
                show(&mut self.decoder, Step::Record(&record, self.last_ns));
                self.events += 1;
                self.tell_problems();
                return Ok(true);
            }
            self.ended = true;
            self.tell_problems();
        }
        let Some(gap) = self.gaps.pop_front() else { return Ok(false) };
        show(&mut self.decoder, Step::Gap(&gap));
        self.events += 1;
        Ok(true)
    }

    /// Passes over `events` events without decoding them; returns how many there were.
    ///
    /// # Errors
    /// When the source fails.
    pub fn skip(&mut self, events: u64) -> Result<u64, EtlError> {
        let from = self.events;
        while self.events - from < events && self.step(|_, _| ())? {}
        Ok(self.events - from)
    }

    /// Events read or skipped so far, gaps included: the position to go on from.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Records read or skipped so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.reader.records()
    }

    /// The trace being read.
    #[must_use]
    pub fn file(&self) -> &'f EtlFile<R> {
        self.reader.file()
    }

    /// What could not be read so far; at most 1000 are kept. Each is a gap event too.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        self.reader.problems()
    }

    /// Number of all problems so far.
    #[must_use]
    pub fn problem_count(&self) -> u64 {
        self.reader.problem_count()
    }

    /// How much could be decoded so far, by provider.
    #[must_use]
    pub fn coverage(&self) -> Vec<Coverage> {
        self.decoder.coverage()
    }
}
