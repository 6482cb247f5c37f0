//! The language of `--match`: which events a purge takes.
//!
//! ```text
//! expr  = and { "or" and }            and = not { "and" not }       not = [ "not" ] part
//! part  = "(" expr ")" | key op value
//! key   = level | time | id | pid | provider | event | any | field.NAME[.NAME…]
//! op    = "=" "!=" (all)   "<" "<=" ">" ">=" (level, time, id, pid)   "like" "~" (texts)
//! value = word | "text with \" and \\" | 'text as it stands'
//! ```
//! `like` takes a name pattern (`*`, `?`, no case), `~` a regular expression that is found
//! anywhere in the text. Names of providers, events and fields are compared without case, texts
//! with. `any` is every value of the payload, of the extended items, and undecoded bytes read as
//! UTF-8 and as UTF-16. A field has the text that JSON has of it. An event without a telemetry
//! level counts as Full; a field that is not there is equal to nothing.

use std::cmp::Ordering;
use std::fmt;

use regex::{Regex, RegexBuilder};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::time;

use crate::gate::glob::Glob;

/// A condition on events.
#[derive(Clone, Debug)]
pub struct Expr(pub(super) Node);

/// What is wrong with a condition, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {what}")]
pub struct ExprError {
    /// Characters in front of it, plus one.
    pub at: usize,
    /// What is wrong, with advice.
    pub what: String,
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Level(Order, TelemetryLevel),
    Time(Order, i64),
    Id(Order, u64),
    Pid(Order, u64),
    Provider(Text),
    Event(Text),
    Any(Text),
    Field(Vec<String>, Text),
}

/// How two things with an order are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Is,
    IsNot,
    Less,
    Most,
    More,
    Least,
}

impl Order {
    pub fn holds<T: Ord>(self, a: &T, b: &T) -> bool {
        matches!(
            (self, a.cmp(b)),
            (Order::Is | Order::Most | Order::Least, Ordering::Equal)
                | (Order::IsNot | Order::Less | Order::Most, Ordering::Less)
                | (Order::IsNot | Order::More | Order::Least, Ordering::Greater)
        )
    }

    fn sign(self) -> &'static str {
        match self {
            Order::Is => "=",
            Order::IsNot => "!=",
            Order::Less => "<",
            Order::Most => "<=",
            Order::More => ">",
            Order::Least => ">=",
        }
    }
}

/// How a text is compared.
#[derive(Clone, Debug)]
pub(super) enum Text {
    Is(String),
    IsNot(String),
    Like(Glob),
    Found(Regex),
}

impl Text {
    /// Whether a text fits; `names` are compared without case.
    pub fn holds(&self, text: &str, names: bool) -> bool {
        let same = |t: &str| if names { t.eq_ignore_ascii_case(text) } else { t == text };
        match self {
            Text::Is(t) => same(t),
            Text::IsNot(t) => !same(t),
            Text::Like(glob) => glob.matches(text),
            Text::Found(regex) => regex.is_match(text),
        }
    }

    fn parts(&self) -> (&'static str, &str) {
        match self {
            Text::Is(t) => ("=", t),
            Text::IsNot(t) => ("!=", t),
            Text::Like(g) => ("like", g.as_str()),
            Text::Found(r) => ("~", r.as_str()),
        }
    }
}

impl Expr {
    /// Longest condition, in bytes.
    pub const MAX_LEN: usize = 8192;
    /// Deepest nesting.
    const MAX_DEPTH: usize = 32;
    /// Memory of one compiled regular expression, in bytes.
    const REGEX_BYTES: usize = 1 << 20;

    /// Reads a condition.
    ///
    /// # Errors
    /// What is wrong with it and where.
    pub fn parse(text: &str) -> Result<Expr, ExprError> {
        if text.len() > Self::MAX_LEN {
            return Err(ExprError {
                at: 1,
                what: format!("a condition may have at most {} bytes", Self::MAX_LEN),
            });
        }
        let mut p = Parser { words: words(text)?, next: 0, end: text.chars().count() + 1 };
        let node = p.or(0)?;
        match p.peek() {
            None => Ok(Expr(node)),
            Some(word) => {
                Err(word.wrong("\"and\" or \"or\" is expected here; put texts with spaces in quotes"))
            }
        }
    }
}

impl std::str::FromStr for Expr {
    type Err = ExprError;
    fn from_str(text: &str) -> Result<Expr, ExprError> {
        Expr::parse(text)
    }
}

/// The condition without the texts that payloads were searched for: those are what is to go.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(&self.0, f)
    }
}

fn show(node: &Node, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let list = |f: &mut fmt::Formatter<'_>, nodes: &[Node], word: &str| {
        f.write_str("(")?;
        for (n, node) in nodes.iter().enumerate() {
            if n > 0 {
                write!(f, " {word} ")?;
            }
            show(node, f)?;
        }
        f.write_str(")")
    };
    let text = |f: &mut fmt::Formatter<'_>, key: &str, text: &Text| {
        let (op, value) = text.parts();
        write!(f, "{key} {op} {value:?}")
    };
    match node {
        Node::And(nodes) => list(f, nodes, "and"),
        Node::Or(nodes) => list(f, nodes, "or"),
        Node::Not(node) => {
            f.write_str("not ")?;
            show(node, f)
        }
        Node::Level(order, level) => write!(f, "level {} {level}", order.sign()),
        Node::Time(order, ns) => write!(f, "time {} {}", order.sign(), time::format_rfc3339(*ns)),
        Node::Id(order, n) => write!(f, "id {} {n}", order.sign()),
        Node::Pid(order, n) => write!(f, "pid {} {n}", order.sign()),
        Node::Provider(t) => text(f, "provider", t),
        Node::Event(t) => text(f, "event", t),
        Node::Any(t) => write!(f, "any {} …", t.parts().0),
        Node::Field(path, t) => write!(f, "field.{} {} …", path.join("."), t.parts().0),
    }
}

/// A word of a condition.
#[derive(Clone, Debug)]
struct Word {
    at: usize,
    text: String,
    /// Quoted, or an operator: then it is no key word.
    quoted: bool,
}

impl Word {
    fn wrong(&self, what: impl Into<String>) -> ExprError {
        ExprError { at: self.at, what: what.into() }
    }

    fn is(&self, text: &str) -> bool {
        !self.quoted && self.text.eq_ignore_ascii_case(text)
    }
}

fn words(text: &str) -> Result<Vec<Word>, ExprError> {
    let chars: Vec<char> = text.chars().collect();
    let mut out = Vec::new();
    let mut n = 0;
    while let Some(&c) = chars.get(n) {
        let at = n + 1;
        n += 1;
        let mut word = Word { at, text: String::new(), quoted: false };
        match c {
            c if c.is_whitespace() => continue,
            '(' | ')' | '~' => word.text.push(c),
            '=' | '<' | '>' | '!' => {
                word.text.push(c);
                if c != '=' && chars.get(n) == Some(&'=') {
                    word.text.push('=');
                    n += 1;
                }
            }
            '"' | '\'' => {
                word.quoted = true;
                loop {
                    let Some(&inner) = chars.get(n) else { return Err(word.wrong("the quote has no end")) };
                    n += 1;
                    match inner {
                        q if q == c => break,
                        '\\' if c == '"' => {
                            let Some(&escaped) = chars.get(n).filter(|e| matches!(e, '"' | '\\')) else {
                                return Err(word.wrong(
                                    "write a backslash as \\\\, or use single quotes, where it stands for itself",
                                ));
                            };
                            word.text.push(escaped);
                            n += 1;
                        }
                        other => word.text.push(other),
                    }
                }
            }
            _ => {
                word.text.push(c);
                while let Some(&more) =
                    chars.get(n).filter(|m| !m.is_whitespace() && !"()=<>!~\"'".contains(**m))
                {
                    word.text.push(more);
                    n += 1;
                }
            }
        }
        out.push(word);
    }
    Ok(out)
}

struct Parser {
    words: Vec<Word>,
    next: usize,
    end: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Word> {
        self.words.get(self.next)
    }

    fn take(&mut self, what: &str) -> Result<Word, ExprError> {
        let word = self.peek().cloned();
        self.next += 1;
        word.ok_or_else(|| ExprError { at: self.end, what: format!("{what} is expected at the end") })
    }

    fn taken(&mut self, word: &str) -> bool {
        let is = self.peek().is_some_and(|w| w.is(word));
        self.next += usize::from(is);
        is
    }

    fn or(&mut self, depth: usize) -> Result<Node, ExprError> {
        let mut all = vec![self.and(depth)?];
        while self.taken("or") {
            all.push(self.and(depth)?);
        }
        Ok(one(all, Node::Or))
    }

    fn and(&mut self, depth: usize) -> Result<Node, ExprError> {
        let mut all = vec![self.not(depth)?];
        while self.taken("and") {
            all.push(self.not(depth)?);
        }
        Ok(one(all, Node::And))
    }

    fn not(&mut self, depth: usize) -> Result<Node, ExprError> {
        if depth > Expr::MAX_DEPTH {
            return Err(ExprError { at: self.end, what: "the condition is nested too deeply".to_owned() });
        }
        if self.taken("not") {
            return Ok(Node::Not(Box::new(self.not(depth + 1)?)));
        }
        if self.taken("(") {
            let node = self.or(depth + 1)?;
            let end = self.take("\")\"")?;
            return if end.is(")") { Ok(node) } else { Err(end.wrong("\")\" is expected here")) };
        }
        self.condition()
    }

    fn condition(&mut self) -> Result<Node, ExprError> {
        const KEYS: &str = "keys are level, time, id, pid, provider, event, any and field.NAME";
        let key = self.take("a condition such as provider = NAME")?;
        if key.quoted {
            return Err(key.wrong(KEYS));
        }
        // field."a name with spaces"
        let path = match key.text.strip_prefix("field.") {
            Some("") => {
                let name = self.take("a field's name")?;
                Some(vec![name.text])
            }
            Some(path) => Some(path.split('.').map(str::to_owned).collect()),
            None => None,
        };
        let op = self.take("an operator such as =")?;
        let value = self.take("a value")?;
        if !value.quoted
            && matches!(value.text.as_str(), "(" | ")" | "=" | "<" | ">" | "~" | "!=" | "<=" | ">=")
        {
            return Err(value.wrong("a value is expected here; put it in quotes"));
        }
        let order = || {
            Ok(match op.text.as_str() {
                "=" => Order::Is,
                "!=" => Order::IsNot,
                "<" => Order::Less,
                "<=" => Order::Most,
                ">" => Order::More,
                ">=" => Order::Least,
                _ => return Err(op.wrong("of = != < <= > >= one is expected here")),
            })
        };
        let text = || {
            Ok(match op.text.to_ascii_lowercase().as_str() {
                "=" => Text::Is(value.text.clone()),
                "!=" => Text::IsNot(value.text.clone()),
                "like" => Text::Like(Glob::new(&value.text).map_err(|e| value.wrong(e))?),
                "~" => Text::Found(regex(&value)?),
                _ => return Err(op.wrong("of = != like ~ one is expected here")),
            })
        };
        let number = || {
            let hex = value.text.strip_prefix("0x").map(|h| u64::from_str_radix(h, 16));
            hex.unwrap_or_else(|| value.text.parse()).map_err(|_| value.wrong("a number is expected here"))
        };
        if let Some(path) = path {
            return Ok(Node::Field(path, text()?));
        }
        Ok(match key.text.to_ascii_lowercase().as_str() {
            "level" => {
                let level = value.text.parse::<TelemetryLevel>();
                Node::Level(order()?, level.map_err(|e| value.wrong(e.to_string()))?)
            }
            "time" => {
                let ns = time::parse_rfc3339(&value.text);
                let why = "a time such as 2026-01-31T12:00:00Z is expected here";
                Node::Time(order()?, ns.ok_or_else(|| value.wrong(why))?)
            }
            "id" => Node::Id(order()?, number()?),
            "pid" => Node::Pid(order()?, number()?),
            "provider" => Node::Provider(text()?),
            "event" => Node::Event(text()?),
            "any" => Node::Any(text()?),
            _ => return Err(key.wrong(format!("\"{}\" is no key; {KEYS}", key.text))),
        })
    }
}

fn one(mut all: Vec<Node>, join: fn(Vec<Node>) -> Node) -> Node {
    match all.len() {
        1 => all.pop().unwrap_or(Node::Or(Vec::new())),
        _ => join(all),
    }
}

fn regex(value: &Word) -> Result<Regex, ExprError> {
    let made = RegexBuilder::new(&value.text)
        .size_limit(Expr::REGEX_BYTES)
        .dfa_size_limit(Expr::REGEX_BYTES)
        .build();
    made.map_err(|e| {
        let text = e.to_string();
        let what = text.lines().last().unwrap_or("it cannot be read").trim_start_matches("error: ");
        value.wrong(format!("this is no regular expression: {what}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_and_shown_without_what_was_looked_for() {
        for (text, shown) in [
            ("level >= 2", "level >= Enhanced"),
            (
                "provider = Contoso.Disk and not event like '*Usage*'",
                r#"(provider = "Contoso.Disk" and not event like "*Usage*")"#,
            ),
            ("id=7 or pid != 0x10 and any ~ \"secret\"", "(id = 7 or (pid != 16 and any ~ …))"),
            (
                "(field.user.mail = 'a b' OR field.\"odd name\" like x*)",
                "(field.user.mail = … or field.odd name like …)",
            ),
            ("time<2026-01-31T12:00:00Z", "time < 2026-01-31T12:00:00Z"),
        ] {
            let shown_now = Expr::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).to_string();
            assert_eq!(shown_now.replace(".0000000Z", "Z"), shown, "{text}");
        }
    }

    #[test]
    fn mistakes_tell_their_place() {
        for (text, at, word) in [
            ("", 1, "at the end"),
            ("level = 9", 9, "no telemetry level"),
            ("colour = red", 1, "no key"),
            ("provider > x", 10, "like"),
            ("any ~ \"(\"", 7, "regular expression"),
            ("any = 'x", 7, "no end"),
            ("any = \"a\\b\"", 7, "backslash"),
            ("provider = a b", 14, "and"),
            ("(id = 1", 8, "\")\""),
            ("id = x", 6, "number"),
            ("time > yesterday", 8, "time such as"),
            ("provider = = x", 12, "quotes"),
            ("any ~ '(a{1000}){1000}'", 7, "regular expression"),
        ] {
            let error = Expr::parse(text).unwrap_err();
            assert!(error.at == at && error.what.contains(word), "{text}: {error}");
        }
        let deep = format!("{}id = 1", "not ".repeat(100));
        assert!(Expr::parse(&deep).unwrap_err().what.contains("nested"));
        assert!(Expr::parse(&"(".repeat(2000)).is_err());
        assert!(Expr::parse(&"x".repeat(10_000)).unwrap_err().what.contains("bytes"));
    }
}
