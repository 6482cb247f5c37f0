//! Reads one table key by key, notes all that is wrong, and ends with the keys nobody asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_proto::level::TelemetryLevel;

use super::tree::{At, Node, Value};
use super::{Problem, units};
use crate::gate::names::suggest;

/// All that is wrong so far.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub fn new(list: Vec<Problem>) -> Problems {
        Problems(RefCell::new(list))
    }

    pub fn add(&self, at: &At, key: &str, text: impl Into<String>) {
        self.0.borrow_mut().push(Problem {
            file: at.file.to_path_buf(),
            line: at.line,
            key: key.to_owned(),
            text: text.into(),
        });
    }

    pub fn into_list(self) -> Vec<Problem> {
        let mut list = self.0.into_inner();
        list.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        list
    }
}

/// One table of the configuration.
pub(super) struct Section<'a> {
    path: String,
    at: At,
    table: Option<&'a BTreeMap<String, Node>>,
    asked: RefCell<Vec<&'static str>>,
    pub problems: &'a Problems,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub fn root(node: &'a Node, problems: &'a Problems) -> Section<'a> {
        Section::of(String::new(), node, problems)
    }

    fn of(path: String, node: &'a Node, problems: &'a Problems) -> Section<'a> {
        let table = match &node.value {
            Value::Table(t) => Some(t),
            other => {
                problems.add(&node.at, &path, format!("a table is expected here, not {}", other.kind()));
                None
            }
        };
        Section { path, at: node.at.clone(), table, asked: RefCell::default(), problems }
    }

    /// Its place.
    pub fn at(&self) -> &At {
        &self.at
    }

    /// Its full name.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The full name of a key.
    pub fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn get(&self, key: &'static str) -> Option<&'a Node> {
        self.asked.borrow_mut().push(key);
        self.table?.get(key)
    }

    /// Notes that a key's value is wrong.
    pub fn wrong(&self, key: &str, text: impl Into<String>) {
        let at = self.table.and_then(|t| t.get(key)).map_or(&self.at, |n| &n.at);
        self.problems.add(at, &self.key(key), text);
    }

    /// A value that a function makes something of.
    pub fn value<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, String>,
    ) -> Option<T> {
        let node = self.get(key)?;
        match read(&node.value) {
            Ok(v) => Some(v),
            Err(text) => {
                self.problems.add(&node.at, &self.key(key), text);
                None
            }
        }
    }

    pub fn text(&self, key: &'static str) -> Option<String> {
        self.value(key, |v| text_of(v).map(str::to_owned))
    }

    pub fn file(&self, key: &'static str) -> Option<PathBuf> {
        self.value(key, |v| match text_of(v)? {
            "" => Err("a path is expected".to_owned()),
            path => Ok(PathBuf::from(path)),
        })
    }

    pub fn bool(&self, key: &'static str) -> Option<bool> {
        self.value(key, |v| match v {
            Value::Bool(b) => Ok(*b),
            other => Err(format!("true or false is expected, not {}", other.kind())),
        })
    }

    /// A number in bounds, both inclusive.
    pub fn number(&self, key: &'static str, least: u64, most: u64) -> Option<u64> {
        self.value(key, |v| match v {
            Value::Number(n) => u64::try_from(*n)
                .ok()
                .filter(|n| (least..=most).contains(n))
                .ok_or_else(|| format!("{n} is out of range; {least} to {most} is allowed")),
            other => Err(format!("a number is expected, not {}", other.kind())),
        })
    }

    /// A size in bytes, in bounds.
    pub fn bytes(&self, key: &'static str, least: u64, most: u64) -> Option<u64> {
        self.value(key, |v| {
            let n = match v {
                Value::Number(n) => u64::try_from(*n).map_err(|_| format!("{n} is no size"))?,
                Value::Text(s) => units::bytes(s)?,
                other => return Err(format!("a size such as \"256MiB\" is expected, not {}", other.kind())),
            };
            if (least..=most).contains(&n) {
                return Ok(n);
            }
            let (least, most) = (units::show_bytes(least), units::show_bytes(most));
            Err(format!("{} is out of range; {least} to {most} is allowed", units::show_bytes(n)))
        })
    }

    /// A length of time, in bounds.
    pub fn duration(&self, key: &'static str, least: Duration, most: Duration) -> Option<Duration> {
        self.value(key, |v| {
            let Value::Text(s) = v else {
                return Err(format!("a length of time such as \"30s\" is expected, not {}", v.kind()));
            };
            let d = units::duration(s)?;
            if (least..=most).contains(&d) {
                return Ok(d);
            }
            Err(format!("{s} is out of range; {least:?} to {most:?} is allowed"))
        })
    }

    pub fn level(&self, key: &'static str) -> Option<TelemetryLevel> {
        self.value(key, |v| match v {
            Value::Text(s) => s.parse().map_err(|e: tidegate_proto::level::UnknownLevel| e.to_string()),
            Value::Number(n) => {
                n.to_string().parse().map_err(|e: tidegate_proto::level::UnknownLevel| e.to_string())
            }
            other => Err(format!("a telemetry level is expected, not {}", other.kind())),
        })
    }

    /// One of some words.
    pub fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        self.value(key, |v| {
            let text = text_of(v)?;
            if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
                return Ok(*value);
            }
            let names = choices.iter().map(|(n, _)| *n);
            let hint =
                suggest(text, names.clone()).map(|n| format!("did you mean \"{n}\"? ")).unwrap_or_default();
            Err(format!(
                "\"{text}\" is not known here; {hint}allowed are {}",
                names.collect::<Vec<_>>().join(", ")
            ))
        })
    }

    /// A text or a list of texts; empty when the key is not there.
    pub fn texts(&self, key: &'static str) -> Vec<String> {
        self.value(key, |v| match v {
            Value::Text(s) => Ok(vec![s.clone()]),
            Value::List(list) => list.iter().map(|n| text_of(&n.value).map(str::to_owned)).collect(),
            other => Err(format!("a text or a list of texts is expected, not {}", other.kind())),
        })
        .unwrap_or_default()
    }

    /// A table in this one; an empty one where there is none.
    pub fn table(&self, key: &'static str) -> Section<'a> {
        match self.get(key) {
            Some(node) => Section::of(self.key(key), node, self.problems),
            None => Section {
                path: self.key(key),
                at: self.at.clone(),
                table: None,
                asked: RefCell::default(),
                problems: self.problems,
            },
        }
    }

    /// Whether the table was written at all.
    pub fn is_there(&self) -> bool {
        self.table.is_some()
    }

    /// All texts of the table by their keys, with their places.
    pub fn texts_by_name(&self) -> Vec<(String, String, At)> {
        let mut texts = Vec::new();
        for (name, node) in self.table.into_iter().flatten() {
            match text_of(&node.value) {
                Ok(text) => texts.push((name.clone(), text.to_owned(), node.at.clone())),
                Err(why) => self.problems.add(&node.at, &self.key(name), why),
            }
        }
        texts
    }

    /// A table as another module reads it.
    pub fn table_as<T: serde::de::DeserializeOwned>(&self, key: &'static str) -> Option<T> {
        let node = self.get(key)?;
        match T::deserialize(node.to_toml()) {
            Ok(read) => Some(read),
            Err(e) => {
                self.problems.add(&node.at, &self.key(key), advise(e.message()));
                None
            }
        }
    }

    /// A list of tables as another module reads each, e.g. all `[[sampling]]`.
    pub fn list_as<T: serde::de::DeserializeOwned>(&self, key: &'static str) -> Vec<T> {
        let Some(node) = self.get(key) else { return Vec::new() };
        let Value::List(list) = &node.value else {
            let text = format!("[[{key}]] is expected, a list of tables, not {}", node.value.kind());
            self.problems.add(&node.at, &self.key(key), text);
            return Vec::new();
        };
        let mut read = Vec::new();
        for item in list {
            match T::deserialize(item.to_toml()) {
                Ok(one) => read.push(one),
                Err(e) => self.problems.add(&item.at, &self.key(key), advise(e.message())),
            }
        }
        read
    }

    /// The named tables in a table, e.g. all `[sinks.NAME]`.
    pub fn named(&self, key: &'static str) -> Vec<(String, Section<'a>)> {
        let Some(node) = self.get(key) else { return Vec::new() };
        let all = Section::of(self.key(key), node, self.problems);
        let Some(table) = all.table else { return Vec::new() };
        table.iter().map(|(name, n)| (name.clone(), Section::of(all.key(name), n, self.problems))).collect()
    }

    /// What nobody has asked for, as another crate reads it; `what` and `name` are for errors.
    pub fn rest_as<T: serde::de::DeserializeOwned>(&self, what: &str, name: &str) -> Option<T> {
        let asked = self.asked.borrow();
        let table = self.table?;
        if !table.contains_key("type") {
            self.problems.add(&self.at, &self.key("type"), format!("{what} \"{name}\" needs a type"));
            return None;
        }
        let rest = table.iter().filter(|(k, _)| !asked.contains(&k.as_str()));
        let rest: toml::Table = rest.map(|(k, n)| (k.clone(), n.to_toml())).collect();
        match T::deserialize(rest) {
            Ok(read) => Some(read),
            Err(e) => {
                self.rest_is_wrong(e.message());
                None
            }
        }
    }

    /// Notes what the crate that read it said, at the key it names or whose value it names.
    fn rest_is_wrong(&self, message: &str) {
        let names = || message.split('`').skip(1).step_by(2);
        let table = self.table.into_iter().flatten();
        let found = table.filter(|(key, node)| {
            let value = match &node.value {
                Value::Text(text) => Some(text.as_str()),
                _ => None,
            };
            names().any(|n| n.rsplit('.').next() == Some(key) || Some(n) == value)
        });
        let (at, key) =
            match found.min_by_key(|(key, _)| names().position(|n| n == key.as_str()).unwrap_or(0)) {
                Some((key, node)) => (&node.at, self.key(key)),
                None => (&self.at, self.path.clone()),
            };
        self.problems.add(at, &key, advise(message));
    }

    /// Ends the reading: what nobody asked for is an error.
    pub fn finish(self) {
        let asked = self.asked.borrow();
        for (key, node) in self.table.into_iter().flatten() {
            if asked.contains(&key.as_str()) {
                continue;
            }
            let text = match suggest(key, asked.iter().copied()) {
                Some(near) => format!("unknown key \"{key}\"; did you mean \"{near}\"?"),
                None => format!("unknown key \"{key}\"; known here are {}", asked.join(", ")),
            };
            self.problems.add(&node.at, &self.key(key), text);
        }
    }
}

fn text_of(v: &Value) -> Result<&str, String> {
    match v {
        Value::Text(s) => Ok(s),
        other => Err(format!("a text is expected, not {}", other.kind())),
    }
}

/// Turns serde's message on unknown keys and words into a suggestion.
fn advise(message: &str) -> String {
    let first = message.trim().lines().next().unwrap_or_default();
    for (start, what) in [("unknown field `", "key"), ("unknown variant `", "word")] {
        let Some((_, rest)) = first.split_once(start) else { continue };
        let Some((wrong, expected)) = rest.split_once('`') else { continue };
        let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        return match suggest(wrong, known.iter().copied()) {
            Some(near) => format!("unknown {what} \"{wrong}\"; did you mean \"{near}\"?"),
            None => format!("unknown {what} \"{wrong}\"; known here are {}", known.join(", ")),
        };
    }
    first.to_owned()
}
