//! Runs a plan over a payload.

use super::plan::{Count, Len, MAX_SLOTS, NO_SLOT, Op, ValueMap, Wire};
use crate::bytes::{u32_at, utf16z};
use std::ffi::CStr;
use tidegate_proto::batch::{EventBuilder, NO_NAME};
use tidegate_proto::value::{Format, ValueRef};

/// Items that take no bytes, allowed in one payload. Bounds what a count over empty structs costs.
const EMPTY_ITEMS: usize = 4096;

/// Bytes of names for numbers in one event; then the numbers stand alone. A byte of payload could
/// else stand for kilobytes of names.
const LABEL_BYTES: usize = 64 << 10;

/// Writes the fields of `data` as `ops` say. Returns the bytes left over; `None` when the
/// payload ends early or contradicts the plan, with some fields already written.
pub(crate) fn run<'d>(
    ops: &[Op],
    data: &'d [u8],
    pointer_size: u8,
    slots: &mut Slots,
    out: &mut EventBuilder<'_>,
) -> Option<&'d [u8]> {
    let mut run =
        Run { rest: data, pointer_size, budget: data.len() + EMPTY_ITEMS, labels: LABEL_BYTES, slots, out };
    run.ops(ops)?;
    Some(run.rest)
}

/// Numbers of a payload that later lengths and counts refer to. Whoever runs plans keeps it; a plan
/// that uses some begins with zeros.
pub(crate) type Slots = [u64; MAX_SLOTS];

struct Run<'d, 'o, 'b> {
    rest: &'d [u8],
    pointer_size: u8,
    budget: usize,
    labels: usize,
    slots: &'o mut Slots,
    out: &'o mut EventBuilder<'b>,
}

impl<'d> Run<'d, '_, '_> {
    fn ops(&mut self, mut ops: &[Op]) -> Option<()> {
        while let Some((op, after)) = ops.split_first() {
            let (members, after) = after.split_at_checked(usize::from(op.below))?;
            ops = after;
            if op.wire == Wire::MayEnd {
                if self.rest.is_empty() {
                    return Some(());
                }
                continue;
            }
            let n = match op.count {
                Count::One => {
                    self.item(op, members, op.name)?;
                    continue;
                }
                Count::Fixed(n) => usize::from(n),
                Count::Prefix16 => usize::from(u16::from_le_bytes(self.array()?)),
                Count::Slot(slot) => usize::try_from(self.slot(slot)).ok()?,
                Count::Rest => usize::MAX,
            };
            self.many(op, members, n)?;
        }
        Some(())
    }

    fn many(&mut self, op: &Op, members: &[Op], n: usize) -> Option<()> {
        // Characters in a row are text.
        if op.format == Format::Char {
            let width = match op.wire {
                Wire::U16 | Wire::I16 => 2,
                Wire::U8 | Wire::I8 => 1,
                _ => 0,
            };
            if width > 0 {
                let len = if n == usize::MAX { self.rest.len() } else { n.checked_mul(width)? };
                let text = self.take(len)?;
                if width == 2 {
                    self.out.utf16(op.name, Format::Default, text);
                } else {
                    self.out.latin1(op.name, Format::Default, text);
                }
                return Some(());
            }
        }
        self.out.begin_array(op.name);
        if n == usize::MAX {
            while !self.rest.is_empty() {
                self.item(op, members, NO_NAME)?;
            }
        } else {
            for _ in 0..n {
                self.item(op, members, NO_NAME)?;
            }
        }
        self.out.end();
        Some(())
    }

    #[inline]
    fn take(&mut self, n: usize) -> Option<&'d [u8]> {
        let (taken, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        Some(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    fn slot(&self, slot: u8) -> u64 {
        self.slots.get(usize::from(slot)).copied().unwrap_or(0)
    }

    fn pointer(&mut self) -> Option<u64> {
        if self.pointer_size == 4 {
            self.array().map(|b| u64::from(u32::from_le_bytes(b)))
        } else {
            self.array().map(u64::from_le_bytes)
        }
    }

    /// The bytes of an item whose length stands somewhere; not for [`Len::Nul`].
    fn sized(&mut self, len: Len) -> Option<&'d [u8]> {
        let n = match len {
            Len::Fixed(n) => n as usize,
            Len::Slot(slot, unit) => usize::try_from(self.slot(slot)).ok()?.checked_mul(usize::from(unit))?,
            Len::Prefix16 => usize::from(u16::from_le_bytes(self.array()?)),
            Len::Prefix16Be => usize::from(u16::from_be_bytes(self.array()?)),
            Len::Prefix32 => u32::from_le_bytes(self.array()?) as usize,
            Len::Rest | Len::Nul => self.rest.len(),
        };
        self.take(n)
    }

    /// UTF-16 bytes without what pads them.
    fn wide(&mut self, len: Len) -> Option<&'d [u8]> {
        match len {
            Len::Nul => {
                let (text, used) = utf16z(self.rest);
                self.rest = self.rest.get(used..).unwrap_or_default();
                Some(text)
            }
            Len::Prefix16 | Len::Prefix16Be => self.sized(len),
            _ => self.sized(len).map(|b| utf16z(b).0),
        }
    }

    /// 8-bit text without what pads it.
    fn narrow(&mut self, len: Len) -> Option<&'d [u8]> {
        let cut = |b: &'d [u8]| CStr::from_bytes_until_nul(b).map_or(b, CStr::to_bytes);
        match len {
            Len::Nul => {
                let text = cut(self.rest);
                self.rest = self.rest.get(text.len() + 1..).unwrap_or_default();
                Some(text)
            }
            Len::Prefix16 | Len::Prefix16Be => self.sized(len),
            _ => self.sized(len).map(cut),
        }
    }

    fn sid(&mut self) -> Option<&'d [u8]> {
        let subs = usize::from(*self.rest.get(1)?);
        self.take(8 + 4 * subs)
    }

    fn kernel_sid(&mut self) -> Option<&'d [u8]> {
        let user = 2 * usize::from(self.pointer_size);
        let revision_follows = self.rest.get(user) == Some(&1)
            && self.rest.get(user + 1).is_some_and(|subs| (1..=15).contains(subs));
        // A zero pointer means no SID; some writers leave the pointer zero and put one all the same.
        if u32_at(self.rest, 0)? == 0 && !(revision_follows && self.rest.get(..user)?.iter().all(|b| *b == 0))
        {
            self.take(4)?;
            return Some(&[]);
        }
        self.take(user)?;
        self.sid()
    }

    fn number(&mut self, op: &Op, name: u32, n: u64, value: ValueRef<'_>) {
        if op.slot != NO_SLOT
            && let Some(slot) = self.slots.get_mut(usize::from(op.slot))
        {
            *slot = n;
        }
        if let Some(map) = &op.map
            && self.mapped(map, op, name, n)
        {
            return;
        }
        self.out.value(name, op.format, value);
    }

    fn mapped(&mut self, map: &ValueMap, op: &Op, name: u32, n: u64) -> bool {
        let value = match op.wire {
            Wire::I8 => i64::from(n as i8),
            Wire::I16 => i64::from(n as i16),
            Wire::I32 => i64::from(n as i32),
            _ => n.cast_signed(),
        };
        if !map.bits {
            let Some((_, label)) = map.entries.iter().find(|(v, _)| *v == n) else { return false };
            return self.label(op, name, value, cut(label));
        }
        let mut label = String::new();
        let mut left = n;
        // Each name must explain a bit that none before it did.
        for (bits, text) in &map.entries {
            if n & bits == *bits && left & bits != 0 {
                if !label.is_empty() {
                    label.push('|');
                }
                label.push_str(cut(text));
                left &= !bits;
            }
        }
        if label.is_empty() || left != 0 {
            return false;
        }
        self.label(op, name, value, &label)
    }

    fn label(&mut self, op: &Op, name: u32, value: i64, label: &str) -> bool {
        let Some(left) = self.labels.checked_sub(label.len()) else { return false };
        self.labels = left;
        self.out.value(name, op.format, ValueRef::Enum { value, label });
        true
    }

    fn item(&mut self, op: &Op, members: &[Op], name: u32) -> Option<()> {
        self.budget = self.budget.checked_sub(1)?;
        let format = op.format;
        match op.wire {
            Wire::U8 => {
                let n = u8::from_le_bytes(self.array()?);
                self.number(op, name, u64::from(n), ValueRef::U8(n));
            }
            Wire::I8 => {
                let n = i8::from_le_bytes(self.array()?);
                self.number(op, name, u64::from(n.cast_unsigned()), ValueRef::I8(n));
            }
            Wire::U16 => {
                let n = u16::from_le_bytes(self.array()?);
                self.number(op, name, u64::from(n), ValueRef::U16(n));
            }
            Wire::I16 => {
                let n = i16::from_le_bytes(self.array()?);
                self.number(op, name, u64::from(n.cast_unsigned()), ValueRef::I16(n));
            }
            Wire::Port => {
                let n = u16::from_be_bytes(self.array()?);
                self.number(op, name, u64::from(n), ValueRef::U16(n));
            }
            Wire::U32 => {
                let n = u32::from_le_bytes(self.array()?);
                self.number(op, name, u64::from(n), ValueRef::U32(n));
            }
            Wire::I32 => {
                let n = i32::from_le_bytes(self.array()?);
                self.number(op, name, u64::from(n.cast_unsigned()), ValueRef::I32(n));
            }
            Wire::U64 => {
                let n = u64::from_le_bytes(self.array()?);
                self.number(op, name, n, ValueRef::U64(n));
            }
            Wire::I64 => {
                let n = i64::from_le_bytes(self.array()?);
                self.number(op, name, n.cast_unsigned(), ValueRef::I64(n));
            }
            Wire::Size => {
                let n = self.pointer()?;
                self.number(op, name, n, ValueRef::U64(n));
            }
            Wire::Pointer => {
                let n = self.pointer()?;
                self.number(op, name, n, ValueRef::Pointer(n));
            }
            Wire::F32 => {
                let n = f32::from_le_bytes(self.array()?);
                self.out.value(name, format, ValueRef::F32(n));
            }
            Wire::F64 => {
                let n = f64::from_le_bytes(self.array()?);
                self.out.value(name, format, ValueRef::F64(n));
            }
            Wire::Bool8 => self.boolean::<1>(op, name)?,
            Wire::Bool16 => self.boolean::<2>(op, name)?,
            Wire::Bool32 => self.boolean::<4>(op, name)?,
            Wire::Bool64 => self.boolean::<8>(op, name)?,
            Wire::Guid => {
                let guid = self.array()?;
                self.out.value(name, format, ValueRef::Guid(guid));
            }
            Wire::FileTime => {
                let n = u64::from_le_bytes(self.array()?);
                self.out.value(name, format, ValueRef::FileTime(n));
            }
            Wire::SystemTime => {
                let time = self.array()?;
                self.out.value(name, format, ValueRef::SystemTime(time));
            }
            Wire::Ipv4 => {
                let address = self.array()?;
                self.out.value(name, format, ValueRef::Ipv4(address));
            }
            Wire::Ipv6 => {
                let address = self.array()?;
                self.out.value(name, format, ValueRef::Ipv6(address));
            }
            Wire::Sid => {
                let sid = self.sid()?;
                self.out.value(name, format, ValueRef::Sid(sid));
            }
            Wire::KernelSid => {
                let sid = self.kernel_sid()?;
                let value = if sid.is_empty() { ValueRef::Null } else { ValueRef::Sid(sid) };
                self.out.value(name, format, value);
            }
            Wire::Utf16 => {
                let text = self.wide(op.len)?;
                self.out.utf16(name, format, text);
            }
            Wire::Cp1252 => {
                let text = self.narrow(op.len)?;
                self.out.latin1(name, format, text);
            }
            Wire::Utf8 => {
                let text = self.narrow(op.len)?;
                self.out.utf8_lossy(name, format, text);
            }
            Wire::Binary => {
                let bytes = self.sized(op.len)?;
                self.out.value(name, format, ValueRef::Bytes(bytes));
            }
            Wire::BinaryIpv6 => {
                let bytes = self.sized(op.len)?;
                let value = bytes.try_into().map_or(ValueRef::Bytes(bytes), ValueRef::Ipv6);
                self.out.value(name, format, value);
            }
            Wire::SockAddr => {
                let bytes = self.sized(op.len)?;
                self.out.value(name, format, ValueRef::SockAddr(bytes));
            }
            Wire::Skip => {
                self.sized(op.len)?;
            }
            Wire::MayEnd => {}
            Wire::Struct => {
                self.out.begin_struct(name);
                self.ops(members)?;
                self.out.end();
            }
        }
        Some(())
    }

    fn boolean<const N: usize>(&mut self, op: &Op, name: u32) -> Option<()> {
        let is = self.array::<N>()?.iter().any(|b| *b != 0);
        self.number(op, name, u64::from(is), ValueRef::Bool(is));
        Some(())
    }
}

/// The start of a label; longer ones are not names.
fn cut(label: &str) -> &str {
    const MOST: usize = 1024;
    if label.len() <= MOST {
        return label;
    }
    let end = (0..=MOST).rev().find(|n| label.is_char_boundary(*n)).unwrap_or(0);
    label.get(..end).unwrap_or_default()
}
