//! What a store counts is what goes over the wire, and Prometheus reads it.

use crate::engine::Bench;
use crate::mount::back_up;
use crate::proxy::Proxy;
use crate::servers::{self, python_says};
use crate::stores::noise;
use keepfs::copy::{End, Scope, Selection, TransferOptions, copy_points};
use keepfs::error::Kind;
use keepfs::filesystem::{FileSystem, Options};
use keepfs::point::Catalog;
use keepfs::progress::Progress;
use keepfs::prune;
use keepfs::repository::Settings;
use keepfs::store::{CloudOptions, StoreOptions, Traffic, open};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A repository behind a proxy.
fn behind(url: &str, options: CloudOptions, settings: &Settings) -> (Proxy, Bench) {
    let proxy = Proxy::before(options.endpoint.as_deref().expect("has one"));
    let cloud = CloudOptions {
        endpoint: Some(proxy.endpoint.clone()),
        ..options
    };
    let options = StoreOptions {
        cloud,
        ..StoreOptions::default()
    };
    let store = open(url, &options).expect("opens");
    (proxy, Bench::in_store(store, settings))
}

/// What the proxy saw, as a store counts it.
fn seen(proxy: &Proxy) -> (BTreeMap<(String, String), u64>, u64, u64) {
    let mut requests = BTreeMap::new();
    for request in proxy.log() {
        let class = request.class.unwrap_or_default();
        *requests
            .entry((format!("{:?}", request.verb), class))
            .or_default() += 1;
    }
    let all = |of: fn(&crate::proxy::Request) -> u64| proxy.sum(|_| true, of);
    (
        requests,
        all(|request| request.sent),
        all(|request| request.received),
    )
}

fn told(traffic: &Traffic) -> (BTreeMap<(String, String), u64>, u64, u64) {
    let requests = traffic.requests.iter();
    let requests =
        requests.map(|((verb, class), count)| ((verb.name().to_owned(), class.clone()), *count));
    (requests.collect(), traffic.sent, traffic.received)
}

#[test]
fn a_copy_and_a_prune_are_counted_as_the_wire_sees_them() {
    let small = Settings {
        pack_bytes: 1 << 20,
        ..Settings::default()
    };
    let large = Settings {
        pack_bytes: 64 << 20,
        storage_class: "STANDARD_IA".to_owned(),
        ..Settings::default()
    };
    let cool = Settings {
        storage_class: "Cool".to_owned(),
        ..large.clone()
    };
    let source = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(source.path().join("noise"), noise(20 << 20)).expect("writes");
    let (url, options) = servers::seaweedfs_bucket("traffic");
    let (from, primary) = behind(&format!("{url}/primary"), options.clone(), &small);
    back_up(&primary, source.path(), "one");
    let (container, azure) = servers::azurite_container("traffic");
    for (url, options, settings) in [
        (format!("{url}/offsite"), options, &large),
        (format!("{container}/offsite"), azure, &cool),
    ] {
        let (into, offsite) = behind(&url, options, settings);
        let [one, other] =
            [&primary, &offsite].map(|bench| End::open(bench.open()).expect("opens"));
        let before = [&primary, &offsite].map(|bench| bench.store.traffic());
        from.clear_log();
        into.clear_log();
        let selection = Selection {
            scopes: vec![Scope::Repository],
            into: None,
        };
        let transfer = TransferOptions::between(one.repository(), other.repository());
        copy_points(&selection, &one, &other, &transfer, &Progress::default()).expect("copies");
        for (proxy, bench, before) in [(&from, &primary, &before[0]), (&into, &offsite, &before[1])]
        {
            let counted = bench.store.traffic().since(before);
            assert_eq!(told(&counted), seen(proxy), "{url}");
            assert!(!counted.requests.is_empty());
        }
        assert!(into.sum(|_| true, |request| request.sent) > 20 << 20);
        assert!(into.count(|request| request.class.is_some()) > 0);
        let catalog = other.catalog.clone();
        let point = catalog
            .contents()
            .points_of(catalog.contents().backups[&b"host"[..]].id)
            .next()
            .expect("one")
            .clone();
        catalog.forget(&point).expect("forgets");
        let before = offsite.store.traffic();
        into.clear_log();
        let options = prune::Options {
            grace_seconds: 0,
            ..prune::Options::default()
        };
        prune::prune(&catalog, &options, &Progress::default()).expect("prunes");
        assert_eq!(
            told(&offsite.store.traffic().since(&before)),
            seen(&into),
            "{url}"
        );
    }
}

/// What a client of Prometheus makes of a page: each sample's value by its name and labels.
const READ: &str = "import json, sys, urllib.request\n\
    from prometheus_client.parser import text_string_to_metric_families as parse\n\
    page = urllib.request.urlopen(sys.argv[1])\n\
    assert page.headers['Content-Type'].startswith('text/plain; version=0.0.4'), page.headers\n\
    samples = [s for f in parse(page.read().decode()) for s in f.samples]\n\
    print(json.dumps([[s.name, dict(s.labels), s.value] for s in samples]))\n";

#[test]
fn prometheus_reads_the_metrics_over_loopback_alone() {
    let (url, options) = servers::seaweedfs_bucket("metrics");
    let (proxy, bench) = behind(&format!("{url}/keep"), options, &Settings::default());
    let source = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(source.path().join("letter"), "Dear Alice").expect("writes");
    back_up(&bench, source.path(), "one");
    let state = tempfile::tempdir().expect("a temporary directory");
    let catalog = Arc::new(Catalog::open(bench.open()).expect("opens"));
    let name = "odd \"name\\";
    let tree = FileSystem::new(
        vec![(name.to_owned(), catalog)],
        Options::new(state.path().to_owned()),
    );
    let tree = Arc::new(tree);
    let refused = tree.serve_metrics("0.0.0.0:0".parse().expect("an address"));
    assert_eq!(
        refused.expect_err("others could read it").kind(),
        Kind::Invalid
    );
    let address = tree
        .serve_metrics("127.0.0.1:0".parse().expect("an address"))
        .expect("serves");
    let samples = python_says(READ, &[&format!("http://{address}/metrics")]);
    let samples: serde_json::Value = serde_json::from_str(&samples).expect("JSON");
    let samples = samples.as_array().expect("a list");
    let (requests, sent, received) = seen(&proxy);
    let value = |metric: &str| {
        let found = samples
            .iter()
            .find(|sample| sample[0] == metric && sample[1]["repository"] == name);
        found.unwrap_or_else(|| panic!("no {metric}"))[2]
            .as_f64()
            .expect("a number")
    };
    assert_eq!(value("keepfs_store_sent_bytes_total"), sent as f64);
    assert_eq!(value("keepfs_store_received_bytes_total"), received as f64);
    let mut found = BTreeMap::new();
    for sample in samples
        .iter()
        .filter(|sample| sample[0] == "keepfs_store_requests_total")
    {
        let label = |name: &str| sample[1][name].as_str().expect("a label").to_owned();
        found.insert(
            (label("verb"), label("class")),
            sample[2].as_f64().expect("a number") as u64,
        );
    }
    assert_eq!(found, requests);
}
