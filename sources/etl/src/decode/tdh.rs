//! The item types that embedded schemas and instrumentation manifests share, and the builder
//! of their plans. Numbers are those of tdh.h (TDH_IN_TYPE, TDH_OUT_TYPE).

use super::plan::{Count, Len, MAX_OPS, MAX_SLOTS, NO_SLOT, Op, Wire};
use tidegate_proto::schema::FieldDef;
use tidegate_proto::value::Format;

/// A length or count as a schema gives it; fields are named by their op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    None,
    Fixed(u32),
    Field(usize),
}

/// A plan in the making.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    pub(crate) fields: Vec<FieldDef>,
    pub(crate) ops: Vec<Op>,
    slots: u8,
}

impl Builder {
    /// Appends a field; returns its op's place. `None` when there are too many.
    pub(crate) fn push(&mut self, name: String, wire: Wire, format: Format) -> Option<usize> {
        if self.ops.len() >= MAX_OPS {
            return None;
        }
        let at = self.ops.len();
        self.ops.push(Op::new(u32::try_from(self.fields.len()).ok()?, wire, format));
        self.fields.push(FieldDef { name, tags: 0 });
        Some(at)
    }

    pub(crate) fn op(&mut self, at: usize) -> Option<&mut Op> {
        self.ops.get_mut(at)
    }

    /// Appends a field of TDH types.
    pub(crate) fn item(
        &mut self,
        name: String,
        (input, output): (u16, u16),
        len: Amount,
        count: Amount,
    ) -> Option<usize> {
        let (wire, format) = item(input, output)?;
        let at = self.push(name, wire, format)?;
        let len = self.len(input, wire, len)?;
        let count = self.count(count)?;
        let op = self.op(at)?;
        (op.len, op.count) = (len, count);
        Some(at)
    }

    pub(crate) fn count(&mut self, count: Amount) -> Option<Count> {
        Some(match count {
            Amount::None => Count::One,
            Amount::Fixed(n) => Count::Fixed(u16::try_from(n).ok()?),
            Amount::Field(at) => Count::Slot(self.slot(at)?),
        })
    }

    /// The .NET runtime's stack events end with `Stack`, of which the schema says two addresses;
    /// `FrameCount` says how many there are.
    /// Source: ClrStackWalkTraceData of perfview's ClrTraceEventParser.cs (MIT).
    pub(crate) fn whole_stacks(&mut self) {
        let place = |name: &str| self.fields.iter().position(|f| f.name == name);
        let (Some(frames), Some(stack)) = (place("FrameCount"), place("Stack")) else { return };
        // Without structs, an op stands for each field.
        let last = self.ops.len().checked_sub(1);
        let fixed = self.ops.get(stack).is_some_and(|op| matches!(op.count, Count::Fixed(_)));
        if last == Some(stack)
            && self.fields.len() == self.ops.len()
            && fixed
            && let Some(slot) = self.slot(frames)
            && let Some(op) = self.op(stack)
        {
            op.count = Count::Slot(slot);
        }
    }

    fn len(&mut self, input: u16, wire: Wire, len: Amount) -> Option<Len> {
        let unit = if wire == Wire::Utf16 { 2 } else { 1 };
        let sized = matches!(
            wire,
            Wire::Utf16 | Wire::Cp1252 | Wire::Utf8 | Wire::Binary | Wire::BinaryIpv6 | Wire::SockAddr
        );
        Some(match (input, len) {
            _ if !sized => Len::Nul,
            (22 | 23 | 25 | 300 | 301, _) => Len::Prefix16,
            (302 | 303, _) => Len::Prefix16Be,
            (309, _) => Len::Prefix32,
            (_, Amount::Fixed(n)) => Len::Fixed(n.checked_mul(unit)?),
            (_, Amount::Field(at)) => Len::Slot(self.slot(at)?, unit as u8),
            (14, _) if wire == Wire::BinaryIpv6 => Len::Fixed(16),
            (14 | 304 | 305, _) => Len::Rest,
            _ => Len::Nul,
        })
    }

    /// The slot that an earlier number is kept in.
    fn slot(&mut self, at: usize) -> Option<u8> {
        let next = self.slots;
        let op = self.ops.get_mut(at)?;
        let number = matches!(
            op.wire,
            Wire::U8
                | Wire::U16
                | Wire::U32
                | Wire::U64
                | Wire::Size
                | Wire::Pointer
                | Wire::I8
                | Wire::I16
                | Wire::I32
                | Wire::I64
        );
        if !number || op.count != Count::One {
            return None;
        }
        if op.slot == NO_SLOT {
            if usize::from(next) >= MAX_SLOTS {
                return None;
            }
            op.slot = next;
            self.slots += 1;
        }
        Some(op.slot)
    }
}

/// Wire form and format of an item.
fn item(input: u16, output: u16) -> Option<(Wire, Format)> {
    let text = if matches!(output, 28 | 34 | 35) { Wire::Utf8 } else { Wire::Cp1252 };
    let boolean = output == 13;
    let wire = match input {
        // A field without a value.
        0 => Wire::Binary,
        1 | 22 | 300 | 302 | 304 => Wire::Utf16,
        2 | 23 | 301 | 303 | 305 => text,
        3 | 4 if boolean => Wire::Bool8,
        5 | 6 if boolean => Wire::Bool16,
        7 | 8 | 20 if boolean => Wire::Bool32,
        9 | 10 | 21 if boolean => Wire::Bool64,
        3 => Wire::I8,
        4 | 307 => Wire::U8,
        5 => Wire::I16,
        6 if output == 22 => Wire::Port,
        6 | 306 => Wire::U16,
        7 => Wire::I32,
        8 if output == 23 => Wire::Ipv4,
        8 | 20 => Wire::U32,
        9 => Wire::I64,
        10 | 21 => Wire::U64,
        11 => Wire::F32,
        12 => Wire::F64,
        13 => Wire::Bool32,
        14 | 25 if output == 24 => Wire::BinaryIpv6,
        14 | 25 if output == 25 => Wire::SockAddr,
        14 | 25 | 309 => Wire::Binary,
        15 => Wire::Guid,
        16 => Wire::Pointer,
        17 => Wire::FileTime,
        18 => Wire::SystemTime,
        19 => Wire::Sid,
        308 => Wire::Size,
        310 => Wire::KernelSid,
        _ => return None,
    };
    let format = match (input, output) {
        (306 | 307, _) => Format::Char,
        (20 | 21, 0) => Format::Hex,
        (3..=6, 1) => Format::Char,
        (_, 2 | 26 | 27 | 33) => Format::DateTime,
        (3..=10, 13) => Format::Boolean,
        (_, 16..=19) => Format::Hex,
        (_, 20) => Format::Pid,
        (_, 21) => Format::Tid,
        (_, 22) => Format::Port,
        (_, 23) => Format::Ipv4,
        (_, 24) => Format::Ipv6,
        (_, 25) => Format::SockAddr,
        (_, 28) => Format::Xml,
        (_, 29 | 30) => Format::Win32Error,
        (_, 31) => Format::NtStatus,
        (_, 32) => Format::HResult,
        (_, 34) => Format::Json,
        (_, 35) => Format::Utf8,
        (_, 36) => Format::Pkcs7,
        (_, 37) => Format::CodePointer,
        (_, 38) => Format::DateTimeUtc,
        (_, 301) => Format::NoPrint,
        _ => Format::Default,
    };
    Some((wire, format))
}

/// The name of an event: its task, else its symbol; and its opcode unless that says nothing.
pub(crate) fn event_name(task: &str, symbol: &str, opcode: &str) -> String {
    let name = if task.is_empty() { symbol } else { task };
    if opcode.is_empty() || opcode == "Info" || opcode == name {
        name.to_owned()
    } else if name.is_empty() {
        opcode.to_owned()
    } else {
        format!("{name}/{opcode}")
    }
}
