//! Bytes that change on their way and connections that break: what is stored is right or not there.

use crate::classes::Cloud;
use crate::engine::{full, seed};
use crate::proxy::{Matching, Proxy, Request, Times, Verb};
use crate::servers;
use crate::stores::noise;
use keepfs::store::CloudOptions;

fn behind(bucket: &str) -> (Proxy, Cloud) {
    let (url, options) = servers::seaweedfs_bucket(bucket);
    let proxy = Proxy::before(options.endpoint.as_deref().expect("given"));
    let through = CloudOptions {
        endpoint: Some(proxy.endpoint.clone()),
        ..options
    };
    let cloud = Cloud::new(&format!("{url}/keep"), &through, "pack-size = \"1 MiB\"");
    (proxy, cloud)
}

#[test]
fn a_byte_that_changes_on_its_way_is_sent_again_and_never_stored() {
    let (proxy, cloud) = behind("changed-byte");
    std::fs::write(cloud.host.path("files/noise"), noise(6 << 20)).expect("writes");
    let cloud = cloud.with_point();
    let rule = proxy
        .rules()
        .corrupt_request(Matching::puts().path("/packs/"), 3);
    proxy.clear_log();
    cloud.says(0, &["copy", "primary", "offsite"]);
    assert!(!proxy.rules().waiting().contains(&rule), "it has acted");
    let refused = proxy.count(|request| request.is_put() && request.status == 400);
    assert_eq!(refused, 1, "{:?}", proxy.log());
    let packs = |such: fn(&Request) -> bool| {
        proxy.count(move |request| {
            request.is_put() && request.path().contains("/packs/") && such(request)
        })
    };
    assert_eq!(packs(|_| true), packs(Request::succeeded) + 1);
    cloud.says(0, &["check", "--read-data", "offsite"]);
    // And on its way back: what is read is right, or is not believed.
    proxy
        .rules()
        .corrupt_answer(Matching::verb(Verb::GetObject).path("/packs/data/"), 1);
    let mut command = cloud
        .host
        .command(&["restore", "offsite/web/one", "restored"]);
    let restored = command
        .env("AWS_SECRET_ACCESS_KEY", servers::S3_SECRET)
        .output()
        .expect("runs");
    let same =
        std::fs::read(cloud.host.path("restored/noise")).is_ok_and(|read| read == noise(6 << 20));
    assert!(same || !restored.status.success());
}

#[test]
fn connections_that_break_anywhere_leave_only_points_that_verify() {
    let (proxy, cloud) = behind("broken-wires");
    let cloud = cloud.with_point();
    let mut random = seed("broken wires") | 1;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let rounds = if full() { 200 } else { 10 };
    let whole = noise(400_000 + rounds);
    for round in 0..rounds {
        // Every point has something of its own.
        std::fs::write(
            cloud.host.path("files/noise"),
            &whole[round..round + 400_000],
        )
        .expect("writes");
        cloud.says(0, &["backup", "files", &format!("primary/web/of-{round}")]);
        let data = Matching::puts().path("/packs/data/");
        let any = Matching::puts().and(|request| !request.path().contains("/leases/"));
        match round % 3 {
            0 => proxy
                .rules()
                .cut_answer(any, Times::Exactly(1 + next(3)), 0),
            1 => proxy
                .rules()
                .cut_request(data, Times::Exactly(1 + next(6)), next(400_000)),
            _ => proxy
                .rules()
                .cut_request(any, Times::Exactly(1 + next(6)), next(200)),
        };
        let words = ["copy", "primary", "offsite"];
        let mut command = cloud.host.command(&words);
        command.env("AWS_SECRET_ACCESS_KEY", servers::S3_SECRET);
        command.output().expect("runs");
        proxy.rules().clear();
    }
    assert!(
        proxy.count(|request| request.status == 0) > 0,
        "nothing was cut"
    );
    cloud.says(0, &["check", "--read-data", "offsite"]);
    cloud.says(0, &["copy", "primary", "offsite"]);
    for round in 0..rounds {
        let [one, other] = ["primary", "offsite"].map(|name| format!("{name}/web/of-{round}"));
        cloud.says(0, &["diff", &one, &other]);
    }
}
