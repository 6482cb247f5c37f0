//! The Unix socket: who may connect is up to its permissions, who may change something up to
//! the user the kernel names at the other end (`SO_PEERCRED`).

use std::fs::{self, Permissions};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::serve::Places;
use super::{Api, Caller, Right};
use crate::control::Who;

pub(super) async fn listen(api: Arc<Api>, stop: CancellationToken) -> Result<()> {
    let path = api.config.socket.clone();
    let listener = bind(&path, api.config.group.as_deref()).await?;
    info!(socket = %path.display(), "the control socket is open");
    let places = Places::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // out of handles: others will close theirs
                Err(error) => {
                    warn!(%error, "a control connection could not be taken");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    continue;
                }
            },
        };
        match caller(&stream) {
            Ok(caller) => places.spawn(stream, &api, caller),
            Err(error) => debug!(%error, "a control connection whose user is not known"),
        }
    }
    // the next start would find it and see that nobody answers
    let _ = fs::remove_file(&path);
    Ok(())
}

fn caller(stream: &UnixStream) -> Result<Caller> {
    let peer = stream.peer_cred()?;
    let uid = peer.uid();
    let own = rustix::process::geteuid().as_raw();
    let name = name_of("/etc/passwd", |fields| fields.get(2) == Some(&uid.to_string().as_str()), 0);
    let who = match name {
        Some(name) => format!("user {name} (uid {uid}) at the control socket"),
        None => format!("uid {uid} at the control socket"),
    };
    let right = if uid == 0 || uid == own { Right::Change } else { Right::Look };
    Ok(Caller { who: Who(who), right, remote: false })
}

/// A field of the first line of a file such as `/etc/passwd` that fits.
fn name_of(file: &str, fits: impl Fn(&[&str]) -> bool, field: usize) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        fits(&fields).then(|| fields.get(field).map(|f| (*f).to_owned()))?
    })
}

/// The id of a group, by number or by its name in `/etc/group`.
fn group_id(group: &str) -> Result<u32> {
    let by_name = || name_of("/etc/group", |fields| fields.first() == Some(&group), 2)?.parse().ok();
    group.parse().ok().or_else(by_name).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("control.group: there is no group \"{group}\" in /etc/group"))
    })
}

/// Makes the socket with its permissions: it is at no time more open than it shall be.
async fn bind(path: &Path, group: Option<&str>) -> Result<UnixListener> {
    let of = |what: &str, e: Error| Error::new(e.kind(), format!("{what} {}: {e}", path.display()));
    let group = group.map(group_id).transpose()?;
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let error = Error::new(ErrorKind::AlreadyExists, "something else is there");
            return Err(of("cannot make the control socket", error));
        }
        // one that nobody answers is left from a run that was killed
        Ok(_) if UnixStream::connect(path).await.is_ok() => {
            let error = Error::new(ErrorKind::AddrInUse, "another collector answers there");
            return Err(of("cannot make the control socket", error));
        }
        Ok(_) | Err(_) => {}
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|e| of("cannot make the folder of", e))?;
    // nobody else reaches it in here, whatever the umask is
    let closed = parent.join(format!(".c{}", std::process::id()));
    let made = fs::DirBuilder::new().mode(0o700).create(&closed);
    if let Err(e) = made.and_then(|()| fs::set_permissions(&closed, Permissions::from_mode(0o700))) {
        return Err(of("cannot make the control socket", e));
    }
    let inner = closed.join("s");
    let bound = UnixListener::bind(&inner).and_then(|listener| {
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        chown(&inner, None, group)?;
        fs::set_permissions(&inner, Permissions::from_mode(mode))?;
        fs::rename(&inner, path)?;
        Ok(listener)
    });
    // what is left of it after a failure is in the way of nothing
    let _ = fs::remove_file(&inner);
    let _ = fs::remove_dir(&closed);
    bound.map_err(|e| of("cannot make the control socket", e))
}
