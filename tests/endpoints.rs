//! Cloud stores behind endpoints that are down, failing, lying or cut off, and what is sent to good ones.

use crate::servers;
use crate::stores::{kind, noise, open_cloud};
use bytes::Bytes;
use keepfs::clock::Clock;
use keepfs::error::Kind;
use keepfs::id::ChunkId;
use keepfs::repository::{Credential, Lane, Local, Repository, Settings, Writer};
use keepfs::store::CloudOptions;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Options for a server that will not answer well, with a retry limit of one second.
fn impatient(endpoint: &str) -> CloudOptions {
    CloudOptions {
        retry_timeout: Duration::from_secs(1),
        request_timeout: Duration::from_millis(500),
        ..servers::s3_options(endpoint, "AKIAEXAMPLE", "swordfish")
    }
}

/// A server that says `answer` to whatever it is sent; an empty one is never finished.
pub fn responder(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("is bound"));
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || answer_one(connection, answer));
        }
    });
    endpoint
}

fn answer_one(mut connection: TcpStream, answer: &[u8]) {
    let mut request = [0; 65_536];
    let _ = connection.read(&mut request);
    if answer.is_empty() {
        // Longer than any retry limit of these tests; ends when the client hangs up.
        while connection.read(&mut request).is_ok_and(|read| read > 0) {}
        return;
    }
    let _ = connection.write_all(answer);
}

/// Every verb fails with `expected` and one sentence without secrets.
fn fails_everywhere(endpoint: &str, expected: Kind) {
    let store = open_cloud("s3://bucket/prefix", impatient(endpoint));
    let upload = || {
        let mut upload = store.upload("packs/data/aa/1")?;
        upload.write(noise(9 << 20))?;
        upload.finish()
    };
    let errors = [
        store.get("header").map(drop),
        store.get_range("header", 0..10).map(drop),
        store.head("header").map(drop),
        store.list("keys/").map(drop),
        store.create("header", Bytes::from_static(b"x")),
        store.delete("header"),
        upload(),
    ]
    .map(|result| result.expect_err("the server is useless"));
    for error in errors {
        let shown = format!("{error} / {error:?}");
        assert_eq!(error.kind(), expected, "{shown}");
        assert!(
            !shown.contains("swordfish") && !shown.contains("AKIAEXAMPLE"),
            "{shown}"
        );
        assert!(
            shown.contains("s3://bucket/prefix") && !error.message().contains('\n'),
            "{shown}"
        );
    }
}

#[test]
fn an_endpoint_that_is_down_is_unreachable() {
    let [port] = servers::free_ports();
    fails_everywhere(&format!("http://127.0.0.1:{port}"), Kind::Unreachable);
}

#[test]
fn an_endpoint_that_fails_is_unreachable() {
    let answer = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 52\r\nConnection: close\r\n\r\n<Error><Code>InternalError</Code>AKIAEXAMPLE</Error>";
    fails_everywhere(&responder(answer), Kind::Unreachable);
}

#[test]
fn an_endpoint_that_forbids_denies() {
    let answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 51\r\nConnection: close\r\n\r\n<Error><Code>AccessDenied</Code>AKIAEXAMPLE</Error>";
    fails_everywhere(&responder(answer), Kind::Denied);
}

#[test]
fn an_endpoint_that_answers_nonsense_is_unreachable() {
    fails_everywhere(
        &responder(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\r\n"),
        Kind::Unreachable,
    );
}

#[test]
fn an_endpoint_that_never_answers_is_unreachable() {
    fails_everywhere(&responder(b""), Kind::Unreachable);
}

/// A wire to a server that writes down what passes and can cut the first answer off.
struct Wire {
    endpoint: String,
    requests: Arc<Mutex<Vec<u8>>>,
    /// The next answer is cut off.
    cut: Arc<AtomicBool>,
}

impl Wire {
    fn to(target: &str) -> Self {
        Self::of_rate(target, u64::MAX)
    }

    /// A wire that passes so many bytes a second to the server, all connections together.
    fn of_rate(target: &str, bytes_per_second: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("is bound"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let cut_next = Arc::new(AtomicBool::new(false));
        let cut = Arc::clone(&cut_next);
        let link = Arc::new(Mutex::new(()));
        let (log, target) = (Arc::clone(&requests), target.replace("http://", ""));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(&target).expect("the server listens");
                let (from, to) = (
                    client.try_clone().expect("cloned"),
                    server.try_clone().expect("cloned"),
                );
                let (log, link) = (Arc::clone(&log), Arc::clone(&link));
                std::thread::spawn(move || {
                    pass(from, to, |bytes| {
                        let one_at_a_time = link.lock().expect("not poisoned");
                        let nanoseconds = 1_000_000_000 * bytes.len() as u64 / bytes_per_second;
                        std::thread::sleep(Duration::from_nanos(nanoseconds));
                        drop(one_at_a_time);
                        log.lock().expect("not poisoned").extend_from_slice(bytes);
                        true
                    })
                });
                let cut = Arc::clone(&cut);
                std::thread::spawn(move || {
                    pass(server, client, |_| !cut.swap(false, Ordering::SeqCst))
                });
            }
        });
        Self {
            endpoint,
            requests,
            cut: cut_next,
        }
    }

    /// The heads of all PUT requests so far, in lower case, without those that try the store out.
    fn puts(&self) -> Vec<String> {
        let bytes = self.requests.lock().expect("not poisoned");
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        let heads = text.split("put /").skip(1);
        heads
            .filter_map(|put| put.split_once("\r\n\r\n"))
            .map(|(head, _)| head.to_owned())
            .filter(|head| !head.contains("/leases/"))
            .collect()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut watch: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 65_536];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if !watch(&buffer[..read]) || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[test]
fn a_creation_whose_answer_was_lost_is_known_as_ours() {
    let (url, options) = servers::seaweedfs_bucket("conformance");
    let wire = Wire::to(options.endpoint.as_deref().expect("has one"));
    let through = CloudOptions {
        endpoint: Some(wire.endpoint.clone()),
        // However long the attempt took, it is made once more.
        retry_timeout: Duration::ZERO,
        ..options
    };
    let store = open_cloud(&format!("{url}/lost"), through);
    store
        .create("keys/1", Bytes::from_static(b"x"))
        .expect("tries the store out");
    wire.cut.store(true, Ordering::SeqCst);
    store
        .create("points/1", Bytes::from_static(b"ours"))
        .expect("is ours");
    assert!(
        wire.puts().len() >= 3,
        "the first answer was cut off: {:?}",
        wire.puts()
    );
    let second = store.create("points/1", Bytes::from_static(b"theirs"));
    assert_eq!(kind(second), Kind::AlreadyExists);
    assert_eq!(store.get("points/1").expect("reads"), "ours");
}

#[test]
fn a_slow_uplink_only_takes_longer() {
    let (url, options) = servers::seaweedfs_bucket("conformance");
    let target = options.endpoint.as_deref().expect("has one");
    let wire = Wire::of_rate(target, 8 << 20);
    let through = CloudOptions {
        endpoint: Some(wire.endpoint.clone()),
        // Less than any body of this test takes on the wire.
        retry_timeout: Duration::from_millis(500),
        request_timeout: Duration::from_millis(250),
        ..options
    };
    let store = open_cloud(&format!("{url}/slow"), through);
    let (large, middle) = (noise(18 << 20), noise(5 << 20));
    let mut upload = store.upload("packs/data/aa/1").expect("starts");
    upload.write(large.clone()).expect("is sent");
    upload.finish().expect("arrives");
    store.create("index/1", middle.clone()).expect("arrives");
    assert_eq!(store.get("packs/data/aa/1").expect("reads"), large);
    assert_eq!(store.get("index/1").expect("reads"), middle);
}

#[test]
fn only_data_packs_follow_the_storage_class_and_all_carry_checksums() {
    let (url, options) = servers::seaweedfs_bucket("conformance");
    let wire = Wire::to(options.endpoint.as_deref().expect("has one"));
    let through = CloudOptions {
        endpoint: Some(wire.endpoint.clone()),
        storage_class: Some("STANDARD_IA".to_owned()),
        ..options
    };
    let store = open_cloud(&format!("{url}/class"), through);
    for name in [
        "packs/data/aa/1",
        "packs/tree/aa/1",
        "index/1",
        "points/1",
        "keys/1",
    ] {
        store
            .create(name, Bytes::from_static(b"x"))
            .expect("creates");
    }
    let puts = wire.puts();
    assert_eq!(puts.len(), 5);
    for put in puts {
        let classed = put.contains("x-amz-storage-class: standard_ia");
        assert_eq!(classed, put.contains("/packs/data/"), "{put}");
        assert!(put.contains("x-amz-checksum-sha256: "), "{put}");
    }
}

#[test]
fn data_packs_follow_the_class_that_the_repository_was_made_with() {
    let (url, options) = servers::seaweedfs_bucket("conformance");
    let wire = Wire::to(options.endpoint.as_deref().expect("has one"));
    let through = CloudOptions {
        endpoint: Some(wire.endpoint.clone()),
        ..options
    };
    // Opened anew for each: nothing but the repository itself knows the class.
    let open = || open_cloud(&format!("{url}/settings"), through.clone());
    let key = Credential::password(b"correct horse").expect("is one");
    let settings = Settings {
        storage_class: "STANDARD_IA".to_owned(),
        ..Settings::default()
    };
    let cache = tempfile::tempdir().expect("a temporary directory");
    let local = Local {
        cache: cache.path().to_owned(),
        frame_cache_bytes: 16 << 20,
        clock: Clock::system(),
    };
    Repository::init(open(), &key, "first", &settings, &Clock::system()).expect("is made");
    let repository = Repository::open(open(), &key, local).expect("opens");
    let writer = Writer::new(repository, None).expect("may write");
    for lane in [Lane::Alone, Lane::Tree] {
        let content = format!("{lane:?}");
        let id = ChunkId::of(content.as_bytes());
        writer.put(lane, id, content.as_bytes()).expect("is put");
    }
    writer.flush().expect("is written");
    let puts = wire.puts();
    assert!(puts.iter().any(|put| put.contains("/packs/data/")));
    assert!(puts.iter().any(|put| put.contains("/packs/tree/")));
    for put in puts {
        let classed = put.contains("x-amz-storage-class: standard_ia");
        assert_eq!(classed, put.contains("/packs/data/"), "{put}");
    }
}

#[test]
fn a_store_that_overwrites_is_refused_at_the_first_write() {
    // To whatever it is asked it says that it has done it.
    let careless =
        b"HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let store = open_cloud("s3://bucket/prefix", impatient(&responder(careless)));
    for refused in [
        store.create("points/1", Bytes::from_static(b"x")),
        store.upload("packs/data/aa/1").map(drop),
    ] {
        let refused = refused.expect_err("no repository is safe there");
        assert_eq!(refused.kind(), Kind::Invalid, "{refused}");
        assert!(refused.message().contains("overwrites"), "{refused}");
    }
}

#[test]
fn a_store_without_conditions_is_told_so_at_once() {
    let answer = b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 42\r\nConnection: close\r\n\r\n<Error><Code>NotImplemented</Code></Error>";
    let store = open_cloud("s3://bucket/prefix", impatient(&responder(answer)));
    let refused = store.create("points/1", Bytes::from_static(b"x"));
    let refused = refused.expect_err("it knows no condition");
    assert_eq!(refused.kind(), Kind::Invalid, "{refused}");
    assert!(refused.message().contains("choose another"), "{refused}");
}
