//! What stands in the book, as keys and values. Keys begin with a letter for their kind; numbers
//! in keys are big-endian. The values are encoded by [`crate::enc`]; fields are only added at
//! their ends. The same records make the notes in the segment files.

use std::collections::BTreeMap;

use tidegate_proto::ids::SinkId;
use tidegate_proto::level::LossReason;

use super::Row;
use crate::enc::{Dec, Enc};
use crate::ledger::{Block, Gone, Key, Plan, SinkState};
use crate::store::frame::{self, Totals};
use crate::{Chain, ChainEntry, Lanes};

/// Version of the records that is written, and the highest that is read.
pub(crate) const VERSION: u64 = 1;

/// Totals and the like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    pub epoch: u64,
    pub totals: Totals,
    pub trimmed: u64,
    pub purges: u64,
    pub anchors: [(u64, [u8; 32]); 2],
    pub positions: BTreeMap<String, Vec<u8>>,
    /// The highest number that a segment got.
    pub next_segment: u64,
    /// The newest entries of the chains; zeros where an older version wrote it.
    pub heads: [(u64, [u8; 32]); 2],
}

/// What is known of a closed segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SegmentRecord {
    /// What it holds; it need not be scanned.
    Index {
        /// Groups that were durable when it was made: without sums as new it cannot be used.
        groups: u64,
        salt: u64,
        kept: bool,
        len: u64,
        blocks: Vec<Block>,
    },
    /// Nothing that is needed: it can be removed.
    Dropped,
}

/// A book or a note, read.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub meta: Option<Meta>,
    pub sinks: BTreeMap<SinkId, SinkState>,
    pub holes: Vec<Gone>,
    pub segments: BTreeMap<u64, SegmentRecord>,
    pub entries: Vec<(Chain, ChainEntry)>,
    pub values: BTreeMap<String, Vec<u8>>,
}

/// Why records cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BadRecords {
    Damaged(&'static str),
    Newer(u64),
}

pub(crate) fn key_bytes(key: &Key) -> Vec<u8> {
    match key {
        Key::Meta => b"m".to_vec(),
        Key::Holes => b"h".to_vec(),
        Key::Sink(id) => [b"s", id.as_str().as_bytes()].concat(),
        Key::Segment(n) => [&b"g"[..], &n.to_be_bytes()].concat(),
        Key::Chain(chain, n) => [&[b'c', *chain as u8][..], &n.to_be_bytes()].concat(),
        Key::Value(name) => [b"v", name.as_bytes()].concat(),
    }
}

impl Meta {
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Enc::default();
        e.n(VERSION).n(self.epoch);
        self.totals.encode(&mut e);
        e.n(self.trimmed).n(self.purges);
        for (number, hash) in &self.anchors {
            e.n(*number).fixed(hash);
        }
        frame::encode_positions(&mut e, &self.positions);
        e.n(self.next_segment);
        for (number, hash) in &self.heads {
            e.n(*number).fixed(hash);
        }
        e.0
    }

    fn decode(bytes: &[u8]) -> Result<Meta, BadRecords> {
        let mut d = Dec(bytes);
        let version = d.n().ok_or(BadRecords::Damaged("totals"))?;
        if version > VERSION {
            return Err(BadRecords::Newer(version));
        }
        let read = (|| {
            Some(Meta {
                epoch: d.n()?,
                totals: Totals::decode(&mut d)?,
                trimmed: d.n()?,
                purges: d.n()?,
                anchors: [(d.n()?, d.fixed()?), (d.n()?, d.fixed()?)],
                positions: frame::decode_positions(&mut d)?,
                next_segment: d.n()?,
                heads: match d.0 {
                    [] => Default::default(),
                    _ => [(d.n()?, d.fixed()?), (d.n()?, d.fixed()?)],
                },
            })
        })();
        read.ok_or(BadRecords::Damaged("totals"))
    }
}

pub(crate) fn encode_sink(sink: &SinkState) -> Vec<u8> {
    let mut e = Enc::default();
    e.n(sink.settled).n(sink.ahead.len() as u64);
    for (a, b) in &sink.ahead {
        e.n(*a).n(b.saturating_sub(*a));
    }
    e.n(sink.plans.len() as u64);
    for ((first, _), plan) in &sink.plans {
        e.n(*first).n(plan.last.saturating_sub(*first));
        encode_lost(&mut e, &plan.lost);
    }
    e.levels(&sink.base).levels(&sink.delivered).levels(&sink.rejected);
    encode_lost(&mut e, &sink.lost);
    if sink.passed.is_empty() && sink.plans.keys().all(|(_, lanes)| *lanes == Lanes::ALL) {
        return e.0;
    }
    e.n(sink.passed.len() as u64);
    for (lanes, runs) in &sink.passed {
        e.n(u64::from(lanes.0)).n(runs.len() as u64);
        for (a, b) in runs {
            e.n(*a).n(b.saturating_sub(*a));
        }
    }
    // of each plan, in the order above
    for (_, lanes) in sink.plans.keys() {
        e.n(u64::from(lanes.0));
    }
    e.0
}

fn encode_lost(e: &mut Enc, lost: &BTreeMap<LossReason, [u64; 4]>) {
    e.n(lost.len() as u64);
    for (reason, levels) in lost {
        e.n(*reason as u64).levels(levels);
    }
}

fn decode_lost(d: &mut Dec<'_>) -> Option<BTreeMap<LossReason, [u64; 4]>> {
    let mut out: BTreeMap<LossReason, [u64; 4]> = BTreeMap::new();
    for (reason, levels) in d.list(|d| Some((d.u8()?, d.levels()?)))? {
        let reason = LossReason::from_u8(reason).unwrap_or(LossReason::Corrupt);
        crate::ledger::add(out.entry(reason).or_default(), &levels);
    }
    Some(out)
}

pub(crate) fn decode_sink(bytes: &[u8]) -> Option<SinkState> {
    let mut d = Dec(bytes);
    let run = |d: &mut Dec<'_>| {
        let first = d.n()?;
        Some((first, first.checked_add(d.n()?)?))
    };
    let settled = d.n()?;
    let ahead = d.list(run)?;
    let plans = d.list(|d| {
        let (first, last) = run(d)?;
        Some((first, Plan { last, lost: decode_lost(d)? }))
    })?;
    let mut sink = SinkState {
        settled,
        ahead,
        base: d.levels()?,
        delivered: d.levels()?,
        rejected: d.levels()?,
        lost: decode_lost(&mut d)?,
        ..SinkState::default()
    };
    let lanes = |d: &mut Dec<'_>| Some(Lanes(u16::try_from(d.n()?).ok()?));
    let apart = !d.0.is_empty();
    if apart {
        sink.passed = d.list(|d| Some((lanes(d)?, d.list(run)?)))?.into_iter().collect();
    }
    for (first, plan) in plans {
        let lanes = if apart { lanes(&mut d)? } else { Lanes::ALL };
        sink.plans.insert((first, lanes), plan);
    }
    Some(sink)
}

pub(crate) fn encode_holes(holes: &[Gone]) -> Vec<u8> {
    let mut e = Enc::default();
    frame::encode_gone(&mut e, holes);
    e.0
}

impl SegmentRecord {
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Enc::default();
        match self {
            SegmentRecord::Dropped => e.n(0),
            SegmentRecord::Index { groups, salt, kept, len, blocks } => {
                e.n(1).n(*groups).n(*salt).n(u64::from(*kept)).n(*len);
                frame::encode_blocks(&mut e, blocks);
                for b in blocks {
                    e.n(b.place.offset);
                }
                &mut e
            }
        };
        e.0
    }

    fn decode(number: u64, bytes: &[u8]) -> Option<SegmentRecord> {
        let mut d = Dec(bytes);
        if d.n()? == 0 {
            return Some(SegmentRecord::Dropped);
        }
        let (groups, salt, kept, len) = (d.n()?, d.n()?, d.n()? == 1, d.n()?);
        let mut blocks = frame::decode_blocks(&mut d, number, 0)?;
        for b in &mut blocks {
            b.place.offset = d.n()?;
        }
        Some(SegmentRecord::Index { groups, salt, kept, len, blocks })
    }
}

pub(crate) fn encode_entry(entry: &ChainEntry) -> Vec<u8> {
    [&entry.hash[..], &entry.data].concat()
}

impl Records {
    /// Reads rows of a book or a note.
    pub fn decode<'a>(rows: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Result<Records, BadRecords> {
        let mut out = Records::default();
        for (key, value) in rows {
            let Some((kind, rest)) = key.split_first() else { continue };
            let name = || String::from_utf8(rest.to_owned()).map_err(|_| BadRecords::Damaged("a name"));
            match kind {
                b'm' => out.meta = Some(Meta::decode(value)?),
                b'h' => {
                    out.holes =
                        frame::decode_gone(&mut Dec(value)).ok_or(BadRecords::Damaged("the holes"))?;
                }
                b's' => {
                    let sink = decode_sink(value).ok_or(BadRecords::Damaged("a sink"))?;
                    out.sinks.insert(SinkId::new(&name()?), sink);
                }
                b'g' => {
                    let number = rest.try_into().map(u64::from_be_bytes);
                    let number = number.map_err(|_| BadRecords::Damaged("a segment"))?;
                    // an index that cannot be read only means that the file is scanned
                    if let Some(record) = SegmentRecord::decode(number, value) {
                        out.segments.insert(number, record);
                    }
                }
                b'c' => out.entries.push(entry(rest, value).ok_or(BadRecords::Damaged("a chain"))?),
                b'v' => {
                    out.values.insert(name()?, value.to_owned());
                }
                // a kind that a newer version added
                _ => {}
            }
        }
        out.entries.sort_by_key(|(chain, e)| (*chain, e.number));
        Ok(out)
    }

    /// Reads the bytes of a note.
    pub fn decode_note(bytes: &[u8]) -> Result<Records, BadRecords> {
        let rows = Dec(bytes).list(|d| Some((d.bytes()?, d.bytes()?)));
        Records::decode(rows.ok_or(BadRecords::Damaged("the note"))?)
    }
}

/// The bytes of a note.
pub(crate) fn encode_note(rows: &[Row]) -> Vec<u8> {
    let mut e = Enc::default();
    e.n(rows.len() as u64);
    for (key, value) in rows {
        e.bytes(key).bytes(value);
    }
    e.0
}

fn entry(key: &[u8], value: &[u8]) -> Option<(Chain, ChainEntry)> {
    let (chain, number) = key.split_first()?;
    let chain = if *chain == Chain::Receipts as u8 { Chain::Receipts } else { Chain::Audit };
    let number = u64::from_be_bytes(number.try_into().ok()?);
    let (hash, data) = value.split_first_chunk::<32>()?;
    Some((chain, ChainEntry { number, hash: *hash, data: data.to_owned() }))
}
