//! A proxy that opens tunnels (`CONNECT`), with TLS behind it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::pins::{Pin, PinMonitor};
use super::*;
use crate::testing::CannedServer;
use crate::testing::chain::{Chain, pem};
use crate::{Clock, DeliverError};

/// `ada:right` in base64.
const ADA: &str = "proxy-authorization: basic ywrhonjpz2h0";

/// Lets `ada` through, to one address whatever is asked for.
struct Tunnels {
    address: SocketAddr,
    /// Heads of the requests, in lower case.
    seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tunnels {
    async fn to(upstream: SocketAddr) -> Tunnels {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let heads = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let heads = Arc::clone(&heads);
                open.spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = client.read_u8().await else { return };
                        head.push(byte);
                    }
                    let head = String::from_utf8_lossy(&head).to_lowercase();
                    let known = head.contains(ADA);
                    heads.lock().unwrap().push(head);
                    if !known {
                        let refusal = b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\
                                        Content-Length: 0\r\n\r\n";
                        let _ = client.write_all(refusal).await;
                        return;
                    }
                    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
                    if client.write_all(b"HTTP/1.1 200 Go\r\n\r\n").await.is_ok() {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Tunnels { address, seen, task }
    }

    fn settings(&self, password: &str, more: &str) -> String {
        format!(
            "[proxy]\nurl = \"http://{}\"\nuser = \"ada\"\npassword = \"value:{password}\"\n{more}\n",
            self.address
        )
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn context() -> HttpContext {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000);
    HttpContext { clock: Clock::fixed(at), pins: PinMonitor::default() }
}

async fn ask(server: &CannedServer, settings: &str) -> Result<u16, HttpError> {
    let config: HttpConfig = toml::from_str(settings).unwrap();
    let client = Client::new(&config, &context()).unwrap();
    client.send(Request::new(Method::GET, server.url().parse().unwrap())).await.map(|reply| reply.status)
}

#[tokio::test]
async fn tls_goes_through_a_tunnel_that_asks_for_a_password() {
    let chain = Chain::new();
    let server = chain.serve().await;
    let proxy = Tunnels::to(server.address()).await;
    assert_eq!(ask(&server, &(proxy.settings("right", "") + &chain.trusting(""))).await.unwrap(), 200);
    let [head] = &proxy.seen()[..] else { panic!("{:?}", proxy.seen()) };
    assert!(
        head.starts_with(&format!("connect localhost:{} http/1.1\r\n", server.address().port())),
        "{head}"
    );
    let [request] = &server.seen()[..] else { panic!() };
    assert_eq!(request.header("proxy-authorization"), None, "the password is the proxy's alone");
}

#[tokio::test]
async fn a_tunnel_refused_with_407_says_to_check_the_proxys_password() {
    let chain = Chain::new();
    let server = chain.serve().await;
    let proxy = Tunnels::to(server.address()).await;
    let error = ask(&server, &(proxy.settings("wrong", "") + &chain.trusting(""))).await.unwrap_err();
    assert!(matches!(error, HttpError::ProxyAuth(_)), "{error:?}");
    assert!(!format!("{error:?}{error}").contains("wrong"));
    let error = DeliverError::from(error);
    let DeliverError::Stop { advice, .. } = &error else { panic!("{error:?}") };
    assert!(advice.contains("http.proxy") && advice.contains("password"), "{advice}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_proxy_password_that_is_replaced_counts_from_the_next_connection_on() {
    let chain = Chain::new();
    let server = chain.serve().await;
    let proxy = Tunnels::to(server.address()).await;
    let file = chain.file("password", "not yet".to_owned());
    let settings = proxy.settings("x", "").replace("value:x", &format!("file:{}", file.display()));
    let config: HttpConfig = toml::from_str(&(settings + &chain.trusting(""))).unwrap();
    let client = Client::new(&config, &context()).unwrap();
    let get = || Request::new(Method::GET, server.url().parse().unwrap());
    assert!(matches!(client.send(get()).await, Err(HttpError::ProxyAuth(_))));
    std::fs::write(&file, "right\n").unwrap();
    assert_eq!(client.send(get()).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_name_in_no_proxy_is_reached_without_the_tunnel() {
    let chain = Chain::new();
    let server = chain.serve().await;
    let proxy = Tunnels::to(server.address()).await;
    let around =
        |names: &str| proxy.settings("right", &format!("no_proxy = [{names}]")) + &chain.trusting("");
    assert_eq!(ask(&server, &around("\"localhost\"")).await.unwrap(), 200);
    assert!(proxy.seen().is_empty());
    assert_eq!(ask(&server, &around("\"elsewhere.test\"")).await.unwrap(), 200);
    assert_eq!(proxy.seen().len(), 1);
}

#[tokio::test]
async fn a_tunnel_that_ends_in_another_server_is_refused_by_a_pin_though_its_ca_is_trusted() {
    let (real, theirs) = (Chain::new(), Chain::new());
    let (server, inspector) = (real.serve().await, theirs.serve().await);
    let proxy = Tunnels::to(inspector.address()).await;
    let both = pem("CERTIFICATE", &real.root.der) + &pem("CERTIFICATE", &theirs.root.der);
    let ca = real.file("both.pem", both);
    let settings = proxy.settings("right", "") + &format!("[tls]\nca_file = '{}'\n", ca.display());
    assert_eq!(ask(&server, &settings).await.unwrap(), 200);
    assert_eq!((server.seen().len(), inspector.seen().len()), (0, 1), "it looks into what is sent");
    let backup = Pin::of_spki(b"a key in a safe");
    let pins = format!("[[tls.pins]]\nsha256 = [\"{}\", \"{backup}\"]\n", real.middle.pin());
    let error = ask(&server, &(settings + &pins)).await.unwrap_err();
    assert!(matches!(error, HttpError::Pin(_)), "{error:?}");
    assert!(matches!(DeliverError::from(error), DeliverError::Stop { .. }));
    assert_eq!((server.seen().len(), inspector.seen().len()), (0, 1), "nothing more was sent");
}
