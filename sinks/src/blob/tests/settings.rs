//! Configurations, and credentials that change.

use super::*;

fn build(text: &str) -> Result<BlobSink, String> {
    let config: BlobConfig = toml::from_str(text).map_err(|e| e.to_string())?;
    BlobSink::new(&SinkId::new("blob"), &config, &HttpContext::default()).map_err(|e| {
        let mut told = format!("{e} {e:?}");
        let mut next = std::error::Error::source(&e);
        while let Some(e) = next {
            told.push_str(&e.to_string());
            next = e.source();
        }
        told
    })
}

#[test]
fn mistakes_name_the_setting_and_never_the_secret() {
    for (text, word) in [
        ("account = \"a\"\nkey = \"c2VjcmV0\"", "container"),
        ("container = \"logs\"", "set one of"),
        ("container = \"logs\"\naccount = \"a\"\nkey = \"secret!\"", "key"),
        ("container = \"logs\"\nkey = \"c2VjcmV0\"", "account"),
        ("container = \"logs\"\naccount = \"a\"\n[identity]\nkind = \"client-secret\"", "client_id"),
        (
            "container = \"logs\"\naccount = \"a\"\n[identity]\nkind = \"client-secret\"\nclient_id = \"i\"\ntenant_id = \"t\"",
            "client_secret",
        ),
        (
            "container = \"logs\"\naccount = \"a\"\n[sas_broker]\nurl = \"ftp://b\"\nhost = \"h\"",
            "sas_broker",
        ),
        ("container = \"logs\"\naccount = \"a\"\nkey = \"c2VjcmV0\"\nsas = \"sig=secret\"", "set one of"),
        ("container = \"logs\"\naccount = \"a\"\nsas = \"no signature secret\"", "SAS"),
        ("container = \"logs\"\nconnection_string = \"AccountName=a;secret\"", "connection"),
        (
            "container = \"logs\"\naccount = \"b\"\nconnection_string = \"AccountName=a;AccountKey=c2VjcmV0\"",
            "account",
        ),
        ("container = \"L\"\naccount = \"a\"\nkey = \"c2VjcmV0\"", "container"),
        ("container = \"logs\"\naccount = \"a\"\nkey = \"c2VjcmV0\"\nlayout = \"{x}\"", "layout"),
        ("container = \"logs\"\naccount = \"a\"\nkey = \"c2VjcmV0\"\napi_version = \"new\"", "api_version"),
        (
            "container = \"logs\"\naccount = \"a\"\nkey = \"c2VjcmV0\"\napi_version = \"2009-09-19\"",
            "api_version",
        ),
        (
            "container = \"logs\"\naccount = \"a\"\nkey = \"c2VjcmV0\"\nprofile = \"azure-stack-hub\"\napi_version = \"2019-12-12\"",
            "2017-11-09",
        ),
        ("container = \"logs\"\naccount = \"a\"\nkey = \"c2VjcmV0\"\nblock_size = \"200MiB\"", "block_size"),
        ("container = \"logs\"\naccount = \"a\"\nkey = \"c2VjcmV0\"\ncolour = 1", "colour"),
        ("container = \"logs\"\naccount = \"a\"\nkey = \"env:TIDEGATE_NO_SUCH\"", "TIDEGATE_NO_SUCH"),
    ] {
        let told = build(text).err().unwrap_or_else(|| panic!("{text} is taken"));
        assert!(told.contains(word), "{text}: {told}");
        // the parser of the file quotes the line that it cannot read; ours do not
        assert!(
            word == "client_secret" || word == "colour" || word == "container" || !told.contains("secret"),
            "{told}"
        );
        assert!(!told.contains("c2VjcmV0") || word == "colour" || word == "container", "{told}");
    }
}

#[tokio::test]
async fn a_sas_in_a_file_is_read_anew_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sas");
    std::fs::write(&file, "?sv=2017-11-09&sp=rcw&sig=one%3D\n").unwrap();
    let server = CannedServer::handler(|_| created()).await;
    let text = format!(
        "container = \"logs\"\nlayout = \"\"\nendpoint = \"{}\"\nsas = 'file:{}'",
        server.url(),
        file.display()
    );
    let sink = build(&text).unwrap();
    let done = sink.deliver(&batch(1, 2)).await.unwrap();
    assert!(!done.objects[0].destination.contains("sig"), "{done:?}");
    std::fs::write(&file, "sv=2017-11-09&sp=rcw&sig=two%3D").unwrap();
    sink.deliver(&batch(3, 4)).await.unwrap();
    let seen = server.seen();
    assert!(seen[0].target.ends_with("?sv=2017-11-09&sp=rcw&sig=one%3D"), "{}", seen[0].target);
    assert!(seen[1].target.ends_with("&sig=two%3D") && seen[1].header("authorization").is_none());
    std::fs::remove_file(&file).unwrap();
    let error = sink.deliver(&batch(5, 6)).await.unwrap_err();
    assert!(matches!(error, DeliverError::Stop { .. }), "{error:?}");
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_sas_that_has_ended_is_told_as_that_and_not_as_a_wrong_signature() {
    // 2025-06-15, 15:06:40
    let clock = crate::Clock::fixed(std::time::UNIX_EPOCH + Duration::from_secs(1_750_000_000));
    for (se, date, ended) in [
        ("2025-06-15T15%3A00Z", None, true),
        ("2025-06-15T16%3A00Z", None, false),
        // by their clock, where they tell it
        ("2025-06-15T16:00:00Z", Some("Sun, 15 Jun 2025 16:00:01 GMT"), true),
        ("2025-06-15T15:00:00Z", Some("Sun, 15 Jun 2025 14:59:00 GMT"), false),
    ] {
        let server = CannedServer::handler(move |_| {
            let body = "<Error><Code>AuthorizationFailure</Code><Message>Make sure that the header is formed \
                        correctly including the signature.</Message></Error>";
            let reply = Canned::status(403).with("x-ms-error-code", "AuthorizationFailure").saying(body);
            date.map_or(reply.clone(), |d| reply.with("date", d))
        })
        .await;
        let endpoint = server.url();
        for credentials in [
            format!("sas = \"sv=1&se={se}&sig=s\"\naccount = \"acct\"\nendpoint = \"{endpoint}\""),
            format!(
                "connection_string = \"BlobEndpoint={endpoint}/acct;SharedAccessSignature=sv=1&se={se}&sig=s\""
            ),
        ] {
            let text = format!("container = \"logs\"\nlayout = \"\"\n{credentials}");
            let config: BlobConfig = toml::from_str(&text).unwrap();
            let ctx = HttpContext { clock: clock.clone(), ..HttpContext::default() };
            let sink = BlobSink::new(&SinkId::new("blob"), &config, &ctx).unwrap();
            let error = sink.deliver(&batch(1, 1)).await.unwrap_err();
            let DeliverError::Stop { advice, source, .. } = &error else { panic!("{error:?}") };
            let told = source.to_string();
            assert_eq!(advice.contains("has ended"), ended, "{se}: {advice}");
            assert_eq!(
                (told.contains("SAS has ended"), told.contains("does not fit")),
                (ended, !ended),
                "{told}"
            );
        }
    }
}
