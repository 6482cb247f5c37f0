//! What can be asked, and the answers.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_proto::level::TelemetryLevel;
use tidegate_ring::{Chain, ChainEntry, Ring, RingError};

use crate::audit::{Record, What};
use crate::clock::now_ns;

use super::{Answer, Api, Call, Refusal, Right, Route, views};
use crate::gate::{DiffError, Differ};
use crate::purge::{Asked, Expr};

/// Every route; a module with routes of its own adds its list here.
#[must_use]
pub fn all() -> Vec<Route> {
    own().into_iter().chain(super::sinks::routes()).collect()
}

/// Most entries of a chain in one answer.
pub const PAGE: u64 = 1000;

const PURGE: &str = "{\"match\": \"CONDITION\", \"delivered\": false, \"dry_run\": false}";

fn own() -> [Route; 16] {
    use Right::{Change, Look};
    let route = |method, path, right, remote, about, run| Route { method, path, right, remote, about, run };
    [
        route("GET", "/v1", Look, false, "what can be asked", |api, _| Box::pin(async move { index(&api) })),
        route("GET", "/v1/status", Look, true, "how the collector is", |api, call| {
            Box::pin(status(api, call.remote))
        }),
        route("GET", "/v1/level", Look, true, "the level in force and why", |api, _| {
            Box::pin(async move { Ok(level(&api)) })
        }),
        route(
            "GET",
            "/v1/level/diff",
            Look,
            false,
            "?a=LEVEL&b=LEVEL; by the events in the ring",
            |api, call| Box::pin(level_diff(api, call)),
        ),
        route("PUT", "/v1/level", Change, true, "{\"level\": 0 to 3, a name, or null}", |api, call| {
            Box::pin(set_level(api, call))
        }),
        route("PUT", "/v1/telemetry", Change, true, "{\"enabled\": true or false}", |api, call| {
            Box::pin(set_enabled(api, call))
        }),
        route("GET", "/v1/buffer", Look, false, "the ring", |api, _| Box::pin(buffer(api))),
        route("GET", "/v1/receipts", Look, false, "?from=N&most=N, or ?last=N", |api, call| {
            Box::pin(chain(api, call, Chain::Receipts))
        }),
        route("GET", "/v1/audit", Look, false, "?from=N&most=N, or ?last=N", |api, call| {
            Box::pin(chain(api, call, Chain::Audit))
        }),
        route(
            "POST",
            "/v1/receipts/exported",
            Change,
            false,
            "note that receipts are copied out",
            |api, call| Box::pin(exported(api, call)),
        ),
        route("GET", "/v1/device", Look, false, "the device's random id", |api, _| {
            Box::pin(async move { Ok(json!({ "id": api.ring(crate::device::id).await? })) })
        }),
        route("POST", "/v1/device/reset", Change, false, "make the device's id anew", |api, call| {
            Box::pin(async move {
                let reset = move |ring: &dyn Ring| crate::device::reset(ring, &call.who);
                Ok(json!({ "id": api.ring(reset).await? }))
            })
        }),
        route("POST", "/v1/reload", Change, false, "read the configuration again", |api, call| {
            Box::pin(reload(api, call))
        }),
        route("POST", "/v1/purge", Change, false, PURGE, |api, call| Box::pin(purge(api, call))),
        route("POST", "/v1/settings/refresh", Change, false, "ask for the remote settings now", |api, _| {
            Box::pin(async move {
                api.handle().ask_for_settings();
                Ok(json!({ "asked": true }))
            })
        }),
        route("GET", "/v1/ping", Look, true, "whether it answers", |_, _| {
            Box::pin(async { Ok(json!({ "version": env!("CARGO_PKG_VERSION") })) })
        }),
    ]
}

fn index(api: &Api) -> Answer {
    let routes = api.routes().iter().map(|r| {
        json!({ "method": r.method, "path": r.path, "about": r.about, "administrator": r.right == Right::Change })
    });
    Ok(json!({ "version": env!("CARGO_PKG_VERSION"), "routes": routes.collect::<Vec<_>>() }))
}

fn level(api: &Api) -> Value {
    let control = api.handle().control();
    views::level(&control.now(), &control.all())
}

async fn status(api: Arc<Api>, remote: bool) -> Answer {
    let (account, ring) = api.ring(|r| Ok((r.account(), r.status()))).await?;
    let handle = api.handle();
    let mut all = views::progress(&handle.progress(), &account, remote);
    if let Some(all) = all.as_object_mut() {
        let more = [
            ("version", json!(env!("CARGO_PKG_VERSION"))),
            ("uptime_seconds", json!(handle.uptime().as_secs())),
            ("telemetry", level(&api)),
            ("ring", views::buffer(&ring, &account, |name| handle.serves(name))),
            ("pins", views::pins(handle.pins())),
            ("settings", views::settings(handle.settings().as_deref())),
            ("gaps", json!({ "told": handle.gaps().0, "events": handle.gaps().1 })),
        ];
        all.extend(more.map(|(key, value)| (key.to_owned(), value)));
    }
    Ok(all)
}

async fn set_level(api: Arc<Api>, call: Call) -> Answer {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        level: Value,
    }
    let text = match call.json::<Body>()?.level {
        Value::Null => None,
        Value::Number(n) => Some(n.to_string()),
        Value::String(s) => Some(s),
        other => return Err(Refusal::bad(format!("level: 0 to 3, a name or null is expected, not {other}"))),
    };
    let wanted = text.map(|t| t.parse::<TelemetryLevel>()).transpose();
    let wanted = wanted.map_err(|e| Refusal::bad(format!("level: {e}")))?;
    api.handle().control().set_level(wanted, &call.who).await?;
    Ok(level(&api))
}

async fn set_enabled(api: Arc<Api>, call: Call) -> Answer {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        enabled: bool,
    }
    let enabled = call.json::<Body>()?.enabled;
    api.handle().control().set_enabled(enabled, &call.who).await?;
    Ok(level(&api))
}

async fn reload(api: Arc<Api>, call: Call) -> Answer {
    let Some(reloader) = api.reloader() else {
        return Err(Refusal::bad("this collector was not started with a configuration"));
    };
    match reloader.reload(&call.who).await {
        Ok(done) => Ok(serde_json::to_value(done).unwrap_or_default()),
        Err(e) => {
            Err(Refusal { status: 422, error: e.to_string(), help: "the configuration in force stays" })
        }
    }
}

async fn level_diff(api: Arc<Api>, call: Call) -> Answer {
    let read = |name: &str, without| match call.query.get(name) {
        None => Ok(without),
        Some(text) => text.parse().map_err(|e| Refusal::bad(format!("{name}: {e}"))),
    };
    let (a, b) = (read("a", api.handle().control().now().level)?, read("b", TelemetryLevel::Full)?);
    let (ring, rules) = (Arc::clone(api.handle().ring()), api.handle().rules());
    let looked = tokio::task::spawn_blocking(move || {
        let mut differ = Differ::new(&rules, a, b);
        differ.push_all(&*ring).map(|()| differ.finish())
    });
    let refuse = |error: String| Refusal { status: 500, error, help: "check the ring's disk" };
    match looked.await {
        Ok(Ok(diff)) => Ok(serde_json::to_value(diff).unwrap_or_default()),
        Ok(Err(DiffError::Ring(e))) => Err(e.into()),
        Ok(Err(e)) => Err(refuse(crate::assemble::chain(&e))),
        Err(e) => Err(refuse(e.to_string())),
    }
}

async fn purge(api: Arc<Api>, call: Call) -> Answer {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        r#match: String,
        #[serde(default)]
        delivered: bool,
        #[serde(default)]
        dry_run: bool,
    }
    let Body { r#match, delivered, dry_run } = call.json()?;
    let rule = Expr::parse(&r#match).map_err(|e| Refusal::bad(format!("match: {e}")))?;
    let asked = Asked { rule, delivered, dry_run };
    let (ring, control) = (Arc::clone(api.handle().ring()), api.handle().control());
    let report = crate::purge::purge(ring, Some(control), asked, api.places().clone(), call.who).await?;
    Ok(serde_json::to_value(report).unwrap_or_default())
}

/// Puts an export of the receipts down in the audit log. Whoever copies them out does so before.
async fn exported(api: Arc<Api>, call: Call) -> Answer {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        to: String,
        entries: u64,
    }
    let Body { to, entries } = call.json()?;
    let to = to.chars().take(1000).collect();
    let what = What::Export { of: "receipts".to_owned(), to, entries };
    let record = Record::new(now_ns(), &call.who.0, what);
    Ok(json!({ "audit": api.ring(move |ring| record.append(ring)).await?.number }))
}

async fn buffer(api: Arc<Api>) -> Answer {
    let handle = api.handle().clone();
    api.ring(move |r| Ok(views::buffer(&r.status(), &r.account(), |name| handle.serves(name)))).await
}

async fn chain(api: Arc<Api>, call: Call, chain: Chain) -> Answer {
    let most = call.number("most")?.unwrap_or(100).clamp(1, PAGE);
    let (from, last) = (call.number("from")?, call.number("last")?);
    if from.is_some() && last.is_some() {
        return Err(Refusal::bad("either from or last is possible"));
    }
    api.ring(move |ring| {
        let (from, most) = match last {
            None => (from.unwrap_or(1).max(1), most),
            Some(n) => {
                let n = n.clamp(1, PAGE);
                (end_of(ring, chain)?.saturating_sub(n).max(1), n)
            }
        };
        let page = ring.chain_read(chain, from, usize::try_from(most).unwrap_or(1))?;
        let next = page.last().map_or(from, |e| e.number.saturating_add(1));
        let (number, hash) = ring.chain_anchor(chain)?;
        Ok(json!({
            "entries": page.iter().map(entry).collect::<Vec<_>>(),
            "next": next,
            "anchor": { "number": number, "hash": crate::audit::hex(&hash) },
            "cut": crate::audit::is_cut(ring, chain)?,
        }))
    })
    .await
}

/// The number behind the last entry; chains have no other way to tell. Reads a few dozen
/// entries at most.
fn end_of(ring: &dyn Ring, chain: Chain) -> Result<u64, RingError> {
    let is_there = |n: u64| Ok::<_, RingError>(!ring.chain_read(chain, n, 1)?.is_empty());
    let (mut low, mut step) = (1, 1_u64);
    while step < 1 << 62 && is_there(low + step - 1)? {
        low += step;
        step *= 2;
    }
    // everything below `low` is there, nothing from `low + step - 1` on
    let mut high = low + step - 1;
    while low < high {
        let middle = low + (high - low) / 2;
        if is_there(middle)? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// An entry with all it takes to verify it: `data` is what the hash is over.
fn entry(e: &ChainEntry) -> Value {
    json!({
        "number": e.number,
        "hash": crate::audit::hex(&e.hash),
        "data": String::from_utf8_lossy(&e.data),
    })
}
