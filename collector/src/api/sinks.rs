//! What can be asked about the sinks of the ring.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::{Answer, Api, Call, Refusal, Right, Route};
use crate::attached;

pub(super) fn routes() -> [Route; 1] {
    [Route {
        method: "POST",
        path: "/v1/buffer/detach",
        right: Right::Change,
        remote: false,
        about: "{\"sink\": name}: forget one that is not configured",
        run: |api, call| Box::pin(detach(api, call)),
    }]
}

async fn detach(api: Arc<Api>, call: Call) -> Answer {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        sink: String,
    }
    let Body { sink } = call.json()?;
    if api.handle().serves(&sink) {
        return Err(Refusal {
            status: 409,
            error: format!("sink {sink:?} is configured and served"),
            help: "take it out of the configuration and restart the collector first",
        });
    }
    let name = sink.clone();
    let gone = api.ring(move |ring| attached::detach(ring, &name, &call.who)).await?;
    let Some(account) = gone else {
        return Err(Refusal {
            status: 404,
            error: format!("no sink {sink:?} is attached to the ring"),
            help: "GET /v1/buffer lists them",
        });
    };
    Ok(json!({ "detached": sink, "held": account.held.iter().sum::<u64>() }))
}
