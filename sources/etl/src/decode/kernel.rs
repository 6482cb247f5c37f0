//! Classic kernel classes: names and layouts come from the two tables in `data`, which name
//! their sources. Numbers of the groups: the kernel trace headers, as listed in dissect.etl's
//! `utils.py`.

use super::plan::{Count, Len, MAX_SLOTS, NO_SLOT, Op, Wire};
use crate::record::{Identity, Record};
use std::collections::HashMap;
use std::sync::LazyLock;
use tidegate_proto::guid;
use tidegate_proto::schema::{Decoder, FieldDef, SchemaParts};
use tidegate_proto::value::Format;

const NAMES: &str = include_str!("../../data/kernel-events.tsv");
const LAYOUTS: &str = include_str!("../../data/kernel-layouts.txt");

/// Class GUIDs of the groups.
const GROUPS: [(u8, &str); 20] = [
    (0, "68fdd900-4a3e-11d1-84f4-0000f80464e3"),
    (1, "3d6fa8d4-fe05-11d0-9dda-00c04fd7ba7c"),
    (2, "3d6fa8d3-fe05-11d0-9dda-00c04fd7ba7c"),
    (3, "3d6fa8d0-fe05-11d0-9dda-00c04fd7ba7c"),
    (4, "90cbdc39-4a3e-11d1-84f4-0000f80464e3"),
    (5, "3d6fa8d1-fe05-11d0-9dda-00c04fd7ba7c"),
    (6, "9a280ac0-c8e0-11d1-84e2-00c04fb998a2"),
    (8, "bf3a50c5-a9c9-4988-a005-2df0b7c80f80"),
    (9, "ae53722e-c863-11d2-8659-00c04fa321a1"),
    (11, "01853a65-418f-4f36-aefc-dc0f1d2fd235"),
    (15, "ce1dbfb4-137e-4da6-87b0-3f59aa102cbc"),
    (16, "222962ab-6180-4b88-a825-346b75f2a24a"),
    (17, "89497f50-effe-4440-8cf2-ce6b1cdcaca7"),
    (18, "e43445e0-0903-48c3-b878-ff0fccebdd04"),
    (20, "2cb15d1d-5fc1-11d2-abe1-00a0c911f518"),
    (21, "b2d14872-7c5b-463d-8419-ee9bf7d23e04"),
    (24, "def2fe46-7bd6-4b80-bd94-f57fe20d0ce3"),
    (26, "45d8cccd-539f-4b72-a8b7-5c683142609a"),
    (27, "d837ca92-12b9-44a5-ad6a-3a65b3578aa8"),
    (28, "c861d0e2-a2c1-4d36-9f9c-970bab943a12"),
];
const PROCESS: u8 = 3;
const IMAGE: u8 = 20;
const IMAGE_LOAD: u8 = 10;
/// Classes that merging adds; TraceEvent gives them a provider of their own.
const MERGED: [&str; 3] = ["ImageID", "MetaData", "WinSat"];

/// The class of a kernel record; zero = a group without a known one.
pub(crate) fn kernel_class(group: u8, opcode: u8) -> [u8; 16] {
    static GUIDS: LazyLock<[[u8; 16]; 256]> = LazyLock::new(|| {
        let mut all = [[0; 16]; 256];
        for (group, text) in GROUPS {
            if let (Some(slot), Some(class)) = (all.get_mut(usize::from(group)), guid::parse(text)) {
                *slot = class;
            }
        }
        all
    });
    // Image load is logged in the group of processes.
    let group = if (group, opcode) == (PROCESS, IMAGE_LOAD) { IMAGE } else { group };
    GUIDS.get(usize::from(group)).copied().unwrap_or_default()
}

/// One line of the layouts.
#[derive(Debug)]
struct Layout {
    types: Vec<(u8, u8)>,
    versions: (u16, u16),
    fields: Vec<FieldDef>,
    ops: Vec<Op>,
}

#[derive(Debug, Default)]
struct Class {
    name: String,
    events: HashMap<u8, (String, String)>,
    layouts: Vec<Layout>,
}

#[derive(Debug, Default)]
struct Tables {
    classes: HashMap<[u8; 16], Class>,
    by_name: HashMap<String, [u8; 16]>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let mut tables = Tables::default();
    for line in NAMES.lines().skip(1) {
        tables.name_line(line);
    }
    for line in LAYOUTS.lines() {
        tables.layout_line(line);
    }
    tables
});

impl Tables {
    fn class(&mut self, name: &str, id: [u8; 16]) -> &mut Class {
        self.by_name.insert(name.to_owned(), id);
        let class = self.classes.entry(id).or_default();
        if class.name.is_empty() {
            name.clone_into(&mut class.name);
        }
        class
    }

    /// `guid, class, type, name`, tab-separated.
    fn name_line(&mut self, line: &str) -> Option<()> {
        let mut parts = line.split('\t');
        let (id, class) = (guid::parse(parts.next()?)?, parts.next()?);
        let (kind, name) = (parts.next()?.parse().ok()?, parts.next()?);
        let names = (class.to_owned(), name.to_owned());
        self.class(class, id).events.insert(kind, names);
        Some(())
    }

    fn layout_line(&mut self, line: &str) -> Option<()> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Some(());
        }
        if let Some(rest) = line.strip_prefix("class ") {
            let (name, id) = rest.split_once(' ')?;
            self.class(name, guid::parse(id)?);
            return Some(());
        }
        if let Some(rest) = line.strip_prefix("name ") {
            let mut parts = rest.split(' ');
            let (class, kind, name) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
            let id = *self.by_name.get(class)?;
            let names = (class.to_owned(), name.to_owned());
            self.classes.get_mut(&id)?.events.insert(kind, names);
            return Some(());
        }
        let (key, fields) = line.split_once(':')?;
        let mut key = key.split(' ');
        let id = *self.by_name.get(key.next()?)?;
        let types = key.next()?.split(',').map(range).collect::<Option<_>>()?;
        let versions = match key.next()? {
            "*" => (0, u16::MAX),
            v => match v.strip_suffix('+') {
                Some(from) => (from.parse().ok()?, u16::MAX),
                None => range(v).map(|(a, b)| (u16::from(a), u16::from(b)))?,
            },
        };
        let mut layout = Layout { types, versions, fields: Vec::new(), ops: Vec::new() };
        for field in fields.split_whitespace() {
            layout.field(field)?;
        }
        self.classes.get_mut(&id)?.layouts.push(layout);
        Some(())
    }
}

/// `3` or `1-4`.
fn range(text: &str) -> Option<(u8, u8)> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    Some((from.parse().ok()?, to.parse().ok()?))
}

impl Layout {
    fn field(&mut self, text: &str) -> Option<()> {
        if text == "?" {
            self.ops.push(Op::new(0, Wire::MayEnd, Format::Default));
            return Some(());
        }
        let (name, kind) = text.split_once(':')?;
        let (kind, count) = match kind.split_once('*') {
            Some((kind, "")) => (kind, Count::Rest),
            Some((kind, counter)) => (kind, Count::Slot(self.slot(counter)?)),
            None => (kind, Count::One),
        };
        let (kind, units) = match kind.strip_suffix(']').and_then(|k| k.split_once('[')) {
            Some((kind, n)) => (kind, Some(n.parse::<u32>().ok()?)),
            None => (kind, None),
        };
        let (wire, format) = wire(kind)?;
        let mut op = Op::new(u32::try_from(self.fields.len()).ok()?, wire, format);
        op.count = count;
        if let Some(n) = units {
            op.len = Len::Fixed(if wire == Wire::Utf16 { 2 * n } else { n });
        }
        self.ops.push(op);
        if wire != Wire::Skip {
            self.fields.push(FieldDef { name: name.to_owned(), tags: 0 });
        }
        Some(())
    }

    /// Where the number in an earlier field is kept.
    fn slot(&mut self, field: &str) -> Option<u8> {
        let name = u32::try_from(self.fields.iter().position(|f| f.name == field)?).ok()?;
        let used = self.ops.iter().filter(|op| op.slot != NO_SLOT).count();
        let op = self.ops.iter_mut().find(|op| op.name == name)?;
        if op.slot == NO_SLOT {
            op.slot = u8::try_from(used).ok().filter(|n| usize::from(*n) < MAX_SLOTS)?;
        }
        Some(op.slot)
    }

    fn fits(&self, kind: u8, version: u16) -> bool {
        self.types.iter().any(|(from, to)| (*from..=*to).contains(&kind))
            && (self.versions.0..=self.versions.1).contains(&version)
    }
}

fn wire(kind: &str) -> Option<(Wire, Format)> {
    let hex = Format::Hex;
    Some(match kind {
        "u8" => (Wire::U8, Format::Default),
        "u16" => (Wire::U16, Format::Default),
        "u32" => (Wire::U32, Format::Default),
        "u64" => (Wire::U64, Format::Default),
        "i8" => (Wire::I8, Format::Default),
        "i16" => (Wire::I16, Format::Default),
        "i32" => (Wire::I32, Format::Default),
        "i64" => (Wire::I64, Format::Default),
        "x8" => (Wire::U8, hex),
        "x16" => (Wire::U16, hex),
        "x32" => (Wire::U32, hex),
        "x64" => (Wire::U64, hex),
        "pid" => (Wire::U32, Format::Pid),
        "tid" => (Wire::U32, Format::Tid),
        "ptr" => (Wire::Pointer, Format::Default),
        "size" => (Wire::Size, Format::Default),
        "guid" => (Wire::Guid, Format::Default),
        "filetime" => (Wire::FileTime, Format::Default),
        "wstr" => (Wire::Utf16, Format::Default),
        "str" => (Wire::Cp1252, Format::Default),
        "utf8" => (Wire::Utf8, Format::Default),
        "sid" => (Wire::KernelSid, Format::Default),
        "ip4" => (Wire::Ipv4, Format::Ipv4),
        "ip6" => (Wire::Ipv6, Format::Ipv6),
        "port" => (Wire::Port, Format::Port),
        "skip" => (Wire::Skip, Format::Default),
        _ => return None,
    })
}

/// Names and layout of a kernel or classic record. Names alone still come back, with
/// [`Decoder::None`]; `None` when even the class is unknown.
pub(crate) fn find(record: &Record<'_>) -> Option<(SchemaParts, Vec<Op>)> {
    let class_id = match record.identity {
        Identity::Kernel { group } => kernel_class(group, record.opcode),
        Identity::Classic => record.provider,
        _ => return None,
    };
    let class = TABLES.classes.get(&class_id)?;
    let (task, opcode) = match class.events.get(&record.opcode) {
        Some((task, opcode)) => (task.as_str(), opcode.as_str()),
        None => (class.name.as_str(), ""),
    };
    let layout = class.layouts.iter().find(|l| l.fits(record.opcode, record.version));
    let provider =
        if MERGED.contains(&class.name.as_str()) { "KernelTraceControl" } else { "Windows Kernel" };
    let parts = SchemaParts {
        provider_name: provider.to_owned(),
        provider_guid: class_id,
        event_name: super::tdh::event_name(task, "", opcode),
        task_name: task.to_owned(),
        opcode_name: opcode.to_owned(),
        decoder: if layout.is_some() { Decoder::Kernel } else { Decoder::None },
        fields: layout.map(|l| l.fields.clone()).unwrap_or_default(),
        ..SchemaParts::default()
    };
    Some((parts, layout.map(|l| l.ops.clone()).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_tables_is_understood() {
        let mut tables = Tables::default();
        for line in NAMES.lines().skip(1) {
            assert!(tables.name_line(line).is_some(), "{line}");
        }
        for line in LAYOUTS.lines() {
            assert!(tables.layout_line(line).is_some(), "{line}");
        }
        assert!(tables.classes.values().map(|c| c.layouts.len()).sum::<usize>() > 100);
    }

    #[test]
    fn every_group_has_a_class() {
        for (group, text) in GROUPS {
            assert_eq!(guid::format(&kernel_class(group, 0)), text);
        }
        assert_eq!(kernel_class(PROCESS, IMAGE_LOAD), kernel_class(IMAGE, 0));
        assert_eq!(kernel_class(200, 0), [0; 16]);
    }
}
