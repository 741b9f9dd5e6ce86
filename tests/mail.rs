//! Real servers that take mail: exim with STARTTLS and AUTH, and one whose answers a test writes.

use crate::servers::{Server, free_ports, start, tool};
use keepfs::notify::{Password, Smtp};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use zeroize::Zeroizing;

/// Whom exim knows.
pub const USER: &str = "keep";
pub const PASSWORD: &str = "open-sesame-0815";

/// A server that takes mail.
pub struct Sink {
    server: Server,
    pub port: u16,
}

impl Sink {
    pub fn directory(&self) -> &Path {
        &self.server.directory
    }

    /// The messages that it has taken.
    pub fn mails(&self) -> Vec<Value> {
        let said = Command::new("python3")
            .arg(script("read_mail.py"))
            .arg(self.directory().join("box"))
            .output()
            .expect("Python starts");
        let why = String::from_utf8_lossy(&said.stderr);
        serde_json::from_slice(&said.stdout).unwrap_or_else(|_| panic!("{why}"))
    }

    /// Waits until it has taken `count` messages.
    pub fn await_mails(&self, count: usize) -> Vec<Value> {
        for _ in 0..1200 {
            let mails = self.mails();
            if mails.len() >= count {
                assert_eq!(mails.len(), count, "{mails:#?}");
                return mails;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{} of {count} messages are there", self.mails().len());
    }

    /// Waits until it has `count` messages, and another one that would come first has come: none more.
    pub fn flag(&self, name: &str, content: &str) {
        std::fs::write(self.directory().join(name), content).expect("writes");
    }

    pub fn unflag(&self, name: &str) {
        std::fs::remove_file(self.directory().join(name)).expect("was there");
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

/// An authority of our own, and a certificate that it gave to localhost.
pub struct Certificates {
    directory: TempDir,
}

impl Certificates {
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }
}

/// Made once for all tests.
pub fn certificates() -> &'static Certificates {
    static MADE: LazyLock<Certificates> = LazyLock::new(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let script = "umask 022
            openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30 -subj '/CN=authority of a test' -addext basicConstraints=critical,CA:TRUE
            openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost
            printf 'subjectAltName=DNS:localhost\\nbasicConstraints=CA:FALSE\\n' > extensions
            openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile extensions -out server.pem";
        let made = Command::new("bash")
            .args(["-ec", script])
            .current_dir(directory.path())
            .output()
            .expect("a shell is here");
        assert!(made.status.success(), "{made:?}");
        Certificates { directory }
    });
    &MADE
}

/// exim: takes mail for everybody from whoever authenticates.
pub fn exim() -> Sink {
    let [port] = free_ports();
    exim_at(port)
}

/// exim at a port that a test knows already.
pub fn exim_at(port: u16) -> Sink {
    let server = start("exim", port, |directory| {
        let configuration = exim_configuration(directory, port);
        let mut command = Command::new("exim4");
        command.arg("-C").arg(configuration).arg("-bdf");
        command
    });
    Sink { server, port }
}

/// Also for `exim4 -t -i`, which is what `sendmail` is.
pub fn exim_configuration(directory: &Path, port: u16) -> PathBuf {
    let shown = directory.display();
    for name in ["spool", "box"] {
        let made = directory.join(name);
        std::fs::create_dir_all(&made).expect("makes");
        let exim = id_of("Debian-exim");
        chown(&made, Some(exim), Some(exim)).expect("the tests run as root");
    }
    for name in ["server.pem", "server.key"] {
        let content = std::fs::read(certificates().directory.path().join(name)).expect("reads");
        std::fs::write(directory.join(name), content).expect("writes");
    }
    let configuration = format!(
        "primary_hostname = localhost
spool_directory = {shown}/spool
log_file_path = {shown}/spool/log-%s
pid_file_path = {shown}/spool/pid
keep_environment =
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
tls_advertise_hosts = *
tls_certificate = {shown}/server.pem
tls_privatekey = {shown}/server.key
auth_advertise_hosts = ${{if eq{{$tls_in_cipher}}{{}}{{}}{{*}}}}
rfc1413_query_timeout = 0s
deliver_drop_privilege = true
acl_smtp_rcpt = rcpt
acl_not_smtp = not_smtp
begin acl
rcpt:
  require authenticated = *
  accept
not_smtp:
  accept
begin routers
all:
  driver = accept
  transport = box
begin transports
box:
  driver = appendfile
  directory = {shown}/box
  maildir_format
  batch_max = 100
  envelope_to_add
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_set_id = $auth2
  server_condition = ${{if and{{{{eq{{$auth2}}{{{USER}}}}}{{eq{{$auth3}}{{{PASSWORD}}}}}}}}}
"
    );
    let path = directory.join("exim.conf");
    std::fs::write(&path, configuration).expect("writes");
    path
}

fn id_of(user: &str) -> u32 {
    let said = Command::new("id").args(["-u", user]).output();
    let said = String::from_utf8(said.expect("id runs").stdout).expect("a number");
    said.trim().parse().expect("install exim4-daemon-light")
}

/// A server whose answers are files; see `smtp_sink.py`.
pub fn scripted(more: &[&str]) -> Sink {
    let [port] = free_ports();
    let server = start("smtp_sink", port, |directory| {
        let mut command = Command::new(tool("venv/bin/python"));
        command.arg(script("smtp_sink.py")).arg(port.to_string());
        command.arg(directory).args(more);
        command
    });
    Sink { server, port }
}

/// How to reach [`exim`].
pub fn to_exim(port: u16) -> Smtp {
    let mut smtp = Smtp::new("localhost");
    smtp.port = port;
    smtp.ca_file = Some(certificates().authority());
    smtp.user = Some(USER.to_owned());
    smtp.password = Some(Password::new(|| Ok(Zeroizing::new(PASSWORD.to_owned()))));
    smtp
}

/// Hands everything to the server at `port` and remembers what clients said.
pub struct Wire {
    pub port: u16,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Wire {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let own = listener.local_addr().expect("is bound").port();
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = said.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let heard = heard.clone();
                std::thread::spawn(move || hand_on(client, port, &heard));
            }
        });
        Self { port: own, said }
    }

    pub fn said(&self) -> Vec<u8> {
        self.said.lock().expect("never poisoned").clone()
    }
}

fn hand_on(mut client: TcpStream, port: u16, heard: &Mutex<Vec<u8>>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)) else {
        return;
    };
    let (mut answers, mut to_client) = (
        server.try_clone().expect("a second descriptor"),
        client.try_clone().expect("a second descriptor"),
    );
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut answers, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        heard
            .lock()
            .expect("never poisoned")
            .extend(&buffer[..count]);
        if server.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
}
