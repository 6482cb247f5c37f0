//! The named pipe of Windows. Its default permissions let only administrators, the system and
//! the user the collector runs as write to it, which every request needs; other machines are
//! turned away.

use std::io::Result;
use std::sync::Arc;

use tokio::net::windows::named_pipe::{NamedPipeServer, ServerOptions};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::serve::Places;
use super::{Api, Caller, Right};
use crate::control::Who;

fn make(api: &Api, first: bool) -> Result<NamedPipeServer> {
    let mut options = ServerOptions::new();
    // the first one fails where someone else has taken the name
    options.first_pipe_instance(first).reject_remote_clients(true).max_instances(64);
    options.create(&api.config.socket)
}

pub(super) async fn listen(api: Arc<Api>, stop: CancellationToken) -> Result<()> {
    let mut next = make(&api, true)?;
    info!(pipe = %api.config.socket.display(), "the control pipe is open");
    let places = Places::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            connected = next.connect() => if let Err(error) = connected {
                warn!(%error, "a control connection could not be taken");
            }
        }
        let taken = std::mem::replace(&mut next, make(&api, false)?);
        let who = Who("an administrator at the control pipe".to_owned());
        places.spawn(taken, &api, Caller { who, right: Right::Change, remote: false });
    }
}
