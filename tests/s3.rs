//! The command from end to end with cloud stores behind it: real servers, a real mount, the system's own tools.

use crate::backup::one_of_everything;
use crate::engine::full;
use crate::mount::{run, same_trees, try_run};
use crate::mount_writes::becomes_complete;
use crate::servers::{AZURITE_KEY, S3_SECRET, azurite_container, seaweedfs_bucket};
use keepfs::store::CloudOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A host with a repository in a directory and another in a cloud store. Dropped, it unmounts.
struct Host {
    home: TempDir,
    secret: &'static str,
}

impl Drop for Host {
    fn drop(&mut self) {
        // It was unmounted by the test, unless the test failed.
        let _ = try_run(&format!("umount -l '{}'", self.mount_point().display()));
    }
}

impl Host {
    fn new(url: &str, options: &CloudOptions, secret: &'static str) -> Self {
        let host = Self {
            home: tempfile::tempdir().expect("a temporary directory"),
            secret,
        };
        for directory in ["mnt", "source"] {
            std::fs::create_dir(host.path(directory)).expect("makes");
        }
        host.configure(&format!(
            "{}{}",
            "[repository.primary]\nurl = \"primary\"\nkey-file = \"primary.key\"\npack-size = \"1 MiB\"\n",
            cloud(url, options)
        ));
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn mount_point(&self) -> PathBuf {
        self.path("mnt")
    }

    fn configure(&self, text: &str) {
        std::fs::write(self.path("keepfs.toml"), text).expect("writes");
    }

    /// Credentials come from the environment.
    fn run(&self, words: &[&str]) -> Output {
        let secrets = ["AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY"];
        self.run_with(words, &secrets.map(|name| (name, self.secret)))
    }

    fn run_with(&self, words: &[&str], variables: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_keepfs"))
            .args(words)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("KEEPFS_CONFIG", self.path("keepfs.toml"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_STATE_HOME", self.path("state"))
            .envs(variables.iter().copied())
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs")
    }

    /// What a command says; it must succeed.
    fn keepfs(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(
            output.status.success(),
            "{words:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// What a script says in this host's directory; it must succeed.
    fn shell(&self, script: &str) -> String {
        run(&format!("cd '{}'; {script}", self.home.path().display()))
    }

    fn is_sound(&self, repository: &str) {
        let report = self.keepfs(&["--json", "check", "--read-data", repository]);
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(report[0]["problem_count"], 0, "{report}");
    }
}

/// The configuration of a repository in a cloud store.
fn cloud(url: &str, options: &CloudOptions) -> String {
    format!(
        "[repository.offsite]\nurl = \"{url}/keep\"\nendpoint = \"{}\"\nregion = \"us-east-1\"\nallow-http = true\n\
         access-key = \"{}\"\nkey-file = \"offsite.key\"\npack-size = \"4 MiB\"\n",
        options.endpoint.as_ref().expect("given"),
        options.access_key.as_ref().expect("given"),
    )
}

/// Nothing that rsync would still have to do.
fn nothing_to_sync(source: &Path, point: &Path) {
    let todo = run(&format!(
        "rsync -aHAXSnic --delete '{}/' '{}/'",
        source.display(),
        point.display()
    ));
    assert_eq!(todo, "");
}

#[test]
fn a_copy_in_s3_is_all_that_is_needed() {
    let (url, options) = seaweedfs_bucket("whole-way");
    let host = Host::new(&url, &options, S3_SECRET);
    let source = host.path("source");
    one_of_everything(&source);
    host.shell("cp -a /usr/include/linux source/headers");

    host.keepfs(&["init", "primary"]);
    host.keepfs(&["init", "offsite"]);
    host.keepfs(&["backup", "source", "primary/host/first"]);
    host.keepfs(&["copy", "primary", "offsite"]);
    assert_eq!(
        host.keepfs(&["diff", "primary/host/first", "offsite/host/first"]),
        ""
    );

    // The same by the system's own tools, of a point that S3 does not have yet.
    host.shell("echo more > source/more; cp source/random source/a/moved");
    host.keepfs(&["backup", "source", "primary/host/second"]);
    host.keepfs(&["mount", "mnt"]);
    host.shell("cp -a mnt/primary/host/second mnt/offsite/host/");
    let second = host.path("mnt/offsite/host/second");
    assert!(becomes_complete(&second), "it seals itself");
    nothing_to_sync(&source, &second);
    host.keepfs(&["umount", "mnt"]);

    // A new host after a fire: no primary repository, no key of it, no cache.
    host.shell("rm -rf primary primary.key cache state");
    host.configure(&cloud(&url, &options));
    host.keepfs(&["mount", "mnt"]);
    nothing_to_sync(&source, &second);
    same_trees(&source, &second);
    host.keepfs(&["umount", "mnt"]);
    host.is_sound("offsite");
    host.keepfs(&["restore", "offsite/host/second", "restored"]);
    nothing_to_sync(&source, &host.path("restored"));
    same_trees(&source, &host.path("restored"));
    // The copy by the verb, too.
    host.keepfs(&["restore", "offsite/host/first", "first"]);
    host.shell("rm source/more source/a/moved; touch -r first source; touch -r first/a source/a");
    same_trees(&source, &host.path("first"));
}

/// What every machine has, in full mode all of its programs: `keepfs backup`, `cp -a` to S3, and the copy alone.
#[test]
fn this_machine_is_copied_to_s3_by_cp() {
    let sources: &[&str] = match full() {
        true => &["/usr", "/etc"],
        false => &["/usr/share/perl", "/etc"],
    };
    let (url, options) = seaweedfs_bucket("machine");
    let host = Host::new(&url, &options, S3_SECRET);
    host.keepfs(&["init", "primary"]);
    host.keepfs(&["init", "offsite"]);
    let words = [&["backup"], sources, &["primary/host/machine"]].concat();
    host.keepfs(&words);
    host.keepfs(&["mount", "mnt"]);
    host.shell("mkdir mnt/offsite/host; cp -a mnt/primary/host/machine mnt/offsite/host/");
    let copy = host.path("mnt/offsite/host/machine");
    assert!(becomes_complete(&copy), "it seals itself");
    let nothing_to_do = || {
        for source in sources {
            let source = Path::new(source);
            nothing_to_sync(source, &copy.join(source.file_name().expect("a name")));
        }
    };
    nothing_to_do();
    host.keepfs(&["umount", "mnt"]);
    host.shell("rm -rf primary primary.key cache state");
    host.configure(&cloud(&url, &options));
    host.keepfs(&["mount", "mnt"]);
    nothing_to_do();
    host.keepfs(&["umount", "mnt"]);
    host.is_sound("offsite");
}

#[test]
fn a_repository_in_azure_backs_up_and_restores() {
    let (url, options) = azurite_container("whole-way");
    let host = Host::new(&url, &options, AZURITE_KEY);
    let source = host.path("source");
    host.shell("cp -a /usr/include/linux source/headers; ln source/headers/fs.h source/linked");
    host.keepfs(&["init", "offsite"]);
    host.keepfs(&["backup", "source", "offsite/host/first"]);
    host.is_sound("offsite");
    host.keepfs(&["restore", "offsite/host/first", "restored"]);
    nothing_to_sync(&source, &host.path("restored"));
}

/// A repository in SeaweedFS of which the configuration says nothing but what `more` says.
fn with_keys_elsewhere(bucket: &str, more: &str) -> (Host, CloudOptions) {
    let (url, options) = seaweedfs_bucket(bucket);
    let host = Host::new(&url, &options, S3_SECRET);
    host.configure(&format!(
        "[repository.offsite]\nurl = \"{url}/keep\"\nallow-http = true\nkey-file = \"offsite.key\"\n{more}"
    ));
    (host, options)
}

#[test]
fn keys_region_and_endpoint_come_from_the_files_of_aws() {
    let (host, options) = with_keys_elsewhere("profiles", "");
    std::fs::create_dir(host.path(".aws")).expect("makes");
    let credentials = format!(
        "[default]\naws_access_key_id = nobody\naws_secret_access_key = wrong\n\
         [work]\naws_access_key_id = {}\naws_secret_access_key = {S3_SECRET}\n",
        options.access_key.as_ref().expect("given")
    );
    std::fs::write(host.path(".aws/credentials"), credentials).expect("writes");
    let config = format!(
        "[profile work]\nregion = us-east-1\nendpoint_url = {}\n",
        options.endpoint.as_ref().expect("given")
    );
    std::fs::write(host.path("config"), config).expect("writes");
    let config = host.path("config").to_str().expect("UTF-8").to_owned();
    let with = |profile: &str, words: &[&str]| {
        let variables = [("AWS_PROFILE", profile), ("AWS_CONFIG_FILE", &config)];
        let output = host.run_with(words, &variables);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains(S3_SECRET), "{said}");
        (output.status.code(), said)
    };
    for words in [
        ["init", "offsite"].as_slice(),
        &["backup", "source", "offsite/host/first"],
        &["check", "offsite"],
    ] {
        let (code, said) = with("work", words);
        assert_eq!(code, Some(0), "{words:?}: {said}");
    }
    let (code, said) = with("play", &["points", "offsite"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("the profile \"play\""), "{said}");
}

#[test]
fn a_credentials_command_is_asked_again_when_the_store_refuses_its_keys() {
    let script = "credentials-command = \"sh keys.sh\"\n";
    let (url, options) = seaweedfs_bucket("commands");
    let endpoint = options.endpoint.as_ref().expect("given");
    let more = format!("{script}endpoint = \"{endpoint}\"\nregion = \"us-east-1\"\n");
    let (host, options) = with_keys_elsewhere("commands", &more);
    assert_eq!(url, "s3://commands");
    let print = |key: &str, secret: &str| {
        format!("echo '{{\"AccessKeyId\": \"{key}\", \"SecretAccessKey\": \"{secret}\"}}'\n")
    };
    let key = options.access_key.as_ref().expect("given");
    let script = |then: &str| {
        let text = format!(
            "echo once >> asked\n[ $(wc -l < asked) -gt 1 ] && {{ {then} exit; }}\n{}",
            print(key, "swordfish")
        );
        std::fs::write(host.path("keys.sh"), text).expect("writes");
    };
    let asked = || {
        let lines = std::fs::read_to_string(host.path("asked")).expect("was asked");
        std::fs::remove_file(host.path("asked")).expect("removes");
        lines.lines().count()
    };
    script(&print(key, S3_SECRET));
    host.shell("head -c 20000000 /dev/urandom > source/noise");
    for words in [
        ["init", "offsite"].as_slice(),
        &["backup", "source", "offsite/host/first"],
        &["check", "--read-data", "offsite"],
    ] {
        let output = host.run_with(words, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        assert_eq!(asked(), 2, "{words:?}");
    }
    // Whoever never gives out the right ones is not asked for every request.
    script(&print("nobody", "swordfish"));
    let output = host.run_with(&["points", "offsite"], &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("access denied") && !said.contains("swordfish"),
        "{said}"
    );
    assert_eq!(asked(), 2);
}
