//! Records: header, extended data items, payload, all borrowed from the buffer.

use crate::bytes::{align8, array, u16_at, u32_at, u64_at};
use crate::error::{Problem, Reason};

/// Header type of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// Kernel record with processor times.
    System32 = 1,
    /// The same of a 64-bit kernel.
    System64 = 2,
    /// Kernel record without processor times.
    Compact32 = 3,
    /// The same of a 64-bit kernel.
    Compact64 = 4,
    /// Classic event.
    Full32 = 10,
    /// Classic event of an instance.
    Instance32 = 11,
    /// Timed record.
    Timed = 12,
    /// Error record.
    Error = 13,
    /// WNODE.
    Wnode = 14,
    /// WPP message.
    Message = 15,
    /// Kernel record without process and thread.
    PerfInfo32 = 16,
    /// The same of a 64-bit kernel.
    PerfInfo64 = 17,
    /// Event of a 32-bit process.
    Event32 = 18,
    /// Event of a 64-bit process.
    Event64 = 19,
    /// Classic event of a 64-bit process.
    Full64 = 20,
    /// Classic event of an instance, 64-bit.
    Instance64 = 21,
}

impl RecordKind {
    fn from_u8(n: u8) -> Option<RecordKind> {
        Some(match n {
            1 => Self::System32,
            2 => Self::System64,
            3 => Self::Compact32,
            4 => Self::Compact64,
            10 => Self::Full32,
            11 => Self::Instance32,
            12 => Self::Timed,
            13 => Self::Error,
            14 => Self::Wnode,
            15 => Self::Message,
            16 => Self::PerfInfo32,
            17 => Self::PerfInfo64,
            18 => Self::Event32,
            19 => Self::Event64,
            20 => Self::Full64,
            21 => Self::Instance64,
            _ => return None,
        })
    }

    /// Whether such records can explain others: schemas, manifests, names of providers.
    pub(crate) fn explains(self) -> bool {
        use RecordKind::*;
        matches!(self, Full32 | Full64 | Instance32 | Instance64 | Event32 | Event64)
    }

    /// Where the size of such a record stands in it.
    #[inline]
    fn size_at(self) -> usize {
        use RecordKind::*;
        match self {
            System32 | System64 | Compact32 | Compact64 | PerfInfo32 | PerfInfo64 => 4,
            _ => 0,
        }
    }

    /// Bytes of the header that each such record has.
    #[inline]
    fn header(self) -> usize {
        use RecordKind::*;
        match self {
            System32 | System64 => 32,
            Compact32 | Compact64 => 24,
            PerfInfo32 | PerfInfo64 | Timed => 16,
            Full32 | Full64 | Wnode => 48,
            Instance32 | Instance64 => 72,
            Event32 | Event64 => 80,
            Message | Error => 8,
        }
    }
}

/// What names a record's kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// An event of a provider; see the record's `id` and `version`.
    Event,
    /// A classic event: `provider` is the class, `opcode` the type.
    Classic,
    /// A kernel record: `opcode` is the type in the group.
    Kernel {
        /// Group number.
        group: u8,
    },
    /// A WPP message: `provider` is its GUID, or zero with a component id.
    Message {
        /// Number of the message.
        number: u16,
        /// Message flags.
        flags: u16,
        /// Sequence number, if there is one.
        sequence: Option<u32>,
        /// Component id, if it stands in place of the GUID.
        component: Option<u32>,
    },
    /// A timed, error or WNODE record: nothing but its payload.
    Other,
}

/// One record. The live source fills one from an `EVENT_RECORD`; the file reader borrows it
/// from a buffer.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Header type.
    pub kind: RecordKind,
    /// What names the kind of event.
    pub identity: Identity,
    /// Provider, event class or message GUID; zero for kernel records.
    pub provider: [u8; 16],
    /// Event id; 0 except for events.
    pub id: u16,
    /// Event version; of kernel records the low byte.
    pub version: u16,
    /// Channel.
    pub channel: u8,
    /// ETW level.
    pub level: u8,
    /// Opcode, or the type of classic and kernel records.
    pub opcode: u8,
    /// Task.
    pub task: u16,
    /// Keyword.
    pub keyword: u64,
    /// Activity id; zero = none.
    pub activity: [u8; 16],
    /// Time in the session's clock; `None` when the record has none.
    pub time: Option<u64>,
    /// Process; `u32::MAX` = unknown.
    pub pid: u32,
    /// Thread; `u32::MAX` = unknown.
    pub tid: u32,
    /// CPU; `u16::MAX` = unknown.
    pub cpu: u16,
    /// Size of a pointer in the payload, 4 or 8.
    pub pointer_size: u8,
    /// Processor time of the thread as the header holds it: kernel time in the low half, user
    /// time in the high.
    pub processor_time: u64,
    /// Instance and parent instance of an instance record.
    pub instance: Option<(u32, u32)>,
    /// Class of the parent instance; zero = none.
    pub parent_class: [u8; 16],
    /// Extended data items.
    pub ext: ExtItems<'a>,
    /// Payload.
    pub data: &'a [u8],
}

impl Record<'_> {
    /// The class that the system knows a classic or kernel event by, with the opcode as type;
    /// the provider of other records.
    #[must_use]
    pub fn class(&self) -> [u8; 16] {
        match self.identity {
            Identity::Kernel { group } => crate::decode::kernel_class(group, self.opcode),
            _ => self.provider,
        }
    }
}

/// Where a record's parts lie, checked, and its time: all that putting records in order needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: RecordKind,
    /// Bytes of the whole record, unpadded.
    size: u16,
    /// Bytes between the fixed header and the payload.
    extra: u16,
    /// In the session's clock; `None` when the record has none.
    pub(crate) time: Option<u64>,
}

impl Frame {
    /// Checks the record at the start of `b`, which may hold more behind it.
    #[inline]
    pub(crate) fn of(b: &[u8]) -> Result<Frame, Reason> {
        use RecordKind::*;
        let marker = u32_at(b, 0).ok_or(Reason::Marker(0))?;
        let kind = match marker >> 24 {
            0xC0 => RecordKind::from_u8((marker >> 16) as u8),
            0x90 => Some(Message),
            _ => None,
        };
        let kind = kind.ok_or(Reason::Marker(marker))?;
        let size = u16_at(b, kind.size_at()).unwrap_or(0);
        let header = kind.header();
        let bad = || Reason::RecordSize {
            size: u32::from(size),
            kind: (marker >> 16) as u8,
            room: u32::try_from(b.len()).unwrap_or(u32::MAX),
        };
        let whole = b.get(..usize::from(size)).ok_or_else(bad)?;
        let (head, rest) = whole.split_at_checked(header).ok_or_else(bad)?;
        let (mut extra, mut time_at) = (0, Some(16));
        match kind {
            Event32 | Event64 => {
                if head.get(4).is_some_and(|flags| flags & 1 != 0) {
                    extra = disk_items_len(rest).ok_or(Reason::ExtItems)?;
                }
            }
            Full32 | Full64 | Instance32 | Instance64 | Wnode => {}
            System32 | System64 | Compact32 | Compact64 => extra = counters(head).0 + counters(head).1,
            PerfInfo32 | PerfInfo64 => {
                extra = counters(head).0 + counters(head).1;
                time_at = Some(8);
            }
            Message => {
                let flags = u16_at(head, 6).unwrap_or(0);
                let parts = MessageParts::of(flags);
                extra = parts.len;
                time_at = parts.time.map(|at| header + at);
            }
            Timed => time_at = Some(8),
            Error => time_at = None,
        }
        if extra > rest.len() {
            return Err(bad());
        }
        // All of it lies within a size of 16 bits.
        let extra = u16::try_from(extra).map_err(|_| bad())?;
        Ok(Frame { kind, size, extra, time: time_at.and_then(|at| u64_at(whole, at)) })
    }

    /// Bytes to the next record.
    #[inline]
    pub(crate) fn step(self) -> usize {
        align8(usize::from(self.size))
    }

    /// The record, of the bytes that this was made from; `None` of others.
    // always: two hundred bytes are built where they are used
    #[inline(always)]
    pub(crate) fn record(self, b: &[u8], cpu: u16) -> Option<Record<'_>> {
        use RecordKind::*;
        let kind = self.kind;
        let (head, rest) = b.get(..usize::from(self.size))?.split_at_checked(kind.header())?;
        let (extra, data) = rest.split_at_checked(usize::from(self.extra))?;
        let mut r = Record {
            kind,
            identity: Identity::Other,
            provider: [0; 16],
            id: 0,
            version: 0,
            channel: 0,
            level: 0,
            opcode: 0,
            task: 0,
            keyword: 0,
            activity: [0; 16],
            time: self.time,
            pid: u32::MAX,
            tid: u32::MAX,
            cpu,
            pointer_size: match kind {
                System32 | Compact32 | PerfInfo32 | Full32 | Instance32 | Event32 => 4,
                _ => 8,
            },
            processor_time: 0,
            instance: None,
            parent_class: [0; 16],
            ext: ExtItems::NONE,
            data,
        };
        match kind {
            Event32 | Event64 => r.event(head, extra)?,
            System32 | System64 | Compact32 | Compact64 | PerfInfo32 | PerfInfo64 => r.kernel(head, extra)?,
            Full32 | Full64 | Instance32 | Instance64 => r.classic(head)?,
            Message => r.message(head, extra)?,
            Wnode => r.provider = array(head, 24)?,
            Timed | Error => {}
        }
        Some(r)
    }
}

/// Bytes of the counters that stand between a kernel record's header and its payload: one of the
/// PEBS index, up to seven others.
fn counters(head: &[u8]) -> (usize, usize) {
    let version = u16_at(head, 0).unwrap_or(0);
    (usize::from(version >> 15) * 8, usize::from(version >> 8 & 7) * 8)
}

/// Where the optional parts of a message lie behind its fixed header.
#[derive(Default)]
struct MessageParts {
    sequence: Option<usize>,
    guid: Option<usize>,
    component: Option<usize>,
    time: Option<usize>,
    ids: Option<usize>,
    len: usize,
}

impl MessageParts {
    fn of(flags: u16) -> MessageParts {
        let mut parts = MessageParts::default();
        let mut place = |there: bool, n: usize| {
            let at = parts.len;
            parts.len += if there { n } else { 0 };
            there.then_some(at)
        };
        let sequence = place(flags & 1 != 0, 4);
        let guid = place(flags & 2 != 0, 16);
        // A GUID takes precedence: both bits never mean two fields.
        let component = place(flags & 6 == 4, 4);
        let time = place(flags & 8 != 0, 8);
        let ids = place(flags & 0x20 != 0, 8);
        MessageParts { sequence, guid, component, time, ids, ..parts }
    }
}

impl<'a> Record<'a> {
    #[inline]
    fn event(&mut self, head: &[u8], items: &'a [u8]) -> Option<()> {
        let h: &[u8; 80] = head.first_chunk()?;
        self.identity = Identity::Event;
        self.tid = u32_at(h, 8)?;
        self.pid = u32_at(h, 12)?;
        self.provider = array(h, 24)?;
        self.id = u16_at(h, 40)?;
        self.version = u16::from(h[42]);
        self.channel = h[43];
        self.level = h[44];
        self.opcode = h[45];
        self.task = u16_at(h, 46)?;
        self.keyword = u64_at(h, 48)?;
        self.processor_time = u64_at(h, 56)?;
        self.activity = array(h, 64)?;
        if !items.is_empty() {
            self.ext = ExtItems(Items::Disk(items));
        }
        Some(())
    }

    #[inline]
    fn kernel(&mut self, head: &[u8], extra: &'a [u8]) -> Option<()> {
        let h: &[u8; 16] = head.first_chunk()?;
        self.identity = Identity::Kernel { group: h[7] };
        self.version = u16::from(h[0]);
        self.opcode = h[6];
        if !matches!(self.kind, RecordKind::PerfInfo32 | RecordKind::PerfInfo64) {
            self.tid = u32_at(h, 8)?;
            self.pid = u32_at(h, 12)?;
            // Absent in compact records.
            self.processor_time = u64_at(head, 24).unwrap_or(0);
        }
        if !extra.is_empty() {
            let (pebs, counters) = extra.split_at_checked(counters(head).0)?;
            self.ext = ExtItems(Items::Counters { pebs, counters });
        }
        Some(())
    }

    #[inline]
    fn classic(&mut self, head: &[u8]) -> Option<()> {
        let h: &[u8; 48] = head.first_chunk()?;
        self.identity = Identity::Classic;
        self.opcode = h[4];
        self.level = h[5];
        self.version = u16_at(h, 6)?;
        self.tid = u32_at(h, 8)?;
        self.pid = u32_at(h, 12)?;
        self.provider = array(h, 24)?;
        self.processor_time = u64_at(h, 40)?;
        if let (Some(id), Some(parent)) = (u32_at(head, 48), u32_at(head, 52)) {
            self.instance = Some((id, parent));
            self.parent_class = array(head, 56)?;
        }
        Some(())
    }

    fn message(&mut self, head: &[u8], extra: &[u8]) -> Option<()> {
        let flags = u16_at(head, 6)?;
        let parts = MessageParts::of(flags);
        if let Some(at) = parts.guid {
            self.provider = array(extra, at)?;
        }
        if let Some(at) = parts.ids {
            self.tid = u32_at(extra, at)?;
            self.pid = u32_at(extra, at + 4)?;
        }
        self.pointer_size = if flags & 0x40 != 0 { 4 } else { 8 };
        let number = |at: Option<usize>| at.and_then(|at| u32_at(extra, at));
        let (sequence, component) = (number(parts.sequence), number(parts.component));
        self.identity = Identity::Message { number: u16_at(head, 4)?, flags, sequence, component };
        Some(())
    }
}

/// Length of the chain of items at the start of `b`; `None` when it leaves `b`.
fn disk_items_len(b: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let item = b.get(at..)?;
        let size = usize::from(u16_at(item, 0)?);
        let data = usize::from(u16_at(item, 6)?);
        if size < 8 || size > item.len() || data > size - 8 {
            return None;
        }
        let more = u16_at(item, 4)? & 1 != 0;
        at += if more { align8(size) } else { align8(size).min(item.len()) };
        if !more {
            return Some(at);
        }
    }
}

/// Kind of an extended data item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[allow(missing_docs)] // The names are those of the Windows headers.
pub enum ExtKind {
    RelatedActivity = 1,
    Sid = 2,
    TsId = 3,
    InstanceInfo = 4,
    Stack32 = 5,
    Stack64 = 6,
    PebsIndex = 7,
    PmcCounters = 8,
    PsmKey = 9,
    EventKey = 10,
    TlSchema = 11,
    ProviderTraits = 12,
    ProcessStartKey = 13,
    ControlGuid = 14,
    QpcDelta = 15,
    ContainerId = 16,
}

impl ExtKind {
    /// The kind of a number, if it is known.
    #[must_use]
    pub fn from_u16(n: u16) -> Option<ExtKind> {
        use ExtKind::*;
        const ALL: [ExtKind; 16] = [
            RelatedActivity,
            Sid,
            TsId,
            InstanceInfo,
            Stack32,
            Stack64,
            PebsIndex,
            PmcCounters,
            PsmKey,
            EventKey,
            TlSchema,
            ProviderTraits,
            ProcessStartKey,
            ControlGuid,
            QpcDelta,
            ContainerId,
        ];
        ALL.get(usize::from(n).checked_sub(1)?).copied()
    }
}

/// One extended data item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ext<'a> {
    /// Type number; see [`ExtKind::from_u16`].
    pub kind: u16,
    /// Its bytes.
    pub data: &'a [u8],
}

/// The extended data items of a record.
#[derive(Clone, Copy, Debug)]
pub struct ExtItems<'a>(Items<'a>);

#[derive(Clone, Copy, Debug)]
enum Items<'a> {
    /// A checked chain as it stands in a file.
    Disk(&'a [u8]),
    /// Counters of a kernel record.
    Counters { pebs: &'a [u8], counters: &'a [u8] },
    /// As a live session hands them out.
    List(&'a [Ext<'a>]),
}

impl<'a> ExtItems<'a> {
    /// No items.
    pub const NONE: ExtItems<'static> = ExtItems(Items::List(&[]));

    /// The items of a live record.
    #[must_use]
    pub fn from_list(items: &'a [Ext<'a>]) -> ExtItems<'a> {
        ExtItems(Items::List(items))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self.0, Items::List([]) | Items::Disk([]))
    }

    /// The data of the first item of a kind.
    #[must_use]
    pub fn find(&self, kind: ExtKind) -> Option<&'a [u8]> {
        self.into_iter().find(|e| e.kind == kind as u16).map(|e| e.data)
    }
}

impl<'a> IntoIterator for ExtItems<'a> {
    type Item = Ext<'a>;
    type IntoIter = ExtIter<'a>;
    fn into_iter(self) -> ExtIter<'a> {
        ExtIter(self.0)
    }
}

/// Iterates over extended data items.
#[derive(Clone, Debug)]
pub struct ExtIter<'a>(Items<'a>);

impl<'a> Iterator for ExtIter<'a> {
    type Item = Ext<'a>;
    fn next(&mut self) -> Option<Ext<'a>> {
        match &mut self.0 {
            Items::Disk(rest) => {
                let b = *rest;
                let size = usize::from(u16_at(b, 0)?);
                let data = b.get(8..8 + usize::from(u16_at(b, 6)?))?;
                *rest = b.get(align8(size.max(8))..).unwrap_or_default();
                Some(Ext { kind: u16_at(b, 2)?, data })
            }
            Items::Counters { pebs, counters } => {
                let (kind, part) = if pebs.is_empty() {
                    (ExtKind::PmcCounters, counters)
                } else {
                    (ExtKind::PebsIndex, pebs)
                };
                let data = std::mem::take(part);
                (!data.is_empty()).then_some(Ext { kind: kind as u16, data })
            }
            Items::List(list) => {
                let (first, rest) = list.split_first()?;
                *list = rest;
                Some(*first)
            }
        }
    }
}

/// What begins at `at` in a buffer's payload; `None` at its end. Less than a marker is padding,
/// 0xFFFFFFFF fills the unused end of a buffer.
#[inline]
pub(crate) fn records_at(payload: &[u8], at: usize) -> Option<&[u8]> {
    let rest = payload.get(at..)?;
    (u32_at(rest, 0)? != u32::MAX).then_some(rest)
}

/// The records of one buffer's payload. A damaged record ends it with an error: where the next
/// one would begin is not known.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    payload: &'a [u8],
    at: usize,
    cpu: u16,
}

impl<'a> Records<'a> {
    /// `payload` is what stands behind a buffer's header, up to its used size.
    #[must_use]
    pub fn new(payload: &'a [u8], cpu: u16) -> Records<'a> {
        Records { payload, at: 0, cpu }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Problem>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let Some(rest) = records_at(self.payload, self.at) else {
            self.at = self.payload.len();
            return None;
        };
        match Frame::of(rest) {
            Ok(frame) => {
                self.at += frame.step();
                frame.record(rest, self.cpu).map(Ok)
            }
            Err(reason) => {
                let problem = Problem { offset: self.at as u64, bytes: rest.len() as u64, reason };
                self.at = self.payload.len();
                Some(Err(problem))
            }
        }
    }
}
