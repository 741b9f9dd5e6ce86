//! What is wrong with a repository that cannot be used: the reason, and readiness again as soon as that is mended.

use crate::classes::Cloud;
use crate::engine::Bench;
use crate::mount::{run, try_run};
use crate::proxy::{Matching, Proxy, Times};
use crate::servers::{self, S3_SECRET, python_says};
use keepfs::repository::{Repository, RepositoryState, Settings, state};
use keepfs::store::{CloudOptions, DirectoryStore, StoreOptions, Trouble, open};
use std::sync::Arc;

fn trouble(repository: &Repository) -> Option<Trouble> {
    match state(repository) {
        RepositoryState::Ready => None,
        RepositoryState::Invalid { trouble, sentence } => {
            assert!(
                sentence.len() > 20 && !sentence.contains('\n'),
                "{sentence}"
            );
            Some(trouble)
        }
    }
}

/// Moves all objects of one bucket into another, as somebody who renames it would.
const MOVE: &str = "import boto3, sys\n\
    endpoint, key, secret, source, target = sys.argv[1:]\n\
    s3 = boto3.resource('s3', endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret, region_name='us-east-1')\n\
    s3.create_bucket(Bucket=target)\n\
    for o in s3.Bucket(source).objects.all():\n\
    \x20   s3.Object(target, o.key).put(Body=o.get()['Body'].read())\n\
    \x20   o.delete()\n\
    s3.Bucket(source).delete()\n";

#[test]
fn a_store_in_a_cloud_says_what_is_wrong_and_is_ready_when_that_is_mended() {
    let (url, options) = servers::moto_bucket("states");
    let server = options.endpoint.clone().expect("given");
    let proxy = Proxy::before(&server);
    let cloud = CloudOptions {
        endpoint: Some(proxy.endpoint.clone()),
        retry_timeout: std::time::Duration::from_secs(2),
        ..options.clone()
    };
    let store = StoreOptions {
        cloud,
        ..StoreOptions::default()
    };
    let store = open(&format!("{url}/keep"), &store).expect("opens");
    let bench = Bench::in_store(store, &Settings::default());
    let repository = bench.open();
    assert_eq!(trouble(&repository), None);
    proxy.down();
    assert_eq!(trouble(&repository), Some(Trouble::EndpointDown));
    proxy.up();
    assert_eq!(trouble(&repository), None);
    let revoked = proxy.rules().fail(Matching::all(), Times::ForEver, 403);
    assert_eq!(trouble(&repository), Some(Trouble::CredentialsRefused));
    proxy.rules().remove(revoked);
    assert_eq!(trouble(&repository), None);
    let key = options.access_key.as_deref().expect("given");
    let rename = |from, to| python_says(MOVE, &[&server, key, S3_SECRET, from, to]);
    rename("states", "states-elsewhere");
    assert_eq!(trouble(&repository), Some(Trouble::BucketMissing));
    rename("states-elsewhere", "states");
    assert_eq!(trouble(&repository), None);
}

#[test]
fn a_directory_whose_disk_goes_is_missing_until_it_comes_back() {
    let home = tempfile::tempdir().expect("a temporary directory");
    run(&format!(
        "cd '{}'; mkdir disk point; mount --bind disk point",
        home.path().display()
    ));
    let point = home.path().join("point");
    let store = DirectoryStore::open(&point).expect("opens");
    let bench = Bench::in_store(Arc::new(store), &Settings::default());
    let repository = bench.open();
    let ready = trouble(&repository);
    run(&format!("umount '{}'", point.display()));
    let gone = trouble(&repository);
    run(&format!(
        "cd '{}'; mount --bind disk point",
        home.path().display()
    ));
    let again = trouble(&repository);
    let _ = try_run(&format!("umount -l '{}'", point.display()));
    assert_eq!(
        (ready, gone, again),
        (None, Some(Trouble::DirectoryMissing), None)
    );
}

/// A server of TLS before one of plain HTTP: FRONT CERTIFICATE KEY PORT HOST:PORT
const FRONT: &str = "import socket, ssl, sys, threading\n\
    certificate, key, port, target = sys.argv[1:]\n\
    host, target_port = target.split(':')\n\
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n\
    context.load_cert_chain(certificate, key)\n\
    listener = socket.create_server(('127.0.0.1', int(port)))\n\
    def pump(a, b):\n\
    \x20   try:\n\
    \x20       while data := a.recv(65536): b.sendall(data)\n\
    \x20   except OSError: pass\n\
    \x20   for s in (a, b):\n\
    \x20       try: s.shutdown(socket.SHUT_RDWR)\n\
    \x20       except OSError: pass\n\
    def serve(raw):\n\
    \x20   try: client = context.wrap_socket(raw, server_side=True)\n\
    \x20   except OSError: return\n\
    \x20   server = socket.create_connection((host, int(target_port)))\n\
    \x20   threading.Thread(target=pump, args=(client, server), daemon=True).start()\n\
    \x20   pump(server, client)\n\
    while True:\n\
    \x20   threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()\n";

#[test]
fn an_endpoint_that_does_not_prove_who_it_is_is_told_by_its_certificate() {
    let (url, options) = servers::seaweedfs_bucket("certificates");
    let plain = options.endpoint.clone().expect("given");
    let [port] = servers::free_ports();
    let through = CloudOptions {
        endpoint: Some(format!("https://127.0.0.1:{port}")),
        ..options
    };
    let cloud = Cloud::new(&format!("{url}/keep"), &through, "");
    let home = cloud.host.home.path();
    run(&format!(
        "cd '{}'; exec 2>/dev/null
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority
        openssl req -newkey rsa:2048 -nodes -keyout tls.key -out tls.csr -subj /CN=keepfs
        openssl x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out tls.pem -days 2 \
            -extfile <(echo subjectAltName=IP:127.0.0.1)",
        home.display()
    ));
    let path = |name: &str| home.join(name).to_str().expect("UTF-8").to_owned();
    let mut front = std::process::Command::new(servers::tool("venv/bin/python"));
    front.args([
        "-c",
        FRONT,
        &path("tls.pem"),
        &path("tls.key"),
        &port.to_string(),
    ]);
    front.arg(plain.replace("http://", ""));
    let mut front = servers::spawn(front, &home.join("front.log"));
    for _ in 0..600 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let (_, said) = cloud.says(1, &["stats", "offsite"]);
    let trusting = |words: &[&str]| {
        let mut command = cloud.host.command(words);
        command.env("SSL_CERT_FILE", path("ca.pem"));
        command.env("AWS_SECRET_ACCESS_KEY", S3_SECRET);
        command.output().expect("runs")
    };
    let outputs = [
        trusting(&["init", "offsite"]),
        trusting(&["stats", "offsite"]),
    ];
    let (_, again) = cloud.says(1, &["stats", "offsite"]);
    let _ = (front.kill(), front.wait());
    for said in [said, again] {
        assert!(said.contains("invalid (certificate not trusted)"), "{said}");
    }
    for output in outputs {
        crate::cli::assert_code(&output, 0);
    }
}

#[test]
fn stats_tells_of_the_others_what_is_wrong_with_one() {
    let host = crate::cli::Host::new();
    host.expect(0, &["init", "primary"]);
    host.expect(0, &["init", "offsite"]);
    assert!(host.expect(0, &["stats"]).contains(": ready"));
    std::fs::rename(host.path("offsite"), host.path("elsewhere")).expect("renames");
    let shown = host.expect(1, &["stats"]);
    assert!(shown.contains("primary in"), "{shown}");
    assert!(
        shown.contains("offsite is invalid (directory missing)"),
        "{shown}"
    );
    std::fs::rename(host.path("elsewhere"), host.path("offsite")).expect("renames");
    host.expect(0, &["stats"]);
}

#[test]
fn a_copy_from_what_cannot_be_read_is_no_session() {
    let (url, options) = servers::moto_bucket("sessions");
    let proxy = Proxy::before(options.endpoint.as_deref().expect("given"));
    let through = CloudOptions {
        endpoint: Some(proxy.endpoint.clone()),
        ..options
    };
    let cloud = Cloud::new(&format!("{url}/keep"), &through, "").with_point();
    cloud.says(0, &["backup", "files", "offsite/web/two"]);
    let sessions = || {
        let made = std::fs::read_dir(cloud.host.path("primary/sessions"));
        made.map_or(0, |made| made.count())
    };
    proxy.down();
    let (_, said) = cloud.says(1, &["copy", "offsite", "primary"]);
    assert!(said.contains("does not answer"), "{said}");
    assert_eq!(sessions(), 0);
    proxy.up();
    cloud.says(0, &["copy", "offsite", "primary"]);
    assert_eq!(sessions(), 1);
}
