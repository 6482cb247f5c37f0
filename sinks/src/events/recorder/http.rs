//! As much of HTTP/1.1 as the recorder needs.

use std::fmt::Write as _;
use std::io::{self, BufRead, Read};

/// Most bytes of a request's line and headers.
const HEAD_MAX: u64 = 64 * 1024;
/// Most bytes of a body on the wire.
const BODY_MAX: usize = 8 * 1024 * 1024;

pub(super) struct Request {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

/// Reads one request; `None` at the end of the connection.
pub(super) fn read(from: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut head = from.by_ref().take(HEAD_MAX);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(bad("no request line"));
    };
    let mut headers = Vec::new();
    loop {
        line.clear();
        if head.read_line(&mut line)? == 0 {
            return Err(bad("headers end too soon"));
        }
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        let (name, value) = text.split_once(':').ok_or_else(|| bad("a header without a colon"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request { method, target, headers, body: Vec::new() };
    let len = match request.header("content-length") {
        Some(text) => text.parse().map_err(|_| bad("no length"))?,
        None if request.header("transfer-encoding").is_some() => return Err(bad("a body in chunks")),
        None => 0_usize,
    };
    if len > BODY_MAX {
        return Err(bad("a body beyond all limits"));
    }
    request.body.resize(len, 0);
    from.read_exact(&mut request.body)?;
    Ok(Some(request))
}

/// A whole reply.
pub(super) fn reply(status: u16, headers: &[(String, String)], body: &str) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Status\r\n");
    // writing to a string does not fail
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if !body.is_empty() {
        head.push_str("Content-Type: application/json\r\n");
    }
    if status != 204 {
        let _ = write!(head, "Content-Length: {}\r\n", body.len());
    }
    head.push_str("\r\n");
    head.push_str(body);
    head.into_bytes()
}
