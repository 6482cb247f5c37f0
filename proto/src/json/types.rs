//! What JSON does not tell of an event's values, as one short text: the member `types`.
//!
//! ```text
//! types  = node* (";" node*)?                    fields; extended items
//! node   = ( code detail? | "{" node* "}" | "[" node* "]" ) format? tags? mark? "+"?
//! detail = "(" text ")"    format = "." number    tags = "#" number    mark = "~" number
//! ```
//!
//! Nodes stand in the order of the values. An array whose items are all noted alike has one
//! node for them. Numbers are decimal. `tags` are the field's TraceLogging tags, `mark` is
//! what the gate did to the value, `+` says that the name was numbered because it repeats.
//!
//! | code | type | code | type | code | type |
//! |---|---|---|---|---|---|
//! | `n` | null | `C` | u8 | `t` | FILETIME |
//! | `b` | boolean | `H` | u16 | `T` | SYSTEMTIME, weekday as detail |
//! | `c` | i8 | `I` | u32 | `S` | SID |
//! | `h` | i16 | `L` | u64 | `v` | IPv4 |
//! | `i` | i32 | `f` | f32 | `w` | IPv6 |
//! | `l` | i64 | `d` | f64 | `a` | socket address |
//! | `s` | text | `y` | bytes | `p` | pointer |
//! | `g` | GUID | `e` | named number, the number as detail | `E` | the same without a name |
//!
//! A time or an address has its stored form as detail where the text does not give it back.
//! Without `types` every value is what its JSON is.
//!
//! Not kept: the payload bits of a NaN; bytes of a damaged SID or address that happen to be the
//! text of another; structs among the extended items; which fields of an array's items are the
//! same field of the schema; an empty name, which reads as `field` and its number.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::sock_addr;
use crate::time;
use crate::value::{Format, ValueRef};

/// Collects the notes while the JSON is written.
pub(super) trait Notes {
    /// Begins a struct, or an array (`[`).
    fn open(&mut self, bracket: u8) -> Items;
    /// An array's item is written.
    fn item(&mut self, items: &mut Items);
    /// Ends what was opened.
    fn close(&mut self, bracket: u8);
    /// A value that is no container.
    fn value(&mut self, value: ValueRef<'_>);
    /// What else there is to say of the value that was written last.
    fn about(&mut self, format: Format, tags: u32, mark: u16, numbered: bool);
}

/// The items of an array that is being written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Items {
    start: usize,
    first: usize,
    count: usize,
    differ: bool,
}

/// No notes are wanted.
pub(super) struct Unnoted;

impl Notes for Unnoted {
    fn open(&mut self, _: u8) -> Items {
        Items::default()
    }
    fn item(&mut self, _: &mut Items) {}
    fn close(&mut self, _: u8) {}
    fn value(&mut self, _: ValueRef<'_>) {}
    fn about(&mut self, _: Format, _: u32, _: u16, _: bool) {}
}

/// The text so far.
#[derive(Default)]
pub(super) struct Text {
    pub text: Vec<u8>,
    /// Whether anything would read back otherwise without it.
    pub needed: bool,
}

impl Text {
    fn number(&mut self, sign: u8, n: u64) {
        self.text.push(sign);
        self.text.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
        self.needed = true;
    }

    fn detail(&mut self, text: &str) {
        self.text.push(b'(');
        self.text.extend_from_slice(text.as_bytes());
        self.text.push(b')');
    }
}

impl Notes for Text {
    fn open(&mut self, bracket: u8) -> Items {
        self.text.push(bracket);
        let at = self.text.len();
        Items { start: at, first: at, ..Items::default() }
    }

    fn item(&mut self, items: &mut Items) {
        let all = self.text.get(items.start..).unwrap_or_default();
        items.count += 1;
        if items.count == 1 {
            items.first = all.len();
            return;
        }
        if items.differ {
            return;
        }
        let (first, this) = all.split_at_checked(items.first).unwrap_or_default();
        if first == this {
            self.text.truncate(items.start + items.first);
            return;
        }
        // from here on each item has its own, and those before get theirs
        items.differ = true;
        let again = first.repeat(items.count - 2);
        let at = items.start + items.first;
        self.text.splice(at..at, again);
    }

    fn close(&mut self, bracket: u8) {
        self.text.push(bracket);
    }

    fn value(&mut self, value: ValueRef<'_>) {
        let (code, natural) = match value {
            ValueRef::Null => (b'n', true),
            ValueRef::Bool(_) => (b'b', true),
            ValueRef::I8(_) => (b'c', false),
            ValueRef::I16(_) => (b'h', false),
            ValueRef::I32(_) => (b'i', false),
            ValueRef::I64(_) => (b'l', true),
            ValueRef::U8(_) => (b'C', false),
            ValueRef::U16(_) => (b'H', false),
            ValueRef::U32(_) => (b'I', false),
            // what fits is read as signed
            ValueRef::U64(n) => (b'L', n > i64::MAX as u64),
            ValueRef::F32(_) => (b'f', false),
            ValueRef::F64(n) => (b'd', n.is_finite()),
            ValueRef::Str(_) => (b's', true),
            ValueRef::Bytes(_) => (b'y', false),
            ValueRef::Guid(_) => (b'g', false),
            ValueRef::FileTime(_) => (b't', false),
            ValueRef::SystemTime(_) => (b'T', false),
            ValueRef::Sid(_) => (b'S', false),
            ValueRef::Ipv4(_) => (b'v', false),
            ValueRef::Ipv6(_) => (b'w', false),
            ValueRef::SockAddr(_) => (b'a', false),
            ValueRef::Pointer(_) => (b'p', false),
            ValueRef::Enum { label: "", .. } => (b'E', false),
            ValueRef::Enum { .. } => (b'e', false),
            ValueRef::Struct(_) | ValueRef::Array(_) => return,
        };
        self.text.push(code);
        self.needed |= !natural;
        match value {
            ValueRef::Enum { value, label } if !label.is_empty() => {
                self.detail(itoa::Buffer::new().format(value));
            }
            ValueRef::FileTime(n) if time::unix_ns_to_filetime(time::filetime_to_unix_ns(n)) != n => {
                self.detail(itoa::Buffer::new().format(n));
            }
            ValueRef::SystemTime(b) => {
                self.detail(itoa::Buffer::new().format(u16::from_le_bytes([b[4], b[5]])));
            }
            ValueRef::SockAddr(b) if sock_addr(b).is_some_and(|a| sock_addr_bytes(a) != b) => {
                self.detail(&STANDARD.encode(b));
            }
            _ => {}
        }
    }

    fn about(&mut self, format: Format, tags: u32, mark: u16, numbered: bool) {
        if format != Format::Default {
            self.number(b'.', format as u64);
        }
        if tags != 0 {
            self.number(b'#', tags.into());
        }
        if mark != 0 {
            self.number(b'~', mark.into());
        }
        if numbered {
            self.text.push(b'+');
            self.needed = true;
        }
    }
}

/// What is noted of one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Note<'t> {
    code: u8,
    detail: &'t str,
    /// How the provider wants it shown.
    pub format: Format,
    /// Its field's tags.
    pub tags: u32,
    /// What the gate did to it.
    pub scrub: u16,
    /// Whether its name got a number because it repeats.
    pub numbered: bool,
}

/// Reads notes one after another. Every method says `None` where something else stands.
#[derive(Clone, Copy, Debug)]
pub struct NoteReader<'t>(&'t str);

impl<'t> NoteReader<'t> {
    /// The notes of the fields and of the extended items of a member `types`.
    #[must_use]
    pub fn of(types: &'t str) -> [NoteReader<'t>; 2] {
        let (fields, ext) = types.split_once(';').unwrap_or((types, ""));
        [NoteReader(fields), NoteReader(ext)]
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Enters a container that begins with `bracket`.
    pub fn open(&mut self, bracket: char) -> Option<()> {
        self.0 = self.0.strip_prefix(bracket)?;
        Some(())
    }

    /// Whether the container ends here.
    #[must_use]
    pub fn is_closed(&self, bracket: char) -> bool {
        self.0.starts_with(bracket)
    }

    /// Leaves a container; what is noted of it.
    pub fn close(&mut self, bracket: char) -> Option<Note<'t>> {
        self.open(bracket)?;
        self.about(0, "")
    }

    /// The note of a value that is no container.
    pub fn value(&mut self) -> Option<Note<'t>> {
        let code = *self.0.as_bytes().first().filter(|c| c.is_ascii_alphabetic())?;
        self.0 = self.0.get(1..)?;
        let mut detail = "";
        if let Some(rest) = self.0.strip_prefix('(') {
            (detail, self.0) = rest.split_once(')')?;
        }
        self.about(code, detail)
    }

    fn about(&mut self, code: u8, detail: &'t str) -> Option<Note<'t>> {
        Some(Note {
            code,
            detail,
            format: Format::from_u32(self.number('.')?),
            tags: self.number('#')?,
            scrub: u16::try_from(self.number('~')?).ok()?,
            numbered: self.open('+').is_some(),
        })
    }

    /// 0 where the sign is missing.
    fn number(&mut self, sign: char) -> Option<u32> {
        let Some(rest) = self.0.strip_prefix(sign) else { return Some(0) };
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = rest.split_at_checked(digits)?;
        self.0 = rest;
        number.parse().ok()
    }
}

impl<'t> Note<'t> {
    /// The value that was written, of the one that its JSON is; `None` when the two do not fit.
    /// `buf` is overwritten.
    #[must_use]
    pub fn typed<'v>(&self, json: ValueRef<'v>, buf: &'v mut Vec<u8>) -> Option<ValueRef<'v>> {
        let text = match json {
            ValueRef::Str(s) => Some(s),
            _ => None,
        };
        let signed = || match json {
            ValueRef::I64(n) => Some(n),
            _ => None,
        };
        // hexadecimal text holds the bits
        let bits = || match json {
            ValueRef::I64(n) => u64::try_from(n).ok(),
            ValueRef::U64(n) => Some(n),
            _ => u64::from_str_radix(text?.strip_prefix("0x")?, 16).ok(),
        };
        Some(match self.code {
            b'n' | b'b' | b's' => json,
            b'c' => ValueRef::I8(match signed() {
                Some(n) => i8::try_from(n).ok()?,
                None => u8::try_from(bits()?).ok()?.cast_signed(),
            }),
            b'h' => ValueRef::I16(match signed() {
                Some(n) => i16::try_from(n).ok()?,
                None => u16::try_from(bits()?).ok()?.cast_signed(),
            }),
            b'i' => ValueRef::I32(match signed() {
                Some(n) => i32::try_from(n).ok()?,
                None => u32::try_from(bits()?).ok()?.cast_signed(),
            }),
            b'l' => ValueRef::I64(signed().or_else(|| bits().map(u64::cast_signed))?),
            b'C' => ValueRef::U8(u8::try_from(bits()?).ok()?),
            b'H' => ValueRef::U16(u16::try_from(bits()?).ok()?),
            b'I' => ValueRef::U32(u32::try_from(bits()?).ok()?),
            b'L' => ValueRef::U64(bits()?),
            b'p' => ValueRef::Pointer(bits()?),
            b'f' => ValueRef::F32(match json {
                ValueRef::F64(n) => n as f32,
                _ => text?.parse().ok()?,
            }),
            b'd' => ValueRef::F64(match json {
                ValueRef::F64(n) => n,
                _ => text?.parse().ok()?,
            }),
            b'y' => ValueRef::Bytes(base64(buf, text?)?),
            b'g' => ValueRef::Guid(crate::guid::parse(text?)?),
            b't' if !self.detail.is_empty() => ValueRef::FileTime(self.detail.parse().ok()?),
            b't' => ValueRef::FileTime(time::unix_ns_to_filetime(time::parse_rfc3339(text?)?)),
            b'T' => ValueRef::SystemTime(system_time(text?, self.detail.parse().ok()?)?),
            b'S' => ValueRef::Sid(match sid_bytes(text?) {
                Some(sid) => {
                    *buf = sid;
                    buf
                }
                None => base64(buf, text?)?,
            }),
            b'v' => ValueRef::Ipv4(text?.parse::<Ipv4Addr>().ok()?.octets()),
            b'w' => ValueRef::Ipv6(text?.parse::<Ipv6Addr>().ok()?.octets()),
            b'a' if !self.detail.is_empty() => ValueRef::SockAddr(base64(buf, self.detail)?),
            b'a' => ValueRef::SockAddr(match text?.parse::<SocketAddr>() {
                Ok(address) => {
                    *buf = sock_addr_bytes(address);
                    buf
                }
                Err(_) => base64(buf, text?)?,
            }),
            b'e' => ValueRef::Enum { value: self.detail.parse().ok()?, label: text? },
            b'E' => ValueRef::Enum { value: signed().or_else(|| bits().map(u64::cast_signed))?, label: "" },
            _ => return None,
        })
    }
}

fn base64<'v>(buf: &'v mut Vec<u8>, text: &str) -> Option<&'v [u8]> {
    buf.clear();
    STANDARD.decode_vec(text, buf).ok()?;
    Some(buf)
}

/// As Windows lays it out: `sockaddr_in`, `sockaddr_in6`.
fn sock_addr_bytes(address: SocketAddr) -> Vec<u8> {
    let (family, len) = if address.is_ipv4() { (2, 16) } else { (23, 28) };
    let mut out = vec![family, 0];
    out.extend_from_slice(&address.port().to_be_bytes());
    match address.ip() {
        std::net::IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        std::net::IpAddr::V6(ip) => {
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.resize(len, 0);
    out
}

/// The SID of `S-1-…`.
fn sid_bytes(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.strip_prefix("S-")?.split('-');
    let revision = parts.next()?.parse().ok()?;
    let authority: u64 = parts.next()?.parse().ok()?;
    let mut out = vec![revision, 0];
    let [0, 0, authority @ ..] = authority.to_be_bytes() else { return None };
    out.extend_from_slice(&authority);
    for part in parts {
        out.extend_from_slice(&part.parse::<u32>().ok()?.to_le_bytes());
        let count = out.get_mut(1)?;
        *count = count.checked_add(1)?;
    }
    Some(out)
}

fn system_time(text: &str, weekday: u16) -> Option<[u8; 16]> {
    let mut out = [0; 16];
    let mut parts = text.strip_suffix('Z')?.split(['-', 'T', ':', '.']);
    for (n, slot) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let part = if n == 2 { weekday } else { parts.next()?.parse().ok()? };
        *slot = part.to_le_bytes();
    }
    parts.next().is_none().then_some(out)
}
