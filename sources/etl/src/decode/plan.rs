//! What a payload looks like, compiled once per kind of event. Every schema language
//! (TraceLogging, embedded schemas, manifests, kernel layouts) becomes the same plan.

use std::sync::Arc;
use tidegate_proto::value::Format;

/// Fields that one plan holds at most; a schema of more is not used.
pub(crate) const MAX_OPS: usize = 4096;
/// Depth of structs that a plan holds at most.
pub(crate) const MAX_DEPTH: usize = 16;
/// Fields of a plan that lengths and counts can refer to.
pub(crate) const MAX_SLOTS: usize = 32;
/// No slot.
pub(crate) const NO_SLOT: u8 = u8::MAX;

/// How one item stands in the payload. Numbers are little-endian unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F32,
    F64,
    Bool8,
    Bool16,
    Bool32,
    Bool64,
    Guid,
    /// As wide as the record's pointers.
    Pointer,
    /// A number as wide as the record's pointers.
    Size,
    FileTime,
    SystemTime,
    /// 8 + 4 · count bytes.
    Sid,
    /// TOKEN_USER (two pointers) then a SID, or a zero `u32` alone.
    KernelSid,
    /// Four bytes in network order.
    Ipv4,
    /// Sixteen bytes in network order.
    Ipv6,
    /// `u16` in network order.
    Port,
    /// Up to a NUL unit, or the op's length.
    Utf16,
    /// Up to a NUL, or the op's length; code page 1252.
    Cp1252,
    /// Up to a NUL, or the op's length.
    Utf8,
    /// The op's length.
    Binary,
    /// The op's length, holding sixteen bytes of an IPv6 address.
    BinaryIpv6,
    /// The op's length.
    SockAddr,
    /// Nothing of its own: the members follow.
    Struct,
    /// Bytes without meaning, not shown.
    Skip,
    /// Nothing: the payload may end here.
    MayEnd,
}

/// How many bytes an item of variable length takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Len {
    /// Up to a NUL.
    Nul,
    /// So many bytes.
    Fixed(u32),
    /// A saved number times this many bytes.
    Slot(u8, u8),
    /// A `u16` in front.
    Prefix16,
    /// A big-endian `u16` in front.
    Prefix16Be,
    /// A `u32` in front.
    Prefix32,
    /// All that is left.
    Rest,
}

/// How often an item stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    One,
    Fixed(u16),
    /// A `u16` in front.
    Prefix16,
    /// A saved number.
    Slot(u8),
    /// To the end of the payload.
    Rest,
}

/// Names of numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ValueMap {
    /// Values, or bits, in the order of the source.
    pub(crate) entries: Vec<(u64, Arc<str>)>,
    /// Whether the values are bits that are joined.
    pub(crate) bits: bool,
}

/// One field.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    /// Place in the schema's fields.
    pub(crate) name: u32,
    pub(crate) wire: Wire,
    pub(crate) format: Format,
    pub(crate) count: Count,
    pub(crate) len: Len,
    /// Where its number is kept for later lengths and counts.
    pub(crate) slot: u8,
    /// Of a struct: how many ops that follow are below it, nested ones included.
    pub(crate) below: u16,
    pub(crate) map: Option<Arc<ValueMap>>,
}

impl Op {
    pub(crate) fn new(name: u32, wire: Wire, format: Format) -> Op {
        Op { name, wire, format, count: Count::One, len: Len::Nul, slot: NO_SLOT, below: 0, map: None }
    }
}
