//! Typed values of event fields.

use crate::batch::Fields;

/// How the provider wants a value shown. It never changes the value. The
/// numbers are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Format {
    /// As the type has it.
    #[default]
    Default = 0,
    NoPrint = 1,
    Char = 2,
    Boolean = 3,
    Hex = 4,
    Pid = 5,
    Tid = 6,
    Port = 7,
    Ipv4 = 8,
    Ipv6 = 9,
    SockAddr = 10,
    Xml = 11,
    Json = 12,
    Win32Error = 13,
    NtStatus = 14,
    HResult = 15,
    DateTime = 16,
    DateTimeUtc = 17,
    Signed = 18,
    Unsigned = 19,
    Utf8 = 20,
    Pkcs7 = 21,
    CodePointer = 22,
}

impl Format {
    const ALL: [Format; 23] = [
        Self::Default,
        Self::NoPrint,
        Self::Char,
        Self::Boolean,
        Self::Hex,
        Self::Pid,
        Self::Tid,
        Self::Port,
        Self::Ipv4,
        Self::Ipv6,
        Self::SockAddr,
        Self::Xml,
        Self::Json,
        Self::Win32Error,
        Self::NtStatus,
        Self::HResult,
        Self::DateTime,
        Self::DateTimeUtc,
        Self::Signed,
        Self::Unsigned,
        Self::Utf8,
        Self::Pkcs7,
        Self::CodePointer,
    ];

    /// The format of a stored number; unknown numbers read as [`Format::Default`].
    #[must_use]
    pub fn from_u32(n: u32) -> Format {
        usize::try_from(n).ok().and_then(|n| Self::ALL.get(n).copied()).unwrap_or_default()
    }

    /// Whether numbers of this format are usually shown in base 16.
    #[must_use]
    pub fn is_hex(self) -> bool {
        matches!(self, Self::Hex | Self::Win32Error | Self::NtStatus | Self::HResult | Self::CodePointer)
    }
}

/// One value, borrowed from a batch or on its way into one.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    /// No value.
    Null,
    /// A boolean of any width.
    Bool(bool),
    /// Signed, 8 bits.
    I8(i8),
    /// Signed, 16 bits.
    I16(i16),
    /// Signed, 32 bits.
    I32(i32),
    /// Signed, 64 bits.
    I64(i64),
    /// Unsigned, 8 bits.
    U8(u8),
    /// Unsigned, 16 bits.
    U16(u16),
    /// Unsigned, 32 bits.
    U32(u32),
    /// Unsigned, 64 bits.
    U64(u64),
    /// IEEE 754, 32 bits.
    F32(f32),
    /// IEEE 754, 64 bits.
    F64(f64),
    /// Text.
    Str(&'a str),
    /// Bytes without a meaning known to us.
    Bytes(&'a [u8]),
    /// A GUID, fields 1-3 little-endian.
    Guid([u8; 16]),
    /// 100 ns since 1601, UTC.
    FileTime(u64),
    /// Eight little-endian `u16`: year, month, weekday, day, hour, minute, second, ms.
    SystemTime([u8; 16]),
    /// A security identifier in its binary form.
    Sid(&'a [u8]),
    /// Network order.
    Ipv4([u8; 4]),
    /// Network order.
    Ipv6([u8; 16]),
    /// A `sockaddr` of any family.
    SockAddr(&'a [u8]),
    /// An address of the traced machine, widened to 64 bits.
    Pointer(u64),
    /// A number with the name that a value map gives it.
    Enum {
        /// The number.
        value: i64,
        /// Its name; flags are joined with `|`.
        label: &'a str,
    },
    /// Named members in order.
    Struct(Fields<'a>),
    /// Items without names, in order.
    Array(Fields<'a>),
}
