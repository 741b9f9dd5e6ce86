//! The counters over HTTP, for a Prometheus on this host. Loopback only: whoever wants more puts a server before it.

use super::FileSystem;
use crate::error::{Error, Kind, Result};
use crate::thread;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// A request longer than this is none of a scraper.
const REQUEST_BYTES_MAX: u64 = 16 << 10;
/// Whoever sends or reads no faster is left.
const PATIENCE: Duration = Duration::from_secs(5);

impl FileSystem {
    /// Serves the counters at this address, on a thread of its own, as long as there is this tree; returns the address,
    /// which differs when its port was 0. `Invalid` for an address that other hosts can reach.
    pub fn serve_metrics(self: &Arc<Self>, address: SocketAddr) -> Result<SocketAddr> {
        if !address.ip().is_loopback() {
            let message = format!("metrics are shown on loopback only, not at {address}");
            return Err(Error::new(Kind::Invalid, message));
        }
        let cannot = |error| Error::io(format_args!("cannot show metrics at {address}"), error);
        let listener = TcpListener::bind(address).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let tree = Arc::downgrade(self);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let Some(tree) = tree.upgrade() else { return };
                // Who hung up asks again.
                let _ = answer(&connection, &tree);
            }
        });
        Ok(address)
    }
}

/// One request, one answer: a scraper comes a few times a minute.
fn answer(mut connection: &TcpStream, tree: &FileSystem) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let mut request = BufReader::new(connection).take(REQUEST_BYTES_MAX);
    let mut first = String::new();
    request.read_line(&mut first)?;
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next(), words.next());
    let (status, text) = match (method, path) {
        (Some("GET" | "HEAD"), Some("/metrics" | "/")) => ("200 OK", tree.metrics_text()),
        (Some("GET" | "HEAD"), _) => ("404 Not Found", "see /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "GET /metrics\n".to_owned()),
    };
    let body = if method == Some("HEAD") { "" } else { &text };
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        text.len()
    )
}
