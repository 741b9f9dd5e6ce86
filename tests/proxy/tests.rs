//! The proxy before real servers: signatures hold, counts are what was sent, each rule does what it says.

use super::*;
use crate::servers;
use crate::stores::{kind, noise, open_cloud};
use bytes::Bytes;
use keepfs::error::Kind;
use keepfs::store::{CloudOptions, SharedStore};
use std::io::{BufRead, Read};
use std::process::Command;

/// A store in a bucket of SeaweedFS behind a proxy, which has not seen anything yet. The store has been tried out.
fn seaweedfs(prefix: &str) -> (Proxy, SharedStore) {
    let (url, options) = servers::seaweedfs_bucket("proxied");
    behind(&format!("{url}/{prefix}"), options)
}

fn behind(url: &str, options: CloudOptions) -> (Proxy, SharedStore) {
    let proxy = Proxy::before(options.endpoint.as_deref().expect("has one"));
    let through = CloudOptions {
        endpoint: Some(proxy.endpoint.clone()),
        retry_timeout: Duration::from_secs(2),
        ..options
    };
    let store = open_cloud(url, through);
    store
        .create("keys/first", Bytes::from_static(b"x"))
        .expect("tries the store out");
    proxy.clear_log();
    (proxy, store)
}

/// Waits until a request is such.
fn await_request(proxy: &Proxy, such: impl Fn(&Request) -> bool) {
    for _ in 0..6000 {
        if proxy.count(&such) > 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no such request: {:?}", proxy.log());
}

/// A server that answers each request with the head and the body it got, in chunks, after leave to send the body where
/// that is asked for.
fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("is bound"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut from = BufReader::new(stream.try_clone().expect("cloned"));
                while echo_one(&mut from, &stream).is_ok() {}
            });
        }
    });
    endpoint
}

fn echo_one(from: &mut BufReader<TcpStream>, mut to: &TcpStream) -> io::Result<()> {
    let head = Head::read(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    if head.says("expect", "100-continue") {
        to.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut got = head.raw.clone();
    match head.request_framing() {
        Framing::Chunked => loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).expect("a size");
            let mut chunk = vec![0; size + 2];
            from.read_exact(&mut chunk)?;
            got.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        },
        Framing::Length(length) => {
            let mut body = vec![0; usize::try_from(length).expect("small")];
            from.read_exact(&mut body)?;
            got.extend(body);
        }
        Framing::Nothing | Framing::UntilClosed => {}
    }
    to.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    for chunk in got.chunks(100) {
        write!(to, "{:x}\r\n", chunk.len())?;
        to.write_all(chunk)?;
        to.write_all(b"\r\n")?;
    }
    to.write_all(b"0\r\n\r\n")
}

#[test]
fn requests_of_every_framing_pass_unchanged_over_one_connection() {
    let proxy = Proxy::before(&echo());
    let stream = TcpStream::connect(proxy.address).expect("listens");
    let mut from = BufReader::new(stream.try_clone().expect("cloned"));
    let mut to = &stream;
    let mut exchange = |head: &str, body: &[u8], content: &str| {
        to.write_all(head.as_bytes()).expect("is sent");
        if head.contains("Expect") {
            let leave = Head::read(&mut from).expect("answers").expect("a head");
            assert_eq!(leave.status(), 100);
        }
        to.write_all(body).expect("is sent");
        let answer = Head::read(&mut from).expect("answers").expect("a head");
        assert_eq!(answer.status(), 200);
        let mut said = Vec::new();
        loop {
            let mut line = String::new();
            from.read_line(&mut line).expect("a size");
            let size = usize::from_str_radix(line.trim(), 16).expect("a size");
            let mut chunk = vec![0; size + 2];
            from.read_exact(&mut chunk).expect("a chunk");
            said.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
        assert_eq!(String::from_utf8_lossy(&said), format!("{head}{content}"));
        said.len() as u64
    };
    let plain = "PUT /b/one?x=1 HTTP/1.1\r\nHost: signed.example:99\r\nContent-Length: 5\r\n\r\n";
    let received = [
        exchange(plain, b"hello", "hello"),
        exchange(
            "PUT /b/two HTTP/1.1\r\nHost:  odd \r\nTransfer-Encoding: chunked\r\n\r\n",
            b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            "abcde",
        ),
        exchange(
            "PUT /b/three HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
            b"xyz",
            "xyz",
        ),
        exchange("GET /b/four HTTP/1.1\r\nhost: a\r\n\r\n", b"", ""),
    ];
    let log = proxy.log();
    let seen = |of: fn(&Request) -> u64| log.iter().map(of).collect::<Vec<u64>>();
    assert_eq!(seen(|request| request.sent), [5, 5, 3, 0]);
    assert_eq!(seen(|request| request.received), received);
    assert_eq!(log[0].header("host"), Some("signed.example:99"));
    assert_eq!((log[0].path(), log[0].announced), ("/b/one", 5));
    assert!(log.iter().all(Request::succeeded));
}

/// Every kind of call once; compares the log with what was called.
fn counts_are_what_was_sent(proxy: &Proxy, store: &SharedStore, creates_uploads: usize) {
    let (small, large) = (noise(1000), noise(18 << 20));
    store.create("index/1", small.clone()).expect("creates");
    let mut upload = store.upload("packs/data/aa/1").expect("starts");
    upload.write(large.clone()).expect("is sent");
    upload.finish().expect("arrives");
    assert_eq!(store.get("index/1").expect("reads"), small);
    let part = store.get_range("packs/data/aa/1", 100..5000);
    assert_eq!(part.expect("reads"), large.slice(100..5000));
    store.head("index/1").expect("is there");
    assert_eq!(store.list("index/").expect("lists").len(), 1);
    store.delete("index/1").expect("deletes");

    let of = |verb| proxy.count(move |request| request.verb == verb);
    let sent = |verb| proxy.sum(move |request| request.verb == verb, |request| request.sent);
    let received = |path: &'static str| {
        let such = move |request: &Request| {
            request.verb == Verb::GetObject && request.path().ends_with(path)
        };
        proxy.sum(such, |request| request.received)
    };
    assert_eq!((of(Verb::PutObject), sent(Verb::PutObject)), (1, 1000));
    assert_eq!(
        (of(Verb::UploadPart), sent(Verb::UploadPart)),
        (3, 18 << 20)
    );
    assert_eq!(of(Verb::CreateMultipartUpload), creates_uploads);
    assert_eq!(of(Verb::CompleteMultipartUpload), 1);
    assert_eq!(received("/index/1"), 1000);
    assert_eq!(received("/packs/data/aa/1"), 4900);
    let others = [Verb::HeadObject, Verb::ListObjects, Verb::DeleteObject];
    assert_eq!(others.map(of), [1, 1, 1], "{:?}", proxy.log());
    assert_eq!(proxy.log().len(), 10 + creates_uploads);
    assert!(proxy.log().iter().all(Request::succeeded));
}

#[test]
fn signatures_hold_and_counts_are_what_was_sent_to_s3() {
    let (proxy, store) = seaweedfs("counts");
    counts_are_what_was_sent(&proxy, &store, 1);
}

#[test]
fn signatures_hold_and_counts_are_what_was_sent_to_azure() {
    let (url, options) = servers::azurite_container("proxied");
    let (proxy, store) = behind(&format!("{url}/counts"), options);
    counts_are_what_was_sent(&proxy, &store, 0);
}

#[test]
fn a_client_that_waits_for_leave_to_send_gets_it() {
    let (_, options) = servers::seaweedfs_bucket("proxied");
    let proxy = Proxy::before(options.endpoint.as_deref().expect("has one"));
    let script = "import boto3, sys\n\
        endpoint, key, secret = sys.argv[1:]\n\
        s3 = boto3.client('s3', endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret, region_name='us-east-1')\n\
        s3.put_object(Bucket='proxied', Key='boto', Body=b'x' * 300000, StorageClass='STANDARD_IA')\n\
        assert s3.get_object(Bucket='proxied', Key='boto')['Body'].read() == b'x' * 300000\n";
    let key = options.access_key.expect("has one");
    let done = Command::new(servers::tool("venv/bin/python"))
        .args(["-c", script, &proxy.endpoint, &key, servers::S3_SECRET])
        .output()
        .expect("Python starts");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let log = proxy.log();
    assert_eq!(log[0].header("expect"), Some("100-continue"), "{log:?}");
    assert_eq!((log[0].verb, log[0].status), (Verb::PutObject, 200));
    assert_eq!(log[0].class.as_deref(), Some("STANDARD_IA"));
    assert!(log[0].sent >= 300_000 && log[1].received == 300_000);
}

#[test]
fn requests_fail_as_often_as_they_shall_and_heal() {
    let (proxy, store) = seaweedfs("fail");
    let index = || Matching::all().method("PUT").path("/index/");
    proxy.rules().fail(index(), Times::Exactly(2), 503);
    store
        .create("index/1", noise(10))
        .expect("the third attempt");
    let of = |such: fn(&Request) -> bool| proxy.count(such);
    assert_eq!(of(|request| request.status == 503 && !request.passed_on), 2);
    assert_eq!(of(|request| request.verb == Verb::PutObject), 3);
    let forever = proxy.rules().fail(index(), Times::ForEver, 500);
    assert_eq!(kind(store.create("index/2", noise(10))), Kind::Unreachable);
    store
        .create("keys/2", noise(10))
        .expect("no rule is about it");
    proxy.rules().remove(forever);
    store.create("index/2", noise(10)).expect("is healed");
    assert!(of(|request| request.status == 500) > 1);
    // By the size of the body.
    let large = Matching::puts().body_of_at_least(1000);
    proxy.rules().fail(large, Times::ForEver, 403);
    store.create("index/3", noise(999)).expect("is small");
    assert_eq!(kind(store.create("index/4", noise(1000))), Kind::Denied);
    proxy.rules().clear();
    store.create("index/4", noise(1000)).expect("is healed");
}

#[test]
fn requests_are_cut_in_the_middle_of_both_bodies() {
    let (proxy, store) = seaweedfs("cut");
    let content = noise(1 << 20);
    let puts = || Matching::puts();
    proxy
        .rules()
        .cut_request(puts(), Times::Exactly(1), 500_000);
    store.create("index/1", content.clone()).expect("once more");
    let log = proxy.log();
    assert_eq!((log[0].sent, log[0].status), (500_000, 0));
    assert_eq!(log.last().expect("some").status, 200, "{log:?}");
    // The server has done it, and nobody hears of it.
    proxy.rules().cut_answer(puts(), Times::Exactly(1), 0);
    store.create("index/2", content.clone()).expect("is ours");
    assert_eq!(proxy.count(|request| request.status == 412), 1);
    proxy.clear_log();
    let gets = Matching::verb(Verb::GetObject);
    proxy.rules().cut_answer(gets, Times::Exactly(1), 300_000);
    assert_eq!(store.get("index/2").expect("reads on"), content);
    let log = proxy.log();
    assert_eq!(log[0].received, 300_000, "{log:?}");
    assert!(log.len() > 1);
}

#[test]
fn one_byte_of_a_body_is_changed() {
    let (proxy, store) = seaweedfs("corrupt");
    let content = noise(9 << 20);
    let parts = Matching::verb(Verb::UploadPart);
    let rule = proxy.rules().corrupt_request(parts, 2);
    let mut upload = store.upload("packs/data/aa/1").expect("starts");
    upload.write(content.clone()).expect("is sent");
    upload.finish().expect("the part is sent again");
    assert!(!proxy.rules().waiting().contains(&rule), "it has acted");
    let refused = proxy.count(|request| request.status == 400);
    assert_eq!(refused, 1, "the server verifies: {:?}", proxy.log());
    assert_eq!(store.get("packs/data/aa/1").expect("reads"), content);
    let gets = Matching::verb(Verb::GetObject);
    proxy.rules().corrupt_answer(gets, 2);
    let read = || store.get("packs/data/aa/1").expect("reads");
    assert_eq!(read(), content);
    let differs = read();
    let changed = differs
        .iter()
        .zip(&content)
        .filter(|(one, other)| one != other);
    assert_eq!((changed.count(), differs.len()), (1, content.len()));
    assert_eq!(read(), content);
}

#[test]
fn what_is_held_back_is_overtaken() {
    let (proxy, store) = seaweedfs("delay");
    let slow = Matching::all().path("/slow");
    proxy.rules().delay(slow, Duration::from_secs(2));
    std::thread::scope(|scope| {
        scope.spawn(|| store.create("index/slow", noise(10)).expect("arrives"));
        await_request(&proxy, |request| request.path().ends_with("/slow"));
        store.create("index/fast", noise(10)).expect("arrives");
        let answered = |path: &'static str| {
            proxy.count(move |request| request.path().ends_with(path) && request.status > 0)
        };
        assert_eq!((answered("/slow"), answered("/fast")), (0, 1));
    });
}

#[test]
fn a_slow_link_holds_bytes_back_until_it_is_fast_again() {
    let (proxy, store) = seaweedfs("rate");
    proxy.rules().rate(Some(64 << 10));
    std::thread::scope(|scope| {
        scope.spawn(|| store.create("index/1", noise(8 << 20)).expect("arrives"));
        await_request(&proxy, |request| request.sent > 0);
        let log = proxy.log();
        assert!(log[0].sent < log[0].announced && log[0].status == 0);
        proxy.rules().rate(None);
    });
    assert_eq!(proxy.log()[0].sent, 8 << 20);
}

#[test]
fn what_is_down_refuses_and_what_is_up_again_answers() {
    let (proxy, store) = seaweedfs("down");
    proxy.down();
    proxy.down();
    assert_eq!(kind(store.get("keys/first")), Kind::Unreachable);
    assert_eq!(proxy.log().len(), 0);
    proxy.up();
    assert_eq!(store.get("keys/first").expect("is up"), "x");
}
