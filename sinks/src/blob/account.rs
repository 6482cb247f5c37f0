//! Where the container is: account, endpoint, connection strings.

use crate::http::Url;

/// The account of the storage emulator; its key is the same everywhere and no secret.
pub(super) const EMULATOR_ACCOUNT: &str = "devstoreaccount1";
pub(super) const EMULATOR_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const EMULATOR_ENDPOINT: &str = "http://127.0.0.1:10000/devstoreaccount1";
const SUFFIX: &str = "core.windows.net";

/// A container's place.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Empty where only a SAS is known.
    pub account: String,
    /// URL of the container, without a slash at its end.
    pub container: Url,
}

impl Target {
    /// The URL of a blob; parts of the name are divided by `/`.
    pub fn blob(&self, name: &str) -> Url {
        let mut url = self.container.clone();
        // an http URL has a path
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(name.split('/'));
        }
        url
    }
}

/// The parts of a connection string that matter to the blob service.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct ConnectionString {
    pub account: Option<String>,
    pub key: Option<String>,
    pub sas: Option<String>,
    pub endpoint: Option<String>,
    pub protocol: Option<String>,
    pub suffix: Option<String>,
}

impl ConnectionString {
    /// Reads `Name=Value;…`. What is wrong is told without the text, which holds a key.
    pub fn parse(text: &str) -> Result<ConnectionString, &'static str> {
        let mut found = ConnectionString::default();
        let mut emulator = false;
        for part in text.split(';').map(str::trim).filter(|p| !p.is_empty()) {
            let (name, value) = part.split_once('=').ok_or("a part has no \"=\"")?;
            let value = Some(value.to_owned()).filter(|v| !v.is_empty());
            match name.to_ascii_lowercase().as_str() {
                "accountname" => found.account = value,
                "accountkey" => found.key = value,
                "sharedaccesssignature" => found.sas = value,
                "blobendpoint" => found.endpoint = value,
                "defaultendpointsprotocol" => found.protocol = value,
                "endpointsuffix" => found.suffix = value,
                "usedevelopmentstorage" => emulator = value.is_some_and(|v| v.eq_ignore_ascii_case("true")),
                // of the other services
                _ => {}
            }
        }
        if emulator {
            found.account = Some(EMULATOR_ACCOUNT.to_owned());
            found.key = Some(EMULATOR_KEY.to_owned());
            found.endpoint.get_or_insert_with(|| EMULATOR_ENDPOINT.to_owned());
        }
        if found.key.is_none() && found.sas.is_none() {
            return Err("it has neither AccountKey nor SharedAccessSignature");
        }
        if found.account.is_none() && (found.key.is_some() || found.endpoint.is_none()) {
            return Err("it has no AccountName");
        }
        Ok(found)
    }
}

/// Where an account is, from the most to the least particular setting.
#[derive(Clone, Debug, Default)]
pub(super) struct Place<'a> {
    pub account: &'a str,
    /// Wins over all others.
    pub endpoint: Option<&'a str>,
    pub protocol: Option<&'a str>,
    pub suffix: Option<&'a str>,
    /// The account is the first part of the path, not of the host.
    pub path_style: bool,
}

impl Place<'_> {
    /// The URL of a container. What is wrong is told in words.
    pub fn container(&self, container: &str) -> Result<Url, String> {
        let letters = container.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let sound =
            letters && !container.starts_with('-') && !container.ends_with('-') && !container.contains("--");
        if !(3..=63).contains(&container.len()) || !sound {
            let rule = "3 to 63 lower-case letters, digits and single hyphens";
            return Err(format!("\"{container}\" cannot be a container's name: {rule}"));
        }
        let account = self.account;
        let simple = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
        };
        let root = match self.endpoint {
            Some(endpoint) => endpoint.to_owned(),
            None => {
                let (protocol, suffix) = (self.protocol.unwrap_or("https"), self.suffix.unwrap_or(SUFFIX));
                if !simple(account) || !simple(suffix) {
                    return Err("account and endpoint_suffix are names, or endpoint is a URL".to_owned());
                }
                match self.path_style {
                    true => format!("{protocol}://blob.{suffix}"),
                    false => format!("{protocol}://{account}.blob.{suffix}"),
                }
            }
        };
        let bad = || "the endpoint is no http or https URL without user, password and query".to_owned();
        let mut url: Url = root.parse().map_err(|_| bad())?;
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        if !matches!(url.scheme(), "http" | "https") || !plain || url.fragment().is_some() {
            return Err(bad());
        }
        let has_account = url.path().split('/').any(|part| part == account);
        let mut path = url.path_segments_mut().map_err(|()| bad())?;
        path.pop_if_empty();
        if self.path_style && !has_account {
            path.push(account);
        }
        path.push(container);
        drop(path);
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(place: Place<'_>) -> String {
        place.container("logs").map_or_else(|e| e, String::from)
    }

    #[test]
    fn a_container_is_found_in_every_cloud() {
        let at = |account| Place { account, ..Place::default() };
        assert_eq!(url(at("acct")), "https://acct.blob.core.windows.net/logs");
        let hub = Place { suffix: Some("local.azurestack.external"), ..at("acct") };
        assert_eq!(url(hub.clone()), "https://acct.blob.local.azurestack.external/logs");
        let style = Place { path_style: true, ..hub };
        assert_eq!(url(style), "https://blob.local.azurestack.external/acct/logs");
        for endpoint in
            ["http://127.0.0.1:10000/acct", "http://127.0.0.1:10000/acct/", "http://127.0.0.1:10000"]
        {
            let place = Place { endpoint: Some(endpoint), path_style: true, ..at("acct") };
            assert_eq!(url(place), "http://127.0.0.1:10000/acct/logs");
        }
    }

    #[test]
    fn what_cannot_be_a_place_is_refused() {
        for endpoint in ["ftp://h", "nonsense", "https://u:p@h", "https://h?x=1", "https://h#x"] {
            let place = Place { endpoint: Some(endpoint), ..Place::default() };
            let error = place.container("logs").unwrap_err();
            assert!(error.contains("endpoint") && !error.contains("u:p"), "{error}");
        }
        for account in ["", "a/b", "a@b"] {
            assert!(Place { account, ..Place::default() }.container("logs").is_err());
        }
        for name in ["", "ab", "Logs", "a--b", "-ab", "a/b", "$root", &"x".repeat(64)] {
            assert!(Place { account: "a", ..Place::default() }.container(name).is_err(), "{name}");
        }
    }

    #[test]
    fn connection_strings_are_read_with_all_their_parts() {
        let text =
            "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=a2V5PT0=;EndpointSuffix=x.test;";
        let c = ConnectionString::parse(text).unwrap();
        assert_eq!((c.account.as_deref(), c.key.as_deref()), (Some("acct"), Some("a2V5PT0=")));
        assert_eq!((c.suffix.as_deref(), c.protocol.as_deref()), (Some("x.test"), Some("https")));
        let c = ConnectionString::parse("UseDevelopmentStorage=true").unwrap();
        assert_eq!(
            (c.account.as_deref(), c.endpoint.as_deref()),
            (Some(EMULATOR_ACCOUNT), Some(EMULATOR_ENDPOINT))
        );
        let c = ConnectionString::parse("BlobEndpoint=https://h.test/;SharedAccessSignature=sv=1&sig=a%3D")
            .unwrap();
        assert_eq!(
            (c.endpoint.as_deref(), c.sas.as_deref()),
            (Some("https://h.test/"), Some("sv=1&sig=a%3D"))
        );
        for bad in ["", "AccountName=a", "AccountKey=k", "secretwithoutequals", "UseDevelopmentStorage=false"]
        {
            let why = ConnectionString::parse(bad).err().unwrap();
            assert!(!why.contains("secret"), "{why}");
        }
    }

    #[test]
    fn a_blobs_name_is_encoded_part_by_part() {
        let container = "http://h.test/acct/logs".parse().unwrap();
        let target = Target { account: "acct".to_owned(), container };
        let url = target.blob("dt=2026-01-01/a b/é#?.jsonl");
        assert_eq!(url.as_str(), "http://h.test/acct/logs/dt=2026-01-01/a%20b/%C3%A9%23%3F.jsonl");
    }
}
