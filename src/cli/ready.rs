//! Telling a service manager that the mount is ready, as sd_notify(3) does.

use crate::error::{Error, Kind, Result};
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Tells whoever set `NOTIFY_SOCKET`, if anybody did. A failure is one of the mount: the manager would wait in vain.
pub fn tell() -> Result<()> {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else {
        return Ok(());
    };
    send(&socket).map_err(|error| {
        let message = format!(
            "cannot tell the service manager at NOTIFY_SOCKET={} that the mount is ready: {error}",
            socket.display()
        );
        Error::new(Kind::Failed, message).caused_by(error)
    })
}

/// A path, or a name of the abstract kind, which begins with an `@`.
fn send(socket: &OsStr) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let sent = UnixDatagram::unbound()?.send_to_addr(b"READY=1\n", &address);
    sent.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sockets_hear_of_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let name = format!("keepfs-test-{}", std::process::id());
        let of_name = SocketAddr::from_abstract_name(&name).expect("a name");
        let listeners = [
            UnixDatagram::bind(&path).expect("binds"),
            UnixDatagram::bind_addr(&of_name).expect("binds"),
        ];
        send(path.as_os_str()).expect("sends");
        send(OsStr::new(&format!("@{name}"))).expect("sends");
        for listener in listeners {
            let mut heard = [0; 16];
            let bytes = listener.recv(&mut heard).expect("hears");
            assert_eq!(&heard[..bytes], b"READY=1\n");
        }
    }
}
