//! The records of all CPUs in time order.

use crate::buffer::{Entry, FLAG_BUFFER_LOST, FLAG_EVENTS_LOST};
use crate::error::{EtlError, Problem, Problems, Reason};
use crate::file::{EtlFile, Kept, place};
use crate::read_at::ReadAt;
use crate::record::{Frame, Record, records_at};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Memory that one open buffer per CPU may take. Above it, buffers are read one after another.
const MAX_WINDOW: u64 = 512 << 20;

/// Reads a trace in time order: buffers of a CPU by sequence number, CPUs merged by time, one
/// buffer per CPU in memory. Records without a time follow the one before them.
#[derive(Debug)]
pub struct RecordReader<'f, R> {
    file: &'f EtlFile<R>,
    streams: Vec<Stream>,
    /// Next time and number of each stream that has a record, but the current one.
    heap: BinaryHeap<Reverse<(u64, usize)>>,
    current: Option<usize>,
    scratch: Vec<u8>,
    kept: Kept,
    problems: Problems,
    records: u64,
    last_time: u64,
    /// Offsets and flags of buffers opened since the last look that follow a loss.
    pub(crate) lossy: Vec<(u64, u16)>,
}

/// The buffers of one CPU.
#[derive(Debug, Default)]
struct Stream {
    /// Numbers in the file's index, last first.
    todo: Vec<u32>,
    entry: Option<Entry>,
    payload: Vec<u8>,
    at: usize,
    /// The record at `at`, once it has been looked at.
    frame: Option<Frame>,
    /// Its time; never goes back.
    time: u64,
}

impl<'f, R: ReadAt> RecordReader<'f, R> {
    /// Starts at the first record.
    #[must_use]
    pub fn new(file: &'f EtlFile<R>) -> RecordReader<'f, R> {
        RecordReader::with_kept(file, Kept::default())
    }

    /// The same with buffers that a walk over the same file has kept.
    pub(crate) fn with_kept(file: &'f EtlFile<R>, kept: Kept) -> RecordReader<'f, R> {
        let mut problems = file.problems.clone();
        let mut cpus: BTreeMap<u16, (Vec<u32>, u64)> = BTreeMap::new();
        for (n, entry) in (0_u32..).zip(&file.index) {
            let (list, largest) = cpus.entry(entry.cpu).or_default();
            list.push(n);
            *largest = (*largest).max(u64::from(entry.used.min(crate::buffer::MAX_USED)));
        }
        let by_sequence = |n: &u32| file.index.get(*n as usize).map_or(0, |e| e.sequence);
        let window: u64 = cpus.values().map(|(_, largest)| largest).sum();
        let mut lists: Vec<Vec<u32>> = if window <= MAX_WINDOW {
            cpus.into_values().map(|(list, _)| list).collect()
        } else {
            problems.push(Problem { offset: 0, bytes: 0, reason: Reason::Unordered(window) });
            vec![cpus.into_values().flat_map(|(list, _)| list).collect()]
        };
        for list in &mut lists {
            // A stable sort: equal numbers, which only damage makes, keep the file's order.
            list.sort_by_key(by_sequence);
            list.reverse();
        }
        let streams: Vec<Stream> =
            lists.into_iter().map(|todo| Stream { todo, ..Stream::default() }).collect();
        let heap = (0..streams.len()).map(|n| Reverse((0, n))).collect();
        RecordReader {
            file,
            streams,
            heap,
            current: None,
            scratch: Vec::new(),
            kept,
            problems,
            records: 0,
            last_time: file.header().clock_start(),
            lossy: Vec::new(),
        }
    }

    /// The next record, with its time filled in; `None` at the end.
    ///
    /// # Errors
    /// Only when the source fails. Damage is skipped and kept in [`RecordReader::problems`].
    #[inline]
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, EtlError> {
        let Some(n) = self.advance()? else { return Ok(None) };
        let Some(stream) = self.streams.get_mut(n) else { return Ok(None) };
        let Some(frame) = stream.frame.take() else { return Ok(None) };
        let cpu = stream.entry.map_or(u16::MAX, |e| e.cpu);
        let bytes = stream.payload.get(stream.at..);
        stream.at = stream.at.saturating_add(frame.step());
        let Some(mut record) = bytes.and_then(|b| frame.record(b, cpu)) else { return Ok(None) };
        self.records += 1;
        self.last_time = record.time.unwrap_or(self.last_time);
        record.time = Some(self.last_time);
        Ok(Some(record))
    }

    /// Finds the stream whose record comes next and looks at that.
    fn advance(&mut self) -> Result<Option<usize>, EtlError> {
        loop {
            let n = match self.current.take() {
                Some(n) => n,
                None => match self.heap.pop() {
                    Some(Reverse((_, n))) => n,
                    None => return Ok(None),
                },
            };
            let Some(time) = self.look(n)? else { continue };
            match self.heap.peek() {
                // Another CPU is earlier: this one waits.
                Some(Reverse(other)) if *other < (time, n) => self.heap.push(Reverse((time, n))),
                _ => {
                    self.current = Some(n);
                    return Ok(Some(n));
                }
            }
        }
    }

    /// Time of a stream's next record; loads buffers as needed.
    fn look(&mut self, n: usize) -> Result<Option<u64>, EtlError> {
        let Some(stream) = self.streams.get_mut(n) else { return Ok(None) };
        loop {
            if stream.frame.is_some() {
                return Ok(Some(stream.time));
            }
            if let Some(bytes) = records_at(&stream.payload, stream.at) {
                match Frame::of(bytes) {
                    Ok(frame) => {
                        stream.time = stream.time.max(frame.time.unwrap_or(0));
                        stream.frame = Some(frame);
                        continue;
                    }
                    Err(reason) => {
                        let (offset, bytes) = (stream.at as u64, bytes.len() as u64);
                        if let Some(entry) = &stream.entry {
                            self.problems.push(place(Problem { offset, bytes, reason }, entry));
                        }
                    }
                }
            }
            let Some(next) = stream.todo.pop() else {
                *stream = Stream::default();
                return Ok(None);
            };
            let Some(entry) = self.file.index.get(next as usize) else { continue };
            stream.entry = Some(*entry);
            if entry.flags & (FLAG_EVENTS_LOST | FLAG_BUFFER_LOST) != 0 {
                self.lossy.push((entry.offset, entry.flags));
            }
            stream.at = 0;
            if let Some(payload) = self.kept.take(next) {
                stream.payload = payload;
                continue;
            }
            if let Some(problem) = self.file.load(entry, &mut self.scratch, &mut stream.payload)? {
                self.problems.push(problem);
            }
        }
    }

    /// The trace being read.
    #[must_use]
    pub fn file(&self) -> &'f EtlFile<R> {
        self.file
    }

    /// Records returned so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// What could not be read so far, the chain's problems first; at most 1000 are kept.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems.list
    }

    /// Number of all problems so far.
    #[must_use]
    pub fn problem_count(&self) -> u64 {
        self.problems.total
    }
}
