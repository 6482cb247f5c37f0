//! One JSON object as a tape of nodes, most of them borrowed from the line.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A value. A container has the given number of nodes below it, which follow.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Val<'a> {
    Null,
    Bool(bool),
    I64(i64),
    U64(u64),
    F64(f64),
    Str(Cow<'a, str>),
    Struct(usize),
    Array(usize),
}

/// A value and its name, which items of arrays do not have.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node<'a> {
    pub name: Option<Cow<'a, str>>,
    pub value: Val<'a>,
}

/// Reads a line; the members of its object, or what is wrong with it.
pub(super) fn parse(line: &[u8]) -> Result<Vec<Node<'_>>, String> {
    let mut tape = Vec::with_capacity(32);
    let mut json = serde_json::Deserializer::from_slice(line);
    let read = json.deserialize_any(Top(&mut tape)).and_then(|()| json.end());
    read.map(|()| tape).map_err(|e| {
        // the parser sees one line: its own count of lines says nothing
        let text = e.to_string();
        match text.rsplit_once(" at line ") {
            Some((what, _)) => format!("{what}, column {}", e.column()),
            None => text,
        }
    })
}

/// The members of a struct or items of an array, each with all nodes below it.
pub(super) fn children<'t, 'a>(
    nodes: &'t [Node<'a>],
) -> impl Iterator<Item = (&'t Node<'a>, &'t [Node<'a>])> {
    let mut rest = nodes;
    std::iter::from_fn(move || {
        let (node, after) = rest.split_first()?;
        let below = match node.value {
            Val::Struct(n) | Val::Array(n) => n,
            _ => 0,
        };
        let (below, after) = after.split_at_checked(below)?;
        rest = after;
        Some((node, below))
    })
}

struct Top<'t, 'a>(&'t mut Vec<Node<'a>>);

impl<'de> Visitor<'de> for Top<'_, 'de> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        members(self.0, map)
    }
}

fn members<'de, A: MapAccess<'de>>(tape: &mut Vec<Node<'de>>, mut map: A) -> Result<(), A::Error> {
    while let Some(name) = map.next_key_seed(Name)? {
        map.next_value_seed(Fill { tape, name: Some(name) })?;
    }
    Ok(())
}

struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }
    fn visit_borrowed_str<E: Error>(self, s: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(s))
    }
    fn visit_str<E: Error>(self, s: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(s.to_owned()))
    }
}

struct Fill<'t, 'a> {
    tape: &'t mut Vec<Node<'a>>,
    name: Option<Cow<'a, str>>,
}

impl<'a> Fill<'_, 'a> {
    fn push<E>(self, value: Val<'a>) -> Result<(), E> {
        self.tape.push(Node { name: self.name, value });
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Fill<'_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Fill<'_, 'de> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.push(Val::Null)
    }
    fn visit_bool<E: Error>(self, b: bool) -> Result<(), E> {
        self.push(Val::Bool(b))
    }
    fn visit_i64<E: Error>(self, n: i64) -> Result<(), E> {
        self.push(Val::I64(n))
    }
    fn visit_u64<E: Error>(self, n: u64) -> Result<(), E> {
        // what fits is signed, so that a field keeps one type
        let value = i64::try_from(n).map_or(Val::U64(n), Val::I64);
        self.push(value)
    }
    fn visit_f64<E: Error>(self, n: f64) -> Result<(), E> {
        self.push(Val::F64(n))
    }
    fn visit_borrowed_str<E: Error>(self, s: &'de str) -> Result<(), E> {
        self.push(Val::Str(Cow::Borrowed(s)))
    }
    fn visit_str<E: Error>(self, s: &str) -> Result<(), E> {
        self.push(Val::Str(Cow::Owned(s.to_owned())))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Fill { tape, name } = self;
        let at = tape.len();
        tape.push(Node { name, value: Val::Struct(0) });
        members(tape, map)?;
        close(tape, at, Val::Struct);
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Fill { tape, name } = self;
        let at = tape.len();
        tape.push(Node { name, value: Val::Array(0) });
        while seq.next_element_seed(Fill { tape, name: None })?.is_some() {}
        close(tape, at, Val::Array);
        Ok(())
    }
}

fn close<'a>(tape: &mut [Node<'a>], at: usize, make: fn(usize) -> Val<'a>) {
    let below = tape.len().saturating_sub(at + 1);
    if let Some(node) = tape.get_mut(at) {
        node.value = make(below);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_becomes_a_tape() {
        let tape = parse(br#" {"a":1,"b":{"c":[true,null,{"d":-2.5}],"e":"x\n"},"f":18446744073709551615} "#)
            .unwrap();
        let all: Vec<(&str, &Val<'_>)> =
            tape.iter().map(|n| (n.name.as_deref().unwrap_or("-"), &n.value)).collect();
        assert_eq!(
            all,
            [
                ("a", &Val::I64(1)),
                ("b", &Val::Struct(6)),
                ("c", &Val::Array(4)),
                ("-", &Val::Bool(true)),
                ("-", &Val::Null),
                ("-", &Val::Struct(1)),
                ("d", &Val::F64(-2.5)),
                ("e", &Val::Str("x\n".into())),
                ("f", &Val::U64(u64::MAX)),
            ]
        );
        let top: Vec<_> = children(&tape).filter_map(|(n, _)| n.name.as_deref()).collect();
        assert_eq!(top, ["a", "b", "f"]);
    }

    #[test]
    fn what_is_no_object_says_where_and_why() {
        for (line, want) in [
            (&b"[1]"[..], "invalid type: sequence, expected an object, column 1"),
            (b"{\"a\":1", "EOF while parsing an object, column 6"),
            (b"{\"a\":1} x", "trailing characters, column 9"),
            (b"{\"a\":\"\xff\"}", "invalid unicode code point, column 7"),
        ] {
            assert_eq!(parse(line).unwrap_err(), want);
        }
        let deep = [b"{\"a\":".repeat(5000), b"1".to_vec()].concat();
        assert!(parse(&deep).unwrap_err().contains("recursion limit"));
    }
}
