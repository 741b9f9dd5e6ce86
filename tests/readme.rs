//! The commands that the README shows are run as they stand there, so that they cannot rot.

use std::path::Path;
use std::process::Command;

/// Its section "Use it" as a script: paths lie below `root`, and a directory stands for the bucket.
fn script(root: &Path) -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(readme).unwrap();
    let (_, section) = text.split_once("\n## Use it\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let mut script = String::new();
    let mut in_configuration = false;
    for line in section.lines() {
        match line {
            "```toml" => {
                in_configuration = true;
                script.push_str("mkdir -p ~/.config; cat >> ~/.config/keepfs.toml <<'END'\n");
            }
            "```" if in_configuration => {
                in_configuration = false;
                script.push_str("END\n");
            }
            _ if in_configuration => {
                let in_bucket = ["endpoint =", "storage-class ="];
                if !in_bucket.iter().any(|key| line.starts_with(key)) {
                    let line = line.replace("\"s3://bucket/", "\"/srv/bucket/");
                    script.push_str(&line.replace("\"/", &format!("\"{}/", root.display())));
                    script.push('\n');
                }
            }
            _ => {
                if let Some(command) = line.strip_prefix("    ") {
                    let words: Vec<_> = command.split(' ').map(|word| below(root, word)).collect();
                    script.push_str(&words.join(" "));
                    script.push('\n');
                }
            }
        }
    }
    script
}

fn below(root: &Path, word: &str) -> String {
    let root = root.display();
    let ours = ["/srv", "/home", "/mnt", "/etc", "/tmp"];
    if ours.iter().any(|place| word.starts_with(place)) {
        return format!("{root}{word}");
    }
    word.replace("=/", &format!("={root}/"))
}

#[test]
fn the_commands_of_the_readme_work_in_order() {
    let root = tempfile::tempdir().unwrap();
    for made in [
        "srv/web1",
        "srv/web2",
        "dev",
        "home/alice",
        "mnt",
        "etc",
        "tmp",
    ] {
        std::fs::create_dir_all(root.path().join(made)).unwrap();
    }
    std::fs::write(root.path().join("home/alice/letter.odt"), "Dear Bob").unwrap();
    std::fs::write(root.path().join("dev/sdb"), "a disk").unwrap();
    let script = script(root.path());
    assert!(script.matches("keepfs ").count() > 12, "{script}");
    let program = Path::new(env!("CARGO_BIN_EXE_keepfs")).parent().unwrap();
    let search = std::env::var("PATH").unwrap();
    let shell = |script: &str| {
        Command::new("bash")
            .args(["-euxo", "pipefail", "-c", script])
            .env("PATH", format!("{}:{search}", program.display()))
            .env("HOME", root.path().join("root"))
            .env("XDG_CACHE_HOME", root.path().join("cache"))
            .env("XDG_STATE_HOME", root.path().join("state"))
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("KEEPFS_CONFIG")
            .env("KEEPFS_PASSWORD", "what init would ask for")
            .output()
            .unwrap()
    };
    let ran = shell(&script);
    // The copy becomes complete by itself, once its data is in the other repository.
    let after = shell(&format!(
        "cd {}/mnt/keep; for _ in $(seq 300); do [ \"$(getfattr --only-values -n user.keepfs.state offsite/home/friday)\" != complete ] || break; sleep 0.1; done
         cmp primary/home/friday/alice/letter.odt offsite/home/friday/alice/letter.odt
         cmp primary/home/friday/alice/letter.odt offsite/web/latest/alice/letter.odt",
        root.path().display()
    ));
    let ended = shell(&format!(
        "keepfs umount --lazy {}/mnt/keep",
        root.path().display()
    ));
    for output in [&ran, &after, &ended] {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
    let points = shell("keepfs points offsite");
    let points = String::from_utf8_lossy(&points.stdout).into_owned();
    for point in ["offsite/home/friday ", "offsite/web/monday "] {
        assert!(points.contains(point), "{points}");
    }
    let restored = std::fs::read_to_string(root.path().join("tmp/letter.odt"));
    assert_eq!(restored.unwrap(), "Dear Bob");
}
