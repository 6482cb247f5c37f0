//! The strict profile as a list of checks. The first that fails is told.

use std::collections::BTreeSet;
use std::io::Read as _;

use serde_json::{Map, Value};

use super::http::Request;
use crate::events::{body, names};

type Checked<T> = Result<T, String>;

fn ensure(holds: bool, fault: impl FnOnce() -> String) -> Checked<()> {
    if holds { Ok(()) } else { Err(fault()) }
}

/// Checks a request and gives its text and events. `delta` is what an earlier reply told.
pub(super) fn request(
    request: &Request,
    tokens: &[String],
    delta: Option<&str>,
) -> Checked<(String, Vec<Value>)> {
    ensure(request.method == "POST", || format!("method {}", request.method))?;
    ensure(request.target == "/OneCollector/1.0/", || format!("target {}", request.target))?;
    let mut seen = BTreeSet::new();
    for (name, _) in &request.headers {
        ensure(seen.insert(name), || format!("header {name} twice"))?;
    }
    let need = |name: &str| request.header(name).ok_or_else(|| format!("header {name} is missing"));
    let content = need("content-type")?;
    ensure(content == "application/x-json-stream; charset=utf-8", || format!("content type {content}"))?;
    ensure(need("client-id")? == "NO_AUTH", || "client id".to_owned())?;
    ensure(!need("sdk-version")?.is_empty(), || "SDK version".to_owned())?;
    let upload = need("upload-time")?;
    ensure(upload.len() == 13 && upload.bytes().all(|b| b.is_ascii_digit()), || {
        format!("upload time {upload}")
    })?;
    if let Some(delta) = delta {
        let sent = need("time-delta-to-apply-millis")?;
        // the first delta told counts, which the recorder's may no longer be
        ensure(sent != "use-collector-delta" && sent.parse::<i64>().is_ok(), || {
            format!("time delta {sent} though a reply told {delta}")
        })?;
    }
    let keys: Vec<&str> = need("apikey")?.split(',').collect();
    let distinct: BTreeSet<&&str> = keys.iter().collect();
    ensure(distinct.len() == keys.len(), || "a tenant token twice".to_owned())?;
    ensure(keys.iter().all(|k| tokens.iter().any(|t| t == k)), || "a tenant token that is none".to_owned())?;

    let bytes = decode(request)?;
    ensure(bytes.len() <= body::BODY_BYTES_MAX, || format!("a body of {} bytes", bytes.len()))?;
    let text = String::from_utf8(bytes).map_err(|_| "a body that is not UTF-8".to_owned())?;
    let mut events = Vec::new();
    let mut used = BTreeSet::new();
    for line in text.split('\n') {
        let event = check_line(line)?;
        let key = event.get("iKey").and_then(Value::as_str).unwrap_or_default();
        let token = keys.iter().find(|t| key.strip_prefix("o:") == t.split('-').next());
        used.insert(*token.ok_or_else(|| format!("iKey {key} is covered by no token"))?);
        events.push(event);
    }
    ensure(used.len() == keys.len(), || "a tenant token that no event needs".to_owned())?;
    ensure(events.len() <= body::EVENTS_MAX, || format!("{} events", events.len()))?;
    Ok((text, events))
}

fn decode(request: &Request) -> Checked<Vec<u8>> {
    let most = body::BODY_BYTES_MAX as u64 + 1;
    let mut out = Vec::new();
    let read = match request.header("content-encoding") {
        None => return Ok(request.body.clone()),
        Some("gzip") => flate2::read::GzDecoder::new(&*request.body).take(most).read_to_end(&mut out),
        Some("deflate") => flate2::read::DeflateDecoder::new(&*request.body).take(most).read_to_end(&mut out),
        Some(other) => return Err(format!("encoding {other}")),
    };
    read.map_err(|e| format!("a body that cannot be decoded: {e}"))?;
    Ok(out)
}

/// Checks one line as an event of the strict profile.
///
/// # Errors
/// What the profile forbids.
pub fn check_line(line: &str) -> Result<Value, String> {
    ensure(!line.is_empty(), || "an empty line".to_owned())?;
    ensure(line.len() <= body::EVENT_BYTES_MAX, || format!("an event of {} bytes", line.len()))?;
    let event: Value = serde_json::from_str(line).map_err(|e| format!("a line that is no JSON: {e}"))?;
    let part = |name: &str| event.get(name).ok_or_else(|| format!("an event without {name}"));
    let text = |name: &str| part(name)?.as_str().ok_or_else(|| format!("{name} is no text"));
    ensure(text("ver")? == "4.0", || "another version than 4.0".to_owned())?;
    let name = text("name")?;
    ensure(names::is_event_name(name), || format!("event name {name}"))?;
    let time = text("time")?;
    let rfc = time.ends_with('Z') && tidegate_proto::time::parse_rfc3339(time).is_some();
    ensure(rfc, || format!("time {time}"))?;
    ensure(text("iKey")?.starts_with("o:"), || "iKey".to_owned())?;
    ensure(part("flags")?.is_i64(), || "flags".to_owned())?;
    const KNOWN: [&str; 10] =
        ["name", "time", "ver", "iKey", "ext", "data", "popSample", "flags", "cV", "seq"];
    for key in event.as_object().into_iter().flat_map(Map::keys) {
        ensure(KNOWN.contains(&key.as_str()), || format!("envelope field {key}"))?;
    }
    let ext = part("ext")?.as_object().ok_or("ext is no object")?;
    for (name, value) in ext {
        ensure(value.is_object(), || format!("ext.{name} is no object"))?;
    }
    for place in ["sdk", "utc"] {
        let id = ext.get(place).and_then(|v| Some((v.get("epoch")?.as_str()?, v.get("seq")?.as_i64()?)));
        ensure(id.is_some_and(|(epoch, seq)| epoch.len() == 16 && seq > 0), || {
            format!("no event id in ext.{place}")
        })?;
    }
    let data = part("data")?.as_object().ok_or("data is no object")?;
    ensure(data.get("baseType").is_some_and(Value::is_string), || "no baseType".to_owned())?;
    ensure(data.get("baseData").is_some_and(Value::is_object), || "no baseData".to_owned())?;
    let shape = ext.get("metadata").and_then(|m| m.get("f"));
    members(data, shape, "data")?;
    Ok(event)
}

/// Checks names and that metadata has the shape of the data.
fn members(data: &Map<String, Value>, shape: Option<&Value>, path: &str) -> Checked<()> {
    let empty = Map::new();
    let shape = match shape {
        None => &empty,
        Some(shape) => shape.as_object().ok_or_else(|| format!("metadata of {path} is no object"))?,
    };
    for name in shape.keys() {
        ensure(data.contains_key(name), || format!("metadata of {path}.{name}, which is not there"))?;
    }
    for (name, value) in data {
        let path = format!("{path}.{name}");
        ensure(names::is_property_name(name), || format!("property name {path}"))?;
        let meta = shape.get(name);
        match value {
            Value::Object(inner) => members(inner, meta.map(|m| m.get("f").unwrap_or(&Value::Null)), &path)?,
            Value::Array(items) => {
                let Some(meta) = meta else { continue };
                let number = meta.get("a").and_then(|a| a.get("t")).and_then(Value::as_u64);
                let number = number.ok_or_else(|| format!("metadata of the array {path}"))?;
                ensure(number < 32, || format!("an array of personal data {path}"))?;
                for item in items {
                    leaf(item, number, &path)?;
                }
            }
            value => {
                let Some(meta) = meta else {
                    ensure(!value.is_number() && !value.is_null(), || format!("{path} has no type"))?;
                    continue;
                };
                let number = meta.get("t").and_then(Value::as_u64);
                leaf(value, number.ok_or_else(|| format!("metadata of {path}"))?, &path)?;
            }
        }
    }
    Ok(())
}

/// Checks a value against its metadata number.
fn leaf(value: &Value, number: u64, path: &str) -> Checked<()> {
    let (kind, value_type) = (number >> 5 & 0xff, number & 31);
    let fits = if kind != 0 {
        kind <= 13 && (1..=9).contains(&value_type) && value.is_string()
    } else {
        match value_type {
            1 => value.is_string(),
            2 => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            3 => value.as_u64().is_some_and(|n| u32::try_from(n).is_ok()),
            4 => value.is_i64(),
            5 => value.is_u64(),
            6 => value.is_number() || value.is_null(),
            7 => value.is_boolean(),
            8 => value.as_str().is_some_and(|s| tidegate_proto::guid::parse(s).is_some()),
            9 => value.as_str().is_some_and(|s| tidegate_proto::time::parse_rfc3339(s).is_some()),
            _ => false,
        }
    };
    ensure(fits, || format!("{path} is {value}, not of type {number}"))
}
