//! Bundles: events of a host without a network, carried to one that has it.
//!
//! The first host exports runs of its ring under a sink of their own; the second one reads the
//! bundle, delivers the events under their original host, stream, epoch and places, and answers
//! with a receipt; the first host takes the receipt, which settles the runs. Both are signed
//! (Ed25519, RFC 8032), and nothing of a bundle is handed out before its signature and digests are
//! verified.
//!
//! ```text
//! bundle    = "TIDEBNDL" version:u16 manifest digests signature:64 block*
//! manifest  = len:u32 { host stream epoch created_ns first last blocks* }
//! digests   = len:u32 { SHA-256 of the manifest, then of each block's stored bytes }
//! block     = len:u32 { encoded pb::Block, Zstandard }
//! receipt   = "TIDERCPT" version:u16 body signature:64
//! body      = len:u32 { epoch runs* detail }
//! ```
//! Numbers are little-endian. The signature of a bundle is over `"TIDEBNDL"` and the digests, that
//! of a receipt over `"TIDERCPT"` and the body.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read as _, Write};

use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use sha2::{Digest, Sha256};
use tidegate_proto::hex;
use tidegate_proto::ids::{Seq, SeqRange, SinkId};
use tidegate_proto::level::{Class, LossReason};

use crate::enc::{Dec, Enc};
use crate::{
    MemoryRing, PerLevel, Read, ReadLimit, Ring, RingError, Settlement, StartAt, StoredBlock, levels, runs,
};

const BUNDLE: &[u8; 8] = b"TIDEBNDL";
const RECEIPT: &[u8; 8] = b"TIDERCPT";
/// Version of both formats that is written, and the highest that is read.
pub const VERSION: u16 = 1;
/// Longest manifest, digest list, block and receipt that is read, in bytes.
pub const MAX_PART: u32 = 256 << 20;

/// Why a bundle or receipt was not made or taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The bytes are no bundle or receipt, or were cut or changed.
    #[error("no sound bundle: {0}")]
    Damaged(&'static str),
    /// None of the trusted keys signed it.
    #[error("it is not signed by a trusted key")]
    Untrusted,
    /// Written by a newer version.
    #[error("it has format {0}, this version reads up to {VERSION}: use the version that wrote it")]
    Newer(u16),
    /// The receipt is for another ring or life of the ring.
    #[error("the receipt is for epoch {receipt:016x}, this ring has {ring:016x}")]
    OtherRing {
        /// The receipt's.
        receipt: u64,
        /// The ring's.
        ring: u64,
    },
    /// A text is no key. Says nothing of the text.
    #[error("no key: 64 hexadecimal digits are expected")]
    Key,
    /// The bundle could not be read or written.
    #[error("cannot read or write it")]
    Io(#[from] io::Error),
    /// The ring failed.
    #[error(transparent)]
    Ring(#[from] RingError),
}

/// A key to sign with.
pub struct SigningKey(Ed25519KeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(***)")
    }
}

impl SigningKey {
    /// Reads the seed of a key, 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`BundleError::Key`] when the text is none.
    pub fn parse(text: &str) -> Result<SigningKey, BundleError> {
        let seed: [u8; 32] = hex::decode(text.trim()).ok_or(BundleError::Key)?;
        Ed25519KeyPair::from_seed_unchecked(&seed).map(SigningKey).map_err(|_| BundleError::Key)
    }

    /// The seed of a new key, as text.
    ///
    /// # Errors
    /// [`BundleError::Key`] when the system gives no random numbers.
    pub fn generate() -> Result<String, BundleError> {
        let mut seed = [0u8; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| BundleError::Key)?;
        Ok(hex::encode(&seed))
    }

    /// What others verify with.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().try_into().unwrap_or([0; 32]))
    }

    fn sign(&self, what: &[u8; 8], bytes: &[u8]) -> Vec<u8> {
        self.0.sign(&[&what[..], bytes].concat()).as_ref().to_vec()
    }
}

/// A key to verify with. Its text form is 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl std::str::FromStr for PublicKey {
    type Err = BundleError;
    fn from_str(s: &str) -> Result<PublicKey, BundleError> {
        hex::decode(s.trim()).map(PublicKey).ok_or(BundleError::Key)
    }
}

fn verify(keys: &[PublicKey], what: &[u8; 8], bytes: &[u8], signature: &[u8]) -> Result<(), BundleError> {
    let signed = [&what[..], bytes].concat();
    let good = |k: &PublicKey| UnparsedPublicKey::new(&ED25519, k.0).verify(&signed, signature).is_ok();
    if keys.iter().any(good) { Ok(()) } else { Err(BundleError::Untrusted) }
}

/// Whose events a bundle holds: what their blob names and event ids are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleOrigin {
    /// The host's configured name.
    pub host: String,
    /// Name of the stream.
    pub stream: String,
    /// The ring's epoch.
    pub epoch: u64,
}

/// What an export wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The run; planned for the sink until a receipt settles it.
    pub range: SeqRange,
    /// Events in it.
    pub events: u64,
    /// Blocks in it.
    pub blocks: u64,
}

/// Which run of the ring becomes a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// What follows the runs that were exported.
    Next,
    /// The oldest that was exported and not receipted, again.
    Oldest,
    /// The one that begins at this place, again.
    At(Seq),
}

/// Writes a run of the ring as a bundle; what is new goes up to `limit`. `None` when there is no such run.
/// It stays planned for `sink` until [`Receipt::settle`].
///
/// # Errors
/// When the ring or `out` fails. The run is planned then and comes with [`Which::Oldest`] or [`Which::At`].
pub fn export(
    ring: &dyn Ring,
    sink: &SinkId,
    origin: (&str, &str),
    limit: ReadLimit,
    which: Which,
    key: &SigningKey,
    out: &mut dyn Write,
) -> Result<Option<Exported>, BundleError> {
    let cursor = ring.attach(sink, StartAt::Oldest)?;
    let run = match which {
        Which::Oldest => cursor.planned.first().map(|p| p.range),
        Which::At(first) => cursor.planned.iter().map(|p| p.range).find(|r| r.first() == first),
        Which::Next => {
            let parts = cursor.planned.iter().chain(&cursor.passed).map(|p| &p.range);
            let ends = parts.chain(&cursor.ahead).map(|r| r.last());
            let after = ends.max().unwrap_or(Seq::ZERO).max(cursor.settled);
            SeqRange::new(after.next(), ring.read(after, limit)?.end)
        }
    };
    let Some(run) = run else { return Ok(None) };
    ring.plan(sink, run.into())?;
    let mut blocks = Vec::new();
    let mut at = Seq(run.first().0.saturating_sub(1));
    while at < run.last() {
        let read: Read = ring.read(at, limit)?;
        if read.end <= at {
            break;
        }
        at = read.end;
        blocks.extend(read.blocks.into_iter().filter(|b| b.range.first() <= run.last()));
    }
    let epoch = ring.status().epoch;
    let origin = BundleOrigin { host: origin.0.to_owned(), stream: origin.1.to_owned(), epoch };
    write_bundle(&origin, run, &blocks, key, out).map(Some)
}

fn write_bundle(
    origin: &BundleOrigin,
    run: SeqRange,
    blocks: &[StoredBlock],
    key: &SigningKey,
    out: &mut dyn Write,
) -> Result<Exported, BundleError> {
    let mut manifest = Enc::default();
    manifest.bytes(origin.host.as_bytes()).bytes(origin.stream.as_bytes()).n(origin.epoch);
    manifest.i(crate::options::now_ns()).n(run.first().0).n(run.last().0).n(blocks.len() as u64);
    let mut stored = Vec::with_capacity(blocks.len());
    let mut events = 0;
    for block in blocks {
        manifest.n(block.range.first().0).n(block.range.len()).n(block.class as u64);
        manifest.i(block.stored_ns).n(block.data.len() as u64);
        let seqs = block.seqs.as_deref().unwrap_or_default();
        manifest.n(seqs.len() as u64);
        seqs.iter().for_each(|s| {
            manifest.n(s.0.saturating_sub(block.range.first().0));
        });
        let all = (block.range.first().0..=block.range.last().0).map(Seq);
        let inside = |s: &Seq| run.contains(*s);
        events += match &block.seqs {
            Some(seqs) => seqs.iter().filter(|s| inside(s)).count() as u64,
            None => all.filter(inside).count() as u64,
        };
        stored.push(zstd::bulk::compress(&block.data, 3)?);
    }
    let mut digests = Sha256::digest(&manifest.0).to_vec();
    stored.iter().for_each(|s| digests.extend_from_slice(&Sha256::digest(s)));
    out.write_all(BUNDLE)?;
    out.write_all(&VERSION.to_le_bytes())?;
    write_part(out, &manifest.0)?;
    write_part(out, &digests)?;
    out.write_all(&key.sign(BUNDLE, &digests))?;
    for block in &stored {
        write_part(out, block)?;
    }
    out.flush()?;
    Ok(Exported { range: run, events, blocks: blocks.len() as u64 })
}

fn write_part(out: &mut dyn Write, bytes: &[u8]) -> Result<(), BundleError> {
    let len = u32::try_from(bytes.len()).ok().filter(|n| *n <= MAX_PART);
    let len =
        len.ok_or_else(|| io::Error::other("a part of a bundle is too large: export less at a time"))?;
    out.write_all(&len.to_le_bytes())?;
    Ok(out.write_all(bytes)?)
}

fn read_part(from: &mut dyn io::Read) -> Result<Vec<u8>, BundleError> {
    let len = u32::from_le_bytes(read_fixed(from)?);
    if len > MAX_PART {
        return Err(BundleError::Damaged("a part is too long"));
    }
    let mut out = Vec::new();
    from.take(u64::from(len)).read_to_end(&mut out)?;
    if out.len() as u64 == u64::from(len) { Ok(out) } else { Err(BundleError::Damaged("it is cut")) }
}

fn read_fixed<const N: usize>(from: &mut dyn io::Read) -> Result<[u8; N], BundleError> {
    let mut out = [0; N];
    match from.read_exact(&mut out) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(BundleError::Damaged("it is cut")),
        other => Ok(other.map(|()| out)?),
    }
}

/// Nothing may follow: what is not signed would be taken for a part of it.
fn ends(from: &mut dyn io::Read) -> Result<(), BundleError> {
    match from.take(1).read_to_end(&mut Vec::new())? {
        0 => Ok(()),
        _ => Err(BundleError::Damaged("more follows than belongs to it")),
    }
}

fn read_head(from: &mut dyn io::Read, magic: &[u8; 8]) -> Result<(), BundleError> {
    if read_fixed::<8>(from)? != *magic {
        return Err(BundleError::Damaged("another kind of file"));
    }
    let version = u16::from_le_bytes(read_fixed(from)?);
    match version {
        0 => Err(BundleError::Damaged("a version that never was")),
        1..=VERSION => Ok(()),
        _ => Err(BundleError::Newer(version)),
    }
}

/// A block's row in the manifest.
#[derive(Clone, Debug)]
struct BlockRow {
    range: SeqRange,
    seqs: Option<Vec<Seq>>,
    class: Class,
    stored_ns: i64,
    raw_len: usize,
}

/// A bundle whose signature holds; its blocks are read one by one.
pub struct Bundle<R> {
    from: R,
    origin: BundleOrigin,
    range: SeqRange,
    rows: std::vec::IntoIter<BlockRow>,
    digests: Vec<u8>,
    next: usize,
}

impl<R> fmt::Debug for Bundle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle").field("origin", &self.origin).field("range", &self.range).finish()
    }
}

impl<R: io::Read> Bundle<R> {
    /// Reads what a bundle says of itself.
    ///
    /// # Errors
    /// When it is damaged, newer, or not signed by one of `trusted`.
    pub fn open(mut from: R, trusted: &[PublicKey]) -> Result<Bundle<R>, BundleError> {
        read_head(&mut from, BUNDLE)?;
        let manifest = read_part(&mut from)?;
        let digests = read_part(&mut from)?;
        verify(trusted, BUNDLE, &digests, &read_fixed::<64>(&mut from)?)?;
        if digests.get(..32) != Some(Sha256::digest(&manifest).as_slice()) {
            return Err(BundleError::Damaged("the manifest was changed"));
        }
        let (origin, range, rows) = decode_manifest(&manifest).ok_or(BundleError::Damaged("the manifest"))?;
        if digests.len() != 32 * (rows.len() + 1) {
            return Err(BundleError::Damaged("a digest is missing"));
        }
        Ok(Bundle { from, origin, range, rows: rows.into_iter(), digests, next: 32 })
    }

    /// Whose events these are.
    #[must_use]
    pub fn origin(&self) -> &BundleOrigin {
        &self.origin
    }

    /// The run; a block at its ends may hold places outside of it, which are not part of it.
    #[must_use]
    pub fn range(&self) -> SeqRange {
        self.range
    }

    /// Reads all blocks into a ring of its own, in memory: with the epoch and the places that the
    /// events have at home. What the bundle's run does not hold is not there. Takes as much memory
    /// as the blocks have unpacked bytes.
    ///
    /// # Errors
    /// When a block is damaged or cut.
    pub fn into_ring(mut self) -> Result<MemoryRing, BundleError> {
        let mut blocks = Vec::new();
        while let Some(block) = self.next_block()? {
            blocks.push(block);
        }
        MemoryRing::of_blocks(self.origin.epoch, self.range, blocks)
            .ok_or(BundleError::Damaged("its blocks do not lie in its run in order"))
    }

    /// The next block, verified. `None` at the end.
    ///
    /// # Errors
    /// When it is damaged or cut, or something follows its end.
    pub fn next_block(&mut self) -> Result<Option<StoredBlock>, BundleError> {
        let Some(row) = self.rows.next() else { return ends(&mut self.from).map(|()| None) };
        let stored = read_part(&mut self.from)?;
        let digest = self.digests.get(self.next..self.next + 32);
        self.next += 32;
        if digest != Some(Sha256::digest(&stored).as_slice()) {
            return Err(BundleError::Damaged("a block was changed"));
        }
        let data = zstd::bulk::decompress(&stored, row.raw_len)
            .map_err(|_| BundleError::Damaged("a block does not unpack"))?;
        let BlockRow { range, seqs, class, stored_ns, .. } = row;
        Ok(Some(StoredBlock { range, seqs, class, lane: 0, data: Bytes::from(data), stored_ns }))
    }
}

fn decode_manifest(bytes: &[u8]) -> Option<(BundleOrigin, SeqRange, Vec<BlockRow>)> {
    let mut d = Dec(bytes);
    let origin = BundleOrigin { host: d.text()?, stream: d.text()?, epoch: d.n()? };
    let _created = d.i()?;
    let range = SeqRange::new(Seq(d.n()?), Seq(d.n()?))?;
    let rows = d.list(|d| {
        let first = d.n()?;
        let last = first.checked_add(d.n()?.checked_sub(1)?)?;
        let class = if d.n()? == Class::Critical as u64 { Class::Critical } else { Class::Normal };
        let (stored_ns, raw_len) = (d.i()?, d.u32().filter(|n| *n <= 1 << 30)?);
        let seqs = d.list(|d| Some(Seq(first.checked_add(d.n()?)?)))?;
        let seqs = (!seqs.is_empty()).then_some(seqs);
        let range = SeqRange::new(Seq(first), Seq(last))?;
        Some(BlockRow { range, seqs, class, stored_ns, raw_len: usize::try_from(raw_len).ok()? })
    })?;
    Some((origin, range, rows))
}

/// What became of one run, per telemetry level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The run.
    pub range: SeqRange,
    /// Delivered events.
    pub delivered: PerLevel,
    /// Rejected by the far side.
    pub rejected: PerLevel,
    /// Left out by the host that delivered (level, filter), by reason.
    pub lost: BTreeMap<LossReason, PerLevel>,
}

/// What taking a receipt has settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Runs that were not settled before.
    pub runs: u64,
    /// Events delivered in these, per telemetry level.
    pub delivered: PerLevel,
}

/// What became of the runs of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The ring's epoch that the bundle named.
    pub epoch: u64,
    /// What became of each run.
    pub runs: Vec<Settled>,
    /// What the far side said, for the chain of receipts; JSON by convention.
    pub detail: Vec<u8>,
}

impl Receipt {
    /// Writes it, signed.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn write(&self, key: &SigningKey, out: &mut dyn Write) -> Result<(), BundleError> {
        let mut e = Enc::default();
        e.n(self.epoch).n(self.runs.len() as u64);
        for Settled { range, delivered, rejected, lost } in &self.runs {
            e.n(range.first().0).n(range.last().0).levels(delivered).levels(rejected).n(lost.len() as u64);
            lost.iter().for_each(|(reason, levels)| {
                e.n(*reason as u64).levels(levels);
            });
        }
        e.bytes(&self.detail);
        out.write_all(RECEIPT)?;
        out.write_all(&VERSION.to_le_bytes())?;
        write_part(out, &e.0)?;
        out.write_all(&key.sign(RECEIPT, &e.0))?;
        Ok(out.flush()?)
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it is damaged, newer, or not signed by one of `trusted`.
    pub fn read(from: &mut dyn io::Read, trusted: &[PublicKey]) -> Result<Receipt, BundleError> {
        read_head(from, RECEIPT)?;
        let body = read_part(from)?;
        verify(trusted, RECEIPT, &body, &read_fixed::<64>(from)?)?;
        ends(from)?;
        let mut d = Dec(&body);
        let read = (|| {
            let epoch = d.n()?;
            let runs = d.list(|d| {
                let range = SeqRange::new(Seq(d.n()?), Seq(d.n()?))?;
                let (delivered, rejected) = (d.levels()?, d.levels()?);
                let lost = d.list(|d| Some((LossReason::from_u8(d.u8()?)?, d.levels()?)))?;
                Some(Settled { range, delivered, rejected, lost: lost.into_iter().collect() })
            })?;
            Some(Receipt { epoch, runs, detail: d.bytes()?.to_owned() })
        })();
        read.ok_or(BundleError::Damaged("the receipt"))
    }

    /// Settles the runs for the sink they were exported under. A receipt may be taken twice.
    /// Returns what was not settled before.
    ///
    /// # Errors
    /// [`BundleError::OtherRing`], and as [`Ring::settle`].
    pub fn settle(&self, ring: &dyn Ring, sink: &SinkId) -> Result<Taken, BundleError> {
        let epoch = ring.status().epoch;
        if epoch != self.epoch {
            return Err(BundleError::OtherRing { receipt: self.epoch, ring: epoch });
        }
        let planned = ring.status().cursors.get(sink).map(|c| c.planned.clone()).unwrap_or_default();
        let mut taken = Taken::default();
        for Settled { range, delivered, rejected, lost } in &self.runs {
            let outcome = Settlement {
                delivered: *delivered,
                rejected: *rejected,
                lost: lost.clone(),
                receipt: self.detail.clone(),
            };
            ring.settle(sink, (*range).into(), &outcome)?;
            if planned.contains(&(*range).into()) {
                taken.runs += 1;
                crate::ledger::add(&mut taken.delivered, delivered);
            }
        }
        Ok(taken)
    }
}

/// How many events of a run a block holds, per telemetry level.
#[must_use]
pub fn events_in(run: SeqRange, block: &StoredBlock) -> PerLevel {
    let places = block.range.first().0..=block.range.last().0;
    let seqs = block.seqs.clone().unwrap_or_else(|| places.map(Seq).collect());
    let found = levels::scan(&block.data).unwrap_or_default();
    let mut out = [0; 4];
    for (_, level) in seqs.iter().zip(found).filter(|(s, _)| runs::run(run).0 <= s.0 && s.0 <= run.last().0) {
        if let Some(n) = out.get_mut(usize::from(level)) {
            *n += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests;
