//! Real servers for the tests, each on a free loopback port with a directory of its own, one of a kind in a process.
//!
//! They die with the test process, however it ends. `tests/tools.sh` installs them.

use keepfs::store::{CloudOptions, Secret};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, mpsc};
use std::time::Duration;

const S3_KEY: &str = "keepfs-tests";
/// What [`seaweedfs`] knows its user by.
pub const S3_SECRET: &str = "a-secret-for-tests-only";
/// s3rver knows only this pair.
const S3RVER_PAIR: &str = "S3RVER";
/// The account and key that every Azurite has; they are public.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
pub const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Where a program that `tests/tools.sh` installs lies.
pub fn tool(path: &str) -> PathBuf {
    let tools = std::env::var_os("KEEPFS_TEST_TOOLS")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools"));
    let program = tools.join(path);
    assert!(
        program.exists(),
        "{} is missing: run tests/tools.sh and test again",
        program.display()
    );
    program
}

/// `N` loopback ports that nobody listens on.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("is bound").port())
}

/// A server process: killed (-9) when dropped, and by the kernel when the test process dies.
pub struct Server {
    child: Child,
    /// Its directory.
    pub directory: PathBuf,
    /// `http://127.0.0.1:port`
    pub endpoint: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

type Birth = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Starts all servers. The kernel's "kill me with my parent" means the parent *thread*, and tests' threads are short-lived.
static KEEPER: LazyLock<Mutex<mpsc::Sender<Birth>>> = LazyLock::new(|| {
    let (orders, inbox) = mpsc::channel::<Birth>();
    std::thread::spawn(move || {
        for (mut command, answer) in inbox {
            let _ = answer.send(command.spawn());
        }
    });
    Mutex::new(orders)
});

/// Starts `command`, logging to `log`; it dies with this process.
pub fn spawn(mut command: Command, log: &Path) -> Child {
    let log = std::fs::File::create(log).expect("a log file");
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second descriptor"))
        .stderr(log);
    // SAFETY: prctl is a plain system call, safe between fork and exec.
    unsafe {
        command.pre_exec(
            || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            },
        );
    }
    let program = command.get_program().to_owned();
    let (answer, born) = mpsc::channel();
    let order = (command, answer);
    KEEPER
        .lock()
        .expect("never poisoned")
        .send(order)
        .expect("the keeper lives");
    let child = born.recv().expect("the keeper answers");
    child.unwrap_or_else(|error| {
        panic!(
            "cannot start {}: {error}; run tests/tools.sh",
            program.display()
        )
    })
}

/// An empty directory for a server, removed with the server or, after a killed test run, by the next run.
fn directory(name: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let all = std::env::temp_dir().join("keepfs-test-servers");
    for old in std::fs::read_dir(&all).into_iter().flatten().flatten() {
        let pid = old
            .file_name()
            .to_string_lossy()
            .split('-')
            .next()
            .map(str::to_owned);
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = std::fs::remove_dir_all(old.path());
        }
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let directory = all.join(format!("{}-{number}-{name}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for the server");
    directory
}

/// Starts the server that `build` describes, in a directory of its own, and waits until it listens at `port`.
pub fn start(name: &str, port: u16, build: impl FnOnce(&Path) -> Command) -> Server {
    let directory = directory(name);
    let mut command = build(&directory);
    command.current_dir(&directory);
    let child = spawn(command, &directory.join("log"));
    let server = Server {
        child,
        directory,
        endpoint: format!("http://127.0.0.1:{port}"),
    };
    server.await_port(name, port);
    server
}

impl Server {
    fn await_port(&self, name: &str, port: u16) {
        for _ in 0..600 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        panic!("{name} does not listen after a minute:\n{log}");
    }
}

/// SeaweedFS: a real S3 server that enforces what it promises.
pub fn start_seaweedfs() -> Server {
    let [
        master,
        master_rpc,
        volume,
        volume_rpc,
        filer,
        filer_rpc,
        s3,
        s3_rpc,
    ] = free_ports();
    start("seaweedfs", s3, |directory| {
        let config = directory.join("s3.json");
        let identity = format!(
            r#"{{"identities":[{{"name":"tests","credentials":[{{"accessKey":"{S3_KEY}","secretKey":"{S3_SECRET}"}}],"actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
        );
        std::fs::write(&config, identity).expect("writes the configuration");
        let mut command = Command::new(tool("venv/bin/weed"));
        command.arg("server").args([
            format!("-dir={}", directory.display()),
            "-ip=127.0.0.1".to_owned(),
            "-ip.bind=127.0.0.1".to_owned(),
            "-master.volumeSizeLimitMB=64".to_owned(),
            "-volume.max=500".to_owned(),
            format!("-master.port={master}"),
            format!("-master.port.grpc={master_rpc}"),
            format!("-volume.port={volume}"),
            format!("-volume.port.grpc={volume_rpc}"),
            "-filer".to_owned(),
            format!("-filer.port={filer}"),
            format!("-filer.port.grpc={filer_rpc}"),
            "-s3".to_owned(),
            format!("-s3.port={s3}"),
            format!("-s3.port.grpc={s3_rpc}"),
            "-s3.port.iceberg=0".to_owned(),
            "-s3.port.lance=0".to_owned(),
            format!("-s3.config={}", config.display()),
        ]);
        command
    })
}

/// s3rver: an S3 server that answers "created" to every creation, also of what exists.
pub fn start_s3rver() -> Server {
    let [port] = free_ports();
    start("s3rver", port, |directory| {
        let mut command = Command::new(tool("node_modules/.bin/s3rver"));
        command
            .args([
                "-a",
                "127.0.0.1",
                "--no-vhost-buckets",
                "-p",
                &port.to_string(),
                "-d",
            ])
            .arg(directory);
        command
    })
}

/// moto: an S3 server that knows every storage class, and accepts any secret.
pub fn start_moto() -> Server {
    let [port] = free_ports();
    start("moto", port, |_| {
        let mut command = Command::new(tool("venv/bin/moto_server"));
        command
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .env("S3_IGNORE_SUBDOMAIN_BUCKETNAME", "true");
        command
    })
}

/// A bucket of the shared moto.
pub fn moto_bucket(bucket: &str) -> (String, CloudOptions) {
    static SERVER: LazyLock<Server> = LazyLock::new(start_moto);
    make_bucket(&SERVER.endpoint, S3_KEY, S3_SECRET, bucket);
    (
        format!("s3://{bucket}"),
        s3_options(&SERVER.endpoint, S3_KEY, S3_SECRET),
    )
}

/// Azurite: Azure Blob.
pub fn start_azurite() -> Server {
    let [port] = free_ports();
    start("azurite", port, |_| {
        let mut command = Command::new(tool("node_modules/.bin/azurite-blob"));
        command.args([
            "--blobHost",
            "127.0.0.1",
            "--blobPort",
            &port.to_string(),
            "--inMemoryPersistence",
            "--disableTelemetry",
            "--skipApiVersionCheck",
            "--silent",
        ]);
        command
    })
}

/// The SeaweedFS that all tests of this process share; give each test a bucket or a prefix of its own.
pub fn seaweedfs() -> &'static Server {
    static SERVER: LazyLock<Server> = LazyLock::new(start_seaweedfs);
    &SERVER
}

/// The shared s3rver.
pub fn s3rver() -> &'static Server {
    static SERVER: LazyLock<Server> = LazyLock::new(start_s3rver);
    &SERVER
}

/// The shared Azurite.
pub fn azurite() -> &'static Server {
    static SERVER: LazyLock<Server> = LazyLock::new(start_azurite);
    &SERVER
}

/// Options for an S3 server at `endpoint`, with retries short enough for tests.
pub fn s3_options(endpoint: &str, key: &str, secret: &str) -> CloudOptions {
    CloudOptions {
        endpoint: Some(endpoint.to_owned()),
        region: Some("us-east-1".to_owned()),
        access_key: Some(key.to_owned()),
        secret_key: Some(Secret::new(secret)),
        allow_http: true,
        ..CloudOptions::default()
    }
}

/// A bucket of the shared SeaweedFS, made when missing: its `s3://` URL and the options to open it.
pub fn seaweedfs_bucket(bucket: &str) -> (String, CloudOptions) {
    let server = seaweedfs();
    make_bucket(&server.endpoint, S3_KEY, S3_SECRET, bucket);
    (
        format!("s3://{bucket}"),
        s3_options(&server.endpoint, S3_KEY, S3_SECRET),
    )
}

/// One that keeps versions, with objects that can be locked.
pub fn seaweedfs_locking_bucket(bucket: &str) -> (String, CloudOptions) {
    let endpoint = &seaweedfs().endpoint;
    python(
        "make_bucket.py",
        &[endpoint, S3_KEY, S3_SECRET, bucket, "lock"],
    );
    (
        format!("s3://{bucket}"),
        s3_options(endpoint, S3_KEY, S3_SECRET),
    )
}

/// What boto3 finds out about a bucket of a server: whether it keeps versions, locks objects, verifies checksums, keeps
/// storage classes.
pub fn bucket_facts(server: &Server, url: &str) -> Vec<bool> {
    let (key, secret) = match std::ptr::eq(server, s3rver()) {
        true => (S3RVER_PAIR, S3RVER_PAIR),
        false => (S3_KEY, S3_SECRET),
    };
    let bucket = url.strip_prefix("s3://").expect("a bucket of S3");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bucket_facts.py");
    let said = Command::new(tool("venv/bin/python"))
        .arg(script)
        .args([server.endpoint.as_str(), key, secret, bucket])
        .output()
        .expect("Python starts");
    let words = String::from_utf8(said.stdout).expect("words");
    words
        .split_whitespace()
        .map(|word| word == "true")
        .collect()
}

/// A bucket of the shared s3rver.
pub fn s3rver_bucket(bucket: &str) -> (String, CloudOptions) {
    let server = s3rver();
    make_bucket(&server.endpoint, S3RVER_PAIR, S3RVER_PAIR, bucket);
    (
        format!("s3://{bucket}"),
        s3_options(&server.endpoint, S3RVER_PAIR, S3RVER_PAIR),
    )
}

/// A container of the shared Azurite.
pub fn azurite_container(container: &str) -> (String, CloudOptions) {
    let endpoint = format!("{}/{AZURITE_ACCOUNT}", azurite().endpoint);
    python(
        "make_container.py",
        &[&endpoint, AZURITE_ACCOUNT, AZURITE_KEY, container],
    );
    let options = CloudOptions {
        region: None,
        ..s3_options(&endpoint, AZURITE_ACCOUNT, AZURITE_KEY)
    };
    (format!("az://{container}"), options)
}

/// What a program in the tools' Python prints; it must succeed.
pub fn python_says(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(tool("venv/bin/python"))
        .args(["-c", program])
        .args(arguments)
        .output()
        .expect("Python starts");
    assert!(
        done.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).expect("text")
}

fn make_bucket(endpoint: &str, key: &str, secret: &str, bucket: &str) {
    python("make_bucket.py", &[endpoint, key, secret, bucket]);
}

/// Runs a script of this directory with the tools' Python.
fn python(script: &str, arguments: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(script);
    let status = Command::new(tool("venv/bin/python"))
        .arg(&script)
        .args(arguments)
        .status()
        .expect("Python starts");
    assert!(
        status.success(),
        "{} failed; run tests/tools.sh",
        script.display()
    );
}
