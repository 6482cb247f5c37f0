//! The XML of manifests. No entities but the five of XML, no document types.

use super::{Data, EventDef, ManifestError, Named, Provider, Strings, Task, number};
use crate::decode::plan::ValueMap;
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use std::collections::HashMap;
use std::sync::Arc;
use tidegate_proto::guid;

/// Depth of elements that is followed.
const MAX_DEPTH: usize = 64;

/// What the parser has read.
#[derive(Default)]
struct State {
    providers: Vec<Provider>,
    /// Of the first culture that has a table.
    strings: Strings,
    cultures: u32,
    template: String,
    /// Fields of the open template and of its open structs.
    open: Vec<(Data, Vec<Data>)>,
    map: Option<(String, ValueMap)>,
    task: String,
    items: usize,
}

/// The providers, and the number of definitions read, of which `most` are allowed.
pub(super) fn read(text: &str, most: usize) -> Result<(Vec<Provider>, usize), ManifestError> {
    let mut reader = Reader::from_str(text);
    let mut state = State::default();
    let mut depth = 0_usize;
    loop {
        let bad = |offset, what: String| ManifestError::Xml { offset, what };
        match reader.read_event().map_err(|e| bad(reader.error_position(), e.to_string()))? {
            Event::Start(e) => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(bad(reader.buffer_position(), "elements nest too deep".to_owned()));
                }
                state.start(&e);
            }
            Event::Empty(e) => {
                state.start(&e);
                state.end(e.local_name().as_ref());
            }
            Event::End(e) => {
                depth = depth.saturating_sub(1);
                state.end(e.local_name().as_ref());
            }
            Event::Eof => break,
            _ => {}
        }
        if state.items > most {
            return Err(bad(reader.buffer_position(), format!("more than {most} definitions")));
        }
    }
    let strings = Arc::new(state.strings);
    for provider in &mut state.providers {
        provider.finish(&strings);
    }
    Ok((state.providers, state.items))
}

/// An attribute's text; empty when it is not there.
fn attribute(e: &BytesStart<'_>, name: &str) -> String {
    let Ok(Some(attribute)) = e.try_get_attribute(name) else { return String::new() };
    match attribute.normalized_value(XmlVersion::Implicit1_0) {
        Ok(text) => text.into_owned(),
        Err(_) => String::from_utf8_lossy(&attribute.value).into_owned(),
    }
}

impl State {
    fn start(&mut self, e: &BytesStart<'_>) {
        let text = |name| attribute(e, name);
        self.items += 1;
        match e.local_name().as_ref() {
            b"provider" => {
                if let Some(guid) = guid::parse(&text("guid")) {
                    self.providers.push(Provider { guid, name: text("name"), ..Provider::default() });
                }
            }
            b"event" => {
                let def = EventDef {
                    template: text("template"),
                    task: text("task"),
                    opcode: text("opcode"),
                    symbol: text("symbol"),
                    message: text("message"),
                };
                let id = number(&text("value")).and_then(|n| u16::try_from(n).ok());
                let version = number(&text("version")).unwrap_or(0);
                if let (Some(id), Ok(version)) = (id, u8::try_from(version))
                    && let Some(provider) = self.providers.last_mut()
                {
                    provider.events.insert((id, version), def);
                }
            }
            b"template" => {
                self.template = text("tid");
                self.open = vec![Default::default()];
            }
            b"data" => {
                let data = Data {
                    name: text("name"),
                    input: text("inType"),
                    output: text("outType"),
                    map: text("map"),
                    count: text("count"),
                    length: text("length"),
                    members: None,
                };
                if let Some((_, fields)) = self.open.last_mut() {
                    fields.push(data);
                }
            }
            b"struct" if !self.open.is_empty() => {
                let data = Data { name: text("name"), count: text("count"), ..Data::default() };
                self.open.push((data, Vec::new()));
            }
            kind @ (b"valueMap" | b"bitMap") => {
                let map = ValueMap { entries: Vec::new(), bits: kind == b"bitMap" };
                self.map = Some((text("name"), map));
            }
            b"map" => {
                if let (Some((_, map)), Some(n)) = (&mut self.map, number(&text("value"))) {
                    map.entries.push((n, text("message").into()));
                }
            }
            b"task" => {
                self.task = text("name");
                let task = Task { message: text("message"), opcodes: HashMap::new() };
                if let Some(provider) = self.providers.last_mut() {
                    provider.tasks.insert(self.task.clone(), task);
                }
            }
            b"opcode" => {
                let named = Named { message: text("message") };
                if let Some(provider) = self.providers.last_mut() {
                    let opcodes = match provider.tasks.get_mut(&self.task) {
                        Some(task) if !self.task.is_empty() => &mut task.opcodes,
                        _ => &mut provider.opcodes,
                    };
                    opcodes.insert(text("name"), named);
                }
            }
            b"stringTable" => self.cultures += 1,
            b"string" if self.cultures == 1 => {
                self.strings.insert(text("id"), text("value").into());
            }
            _ => {}
        }
    }

    fn end(&mut self, name: &[u8]) {
        match name {
            b"struct" if self.open.len() > 1 => {
                if let Some((mut data, members)) = self.open.pop() {
                    data.members = Some(members);
                    if let Some((_, fields)) = self.open.last_mut() {
                        fields.push(data);
                    }
                }
            }
            b"template" => {
                let open = std::mem::take(&mut self.open);
                if let (Some((_, fields)), Some(provider)) =
                    (open.into_iter().next(), self.providers.last_mut())
                {
                    provider.templates.insert(std::mem::take(&mut self.template), fields);
                }
            }
            b"valueMap" | b"bitMap" => {
                if let (Some((name, map)), Some(provider)) = (self.map.take(), self.providers.last_mut()) {
                    provider.maps.insert(name, Arc::new(map));
                }
            }
            b"task" => self.task.clear(),
            _ => {}
        }
    }
}
