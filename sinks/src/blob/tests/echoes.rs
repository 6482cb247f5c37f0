//! Services that quote what they were sent.

use super::tokens::{BROKER, Cloud, MANAGED, broker, token};
use super::*;

const SIGNATURE: &str = "aB3/d+9xQz7Kp0Wm=";
const SAS: &str = "sv=2022-11-02&sp=rcw&sig=aB3%2Fd%2B9xQz7Kp0Wm%3D";
const CLIENT_SECRET: &str = "cl1ent&s3cret~of\"mine";

/// A sink with a SAS, and an endpoint that answers.
async fn with_sas(answer: impl Fn(&Seen) -> Canned + Send + Sync + 'static) -> (CannedServer, BlobSink) {
    let server = CannedServer::handler(answer).await;
    let text = format!(
        "container = \"logs\"\naccount = \"acct\"\nendpoint = \"{}\"\npath_style = true\nlayout = \"\"\n\
         sas = \"value:{SAS}\"",
        server.url()
    );
    let config: BlobConfig = toml::from_str(&text).unwrap();
    let sink = BlobSink::new(&SinkId::new("blob"), &config, &HttpContext::default()).unwrap();
    (server, sink)
}

fn told(error: &DeliverError) -> String {
    let told = format!("{error} {error:?}");
    assert!(told.contains("***"), "what was quoted is not told at all: {told}");
    told
}

fn has_no_signature(told: &str) {
    for form in
        [SIGNATURE, "aB3%2Fd%2B9xQz7Kp0Wm", "aB3%2fd%2b9xQz7Kp0Wm", "aB3\\/d+9xQz7Kp0Wm", "9xQz7Kp0Wm"]
    {
        assert!(!told.contains(form), "{told}");
    }
}

fn query(seen: &Seen) -> String {
    seen.target.split_once('?').unwrap_or_default().1.to_owned()
}

#[tokio::test]
async fn a_sas_in_the_services_message_is_not_told() {
    for escape in [str::to_owned, |q: &str| q.replace('&', "&amp;"), |q: &str| q.replace('%', "%25")] {
        let (_server, sink) = with_sas(move |seen| {
            Canned::status(500)
                .saying(format!("<Error><Message>of {}</Message></Error>", escape(&query(seen))))
        })
        .await;
        has_no_signature(&told(&sink.deliver(&batch(1, 3)).await.unwrap_err()));
    }
    let (_server, sink) =
        with_sas(|_| Canned::status(500).saying(format!("<Message>of {SIGNATURE}</Message>"))).await;
    has_no_signature(&told(&sink.deliver(&batch(1, 3)).await.unwrap_err()));
}

#[tokio::test]
async fn a_sas_in_the_path_of_a_redirect_is_not_told() {
    for path in [SIGNATURE, "aB3%2Fd%2B9xQz7Kp0Wm%3D", "x;sig=aB3%2fd%2b9xQz7Kp0Wm%3d"] {
        let (_server, sink) =
            with_sas(move |_| Canned::status(302).with("location", &format!("https://else.test/{path}")))
                .await;
        has_no_signature(&told(&sink.deliver(&batch(1, 3)).await.unwrap_err()));
    }
}

#[tokio::test]
async fn a_sas_in_an_etag_is_in_no_receipt() {
    let (_server, sink) =
        with_sas(|seen| Canned::status(201).with("etag", &format!("\"{}\"", query(seen)))).await;
    let done = sink.deliver(&batch(1, 3)).await.unwrap();
    assert_eq!(done.objects[0].server_id, "***");
    let (_server, sink) = with_sas(|_| Canned::status(201).with("etag", "\"of a kind\"")).await;
    assert_eq!(sink.deliver(&batch(1, 3)).await.unwrap().objects[0].server_id, "", "no name");
}

#[tokio::test]
async fn a_signature_of_the_accounts_key_in_the_services_code_is_not_told() {
    let shown = |seen: &Seen| seen.header("authorization").unwrap().to_owned();
    for (status, in_header) in [(500, true), (500, false), (403, true), (400, false)] {
        let server = CannedServer::handler(move |seen| match in_header {
            true => Canned::status(status).with("x-ms-error-code", &shown(seen)),
            false => Canned::status(status).saying(format!("<Code>{}</Code>", shown(seen))),
        })
        .await;
        let error = sink(&server.url(), "layout = \"\"").deliver(&batch(1, 3)).await.unwrap_err();
        let told = told(&error);
        let sent = shown(&server.seen()[0]);
        let signature = sent.rsplit(':').next().unwrap();
        assert!(!told.contains(signature) && !told.contains(&signature[..12]), "{told}");
    }
}

#[tokio::test]
async fn a_bearer_token_or_a_brokers_sas_that_the_service_quotes_is_not_told() {
    let echo = |seen: &Seen| {
        let shown = seen.header("authorization").unwrap_or_default();
        Canned::status(500)
            .with("x-ms-request-id", shown)
            .with("x-ms-error-code", &seen.target)
            .saying(format!("<Message>{} {shown}</Message>", seen.target))
    };
    let cloud = Cloud::answering(token, move |seen, _| echo(seen)).await;
    let error = cloud.sink(MANAGED).deliver(&batch(1, 1)).await.unwrap_err();
    assert!(!told(&error).contains("token-1"), "{error:?}");
    let cloud = broker(|_| format!("URL/acct/logs?se=2030-01-01&{SAS}"), move |seen, _| echo(seen)).await;
    has_no_signature(&told(&cloud.sink(BROKER).deliver(&batch(1, 1)).await.unwrap_err()));
}

#[tokio::test]
async fn a_token_in_the_path_that_a_broker_redirects_to_is_not_told() {
    let server = CannedServer::handler(|seen| {
        let shown = seen.header("authorization").unwrap().replace("Bearer ", "");
        Canned::status(302).with("location", &format!("https://else.test/{shown}"))
    })
    .await;
    let url = server.url();
    let text = format!(
        "container = \"logs\"\naccount = \"acct\"\nendpoint = \"{url}\"\npath_style = true\nlayout = \"\"\n\
         sas_broker = {{ url = \"{url}/sas\", host = \"h\", token = \"value:br0ker-t0ken\" }}"
    );
    let config: BlobConfig = toml::from_str(&text).unwrap();
    let sink = BlobSink::new(&SinkId::new("blob"), &config, &HttpContext::default()).unwrap();
    let error = sink.deliver(&batch(1, 1)).await.unwrap_err();
    let told = format!("{} {:?}", told(&error), error.cause());
    assert!(!told.contains("br0ker"), "{told}");
}

#[tokio::test]
async fn a_client_secret_or_assertion_that_the_authority_quotes_is_not_told() {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/blob/tests/data");
    let key = data.join("client.key");
    for credentials in [
        format!("kind = \"client-secret\"\nclient_secret = {:?}", format!("value:{CLIENT_SECRET}")),
        format!(
            "kind = \"client-certificate\"\nclient_certificate = {:?}\nclient_key = \"file:{}\"",
            data.join("client.pem"),
            key.display()
        ),
    ] {
        for place in ["error", "error_description"] {
            let server = CannedServer::handler(move |seen| {
                let form: crate::http::Url =
                    format!("http://form/?{}", std::str::from_utf8(&seen.body).unwrap()).parse().unwrap();
                let sent = form.query_pairs().find(|(k, _)| k == "client_secret" || k == "client_assertion");
                let said = format!("no: {}", sent.unwrap().1);
                Canned::status(400).saying(serde_json::json!({ place: said }).to_string())
            })
            .await;
            let text = format!(
                "container = \"logs\"\naccount = \"acct\"\nlayout = \"\"\n[identity]\nclient_id = \"app\"\n\
                 tenant_id = \"t\"\nauthority = \"{}\"\n{credentials}",
                server.url()
            );
            let config: BlobConfig = toml::from_str(&text).unwrap();
            let sink = BlobSink::new(&SinkId::new("blob"), &config, &HttpContext::default()).unwrap();
            let told = told(&sink.deliver(&batch(1, 1)).await.unwrap_err());
            assert!(!told.contains("s3cret") && !told.contains("eyJ"), "{told}");
        }
    }
}
