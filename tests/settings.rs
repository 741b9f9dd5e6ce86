//! `keepfs config`: each setting changes or says that it never does.

use crate::cli::Host;
use serde_json::Value;

fn value(host: &Host, name: &str) -> String {
    let report = host.json(&["--json", "config", "primary"]);
    let lines = report["settings"].as_array().expect("a list");
    let line = lines.iter().find(|line| line["name"] == name);
    line.expect(name)["value"]
        .as_str()
        .expect("text")
        .to_owned()
}

#[test]
fn every_setting_that_may_change_changes_by_one_write_and_the_others_are_named() {
    let host = Host::new();
    host.expect(0, &["init", "primary"]);
    let shown = host.json(&["--json", "config", "primary"]);
    let changes = [
        ("pack-size", "64 MiB", "64 MiB"),
        ("level", "9", "9"),
        ("storage-class", "STANDARD_IA", "STANDARD_IA"),
        ("capacity", "2 TiB", "2048 GiB"),
        ("trash-days", "30", "30"),
        ("copy-target", "false", "false"),
        ("copy-source", "false", "false"),
        ("seal-idle", "2h", "7200s"),
        ("acl", "admin-only", "admin-only"),
        ("readers", "helpdesk, audit", "helpdesk,audit"),
    ];
    let settings = shown["settings"].as_array().expect("a list");
    for line in settings {
        let name = line["name"].as_str().expect("text");
        let change = changes.iter().find(|(known, ..)| *known == name);
        let fixed = line["fixed"] == Value::Bool(true);
        assert_eq!(fixed, change.is_none(), "{name} has no line in this test");
        let before = std::fs::read_dir(host.path("primary/config"))
            .expect("lists")
            .count();
        let after = || {
            std::fs::read_dir(host.path("primary/config"))
                .expect("lists")
                .count()
        };
        match change {
            Some((_, given, then)) => {
                host.expect(0, &["config", "primary", &format!("{name}={given}")]);
                assert_eq!(value(&host, name), *then);
                assert_eq!(after(), before + 1, "{name}");
                // The same again writes nothing.
                host.expect(0, &["config", "primary", &format!("{name}={given}")]);
                assert_eq!(after(), before + 1, "{name}");
            }
            None => {
                let said = host.complaint(1, &["config", "primary", &format!("{name}=x")]);
                assert!(said.contains(&format!("{name} was fixed")), "{said}");
                assert_eq!(after(), before, "{name}");
            }
        }
    }
    for wrong in [
        "level=23",
        "pack-size=1",
        "copy-target=no",
        "level",
        "colour=red",
        "capacity=much",
    ] {
        host.complaint(2, &["config", "primary", wrong]);
    }
    // All of it or nothing.
    host.complaint(2, &["config", "primary", "level=5", "copy-target=no"]);
    assert_eq!(value(&host, "level"), "9");
    host.expect(0, &["config", "primary", "capacity=", "seal-idle="]);
    assert_eq!(
        (value(&host, "capacity"), value(&host, "seal-idle")),
        Default::default()
    );
}

#[test]
fn a_mount_follows_what_another_process_has_changed() {
    use crate::engine::Bench;
    use crate::mount::{Mount, run, try_run};
    use keepfs::repository::{CAPACITY, Settings};
    let bench = Bench::new(&Settings::default());
    let mount = Mount::of_bench(&bench);
    let top = mount.path().join("primary/web");
    let begin = |name: &str| {
        try_run(&format!(
            "mkdir -p '{0}'; mkdir '{0}/{name}'",
            top.display()
        ))
    };
    assert!(begin("one.partial").status.success());
    run(&format!(
        "echo letter > '{}/one.partial/letter'; mv '{0}/one.partial' '{0}/one'",
        top.display()
    ));
    let elsewhere = bench.open();
    let change = |value: Option<&str>| {
        let value = value.map(str::to_owned);
        let changed = elsewhere.change_settings(&|settings| {
            settings.set_more(CAPACITY, value.clone());
            Ok(())
        });
        changed.expect("changes");
    };
    change(Some("1"));
    let refused = begin("two.partial");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("Disk quota exceeded"), "{said}");
    change(None);
    assert!(begin("two.partial").status.success());
}
