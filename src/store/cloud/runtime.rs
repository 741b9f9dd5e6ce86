//! The one runtime on which all cloud stores of this process do their network traffic.
//!
//! It starts with the first use: a process that forks into the background must do so before it opens a cloud store.

use std::future::Future;
use std::sync::LazyLock;
use tokio::runtime::{Builder, Runtime};

/// Threads that drive sockets and TLS. The work around them (hash, compress, encrypt) has threads of its own.
const WORKERS: usize = 2;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    // rustls panics on first use when no provider is the default; when another room installed one, that one is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("keepfs-network")
        .enable_all()
        .build()
        .expect("two threads and an epoll descriptor can be had at start")
});

/// Runs `future` to its end while the calling thread waits. Must not be called from within the runtime.
pub(super) fn wait<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// The runtime itself, to start something that nobody waits for yet.
pub(super) fn runtime() -> &'static Runtime {
    &RUNTIME
}
