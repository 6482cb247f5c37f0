//! The bytes of a segment file.
//!
//! ```text
//! file   = header frame*
//! header = "TIDESEG\n" version:u16 kind:u8 0:u8*5 epoch:u64 number:u64 salt:u64 created_ns:i64 crc:u32
//! frame  = "TGF\x01" kind:u8 0:u8*3 head_len:u32 body_len:u64 crc:u32 head body
//! ```
//! Numbers little-endian. A frame's CRC32C is taken over the segment's salt, the frame's offset,
//! the bytes before the CRC, and the head; so neither a frame moved from elsewhere nor one that
//! somebody wrote into an event passes for one of this file. The body holds the stored bytes of
//! the blocks that the head lists, each with its own CRC32C. A frame is the unit of appending:
//! kind 1 is a group with its intake, kind 2 blocks moved from older segments, kind 3 a note,
//! the copy of the book's cursors and accounts.

use std::collections::BTreeMap;

use tidegate_proto::level::{Class, DropReason, LossReason};

use crate::enc::{Dec, Enc};
use crate::ledger::{Block, Gone, Place};
use crate::{Intake, PerLevel};

pub(crate) const HEADER_LEN: usize = 52;
pub(crate) const PREFIX_LEN: usize = 24;
const FILE_MAGIC: &[u8; 8] = b"TIDESEG\n";
pub(crate) const FRAME_MAGIC: &[u8; 4] = b"TGF\x01";
/// Version of the segment format that is written, and the highest that is read.
pub(crate) const VERSION: u16 = 1;
/// Longest head that is read.
pub(crate) const MAX_HEAD: u32 = 64 << 20;

/// What a segment file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub epoch: u64,
    pub number: u64,
    pub salt: u64,
    pub created_ns: i64,
    /// Whether it holds blocks kept from older segments.
    pub kept: bool,
}

/// Why a header is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoHeader {
    Damaged,
    Newer(u16),
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut e = Enc::default();
        e.fixed(FILE_MAGIC).fixed(&VERSION.to_le_bytes()).fixed(&[u8::from(self.kept), 0, 0, 0, 0, 0]);
        e.fixed(&self.epoch.to_le_bytes()).fixed(&self.number.to_le_bytes());
        e.fixed(&self.salt.to_le_bytes()).fixed(&self.created_ns.to_le_bytes());
        let crc = crc32c::crc32c(&e.0);
        e.fixed(&crc.to_le_bytes());
        e.0.try_into().unwrap_or([0; HEADER_LEN])
    }

    pub fn decode(bytes: &[u8]) -> Result<Header, NoHeader> {
        let (body, crc) = bytes
            .get(..HEADER_LEN)
            .and_then(|b| b.split_last_chunk::<4>())
            .filter(|(body, crc)| crc32c::crc32c(body) == u32::from_le_bytes(**crc))
            .ok_or(NoHeader::Damaged)?;
        let _ = crc;
        let mut d = Dec(body);
        let parts = (|| {
            let magic = d.fixed::<8>()?;
            let version = u16::from_le_bytes(d.fixed()?);
            let [kind, ..] = d.fixed::<6>()?;
            let mut number = || Some(u64::from_le_bytes(d.fixed()?));
            let (epoch, segment, salt, created) = (number()?, number()?, number()?, number()?);
            Some((magic, version, kind, epoch, segment, salt, created))
        })();
        let (magic, version, kind, epoch, number, salt, created) = parts.ok_or(NoHeader::Damaged)?;
        if magic != *FILE_MAGIC || version == 0 {
            return Err(NoHeader::Damaged);
        }
        if version > VERSION {
            return Err(NoHeader::Newer(version));
        }
        Ok(Header { epoch, number, salt, created_ns: created.cast_signed(), kept: kind == 1 })
    }
}

/// Sums of the ring's life up to a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Groups.
    pub groups: u64,
    /// Places given.
    pub places: u64,
    pub stored: PerLevel,
    pub read: u64,
    pub dropped: BTreeMap<DropReason, u64>,
}

impl Totals {
    /// The sums behind a group with these blocks.
    pub fn after(&self, blocks: &[Block], intake: &Intake) -> Totals {
        let mut t = self.clone();
        t.groups = t.groups.saturating_add(1);
        for b in blocks {
            t.places = t.places.max(b.last);
            crate::ledger::add(&mut t.stored, &b.per_level());
        }
        t.read = t.read.saturating_add(intake.read);
        for (reason, n) in &intake.dropped {
            let sum = t.dropped.entry(*reason).or_default();
            *sum = sum.saturating_add(*n);
        }
        t
    }

    pub fn encode(&self, e: &mut Enc) {
        e.n(self.groups).n(self.places).levels(&self.stored).n(self.read);
        encode_dropped(e, &self.dropped);
    }

    pub fn decode(d: &mut Dec<'_>) -> Option<Totals> {
        Some(Totals {
            groups: d.n()?,
            places: d.n()?,
            stored: d.levels()?,
            read: d.n()?,
            dropped: decode_dropped(d)?,
        })
    }
}

fn encode_dropped(e: &mut Enc, dropped: &BTreeMap<DropReason, u64>) {
    e.n(dropped.len() as u64);
    for (reason, n) in dropped {
        e.n(*reason as u64).n(*n);
    }
}

// a reason of a newer version counts as the last known one: the sum stays right
fn decode_dropped(d: &mut Dec<'_>) -> Option<BTreeMap<DropReason, u64>> {
    let mut out = BTreeMap::new();
    for (reason, n) in d.list(|d| Some((d.u8()?, d.n()?)))? {
        let reason = DropReason::from_u8(reason).unwrap_or(DropReason::Encode);
        *out.entry(reason).or_default() += n;
    }
    Some(out)
}

pub(crate) fn encode_positions(e: &mut Enc, positions: &BTreeMap<String, Vec<u8>>) {
    e.n(positions.len() as u64);
    for (source, position) in positions {
        e.bytes(source.as_bytes()).bytes(position);
    }
}

pub(crate) fn decode_positions(d: &mut Dec<'_>) -> Option<BTreeMap<String, Vec<u8>>> {
    Some(d.list(|d| Some((d.text()?, d.bytes()?.to_owned())))?.into_iter().collect())
}

/// What a frame is and says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    Group {
        /// Sums before it.
        before: Totals,
        /// Groups and places that were durable when it was written.
        durable: (u64, u64),
        intake: Intake,
        blocks: Vec<Block>,
        /// Runs that a purge took from it.
        gone: Vec<Gone>,
    },
    Kept {
        blocks: Vec<Block>,
        gone: Vec<Gone>,
    },
    Note(Vec<u8>),
}

impl Head {
    pub fn blocks(&self) -> &[Block] {
        match self {
            Head::Group { blocks, .. } | Head::Kept { blocks, .. } => blocks,
            Head::Note(_) => &[],
        }
    }

    pub fn blocks_mut(&mut self) -> Option<(&mut Vec<Block>, &mut Vec<Gone>)> {
        match self {
            Head::Group { blocks, gone, .. } | Head::Kept { blocks, gone } => Some((blocks, gone)),
            Head::Note(_) => None,
        }
    }

    pub fn gone(&self) -> &[Gone] {
        match self {
            Head::Group { gone, .. } | Head::Kept { gone, .. } => gone,
            Head::Note(_) => &[],
        }
    }

    /// Bytes of the body.
    pub fn body_len(&self) -> u64 {
        self.blocks().iter().map(|b| u64::from(b.place.len)).sum()
    }

    fn kind(&self) -> u8 {
        match self {
            Head::Group { .. } => 1,
            Head::Kept { .. } => 2,
            Head::Note(_) => 3,
        }
    }

    fn encode_head(&self) -> Vec<u8> {
        let mut e = Enc::default();
        match self {
            Head::Group { before, durable, intake, blocks, gone } => {
                before.encode(&mut e);
                e.n(durable.0).n(durable.1).n(intake.read);
                encode_dropped(&mut e, &intake.dropped);
                encode_positions(&mut e, &intake.positions);
                encode_blocks(&mut e, blocks);
                encode_gone(&mut e, gone);
            }
            Head::Kept { blocks, gone } => {
                encode_blocks(&mut e, blocks);
                encode_gone(&mut e, gone);
            }
            Head::Note(bytes) => {
                e.fixed(bytes);
            }
        }
        e.0
    }

    /// The frame's bytes before its body, for a place in a segment.
    pub fn encode(&self, salt: u64, offset: u64) -> Vec<u8> {
        let head = self.encode_head();
        let mut e = Enc(Vec::with_capacity(PREFIX_LEN + head.len()));
        e.fixed(FRAME_MAGIC).fixed(&[self.kind(), 0, 0, 0]);
        e.fixed(&u32::try_from(head.len()).unwrap_or(u32::MAX).to_le_bytes());
        e.fixed(&self.body_len().to_le_bytes());
        let crc = frame_crc(salt, offset, &e.0, &head);
        e.fixed(&crc.to_le_bytes()).fixed(&head);
        e.0
    }

    /// Reads a head. Places of the blocks are set from where the body begins.
    pub fn decode(kind: u8, head: &[u8], segment: u64, body_at: u64) -> Option<Head> {
        let mut d = Dec(head);
        let head = match kind {
            1 => {
                let before = Totals::decode(&mut d)?;
                let durable = (d.n()?, d.n()?);
                let read = d.n()?;
                let dropped = decode_dropped(&mut d)?;
                let positions = decode_positions(&mut d)?;
                let blocks = decode_blocks(&mut d, segment, body_at)?;
                let gone = decode_gone(&mut d)?;
                Head::Group { before, durable, intake: Intake { read, dropped, positions }, blocks, gone }
            }
            2 => Head::Kept { blocks: decode_blocks(&mut d, segment, body_at)?, gone: decode_gone(&mut d)? },
            3 => Head::Note(head.to_owned()),
            _ => return None,
        };
        Some(head)
    }
}

/// The parts of a frame's prefix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prefix {
    pub kind: u8,
    pub head_len: u32,
    pub body_len: u64,
    pub crc: u32,
}

impl Prefix {
    pub fn decode(bytes: &[u8]) -> Option<Prefix> {
        let mut d = Dec(bytes);
        let magic = d.fixed::<4>()?;
        let [kind, ..] = d.fixed::<4>()?;
        let head_len = u32::from_le_bytes(d.fixed()?);
        let body_len = u64::from_le_bytes(d.fixed()?);
        let crc = u32::from_le_bytes(d.fixed()?);
        (magic == *FRAME_MAGIC && head_len <= MAX_HEAD).then_some(Prefix { kind, head_len, body_len, crc })
    }
}

/// The CRC of a frame; `prefix` without the CRC itself.
pub(crate) fn frame_crc(salt: u64, offset: u64, prefix: &[u8], head: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&salt.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(crc, prefix), head)
}

/// Blocks with all but where they are, in order.
pub(crate) fn encode_blocks(e: &mut Enc, blocks: &[Block]) {
    e.n(blocks.len() as u64);
    let (mut last, mut stored) = (0u64, 0i64);
    for b in blocks {
        e.i(b.first.wrapping_sub(last).cast_signed()).n(b.last - b.first);
        e.i(b.stored_ns.wrapping_sub(stored));
        (last, stored) = (b.last, b.stored_ns);
        // the lane's bits were 0 before there were lanes
        e.fixed(&[b.class as u8 | b.lane << 4, b.place.codec, b.place.key]);
        e.levels(&b.per_level()).i(b.time_ns.0).i(b.time_ns.1.wrapping_sub(b.time_ns.0));
        e.n(u64::from(b.raw_len)).n(u64::from(b.place.len)).fixed(&b.place.crc.to_le_bytes());
        match &b.keep {
            None => e.n(0),
            Some(bits) => e.n(1).bytes(bits),
        };
    }
}

pub(crate) fn decode_blocks(d: &mut Dec<'_>, segment: u64, body_at: u64) -> Option<Vec<Block>> {
    let (mut last, mut stored, mut offset) = (0u64, 0i64, body_at);
    d.list(|d| {
        let first = last.wrapping_add(d.i()?.cast_unsigned());
        let run = (first, first.checked_add(d.n()?)?);
        let stored_ns = stored.wrapping_add(d.i()?);
        (last, stored) = (run.1, stored_ns);
        let [class, codec, key] = d.fixed()?;
        let lane = class >> 4;
        let class = if class & 0xf == Class::Critical as u8 { Class::Critical } else { Class::Normal };
        let levels = [d.u32()?, d.u32()?, d.u32()?, d.u32()?];
        let time = d.i()?;
        let time_ns = (time, time.wrapping_add(d.i()?));
        let (raw_len, len) = (d.u32()?, d.u32()?);
        let crc = u32::from_le_bytes(d.fixed()?);
        let keep: Option<Box<[u8]>> = match d.n()? {
            0 => None,
            _ => Some(d.bytes()?.into()),
        };
        let place = Place { segment, offset, len, crc, codec, key };
        offset = offset.checked_add(u64::from(len))?;
        let block = Block {
            first: run.0,
            last: run.1,
            keep,
            class,
            lane,
            levels,
            time_ns,
            stored_ns,
            raw_len,
            place,
        };
        let places = match &block.keep {
            None => run.1 - run.0 + 1,
            Some(bits) => bits.iter().map(|b| u64::from(b.count_ones())).sum(),
        };
        (first > 0 && places == block.events() && places > 0).then_some(block)
    })
}

pub(crate) fn encode_gone(e: &mut Enc, gone: &[Gone]) {
    e.n(gone.len() as u64);
    for g in gone {
        e.n(g.run.0).n(g.run.1.saturating_sub(g.run.0)).n(g.events).n(g.reason as u64);
    }
}

pub(crate) fn decode_gone(d: &mut Dec<'_>) -> Option<Vec<Gone>> {
    d.list(|d| {
        let first = d.n()?;
        let run = (first, first.checked_add(d.n()?)?);
        let events = d.n()?;
        let reason = LossReason::from_u8(d.u8()?).unwrap_or(LossReason::Corrupt);
        Some(Gone { run, events, reason })
    })
}
