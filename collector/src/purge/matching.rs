//! A condition asked of one event, and of a block before it is read.

use std::borrow::Cow;

use tidegate_proto::batch::{EventRef, FieldRef, Fields};
use tidegate_proto::json;
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::value::ValueRef;
use tidegate_ring::{PerLevel, PurgeRule};

use super::expr::{Expr, Node, Order, Text};

/// What is known of many events at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sure {
    No,
    Maybe,
    Yes,
}

impl PurgeRule for Expr {
    fn may_match(&self, levels: &PerLevel, time_ns: (i64, i64)) -> bool {
        of_block(&self.0, levels, time_ns) != Sure::No
    }

    fn matches(&self, event: EventRef<'_>) -> bool {
        of_event(&self.0, event)
    }
}

fn of_block(node: &Node, levels: &PerLevel, (from, to): (i64, i64)) -> Sure {
    let each = |nodes: &[Node]| nodes.iter().map(|n| of_block(n, levels, (from, to))).collect::<Vec<_>>();
    match node {
        Node::And(nodes) => {
            let all = each(nodes);
            if all.contains(&Sure::No) {
                Sure::No
            } else if all.contains(&Sure::Maybe) {
                Sure::Maybe
            } else {
                Sure::Yes
            }
        }
        Node::Or(nodes) => {
            let all = each(nodes);
            if all.contains(&Sure::Yes) {
                Sure::Yes
            } else if all.contains(&Sure::Maybe) {
                Sure::Maybe
            } else {
                Sure::No
            }
        }
        Node::Not(node) => match of_block(node, levels, (from, to)) {
            Sure::No => Sure::Yes,
            Sure::Maybe => Sure::Maybe,
            Sure::Yes => Sure::No,
        },
        Node::Level(order, level) => {
            let there = TelemetryLevel::ALL.iter().zip(levels).filter(|(_, n)| **n > 0);
            let mut answers = there.map(|(l, _)| order.holds(l, level));
            let first = answers.next();
            match first {
                Some(answer) if answers.all(|a| a == answer) => sure(answer),
                _ => Sure::Maybe,
            }
        }
        Node::Time(order, ns) if from <= to => match order {
            Order::Is | Order::IsNot if *ns < from || to < *ns => sure(*order == Order::IsNot),
            Order::Is | Order::IsNot => Sure::Maybe,
            _ if order.holds(&from, ns) == order.holds(&to, ns) => sure(order.holds(&from, ns)),
            _ => Sure::Maybe,
        },
        _ => Sure::Maybe,
    }
}

fn sure(answer: bool) -> Sure {
    if answer { Sure::Yes } else { Sure::No }
}

fn of_event(node: &Node, event: EventRef<'_>) -> bool {
    let (head, schema) = (event.head(), event.schema());
    match node {
        Node::And(nodes) => nodes.iter().all(|n| of_event(n, event)),
        Node::Or(nodes) => nodes.iter().any(|n| of_event(n, event)),
        Node::Not(node) => !of_event(node, event),
        Node::Level(order, level) => {
            order.holds(&head.telemetry_level.unwrap_or(TelemetryLevel::Full), level)
        }
        Node::Time(order, ns) => order.holds(&head.time_ns, ns),
        Node::Id(order, n) => order.holds(&u64::from(head.id), n),
        Node::Pid(order, n) => order.holds(&u64::from(head.pid), n),
        Node::Provider(text) => text.holds(&schema.provider_name, true),
        Node::Event(text) => text.holds(&schema.event_name, true),
        Node::Any(text) => match text {
            // nothing is equal to it
            Text::IsNot(t) => !any(event, &|v| v == t),
            text => any(event, &|v| text.holds(v, false)),
        },
        Node::Field(path, text) => match text {
            Text::IsNot(t) => !field(event.fields(), path, &|v| v == t),
            text => field(event.fields(), path, &|v| text.holds(v, false)),
        },
    }
}

fn field(fields: Fields<'_>, path: &[String], holds: &dyn Fn(&str) -> bool) -> bool {
    let Some((name, rest)) = path.split_first() else { return false };
    let mut fields = fields;
    fields.any(|f| {
        if f.name.is_some_and(|n| n.eq_ignore_ascii_case(name)) {
            return if rest.is_empty() { below(f, holds) } else { members(f.value, rest, holds) };
        }
        // items of arrays have no names of their own
        f.name.is_none() && members(f.value, path, holds)
    })
}

fn members(value: ValueRef<'_>, path: &[String], holds: &dyn Fn(&str) -> bool) -> bool {
    match value {
        ValueRef::Struct(inner) | ValueRef::Array(inner) => field(inner, path, holds),
        _ => false,
    }
}

/// Whether a value, or one in it, fits. Stored values nest no deeper than a decoder lets them.
fn below(f: FieldRef<'_>, holds: &dyn Fn(&str) -> bool) -> bool {
    match f.value {
        ValueRef::Struct(mut inner) | ValueRef::Array(mut inner) => inner.any(|f| below(f, holds)),
        ValueRef::Bytes(bytes) => holds(&text_of(&f)) || in_bytes(bytes, holds),
        _ => holds(&text_of(&f)),
    }
}

fn any(event: EventRef<'_>, holds: &dyn Fn(&str) -> bool) -> bool {
    event.fields().any(|f| below(f, holds))
        || event.ext().fields().any(|f| below(f, holds))
        || (!event.raw().is_empty() && in_bytes(event.raw(), holds))
}

/// Undecoded bytes as the two kinds of text that payloads have, the second at both alignments.
fn in_bytes(bytes: &[u8], holds: &dyn Fn(&str) -> bool) -> bool {
    let utf16 = |bytes: &[u8]| {
        let units = bytes.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]]));
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>()
    };
    holds(&String::from_utf8_lossy(bytes))
        || holds(&utf16(bytes))
        || holds(&utf16(bytes.get(1..).unwrap_or_default()))
}

/// A value's text: what JSON has of it.
fn text_of<'a>(f: &FieldRef<'a>) -> Cow<'a, str> {
    if let ValueRef::Str(text) = f.value {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::new();
    json::write_value(&mut out, f.value, f.format);
    let text = String::from_utf8(out).unwrap_or_default();
    // what is not text itself has nothing in quotes that would be escaped, but names of numbers
    match serde_json::from_str::<String>(&text) {
        Ok(text) => Cow::Owned(text),
        Err(_) => Cow::Owned(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tidegate_proto::batch::{Batch, Head, NO_NAME};
    use tidegate_proto::schema::{FieldDef, Schema, SchemaParts};
    use tidegate_proto::value::Format;

    fn event() -> Batch {
        let field = |n: &str| FieldDef { name: n.to_owned(), tags: 0 };
        let schema: Arc<Schema> = Schema::new(SchemaParts {
            provider_name: "Contoso.Disk".to_owned(),
            event_name: "Mount".to_owned(),
            fields: ["Path", "user", "mail", "Code"].map(field).to_vec(),
            ..SchemaParts::default()
        });
        let mut batch = Batch::new();
        let head = Head {
            time_ns: 1_000,
            id: 7,
            telemetry_level: Some(TelemetryLevel::Enhanced),
            ..Head::default()
        };
        let mut e = batch.begin(&schema, head);
        e.value(0, Format::Default, ValueRef::Str(r"C:\Users\ada\x"));
        e.begin_array(1);
        e.begin_struct(NO_NAME);
        e.value(2, Format::Default, ValueRef::Str("ada@example.org"));
        e.end();
        e.end();
        e.value(3, Format::Hex, ValueRef::U32(255));
        e.raw(&[1, b'k', 0, b'e', 0, b'y', 0, b'9', 0]);
        e.finish();
        batch
    }

    #[test]
    fn conditions_hold_as_they_read() {
        let batch = event();
        let event = batch.get(0).unwrap();
        for (text, holds) in [
            ("provider = contoso.disk and event like m*", true),
            ("provider = contoso.disk and id > 7", false),
            ("level = enhanced and time < 1970-01-01T00:00:01Z", true),
            (r"field.path like 'c:\users\*'", true),
            ("field.user.mail = ada@example.org", true),
            ("field.mail = ada@example.org", false),
            ("field.user ~ '^ada@'", true),
            ("field.code = 0xff", true),
            ("field.nothing != x", true),
            ("field.path != x", true),
            (r"field.path != 'C:\Users\ada\x'", false),
            ("any ~ key9", true),
            ("any like '*@example.org'", true),
            ("any = nowhere", false),
            ("any != ada@example.org", false),
            ("not (provider = x or level = full)", true),
        ] {
            assert_eq!(Expr::parse(text).unwrap().matches(event), holds, "{text}");
        }
    }

    #[test]
    fn a_block_is_read_only_where_it_can_hold_what_is_looked_for() {
        for (text, may) in [
            ("level >= 2", true),
            ("level = 1", false),
            ("level = 1 or provider = x", true),
            ("level = 1 and provider = x", false),
            ("not level = 2", false),
            ("not (level = 1 and provider = x)", true),
            ("time < 1970-01-01T00:00:00.000000010Z", false),
            ("time > 1970-01-01T00:00:00.000000010Z", true),
            ("time = 1970-01-01T00:00:00.000000015Z", true),
            ("time = 1970-01-01T00:00:00.000000025Z", false),
            ("time != 1970-01-01T00:00:00.000000025Z", true),
        ] {
            assert_eq!(Expr::parse(text).unwrap().may_match(&[0, 0, 3, 0], (10, 20)), may, "{text}");
        }
        // what is not known of a block is asked of its events
        assert!(Expr::parse("level = 1").unwrap().may_match(&[0; 4], (1, 0)));
    }
}
