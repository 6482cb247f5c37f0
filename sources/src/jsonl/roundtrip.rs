//! Events written as JSON Lines and read again.

use tidegate_proto::batch::{Batch, EventBuilder, EventRef, ExtKey, Fields, Head, NO_NAME};
use tidegate_proto::json::{write_event, write_line};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::schema::{Decoder, FieldDef, Schema, SchemaParts};
use tidegate_proto::time;
use tidegate_proto::value::{Format, ValueRef};

use super::LineDecoder;

/// Everything of an event that a line promises to keep.
fn told(event: EventRef<'_>) -> String {
    let mut out = format!("{:?}\n", event.head());
    let schema = event.schema();
    out += &format!("{:?} {:?} {:?}\n", schema.provider_name, schema.event_name, schema.decoder);
    values(&mut out, event.fields(), true);
    out += "ext\n";
    values(&mut out, event.ext().fields(), false);
    out += &format!("{:?}", event.raw());
    out
}

fn values(out: &mut String, fields: Fields<'_>, named: bool) {
    for f in fields {
        let key = ExtKey::from_u32(f.name_index).filter(|_| !named);
        let (name, tags) = if named { (f.name, f.tags) } else { (None, 0) };
        *out += &format!("{name:?} {key:?} {tags} {:?} {} ", f.format, f.scrub);
        match f.value {
            ValueRef::Struct(inner) | ValueRef::Array(inner) => {
                *out += if matches!(f.value, ValueRef::Struct(_)) { "{" } else { "[" };
                values(out, inner, true);
                *out += "}";
            }
            // 0.0 and -0.0 are two
            ValueRef::F32(n) => *out += &format!("F32 {n:?}"),
            value => *out += &format!("{value:?}"),
        }
        *out += "\n";
    }
}

fn back(line: &[u8]) -> Batch {
    let mut batch = Batch::new();
    LineDecoder::new("elsewhere")
        .push(&mut batch, line)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(line)));
    batch
}

#[track_caller]
fn comes_back(event: EventRef<'_>) {
    let (mut line, mut again) = (Vec::new(), Vec::new());
    write_line(&mut line, event, None);
    let batch = back(&line);
    let read = batch.get(0).unwrap();
    let text = String::from_utf8_lossy(&line);
    assert_eq!(told(read), told(event), "{text}");
    write_line(&mut again, read, None);
    assert_eq!(String::from_utf8_lossy(&again), text);
}

struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    /// A number of any size, its bounds more often than chance would have it.
    fn number(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => i64::MAX as u64,
            3 => self.below(200),
            _ => {
                let by = self.below(64);
                self.next() >> by
            }
        }
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next() as u8).collect()
    }

    fn text(&mut self) -> String {
        const WORDS: [&str; 8] = ["", "a", "S-1-5-18", "10.0.0.1", "\"q\\\n\u{1}", "é😀", "0x1f", "a#2"];
        WORDS[self.below(8) as usize].to_owned()
    }
}

const TAGS: [u32; 4] = [0, 0, 0x0800_0000, 0x0fff_ffff];

fn format(chance: &mut Chance) -> Format {
    if chance.below(3) > 0 { Format::Default } else { Format::from_u32(chance.below(23) as u32) }
}

/// Whether JSON has another number than the type for it.
fn scalar(chance: &mut Chance, event: &mut dyn FnMut(Format, ValueRef<'_>)) {
    let n = chance.number();
    let f = format(chance);
    let sixteen = u128::from(chance.next()).wrapping_mul(0x1_0000_0000_0000_0001).to_le_bytes();
    match chance.below(24) {
        0 => event(f, ValueRef::Null),
        1 => event(f, ValueRef::Bool(n & 1 == 1)),
        2 => event(f, ValueRef::I8(n as i8)),
        3 => event(f, ValueRef::I16(n as i16)),
        4 => event(f, ValueRef::I32(n as i32)),
        5 => event(f, ValueRef::I64(n.cast_signed())),
        6 => event(f, ValueRef::U8(n as u8)),
        7 => event(f, ValueRef::U16(n as u16)),
        8 => event(f, ValueRef::U32(n as u32)),
        9 => event(f, ValueRef::U64(n)),
        10 => {
            let n = f32::from_bits(n as u32);
            event(f, ValueRef::F32(if n.is_nan() { f32::NAN } else { n }));
        }
        11 => {
            let n = f64::from_bits(chance.next());
            event(f, ValueRef::F64(if n.is_nan() { f64::NAN } else { n }));
        }
        12 => event(f, ValueRef::Str(&chance.text())),
        13 => event(f, ValueRef::Bytes(&chance.bytes(9))),
        14 => event(f, ValueRef::Guid(sixteen)),
        15 => {
            event(f, ValueRef::FileTime(if n & 1 == 0 { n } else { 130_000_000_000_000_000 + n % 1_000_000 }))
        }
        16 => event(f, ValueRef::SystemTime(sixteen)),
        17 => {
            let mut sid = vec![1, chance.below(4) as u8, 0, 0, 0, 0, 0, 5];
            sid.extend((0..sid[1]).flat_map(|_| (chance.number() as u32).to_le_bytes()));
            sid.extend_from_slice(if chance.below(4) == 0 { &[7] } else { &[] });
            event(f, ValueRef::Sid(&sid));
        }
        18 => event(f, ValueRef::Ipv4((n as u32).to_be_bytes())),
        19 => event(f, ValueRef::Ipv6(sixteen)),
        20 => {
            let mut address = vec![[2, 23, 10, 1][chance.below(4) as usize], 0];
            address.extend_from_slice(&sixteen);
            address.extend_from_slice(&chance.bytes(12));
            address.resize([8, 16, 28, 30][chance.below(4) as usize], 0);
            event(f, ValueRef::SockAddr(&address));
        }
        21 => event(f, ValueRef::Pointer(n)),
        _ => event(f, ValueRef::Enum { value: n.cast_signed(), label: &chance.text() }),
    }
}

/// A mark of the gate, or none. It stands on values, never on containers.
fn mark(chance: &mut Chance) -> u16 {
    if chance.below(4) == 0 { chance.next() as u16 } else { 0 }
}

/// Writes a value below the field `at`; `names` are those that are not used yet.
fn value(chance: &mut Chance, event: &mut EventBuilder<'_>, name: u32, names: &mut u32, depth: u32) {
    let kind = if depth > 3 { 9 } else { chance.below(10) };
    match kind {
        0 => {
            event.begin_struct(name);
            for _ in 0..chance.below(4) {
                *names += 1;
                value(chance, event, *names - 1, names, depth + 1);
            }
            event.end();
        }
        1 => {
            event.begin_array(name);
            // often alike, as arrays are, and sometimes not from some item on
            let same = chance.below(3) > 0;
            let seed = chance.next();
            for n in 0..chance.below(6) {
                let mut again = Chance(seed | 1);
                let from = if same && n < 4 { &mut again } else { &mut *chance };
                value(from, event, NO_NAME, names, depth + 1);
            }
            event.end();
        }
        _ => {
            scalar(chance, &mut |f, v| event.value(name, f, v));
            event.scrubbed(mark(chance));
        }
    }
}

fn random(chance: &mut Chance, batch: &mut Batch) {
    const NAMES: [&str; 4] = ["a", "b", "a#2", "name with \"quotes\""];
    let field = |n: u64| FieldDef { name: NAMES[(n % 4) as usize].into(), tags: TAGS[(n / 4 % 4) as usize] };
    let schema = Schema::new(SchemaParts {
        provider_name: ["", "P"][chance.below(2) as usize].into(),
        provider_guid: [7; 16],
        event_name: "E".into(),
        decoder: Decoder::TraceLogging,
        fields: (0..4000).map(|_| field(chance.below(16))).collect(),
        ..SchemaParts::default()
    });
    let head = Head {
        time_ns: time::filetime_to_unix_ns(130_000_000_000_000_000)
            .saturating_add(chance.below(1 << 40) as i64),
        keyword: chance.number(),
        priv_tags: chance.number(),
        pid: chance.next() as u32 / 2,
        id: chance.next() as u16,
        level: chance.next() as u8,
        telemetry_level: TelemetryLevel::from_u8(chance.below(4) as u8),
        sample_ppm: chance.below(1_000_001) as u32,
        ..Head::default()
    };
    let mut event = batch.begin(&schema, head);
    let mut names = 0;
    for _ in 0..chance.below(8) {
        names += 1;
        value(chance, &mut event, names - 1, &mut names, 0);
    }
    for _ in 0..chance.below(4) {
        let key = ExtKey::ALL[chance.below(21) as usize];
        if chance.below(3) == 0 {
            event.begin_ext_array(key);
            for _ in 0..chance.below(4) {
                scalar(chance, &mut |f, v| event.value(NO_NAME, f, v));
            }
            event.end();
        } else {
            scalar(chance, &mut |f, v| event.ext_formatted(key, f, v));
            event.ext_scrubbed(mark(chance));
        }
    }
    event.raw(&chance.bytes(5));
    event.finish();
}

#[test]
fn every_type_tag_and_mark_comes_back_from_a_line() {
    let given = std::env::var("TIDEGATE_SEED").ok().and_then(|s| s.parse().ok());
    let seed = given.unwrap_or(u64::from(std::process::id()) ^ 0x7e57);
    println!("TIDEGATE_SEED={seed}");
    let mut chance = Chance(seed | 1);
    for _ in 0..2000 {
        let mut batch = Batch::new();
        random(&mut chance, &mut batch);
        comes_back(batch.get(0).unwrap());
    }
}

fn one(fields: &[(&str, u32)], head: Head, write: impl FnOnce(&mut EventBuilder<'_>)) -> Batch {
    let fields = fields.iter().map(|(name, tags)| FieldDef { name: (*name).into(), tags: *tags }).collect();
    let (provider_name, event_name) = ("P".into(), "E".into());
    let schema = Schema::new(SchemaParts { provider_name, event_name, fields, ..SchemaParts::default() });
    let mut batch = Batch::new();
    let mut event = batch.begin(&schema, head);
    write(&mut event);
    event.finish();
    batch
}

#[test]
fn a_dead_letter_is_the_event_it_was_and_nothing_more() {
    let head = Head { time_ns: 1_700_000_000_000_000_000, sample_ppm: 2500, ..Head::default() };
    let batch = one(&[("addr", 0), ("user", 0x0800_0000)], head, |e| {
        e.value(0, Format::Default, ValueRef::Ipv4([10, 0, 0, 1]));
        e.value(1, Format::Default, ValueRef::Str("alice"));
    });
    let event = batch.get(0).unwrap();
    let mut line = Vec::new();
    write_line(&mut line, event, None);
    let text = String::from_utf8(line).unwrap();
    assert!(text.ends_with(r#""types":"vs#134217728"}"#), "{text}");
    let letter = text.replace(
        r#""vs#134217728"}"#,
        r#""vs#134217728","deadLetter":{"reason":"held","detail":"","refused":""}}"#,
    );
    let read = back(letter.as_bytes());
    assert_eq!(told(read.get(0).unwrap()), told(event));
}

#[test]
fn a_line_of_an_older_version_is_read_as_its_json_is() {
    let batch = one(&[("addr", 0), ("n", 0)], Head::default(), |e| {
        e.value(0, Format::Default, ValueRef::Ipv4([10, 0, 0, 1]));
        e.value(1, Format::Hex, ValueRef::U32(31));
    });
    let (mut line, mut again) = (Vec::new(), Vec::new());
    write_event(&mut line, batch.get(0).unwrap(), None);
    let read = back(&line);
    write_event(&mut again, read.get(0).unwrap(), None);
    assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&line));
    assert!(matches!(read.get(0).unwrap().fields().next().unwrap().value, ValueRef::Str("10.0.0.1")));
}

#[test]
fn what_json_tells_by_itself_has_no_types() {
    let batch = one(&[("a", 0), ("b", 0)], Head::default(), |e| {
        e.value(0, Format::Default, ValueRef::I64(-4));
        e.begin_array(1);
        e.value(NO_NAME, Format::Default, ValueRef::F64(1e300));
        e.value(NO_NAME, Format::Default, ValueRef::Str("x"));
        e.end();
    });
    let (mut line, mut plain) = (Vec::new(), Vec::new());
    write_line(&mut line, batch.get(0).unwrap(), None);
    write_event(&mut plain, batch.get(0).unwrap(), None);
    assert_eq!(line, plain);
    comes_back(batch.get(0).unwrap());
}
