//! TOML files as one tree in which every value knows its file and line.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Problem;

/// Largest configuration file, in bytes.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub file: Arc<Path>,
    pub line: usize,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub at: At,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Number(i64),
    Float(f64),
    Bool(bool),
    Date(toml::value::Datetime),
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

impl Value {
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a text",
            Value::Number(_) => "a number",
            Value::Float(_) => "a number with a fraction",
            Value::Bool(_) => "true or false",
            Value::Date(_) => "a date",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

impl Node {
    pub fn to_toml(&self) -> toml::Value {
        match &self.value {
            Value::Text(s) => toml::Value::String(s.clone()),
            Value::Number(n) => toml::Value::Integer(*n),
            Value::Float(n) => toml::Value::Float(*n),
            Value::Bool(b) => toml::Value::Boolean(*b),
            Value::Date(d) => toml::Value::Datetime(*d),
            Value::List(list) => toml::Value::Array(list.iter().map(Node::to_toml).collect()),
            Value::Table(t) => toml::Value::Table(t.iter().map(|(k, v)| (k.clone(), v.to_toml())).collect()),
        }
    }

    /// Lays `over` on top: tables are joined, anything else is replaced.
    pub fn merge(&mut self, over: Node) {
        match (&mut self.value, over.value) {
            (Value::Table(mine), Value::Table(theirs)) => {
                for (key, node) in theirs {
                    match mine.get_mut(&key) {
                        Some(old) => old.merge(node),
                        None => {
                            mine.insert(key, node);
                        }
                    }
                }
            }
            (_, value) => *self = Node { at: over.at, value },
        }
    }
}

/// Reads a file's text.
pub(super) fn parse(file: &Arc<Path>, text: &str, problems: &mut Vec<Problem>) -> Option<Node> {
    let at = |offset: usize| At {
        file: Arc::clone(file),
        line: 1 + text.bytes().take(offset).filter(|b| *b == b'\n').count(),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    for e in &errors {
        let line = e.span().map_or(0, |s| at(s.start).line);
        problems.push(Problem {
            file: file.to_path_buf(),
            line,
            key: String::new(),
            text: e.message().to_owned(),
        });
    }
    if !errors.is_empty() {
        return None;
    }
    let place = at(table.span().start);
    Some(Node { at: place, value: table_of(table.get_ref(), &at, problems) })
}

fn table_of(table: &DeTable<'_>, at: &dyn Fn(usize) -> At, problems: &mut Vec<Problem>) -> Value {
    let mut out = BTreeMap::new();
    for (key, value) in table {
        let mut node = node(value, at, problems);
        if matches!(node.value, Value::Table(_) | Value::List(_)) {
            // a table begins at its header, not at its first value
            node.at = at(key.span().start);
        }
        out.insert(key.get_ref().to_string(), node);
    }
    Value::Table(out)
}

fn node(value: &Spanned<DeValue<'_>>, at: &dyn Fn(usize) -> At, problems: &mut Vec<Problem>) -> Node {
    let place = at(value.span().start);
    let mut wrong = |text: String| {
        problems.push(Problem { file: place.file.to_path_buf(), line: place.line, key: String::new(), text });
    };
    let value = match value.get_ref() {
        DeValue::String(s) => Value::Text(s.to_string()),
        DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => Value::Number(n),
            Err(_) => {
                wrong(format!("{n} is too large a number"));
                Value::Number(0)
            }
        },
        DeValue::Float(n) => match n.as_str().parse() {
            Ok(n) => Value::Float(n),
            Err(_) => {
                wrong(format!("{n} is no number"));
                Value::Float(0.0)
            }
        },
        DeValue::Boolean(b) => Value::Bool(*b),
        DeValue::Datetime(d) => Value::Date(*d),
        DeValue::Array(list) => Value::List(list.iter().map(|n| node(n, at, problems)).collect()),
        DeValue::Table(t) => table_of(t, at, problems),
    };
    Node { at: place, value }
}
