//! Storage classes and access tiers, as a client that is not ours reads them back.

use crate::cli::Host;
use crate::engine::Bench;
use crate::mount::{Mount, run, try_run};
use crate::proxy::{Proxy, Request};
use crate::servers::{self, AZURITE_KEY, S3_SECRET, python_says};
use keepfs::repository::Settings;
use keepfs::store::{CloudOptions, StoreOptions, open};
use serde_json::Value;

/// The repository `offsite` in a cloud store, beside `primary` in a directory with a point of two files.
pub struct Cloud {
    pub host: Host,
    secret: &'static str,
    variable: &'static str,
}

impl Cloud {
    pub fn new(url: &str, options: &CloudOptions, more: &str) -> Self {
        let host = Host::new();
        let azure = url.starts_with("az:");
        let config = format!(
            "[repository.primary]\nurl = \"primary\"\npassword-file = \"password\"\n\
             [repository.offsite]\nurl = \"{url}\"\nendpoint = \"{}\"\nallow-http = true\naccess-key = \"{}\"\n\
             key-file = \"offsite.key\"\nretry-seconds = 5\n{more}\n",
            options.endpoint.as_ref().expect("given"),
            options.access_key.as_ref().expect("given"),
        );
        std::fs::write(host.path("keepfs.toml"), config).expect("writes");
        let cloud = Self {
            host,
            secret: if azure { AZURITE_KEY } else { S3_SECRET },
            variable: match azure {
                true => "AZURE_STORAGE_ACCOUNT_KEY",
                false => "AWS_SECRET_ACCESS_KEY",
            },
        };
        cloud.host.files();
        cloud
    }

    /// Standard output and error of a command that must answer `code`.
    pub fn says(&self, code: i32, words: &[&str]) -> (String, String) {
        let mut command = self.host.command(words);
        let output = command
            .env(self.variable, self.secret)
            .output()
            .expect("the binary runs");
        crate::cli::assert_code(&output, code);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (text(output.stdout), text(output.stderr))
    }

    pub fn with_point(self) -> Self {
        self.says(0, &["init", "primary"]);
        self.says(0, &["init", "offsite"]);
        self.says(0, &["backup", "files", "primary/web/one"]);
        self
    }
}

/// What boto3 says of each object below a prefix: name and class.
const S3_CLASSES: &str = "import boto3, json, sys\n\
    endpoint, key, secret, bucket, prefix = sys.argv[1:]\n\
    s3 = boto3.client('s3', endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret, region_name='us-east-1')\n\
    names = [o['Key'] for page in s3.get_paginator('list_objects_v2').paginate(Bucket=bucket, Prefix=prefix + '/') for o in page.get('Contents', [])]\n\
    print(json.dumps([[n[len(prefix) + 1:], s3.head_object(Bucket=bucket, Key=n).get('StorageClass', 'STANDARD')] for n in names]))\n";

/// The same by Azure's own client.
const AZURE_TIERS: &str = "import json, sys\n\
    from azure.storage.blob import ContainerClient\n\
    endpoint, account, key, container, prefix = sys.argv[1:]\n\
    client = ContainerClient(endpoint, container, credential={'account_name': account, 'account_key': key})\n\
    blobs = [b.name for b in client.list_blobs(name_starts_with=prefix + '/')]\n\
    def tier(name):\n\
    \x20   facts = client.get_blob_client(name).get_blob_properties()\n\
    \x20   return 'default' if facts.blob_tier_inferred or facts.blob_tier is None else str(facts.blob_tier)\n\
    print(json.dumps([[n[len(prefix) + 1:], tier(n)] for n in blobs]))\n";

/// Data packs have this class, and nothing else has.
fn only_data_has(objects: &str, class: &str, default: &str) {
    let objects: Value = serde_json::from_str(objects).expect("JSON");
    let objects = objects.as_array().expect("a list");
    let mut kinds = [0, 0];
    for object in objects {
        let name = object[0].as_str().expect("text");
        let data = name.starts_with("packs/data/");
        kinds[usize::from(data)] += 1;
        let expected = if data { class } else { default };
        assert_eq!(object[1], expected, "{name} of {objects:?}");
    }
    assert!(kinds[0] > 4 && kinds[1] > 0, "{objects:?}");
}

#[test]
fn each_class_of_s3_is_that_of_data_packs_alone() {
    let (url, options) = servers::moto_bucket("classes");
    let endpoint = options.endpoint.clone().expect("given");
    let key = options.access_key.clone().expect("given");
    for class in [
        "STANDARD",
        "STANDARD_IA",
        "ONEZONE_IA",
        "GLACIER_IR",
        "GLACIER",
        "DEEP_ARCHIVE",
        "",
    ] {
        let prefix = format!("of-{class}");
        let more = match class {
            "" => String::new(),
            class => format!("storage-class = \"{class}\""),
        };
        let cloud = Cloud::new(&format!("{url}/{prefix}"), &options, &more).with_point();
        cloud.says(0, &["copy", "primary", "offsite"]);
        let words = [&endpoint, &key, S3_SECRET, "classes", &prefix];
        let found = python_says(S3_CLASSES, &words);
        let expected = if class.is_empty() { "STANDARD" } else { class };
        only_data_has(&found, expected, "STANDARD");
    }
}

#[test]
fn each_tier_of_azure_is_that_of_data_packs_alone() {
    let (url, options) = servers::azurite_container("tiers");
    let endpoint = options.endpoint.clone().expect("given");
    let account = options.access_key.clone().expect("given");
    for tier in ["Hot", "Cool", "Cold", "Archive", ""] {
        let prefix = format!("of-{tier}");
        let more = match tier {
            "" => String::new(),
            tier => format!("storage-class = \"{tier}\""),
        };
        let cloud = Cloud::new(&format!("{url}/{prefix}"), &options, &more).with_point();
        cloud.says(0, &["copy", "primary", "offsite"]);
        let words = [&endpoint, &account, AZURITE_KEY, "tiers", &prefix];
        let found = python_says(AZURE_TIERS, &words);
        let expected = if tier.is_empty() { "default" } else { tier };
        only_data_has(&found, expected, "default");
    }
}

#[test]
fn what_must_be_retrieved_takes_copies_only() {
    let (url, options) = servers::moto_bucket("archives");
    let proxy = Proxy::before(options.endpoint.as_deref().expect("given"));
    let through = CloudOptions {
        endpoint: Some(proxy.endpoint.clone()),
        ..options
    };
    for (class, taken) in [
        ("GLACIER", false),
        ("DEEP_ARCHIVE", false),
        ("GLACIER_IR", true),
    ] {
        let more = format!("storage-class = \"{class}\"");
        let cloud = Cloud::new(&format!("{url}/{class}"), &through, &more).with_point();
        proxy.clear_log();
        let words = ["backup", "files", "offsite/web/two"];
        if taken {
            cloud.says(0, &words);
            continue;
        }
        let (_, said) = cloud.says(2, &words);
        assert!(
            said.contains(class) && said.contains("copies only"),
            "{said}"
        );
        assert_eq!(proxy.count(Request::is_put), 0, "{:?}", proxy.log());
        cloud.says(0, &["copy", "primary", "offsite"]);
        assert!(proxy.count(|request| request.class.as_deref() == Some(class)) > 0);
        // Nothing but data packs has to be read for that.
        cloud.says(0, &["points", "offsite"]);
        cloud.says(0, &["copy", "primary", "offsite"]);
        cloud.says(0, &["prune", "--grace", "0", "offsite"]);
    }
}

#[test]
fn tools_begin_no_point_where_it_could_not_be_read() {
    let (url, options) = servers::moto_bucket("archive-mount");
    let options = StoreOptions {
        cloud: options,
        ..StoreOptions::default()
    };
    let store = open(&format!("{url}/keep"), &options).expect("opens");
    let settings = Settings {
        storage_class: "DEEP_ARCHIVE".to_owned(),
        ..Settings::default()
    };
    let bench = Bench::in_store(store, &settings);
    let mount = Mount::of_bench(&bench);
    let top = mount.path().display().to_string();
    let begun = try_run(&format!(
        "mkdir '{top}/primary/web'; mkdir '{top}/primary/web/one.partial'"
    ));
    let said = String::from_utf8_lossy(&begun.stderr).into_owned();
    assert!(
        said.contains("one.partial") && said.contains("Invalid argument"),
        "{said}"
    );
    let told = run(&format!("cat '{top}/.keepfs/errors'"));
    assert!(told.contains("copies only"), "{told}");
}
