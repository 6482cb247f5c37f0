//! Listing a container ("List Blobs" of the Blob service REST API), for reconciling.

use quick_xml::Reader;
use quick_xml::events::Event;
use sha2::{Digest as _, Sha256};

use super::{BlobSink, api};
use crate::DeliverError;
use crate::holdings::{Held, ListError, Listing};
use crate::http::{Body, Method, Request, redact};

/// Blobs that one page has at most; a page stays within the reply's bound.
const PAGE: &str = "1000";

/// An answer that is no list of blobs.
#[derive(Debug, thiserror::Error)]
#[error("{0} did not answer with a list of blobs: {1}")]
struct NoList(String, String);

/// A blob that is longer than what is read of a reply.
#[derive(Debug, thiserror::Error)]
#[error("{0} is too large to be read")]
struct NotWhole(String);

/// What a page says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Page {
    blobs: Vec<Listed>,
    next: String,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Listed {
    name: String,
    len: u64,
    host: Option<String>,
    stream: Option<String>,
    epoch: Option<String>,
}

/// Reads a page; what is wrong with it is told in words.
fn page(xml: &[u8]) -> Result<Page, String> {
    let mut reader = Reader::from_reader(xml);
    let (mut page, mut path, mut text) = (Page::default(), Vec::new(), String::new());
    let mut ended = false;
    loop {
        match reader.read_event().map_err(|e| e.to_string())? {
            Event::Start(e) => {
                text.clear();
                path.push(String::from_utf8_lossy(e.local_name().as_ref()).into_owned());
                // the page of a proxy that wants a password, for instance
                if path.first().is_some_and(|p| p != "EnumerationResults") {
                    return Err("it is another document".to_owned());
                }
                if path.last().is_some_and(|p| p == "Blob") {
                    page.blobs.push(Listed::default());
                }
            }
            Event::Text(t) => text.push_str(&t.decode().map_err(|e| e.to_string())?),
            Event::GeneralRef(name) => {
                let code = name.resolve_char_ref().map_err(|e| e.to_string())?;
                let named = || {
                    let name = name.decode().ok()?;
                    quick_xml::escape::resolve_xml_entity(&name).map(str::to_owned)
                };
                match code.map(String::from).or_else(named) {
                    Some(c) => text.push_str(&c),
                    None => return Err("an entity that XML does not have".to_owned()),
                }
            }
            Event::CData(t) => text.push_str(&String::from_utf8_lossy(&t)),
            Event::End(_) => {
                let parts: Vec<&str> = path.iter().map(String::as_str).collect();
                let mut value = || std::mem::take(&mut text);
                match (parts.as_slice(), page.blobs.last_mut()) {
                    ([_, "NextMarker"], _) => page.next = value().trim().to_owned(),
                    ([_, "Blobs", "Blob", "Name"], Some(b)) => b.name = value(),
                    ([.., "Blob", "Properties", "Content-Length"], Some(b)) => {
                        b.len =
                            value().trim().parse().map_err(|_| "a length that is no number".to_owned())?;
                    }
                    ([.., "Blob", "Metadata", "tidegate_host"], Some(b)) => b.host = Some(value()),
                    ([.., "Blob", "Metadata", "tidegate_stream"], Some(b)) => b.stream = Some(value()),
                    ([.., "Blob", "Metadata", "tidegate_epoch"], Some(b)) => b.epoch = Some(value()),
                    _ => {}
                }
                text.clear();
                path.pop();
                ended |= path.is_empty();
            }
            // a cut answer ends in the middle
            Event::Eof if ended => return Ok(page),
            Event::Eof => return Err("it ends too early".to_owned()),
            _ => {}
        }
    }
}

impl BlobSink {
    /// What its destinations begin with.
    pub(crate) fn base(&self) -> String {
        format!("{}/", redact(self.api.target.container.as_str()))
    }

    /// See [`Holdings::list`](crate::holdings::Holdings::list).
    pub(crate) async fn list(
        &self,
        what: &Listing,
        each: &mut (dyn FnMut(Held) + Send),
    ) -> Result<(), ListError> {
        let prefix = what.of.as_ref().map(|(host, stream)| self.layout.prefix(host, stream));
        let mut marker = String::new();
        loop {
            let mut url = self.api.target.container.clone();
            url.query_pairs_mut()
                .append_pair("restype", "container")
                .append_pair("comp", "list")
                .append_pair("include", "metadata")
                .append_pair("maxresults", PAGE)
                .append_pair("prefix", prefix.as_deref().unwrap_or_default());
            if !marker.is_empty() {
                url.query_pairs_mut().append_pair("marker", &marker);
            }
            let reply = self.api.send(Request::new(Method::GET, url.clone())).await?;
            if reply.status != 200 {
                return Err(self.api.fail(&url, &reply).into());
            }
            let read = match &reply.body {
                Body::Whole(bytes) => page(bytes),
                _ => Err("it ends too early".to_owned()),
            };
            let found = read.map_err(|why| DeliverError::Retry {
                after: None,
                source: Box::new(NoList(redact(url.as_str()), why)),
            })?;
            for blob in found.blobs {
                each(self.held(blob, what.read).await?);
            }
            if found.next.is_empty() || found.next == marker {
                return Ok(());
            }
            marker = found.next;
        }
    }

    async fn held(&self, blob: Listed, read: bool) -> Result<Held, DeliverError> {
        let url = self.api.target.blob(&blob.name);
        let destination = redact(url.as_str());
        let sha256 = if read {
            let reply = self.api.send(Request::new(Method::GET, url.clone())).await?;
            match (api::blob(&reply), &reply.body) {
                (Some(_), Body::Whole(bytes)) => Some(Sha256::digest(bytes).into()),
                (Some(_), _) => {
                    let source = Box::new(NotWhole(destination));
                    return Err(DeliverError::Retry { after: None, source });
                }
                _ => return Err(self.api.fail(&url, &reply)),
            }
        } else {
            None
        };
        let writer = blob.host.zip(blob.stream).zip(blob.epoch).map(|((h, s), e)| (h, s, e));
        Ok(Held { destination, name: blob.name, len: blob.len, sha256, writer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults \
        ContainerName=\"c\"><Prefix>h/</Prefix><Blobs><Blob><Name>h/a&amp;b&#x41;.jsonl</Name><Properties>\
        <Content-Length>42</Content-Length><Etag>x</Etag></Properties><Metadata><tidegate_host>h\
        </tidegate_host><tidegate_stream>events</tidegate_stream><tidegate_epoch>00</tidegate_epoch>\
        <Name>not this</Name></Metadata></Blob><Blob><Name>other</Name><Properties><Content-Length>0\
        </Content-Length></Properties><Metadata/></Blob></Blobs><NextMarker>m1</NextMarker>\
        </EnumerationResults>";

    #[test]
    fn a_page_is_read_with_names_as_they_are() {
        let page = page(XML.as_bytes()).unwrap();
        assert_eq!(page.next, "m1");
        let (first, second) = (&page.blobs[0], &page.blobs[1]);
        assert_eq!((first.name.as_str(), first.len), ("h/a&bA.jsonl", 42));
        assert_eq!(first.host.as_deref(), Some("h"));
        assert_eq!(*second, Listed { name: "other".to_owned(), ..Listed::default() });
    }

    #[test]
    fn a_page_cut_anywhere_is_no_page() {
        for end in (0..XML.len()).filter(|n| XML.is_char_boundary(*n)) {
            assert!(page(&XML.as_bytes()[..end]).is_err(), "{end}");
        }
        assert!(page(b"<html><body>sign in</body></html>").is_err());
        assert!(page(XML.replace("42", "many").as_bytes()).is_err());
        assert!(page(XML.replace("&amp;", "&evil;").as_bytes()).is_err());
    }
}
