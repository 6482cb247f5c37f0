//! A trace as a chain of buffers.

use crate::buffer::{BufferHeader, Entry, FLAG_BUFFER_LOST, FLAG_EVENTS_LOST, HEADER, MAX_USED};
use crate::compress::Compression;
use crate::error::{EtlError, Problem, Problems, Reason};
use crate::header::TraceHeader;
use crate::read_at::{ReadAt, read_full};
use crate::record::{Frame, Record, RecordKind, records_at};
use std::collections::HashMap;

/// Buffers that are indexed at most: 64 GiB of the usual 64 KiB buffers, 32 MiB of index.
const MAX_BUFFERS: u32 = 1 << 20;
/// What a kept buffer costs beside its bytes.
const KEPT_COST: usize = 64;
/// Enough of the first buffer to hold any header record (its size is a u16).
const FIRST_READ: usize = HEADER + 65_536;

/// An opened trace: its header and the index of its buffers.
#[derive(Debug)]
pub struct EtlFile<R> {
    src: R,
    size: u64,
    header: TraceHeader,
    compression: u16,
    pub(crate) index: Vec<Entry>,
    pub(crate) problems: Problems,
}

/// What a walk over all records found.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// Records seen, the header record included.
    pub records: u64,
    /// Bytes of uncompressed buffers read, headers included.
    pub bytes: u64,
    /// What could not be read, problems of the chain included; the first 1000.
    pub problems: Vec<Problem>,
    /// Number of all problems.
    pub problem_count: u64,
}

impl<R: ReadAt> EtlFile<R> {
    /// Reads the header record and every buffer's header.
    ///
    /// # Errors
    /// When the source fails, or what it holds is no trace. A trace that is cut or damaged
    /// behind its header record opens; see [`EtlFile::problems`].
    pub fn open(src: R) -> Result<EtlFile<R>, EtlError> {
        let io = |offset| move |source| EtlError::Io { offset, source };
        let size = src.size().map_err(io(0))?;
        if size == 0 {
            return Err(EtlError::Empty);
        }
        let mut first = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min(FIRST_READ)];
        let n = read_full(&src, 0, &mut first).map_err(io(0))?;
        first.truncate(n);
        let buffer = BufferHeader::parse(&first).ok_or(EtlError::TooShort { size, needed: HEADER as u64 })?;
        if (buffer.size as usize) < HEADER {
            return Err(EtlError::NotATrace { offset: 0, what: "impossible buffer size" });
        }
        let end = first.len().min(buffer.size as usize);
        let header = TraceHeader::parse(first.get(HEADER..end).unwrap_or_default(), HEADER as u64)?;
        let mut file = EtlFile {
            src,
            size,
            header,
            compression: buffer.state as u16,
            index: Vec::new(),
            problems: Problems::default(),
        };
        file.build_index()?;
        Ok(file)
    }

    fn build_index(&mut self) -> Result<(), EtlError> {
        let mut offset = 0;
        while offset < self.size {
            let left = self.size - offset;
            let Some(header) = self.header_at(offset)? else {
                let wanted = u64::from(self.header.buffer_size).max(HEADER as u64);
                self.problem(offset, left, Reason::Truncated { wanted, have: left });
                break;
            };
            if self.index.len() as u64 >= u64::from(MAX_BUFFERS) {
                self.problem(offset, left, Reason::TooManyBuffers(MAX_BUFFERS));
                break;
            }
            let mut size = u64::from(header.size);
            if !self.sound_step(offset, &header)? {
                let step = u64::from(self.header.buffer_size);
                let fixed = self.header.mode & TraceHeader::MODE_COMPRESSED == 0 && step >= HEADER as u64;
                // Where buffers have one size, a damaged size does not hide those behind it.
                if fixed && size != step && step <= left {
                    self.problem(offset, step, Reason::BufferSize(header.size));
                    offset += step;
                    continue;
                }
                if size < HEADER as u64 {
                    self.problem(offset, left, Reason::BufferSize(header.size));
                    break;
                }
                if size > left {
                    self.problem(offset, left, Reason::Truncated { wanted: size, have: left });
                    size = left;
                }
            }
            self.index.push(Entry {
                offset,
                sequence: header.sequence,
                size: u32::try_from(size).unwrap_or(u32::MAX),
                used: header.used,
                cpu: header.cpu,
                flags: header.flags,
            });
            offset += size;
        }
        Ok(())
    }

    fn header_at(&self, offset: u64) -> Result<Option<BufferHeader>, EtlError> {
        let mut b = [0; HEADER];
        let n = read_full(&self.src, offset, &mut b).map_err(|source| EtlError::Io { offset, source })?;
        Ok(b.get(..n).and_then(BufferHeader::parse))
    }

    /// Whether a buffer's size leads to the end of the file or to another buffer.
    fn sound_step(&self, offset: u64, header: &BufferHeader) -> Result<bool, EtlError> {
        let next = offset + u64::from(header.size);
        if (header.size as usize) < HEADER || next > self.size {
            return Ok(false);
        }
        if next == self.size || header.size == self.header.buffer_size || header.compressed() {
            return Ok(true);
        }
        Ok(self.header_at(next)?.is_none_or(|h| h.plausible()))
    }

    fn problem(&mut self, offset: u64, bytes: u64, reason: Reason) {
        self.problems.push(Problem { offset, bytes, reason });
    }

    /// What the header record says.
    #[must_use]
    pub fn header(&self) -> &TraceHeader {
        &self.header
    }

    /// Length of the trace in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of buffers found.
    #[must_use]
    pub fn buffers(&self) -> usize {
        self.index.len()
    }

    /// Buffers flagged as following lost events (`0`) and lost buffers (`1`).
    #[must_use]
    pub fn lost_flags(&self) -> (usize, usize) {
        let count = |bit| self.index.iter().filter(|e| e.flags & bit != 0).count();
        (count(FLAG_EVENTS_LOST), count(FLAG_BUFFER_LOST))
    }

    /// Damage of the chain of buffers; what is inside the buffers is found while reading them.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems.list
    }

    /// Reads the payload of a buffer into `out`, using `scratch` for compressed bytes. What can
    /// be read of a damaged buffer is in `out`.
    pub(crate) fn load(
        &self,
        entry: &Entry,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Problem>, EtlError> {
        let problem = |bytes: u64, reason| Ok(Some(Problem { offset: entry.offset, bytes, reason }));
        let payload_at = entry.offset + HEADER as u64;
        let stored = (entry.size as usize).saturating_sub(HEADER);
        if entry.used > MAX_USED {
            out.clear();
            let reason = Reason::BufferUsed { used: entry.used, limit: MAX_USED };
            return problem(u64::from(entry.size), reason);
        }
        let used = (entry.used as usize).saturating_sub(HEADER);
        if entry.compressed() {
            let Some(format) = Compression::from_u16(self.compression) else {
                out.clear();
                return problem(u64::from(entry.size), Reason::CompressionFormat(self.compression));
            };
            // Nothing useful grows by compression; this bounds what a false size can ask for.
            self.read(payload_at, stored.min(MAX_USED as usize), scratch)?;
            return match format.expand(scratch, used, out) {
                Ok(()) => Ok(None),
                Err(e) => problem((used - out.len()) as u64, Reason::Compressed(e)),
            };
        }
        // The last record may be padded beyond the used size.
        self.read(payload_at, crate::bytes::align8(used).min(stored), out)?;
        if out.len() < used {
            let limit = entry.size;
            // A cut file has been reported with its chain.
            if entry.offset + u64::from(entry.size) < self.size {
                return problem((used - out.len()) as u64, Reason::BufferUsed { used: entry.used, limit });
            }
        }
        Ok(None)
    }

    fn read(&self, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<(), EtlError> {
        // Not cleared before: only what it grows by is filled with zeros.
        out.resize(len, 0);
        let n = read_full(&self.src, offset, out).map_err(|source| EtlError::Io { offset, source })?;
        out.truncate(n);
        Ok(())
    }

    /// Shows every record to `each`, in file order: of one CPU in time order, across CPUs not.
    ///
    /// # Errors
    /// Only when the source fails; damage is in the result.
    pub fn walk(&self, mut each: impl FnMut(&Record<'_>)) -> Result<Walk, EtlError> {
        let each = |record: &Record<'_>| {
            each(record);
            0
        };
        self.walk_some(|_| true, each, &mut Kept::default())
    }

    /// The same for records of the kinds that are `wanted`; all are counted. Puts expanded buffers
    /// into `kept`, as far as the memory that `each` says it takes itself leaves room.
    #[inline]
    pub(crate) fn walk_some(
        &self,
        wanted: impl Fn(RecordKind) -> bool,
        mut each: impl FnMut(&Record<'_>) -> usize,
        kept: &mut Kept,
    ) -> Result<Walk, EtlError> {
        let (mut scratch, mut payload) = (Vec::new(), Vec::new());
        let mut problems = self.problems.clone();
        let mut walk = Walk::default();
        let mut taken = 0;
        for (n, entry) in (0_u32..).zip(&self.index) {
            let problem = self.load(entry, &mut scratch, &mut payload)?;
            let sound = problem.is_none();
            if let Some(problem) = problem {
                problems.push(problem);
            }
            walk.bytes += (payload.len() + HEADER) as u64;
            let mut at = 0;
            while let Some(rest) = records_at(&payload, at) {
                match Frame::of(rest) {
                    Ok(frame) => {
                        walk.records += 1;
                        at += frame.step();
                        if wanted(frame.kind)
                            && let Some(record) = frame.record(rest, entry.cpu)
                        {
                            taken = each(&record);
                        }
                    }
                    Err(reason) => {
                        let problem = Problem { offset: at as u64, bytes: rest.len() as u64, reason };
                        problems.push(place(problem, entry));
                        break;
                    }
                }
            }
            if sound && entry.compressed() {
                kept.offer(n, &mut payload, taken);
            }
        }
        kept.fit(taken);
        walk.problem_count = problems.total;
        walk.problems = problems.list;
        Ok(walk)
    }
}

/// Buffers that a first pass has expanded, so that the second need not: expanding takes as long as
/// decoding. Bounded: of a large trace only the first are kept.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    payloads: HashMap<u32, Vec<u8>>,
    bytes: usize,
    limit: usize,
}

impl Kept {
    /// Keeps up to `limit` bytes of memory.
    pub(crate) fn up_to(limit: usize) -> Kept {
        Kept { limit, ..Kept::default() }
    }

    /// Takes the payload of buffer number `n` if there is room beside `taken` bytes of others.
    fn offer(&mut self, n: u32, payload: &mut Vec<u8>, taken: usize) {
        self.fit(taken);
        let more = payload.capacity() + KEPT_COST;
        if self.bytes + more + taken <= self.limit {
            self.bytes += more;
            self.payloads.insert(n, std::mem::take(payload));
        }
    }

    /// Gives all back if they leave no room for `taken` bytes of others.
    fn fit(&mut self, taken: usize) {
        if self.bytes + taken > self.limit {
            self.payloads = HashMap::new();
            self.bytes = 0;
        }
    }

    /// Gives the payload of buffer number `n` away.
    pub(crate) fn take(&mut self, n: u32) -> Option<Vec<u8>> {
        self.payloads.remove(&n)
    }
}

/// Gives a problem inside a payload its offset in the file.
pub(crate) fn place(mut problem: Problem, entry: &Entry) -> Problem {
    problem.offset = if entry.compressed() {
        entry.offset
    } else {
        entry.offset.saturating_add(HEADER as u64).saturating_add(problem.offset)
    };
    problem
}
