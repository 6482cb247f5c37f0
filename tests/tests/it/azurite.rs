//! A small client of the storage emulator, written apart from the sink that is tested with it.
//! Shared Key signing as in "Authorize with Shared Key" of the Blob service's reference.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

pub const ACCOUNT: &str = "devstoreaccount1";
/// The emulator's own key, public and the same everywhere.
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const VERSION: &str = "2023-11-03";

/// A container of the emulator, made for one test.
#[derive(Debug)]
pub struct Container {
    address: String,
    pub name: String,
}

/// The emulator that `tests/run` has started. Without one the test has nothing to do, which is
/// said, and is a failure where CI runs.
pub fn emulator() -> Option<String> {
    match std::env::var("TIDEGATE_AZURITE") {
        Ok(url) => Some(url.trim_start_matches("http://").trim_end_matches('/').to_owned()),
        Err(_) => {
            let advice = "TIDEGATE_AZURITE is not set: start the tests with tests/run";
            assert!(std::env::var_os("CI").is_none(), "{advice}");
            eprintln!("SKIPPED: {advice}");
            None
        }
    }
}

impl Container {
    /// Makes one of a name that no other run has.
    pub fn create(emulator: &str, prefix: &str) -> Container {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let container = Container { address: emulator.to_owned(), name: format!("{prefix}-{now:x}") };
        let (status, body) = container.call("PUT", "", "restype=container");
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
        container
    }

    /// For the sink under test.
    pub fn connection_string(&self) -> String {
        let Container { address, .. } = self;
        format!(
            "DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};\
             BlobEndpoint=http://{address}/{ACCOUNT};"
        )
    }

    /// Names of all blobs.
    pub fn list(&self) -> Vec<String> {
        let (mut names, mut marker) = (Vec::new(), String::new());
        loop {
            let query = format!("comp=list&restype=container{marker}");
            let (status, body) = self.call("GET", "", &query);
            let text = String::from_utf8(body).unwrap();
            assert_eq!(status, 200, "{text}");
            names.extend(between(&text, "<Name>", "</Name>"));
            match between(&text, "<NextMarker>", "</NextMarker>").first() {
                Some(next) if !next.is_empty() => marker = format!("&marker={next}"),
                _ => return names,
            }
        }
    }

    /// The bytes of a blob.
    pub fn get(&self, name: &str) -> Vec<u8> {
        let (status, body) = self.call("GET", &format!("/{name}"), "");
        assert_eq!(status, 200, "{name}: {}", String::from_utf8_lossy(&body));
        body
    }

    /// Writes a blob as someone else would.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let (status, body) = self.request("PUT", &format!("/{name}"), "", Some(bytes));
        assert_eq!(status, 201, "{name}: {}", String::from_utf8_lossy(&body));
    }

    /// Removes a blob.
    pub fn delete(&self, name: &str) {
        let (status, body) = self.call("DELETE", &format!("/{name}"), "");
        assert_eq!(status, 202, "{name}: {}", String::from_utf8_lossy(&body));
    }

    fn call(&self, method: &str, blob: &str, query: &str) -> (u16, Vec<u8>) {
        self.request(method, blob, query, None)
    }

    fn request(&self, method: &str, blob: &str, query: &str, bytes: Option<&[u8]>) -> (u16, Vec<u8>) {
        let path = format!("/{ACCOUNT}/{}{blob}", self.name);
        let date = httpdate::fmt_http_date(SystemTime::now());
        let mut parameters: Vec<String> =
            query.split('&').filter(|q| !q.is_empty()).map(|q| q.replacen('=', ":", 1)).collect();
        parameters.sort();
        let resource: String = parameters.iter().map(|p| format!("\n{p}")).collect();
        let length = bytes.map_or(0, <[u8]>::len);
        let signed_length = if length == 0 { String::new() } else { length.to_string() };
        let (kind, kind_header) = match bytes {
            Some(_) => ("x-ms-blob-type:BlockBlob\n", "x-ms-blob-type: BlockBlob\r\n"),
            None => ("", ""),
        };
        let to_sign = format!(
            "{method}\n\n\n{signed_length}\n\n\n\n\n\n\n\n\n{kind}x-ms-date:{date}\nx-ms-version:{VERSION}\n/{ACCOUNT}{path}{resource}"
        );
        let mut mac = Hmac::<Sha256>::new_from_slice(&STANDARD.decode(KEY).unwrap()).unwrap();
        mac.update(to_sign.as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        let question = if query.is_empty() { "" } else { "?" };
        let request = format!(
            "{method} {path}{question}{query} HTTP/1.1\r\nHost: {}\r\nx-ms-date: {date}\r\n\
             x-ms-version: {VERSION}\r\nAuthorization: SharedKey {ACCOUNT}:{signature}\r\n\
             {kind_header}Content-Length: {length}\r\nConnection: close\r\n\r\n",
            self.address
        );
        let mut stream = TcpStream::connect(&self.address).expect("the emulator listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.write_all(bytes.unwrap_or_default()).unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        parse(&reply)
    }
}

/// Status and body of a whole HTTP/1.1 reply.
fn parse(reply: &[u8]) -> (u16, Vec<u8>) {
    let end = reply.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&reply[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    let mut body = &reply[end + 4..];
    if !head.contains("transfer-encoding: chunked") {
        return (status, body.to_vec());
    }
    let mut whole = Vec::new();
    while let Some(line) = body.windows(2).position(|w| w == b"\r\n") {
        let size = std::str::from_utf8(&body[..line]).ok().and_then(|s| usize::from_str_radix(s, 16).ok());
        let Some(size @ 1..) = size else { break };
        whole.extend_from_slice(&body[line + 2..line + 2 + size]);
        body = &body[line + 4 + size..];
    }
    (status, whole)
}

/// Every text between two marks.
fn between(text: &str, from: &str, to: &str) -> Vec<String> {
    text.split(from).skip(1).filter_map(|t| t.split(to).next()).map(str::to_owned).collect()
}

/// The lines of a blob or file, decompressed by its first bytes.
pub fn lines(bytes: &[u8]) -> Vec<String> {
    let text = if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut text = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut text).unwrap();
        text
    } else if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        zstd::decode_all(bytes).unwrap()
    } else {
        bytes.to_vec()
    };
    String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
}
