//! Shared Key signatures ("Authorize with Shared Key", the form of version 2015-02-21 and later).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::http::Request;

/// What is signed: the method, some headers, all `x-ms-` headers, and the resource.
fn string_to_sign(account: &str, request: &Request) -> String {
    let header = |name: &str| request.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let length = match request.body.len() {
        0 => String::new(),
        n => n.to_string(),
    };
    let mut text = String::new();
    for line in [
        request.method.as_str(),
        header("content-encoding"),
        header("content-language"),
        &length,
        header("content-md5"),
        header("content-type"),
        // we send x-ms-date
        "",
        header("if-modified-since"),
        header("if-match"),
        header("if-none-match"),
        header("if-unmodified-since"),
        header("range"),
    ] {
        text.push_str(line);
        text.push('\n');
    }
    let own: BTreeMap<&str, &str> = request
        .headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-ms-"))
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default().trim()))
        .collect();
    for (name, value) in own {
        text.push_str(&format!("{name}:{value}\n"));
    }
    text.push_str(&format!("/{account}{}", request.url.path()));
    let mut query: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in request.url.query_pairs() {
        query.entry(name.to_lowercase()).or_default().push(value.into_owned());
    }
    for (name, mut values) in query {
        values.sort();
        text.push_str(&format!("\n{name}:{}", values.join(",")));
    }
    text
}

/// The value of `Authorization`; `None` when the key is not base64.
pub(super) fn authorization(account: &str, key: &str, request: &Request) -> Option<String> {
    let key = STANDARD.decode(key.trim()).ok().filter(|k| !k.is_empty())?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
    mac.update(string_to_sign(account, request).as_bytes());
    Some(format!("SharedKey {account}:{}", STANDARD.encode(mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Method;

    // the form of the documentation's own example, with other values
    #[test]
    fn everything_that_counts_is_in_the_string_to_sign() {
        let url = "https://acct.test/logs/a%20b.json?comp=block&blockid=QQ%3D%3D&B=2&b=1".parse().unwrap();
        let mut request = Request::new(Method::PUT, url).body("12345");
        for (name, value) in [
            ("x-ms-version", "2017-11-09"),
            ("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT"),
            ("x-ms-meta-tidegate_a", " v "),
            ("content-type", "text/plain"),
            ("content-md5", "bWQ1"),
            ("if-none-match", "*"),
        ] {
            request = request.header(name, value).unwrap();
        }
        let expected = "PUT\n\n\n5\nbWQ1\ntext/plain\n\n\n\n*\n\n\n\
            x-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-meta-tidegate_a:v\nx-ms-version:2017-11-09\n\
            /acct/logs/a%20b.json\nb:1,2\nblockid:QQ==\ncomp:block";
        assert_eq!(string_to_sign("acct", &request), expected);
        let signed = authorization("acct", "c2VjcmV0", &request).unwrap();
        assert!(signed.starts_with("SharedKey acct:") && signed.len() == "SharedKey acct:".len() + 44);
        assert_eq!(authorization("acct", "not base64!", &request), None);
        assert_eq!(authorization("acct", "", &request), None);
    }

    #[test]
    fn an_empty_body_has_no_length_in_it() {
        let request = Request::new(Method::HEAD, "https://acct.test/logs/b".parse().unwrap());
        assert_eq!(string_to_sign("acct", &request), format!("HEAD{}/acct/logs/b", "\n".repeat(12)));
    }
}
