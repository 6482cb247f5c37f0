//! A trace as events: decoded, in time order, with gaps where something is missing.

use crate::decode::{Coverage, PayloadDecoder};
use crate::error::{EtlError, Problem};
use crate::file::EtlFile;
use crate::merge::RecordReader;
use crate::read_at::ReadAt;
use crate::record::Record;
use std::collections::VecDeque;
use tidegate_proto::batch::Batch;
use tidegate_proto::own::{Gap, push_gap};
use tidegate_proto::time::filetime_to_unix_ns;

/// A batch is handed over when its events take more memory than this.
const BATCH_BYTES: usize = 8 << 20;

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
        file.walk(|record| {
            decoder.learn(record);
        })?;
        let start = file.header().clock.unix_ns(file.header().clock_start());
        let mut reader = EventReader {
            reader: RecordReader::new(file),
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

    /// What the session itself says it lost.
    fn tell_losses(&mut self) {
        let header = self.reader.file().header();
        let time_ns = if header.closed() { filetime_to_unix_ns(header.end_time) } else { self.last_ns };
        let losses = [
            (header.events_lost, "lost_events", "the session lost events", true),
            (header.buffers_lost, "lost_buffer", "the session lost buffers", false),
        ];
        for (n, reason, what, events) in losses {
            if n > 0 {
                self.gaps.push_back(Gap {
                    origin: self.decoder.origin().to_owned(),
                    reason: reason.to_owned(),
                    events: events.then_some(u64::from(n)),
                    detail: format!("{what}: {n}, says the header of the trace"),
                    offset: None,
                    time_ns,
                });
            }
        }
    }

    fn tell_problems(&mut self) {
        let (list, total) = (self.reader.problems(), self.reader.problem_count());
        for problem in list.get(self.told..).unwrap_or_default() {
            self.gaps.push_back(Gap {
                origin: self.decoder.origin().to_owned(),
                reason: "damaged".to_owned(),
                events: None,
                detail: problem.to_string(),
                offset: Some(problem.offset),
                time_ns: self.last_ns,
            });
        }
        self.told = list.len();
        let untold = total - list.len() as u64;
        if self.ended && untold > 0 {
            self.gaps.push_back(Gap {
                origin: self.decoder.origin().to_owned(),
                reason: "damaged".to_owned(),
                events: None,
                detail: format!("{untold} more damaged parts"),
                offset: None,
                time_ns: self.last_ns,
            });
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
