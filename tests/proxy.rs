//! A proxy between keepfs and a real server, for tests: it counts every request, and delays, fails, cuts, changes and
//! slows those that its rules name.
//!
//! ```ignore
//! let proxy = Proxy::before(&options.endpoint);
//! let options = CloudOptions { endpoint: Some(proxy.endpoint.clone()), ..options };
//! let rule = proxy.rules().fail(Matching::puts().path("/packs/data/"), Times::ForEver, 503);
//! …
//! proxy.rules().remove(rule);
//! assert_eq!(proxy.count(|request| request.verb == Verb::UploadPart), 4);
//! ```
//!
//! Heads pass unchanged, so what the client signed holds before the server. Every request of the log came over the wire:
//! repeated ones are there each time, also those that the proxy failed.

mod rules;
mod wire;

use rules::Fate;
pub use rules::{Matching, Rules, Times};
use std::collections::HashMap;
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wire::{Body, Framing, Head};

/// A connection to the server that rested so long may just be closed by it: another is made.
const REST_MAX: Duration = Duration::from_secs(1);

/// What a request asks for, in the words of S3. Azure's requests have those of their counterparts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    PutObject,
    CreateMultipartUpload,
    UploadPart,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    GetObject,
    HeadObject,
    ListObjects,
    DeleteObject,
    CopyObject,
    RestoreObject,
    SetTier,
    /// About the bucket, its versions and locks, or unknown.
    Other,
}

/// One request as it came over the wire.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query as they were sent.
    pub target: String,
    pub verb: Verb,
    /// Bytes that the body has by its head; 0 where that does not say.
    pub announced: u64,
    /// Bytes of the body that came from the client.
    pub sent: u64,
    /// Bytes of the answer's body that went to the client.
    pub received: u64,
    /// What was answered; 0 while nothing was.
    pub status: u16,
    /// The storage class or access tier that the request asks for.
    pub class: Option<String>,
    /// All headers, their names in lower case.
    pub headers: Vec<(String, String)>,
    /// Whether the server has heard of it.
    pub passed_on: bool,
}

impl Request {
    fn of(head: &Head) -> Self {
        let word = |at: usize| head.words.get(at).cloned().unwrap_or_default();
        let (method, target) = (word(0), word(1));
        let class = ["x-amz-storage-class", "x-ms-access-tier"];
        let class = class.iter().find_map(|name| head.header(name));
        Self {
            verb: verb(&method, &target, head),
            method,
            target,
            announced: match head.request_framing() {
                Framing::Length(length) => length,
                _ => 0,
            },
            sent: 0,
            received: 0,
            status: 0,
            class: class.map(str::to_owned),
            headers: head.headers.clone(),
            passed_on: false,
        }
    }

    /// Without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether it brings content of an object.
    pub fn is_put(&self) -> bool {
        matches!(self.verb, Verb::PutObject | Verb::UploadPart)
    }

    /// Whether the server has done it.
    pub fn succeeded(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

fn verb(method: &str, target: &str, head: &Head) -> Verb {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let asks = |name: &str| {
        let mut parts = query.split('&');
        parts.any(|part| part.split('=').next() == Some(name))
    };
    let says = |part: &str| query.split('&').any(|one| one == part);
    let azure = head.header("x-ms-version").is_some();
    let names = path.split('/').filter(|name| !name.is_empty()).count();
    // /bucket/… and /account/container/…
    let whole = names <= if azure { 2 } else { 1 };
    match method {
        "GET" if asks("list-type") || says("comp=list") => Verb::ListObjects,
        "GET" | "HEAD" if whole => Verb::Other,
        "GET" => Verb::GetObject,
        "HEAD" => Verb::HeadObject,
        "DELETE" if whole => Verb::Other,
        "DELETE" if asks("uploadId") => Verb::AbortMultipartUpload,
        "DELETE" => Verb::DeleteObject,
        // Azure deletes in lists, also single objects.
        "POST" if says("comp=batch") => Verb::DeleteObject,
        "POST" if asks("uploads") => Verb::CreateMultipartUpload,
        "POST" if asks("uploadId") => Verb::CompleteMultipartUpload,
        "POST" if asks("restore") => Verb::RestoreObject,
        "PUT" if whole => Verb::Other,
        "PUT" if asks("partNumber") || says("comp=block") => Verb::UploadPart,
        "PUT" if says("comp=blocklist") => Verb::CompleteMultipartUpload,
        "PUT" if says("comp=tier") => Verb::SetTier,
        "PUT" if asks("comp") => Verb::Other,
        "PUT" if head.header("x-amz-copy-source").is_some() => Verb::CopyObject,
        "PUT" if head.header("x-ms-copy-source").is_some() => Verb::CopyObject,
        "PUT" => Verb::PutObject,
        _ => Verb::Other,
    }
}

/// Requests, of which the oldest may have been forgotten.
#[derive(Default)]
struct Log {
    forgotten: usize,
    requests: Vec<Request>,
}

/// What all threads of one proxy share.
struct Shared {
    server: String,
    log: Mutex<Log>,
    rules: Rules,
    /// Both ends of every connection, to cut them.
    live: Mutex<HashMap<u64, Vec<TcpStream>>>,
    next: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no connection panics")
}

/// The thread that takes connections; while there is none, they are refused.
struct Door {
    closing: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// A proxy before one server. Dropped, it refuses everything.
pub struct Proxy {
    /// `http://127.0.0.1:port`, with the path of the server's endpoint.
    pub endpoint: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    door: Mutex<Option<Door>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.down();
    }
}

impl Proxy {
    /// Before the server at `endpoint`: `http://host:port`, perhaps with a path.
    pub fn before(endpoint: &str) -> Self {
        let rest = endpoint.strip_prefix("http://").expect("plain HTTP");
        let (server, path) = match rest.split_once('/') {
            Some((server, path)) => (server, format!("/{path}")),
            None => (rest, String::new()),
        };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("is bound");
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            log: Mutex::default(),
            rules: Rules::default(),
            live: Mutex::default(),
            next: AtomicU64::new(0),
        });
        Self {
            endpoint: format!("http://{address}{path}"),
            address,
            door: Mutex::new(Some(Door::open(listener, &shared))),
            shared,
        }
    }

    /// All requests so far, in the order in which they began.
    pub fn log(&self) -> Vec<Request> {
        locked(&self.shared.log).requests.clone()
    }

    /// Forgets them, also those that are still on their way.
    pub fn clear_log(&self) {
        let mut log = locked(&self.shared.log);
        log.forgotten += log.requests.len();
        log.requests.clear();
    }

    /// How many of them are such.
    pub fn count(&self, such: impl Fn(&Request) -> bool) -> usize {
        let log = locked(&self.shared.log);
        log.requests.iter().filter(|one| such(one)).count()
    }

    /// The sum of a figure of those that are such.
    pub fn sum(&self, such: impl Fn(&Request) -> bool, of: impl Fn(&Request) -> u64) -> u64 {
        let log = locked(&self.shared.log);
        log.requests.iter().filter(|one| such(one)).map(of).sum()
    }

    /// What happens to requests.
    pub fn rules(&self) -> &Rules {
        &self.shared.rules
    }

    /// Cuts all connections and refuses new ones.
    pub fn down(&self) {
        let Some(door) = locked(&self.door).take() else {
            return;
        };
        door.closing.store(true, Ordering::SeqCst);
        // The thread waits for a connection; this is one.
        let _ = TcpStream::connect(self.address);
        door.thread.join().expect("taking connections never panics");
        for stream in locked(&self.shared.live).values().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Takes connections again, at the same place.
    pub fn up(&self) {
        let mut door = locked(&self.door);
        if door.is_none() {
            let listener = TcpListener::bind(self.address).expect("the port is still free");
            *door = Some(Door::open(listener, &self.shared));
        }
    }
}

impl Door {
    fn open(listener: TcpListener, shared: &Arc<Shared>) -> Self {
        let closing = Arc::new(AtomicBool::new(false));
        let (shared, closed) = (shared.clone(), closing.clone());
        let thread = std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if closed.load(Ordering::SeqCst) {
                    return;
                }
                let id = shared.next.fetch_add(1, Ordering::SeqCst);
                shared.keep(id, &client);
                let shared = shared.clone();
                std::thread::spawn(move || {
                    // Whoever was cut off finds out by itself.
                    let _ = Connection::new(&shared, id, &client).and_then(Connection::serve);
                    let streams = locked(&shared.live).remove(&id);
                    for stream in streams.into_iter().flatten() {
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                });
            }
        });
        Self { closing, thread }
    }
}

impl Shared {
    /// Remembers an end of a connection.
    fn keep(&self, id: u64, stream: &TcpStream) {
        let stream = stream.try_clone().expect("a second descriptor");
        locked(&self.live).entry(id).or_default().push(stream);
    }

    /// Writes something down about a request, unless it was forgotten meanwhile.
    fn note(&self, passing: &Passing, change: impl FnOnce(&mut Request)) {
        let mut log = locked(&self.log);
        let at = passing.at.checked_sub(log.forgotten);
        if let Some(request) = at.and_then(|at| log.requests.get_mut(at)) {
            change(request);
        }
    }

    /// A piece of a request's body waits for its turn.
    fn sends(&self, passing: &Passing, bytes: usize) {
        self.rules.pace(bytes);
        self.note(passing, |request| request.sent += bytes as u64);
    }

    /// A piece of an answer's body waits for its turn.
    fn receives(&self, passing: &Passing, bytes: usize) {
        self.rules.pace(bytes);
        self.note(passing, |request| request.received += bytes as u64);
    }
}

/// A connection of a client, and the one to the server that belongs to it.
struct Connection<'a> {
    shared: &'a Shared,
    id: u64,
    client: TcpStream,
    from_client: BufReader<TcpStream>,
    server: Option<(BufReader<TcpStream>, Instant)>,
}

/// A request on its way: where it stands in the log, and what shall happen to it.
struct Passing {
    at: usize,
    method: String,
    fate: Fate,
}

impl<'a> Connection<'a> {
    fn new(shared: &'a Shared, id: u64, client: &TcpStream) -> io::Result<Self> {
        client.set_nodelay(true)?;
        Ok(Self {
            shared,
            id,
            client: client.try_clone()?,
            from_client: BufReader::new(client.try_clone()?),
            server: None,
        })
    }

    /// Passes requests on until one side hangs up.
    fn serve(mut self) -> io::Result<()> {
        while let Some(head) = Head::read(&mut self.from_client)? {
            let passing = self.log(&head);
            std::thread::sleep(passing.fate.delay);
            let goes_on = match passing.fate.fail {
                Some(status) => self.fail(&head, &passing, status)?,
                None => self.pass(&head, &passing)?,
            };
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    fn log(&self, head: &Head) -> Passing {
        let request = Request::of(head);
        let fate = self.shared.rules.fate(&request);
        let method = request.method.clone();
        let mut log = locked(&self.shared.log);
        log.requests.push(request);
        Passing {
            at: log.forgotten + log.requests.len() - 1,
            method,
            fate,
        }
    }

    /// Answers in the server's stead. False when the connection ends.
    fn fail(&mut self, head: &Head, passing: &Passing, status: u16) -> io::Result<bool> {
        // Whoever waits for leave to send the body gets none.
        let waits = head.says("expect", "100-continue");
        if !waits {
            let mut body = Body {
                from: &mut self.from_client,
                to: None,
                cut_after: None,
                flip: false,
                pace: &|bytes| self.shared.sends(passing, bytes),
                passed: 0,
            };
            body.pass(head.request_framing())?;
        }
        let code = match status {
            403 => "AccessDenied",
            404 => "NoSuchKey",
            503 => "SlowDown",
            _ => "InternalError",
        };
        let text = match passing.method.as_str() {
            "HEAD" => String::new(),
            _ => format!("<Error><Code>{code}</Code></Error>"),
        };
        self.shared.note(passing, |request| {
            request.status = status;
            request.received = text.len() as u64;
        });
        write!(
            self.client,
            "HTTP/1.1 {status} Failed\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n{}\r\n{text}",
            text.len(),
            if waits { "Connection: close\r\n" } else { "" },
        )?;
        Ok(!waits)
    }

    /// Passes a request to the server and its answer to the client. False when the connection ends.
    fn pass(&mut self, head: &Head, passing: &Passing) -> io::Result<bool> {
        let mut server = self.server()?;
        let to_server = server.get_ref().try_clone()?;
        (&to_server).write_all(&head.raw)?;
        self.shared
            .note(passing, |request| request.passed_on = true);
        let mut early = None;
        if head.says("expect", "100-continue") {
            let answer = read_answer(&mut server)?;
            if answer.status() == 100 {
                self.client.write_all(&answer.raw)?;
            } else {
                early = Some(answer);
            }
        }
        let body_follows = early.is_none();
        if body_follows {
            self.pass_body(head, passing, &to_server)?;
        }
        let answer = match early {
            Some(answer) => answer,
            None => self.final_answer(&mut server)?,
        };
        self.shared
            .note(passing, |request| request.status = answer.status());
        self.pass_answer(&answer, passing, &mut server)?;
        let framing = answer.answer_framing(&passing.method);
        let ends = framing == Framing::UntilClosed
            || answer.says("connection", "close")
            || head.says("connection", "close");
        self.server = Some((server, now()));
        Ok(body_follows && !ends)
    }

    /// The connection to the server.
    fn server(&mut self) -> io::Result<BufReader<TcpStream>> {
        if let Some((server, used)) = self.server.take()
            && used.elapsed() < REST_MAX
        {
            return Ok(server);
        }
        let server = TcpStream::connect(&self.shared.server)?;
        server.set_nodelay(true)?;
        self.shared.keep(self.id, &server);
        Ok(BufReader::new(server))
    }

    fn pass_body(&mut self, head: &Head, passing: &Passing, to: &TcpStream) -> io::Result<()> {
        let mut body = Body {
            from: &mut self.from_client,
            to: Some(to),
            cut_after: passing.fate.cut_request,
            flip: passing.fate.flip_request,
            pace: &|bytes| self.shared.sends(passing, bytes),
            passed: 0,
        };
        let passed = body.pass(head.request_framing());
        let sent = body.passed;
        self.shared.note(passing, |request| request.sent = sent);
        passed
    }

    /// What the server says at last; what it says before goes to the client.
    fn final_answer(&mut self, server: &mut BufReader<TcpStream>) -> io::Result<Head> {
        loop {
            let answer = read_answer(server)?;
            if !(100..200).contains(&answer.status()) {
                return Ok(answer);
            }
            self.client.write_all(&answer.raw)?;
        }
    }

    fn pass_answer(
        &mut self,
        answer: &Head,
        passing: &Passing,
        server: &mut BufReader<TcpStream>,
    ) -> io::Result<()> {
        if passing.fate.cut_answer != Some(0) {
            self.client.write_all(&answer.raw)?;
        }
        let mut body = Body {
            from: server,
            to: Some(&self.client),
            cut_after: passing.fate.cut_answer,
            flip: passing.fate.flip_answer,
            pace: &|bytes| self.shared.receives(passing, bytes),
            passed: 0,
        };
        let passed = body.pass(answer.answer_framing(&passing.method));
        let received = body.passed;
        self.shared
            .note(passing, |request| request.received = received);
        passed
    }
}

fn read_answer(server: &mut BufReader<TcpStream>) -> io::Result<Head> {
    Head::read(server)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[allow(clippy::disallowed_methods)] // how long a connection rests, not a time that is stored
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests;
