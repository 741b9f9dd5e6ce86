//! One message for each session that ended: what it says, that it arrives once, and that nobody waits for it.

use crate::cli::{Host, assert_code};
use crate::mail::{
    PASSWORD, Sink, USER, Wire, certificates, exim, exim_at, exim_configuration, scripted, to_exim,
};
use crate::servers::free_ports;
use keepfs::clock::{Clock, Time};
use keepfs::error::Kind;
use keepfs::id::ObjectId;
use keepfs::notify::{
    Ended, Ending, Mode, Notifier, Object, Pass, Password, Settings, Smtp, Standing, Tls, Way,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;
use tempfile::TempDir;
use zeroize::Zeroizing;

const FROM: &str = "keepfs <keepfs@example.org>";
const TO: [&str; 3] = [
    "one@example.org",
    "Zwei <two@example.org>",
    "three@example.org",
];
/// 2026-11-28T07:00:13Z.
const NOON: i64 = 1_795_849_213;

fn ended(ending: Ending) -> Ended {
    let object = |number: u32| Object {
        path: format!("web01/monday/file-{number}"),
        outcome: "copied".to_owned(),
        reason: String::new(),
    };
    Ended {
        session: ObjectId::random(),
        ending,
        round: 0,
        job: Some("nightly".to_owned()),
        backups: vec!["web01".to_owned(), "db".to_owned()],
        source: "primary".to_owned(),
        target: "offsite".to_owned(),
        objects: (0..12).map(object).collect(),
        objects_count: 12,
        issues: 2,
        started: Time::new(NOON - 700, 0),
        ended: Time::new(NOON, 0),
        bytes: 5 << 20,
        stored_bytes: 3 << 20,
    }
}

/// A notifier with a state directory and a clock of its own.
struct Desk {
    notifier: Arc<Notifier>,
    state: TempDir,
    seconds: Arc<AtomicI64>,
}

impl Desk {
    fn new(settings: Settings) -> Self {
        let state = tempfile::tempdir().expect("a directory");
        let seconds = Arc::new(AtomicI64::new(NOON));
        let clock = Clock::fixed(seconds.clone());
        let notifier = Notifier::open(settings, state.path(), clock).expect("opens");
        Self {
            notifier: Arc::new(notifier),
            state,
            seconds,
        }
    }

    fn later(&self, seconds: i64) {
        self.seconds.fetch_add(seconds, Relaxed);
    }

    fn deliver(&self) -> Pass {
        self.notifier.deliver().expect("passes")
    }

    fn queue(&self, ended: &Ended) -> bool {
        self.notifier.queue(ended).expect("queues")
    }

    /// Everything goes out at once.
    fn send(&self, ended: &Ended) {
        self.notifier.ended(ended);
        assert_eq!(self.deliver().sent, 1);
    }

    fn files(&self, tray: &str) -> usize {
        let directory = self.state.path().join("notify").join(tray);
        std::fs::read_dir(directory).expect("lists").count()
    }
}

fn settings(way: Smtp) -> Settings {
    let mut settings = Settings::new(Way::Smtp(way), FROM, &TO);
    settings.on = Ending::ALL.into();
    settings.timezone = Some("Europe/Berlin".to_owned());
    settings
}

/// To a server that needs nothing.
fn plainly(sink: &Sink) -> Smtp {
    let mut smtp = Smtp::new("127.0.0.1");
    (smtp.port, smtp.tls) = (sink.port, Tls::None);
    smtp
}

fn header<'a>(mail: &'a Value, name: &str) -> &'a str {
    mail["headers"][name].as_str().unwrap_or_default()
}

fn subjects(mails: &[Value]) -> Vec<String> {
    let mut subjects: Vec<_> = mails
        .iter()
        .map(|mail| header(mail, "subject").to_owned())
        .collect();
    subjects.sort();
    subjects
}

#[test]
fn headers_hold_each_placeholder_and_three_recipients_have_the_mail() {
    let sink = exim();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("has a name");
    let mut event = ended(Ending::Warning);
    event.job = Some("Nächtlich um drei".to_owned());
    let expected = [
        ("{result}", "warning"),
        ("{backup}", "web01, db"),
        ("{job}", "Nächtlich um drei"),
        ("{objects}", "12"),
        ("{issues}", "2"),
        ("{time}", "2026-11-28 08:00:13 CET"),
        ("{host}", host.trim()),
        ("{target}", "offsite"),
        ("100 % {{{result}}} €", "100 % {warning} €"),
    ];
    for (template, subject) in expected {
        let mut settings = settings(to_exim(sink.port));
        settings.subject = template.parse().expect("parses");
        event.session = ObjectId::random();
        Desk::new(settings).send(&event);
        let mails = sink.await_mails(1);
        let sorted = |text: &str| {
            let mut words: Vec<_> = text.split(", ").map(str::to_owned).collect();
            words.sort();
            words
        };
        // Backups are named in the order of the alphabet.
        assert_eq!(sorted(header(&mails[0], "subject")), sorted(subject));
        assert_eq!(header(&mails[0], "from"), FROM);
        assert_eq!(
            header(&mails[0], "to"),
            "one@example.org, Zwei <two@example.org>, three@example.org"
        );
        assert_eq!(
            header(&mails[0], "envelope-to"),
            "one@example.org, two@example.org, three@example.org"
        );
        let id = format!("<{}-warning@sessions.keepfs>", event.session);
        assert_eq!(header(&mails[0], "message-id"), id);
        assert_eq!(header(&mails[0], "auto-submitted"), "auto-generated");
        assert_eq!(header(&mails[0], "date"), "Sat, 28 Nov 2026 07:00:13 +0000");
        assert_eq!(mails[0]["defects"], Value::Array(vec![]));
        for directory in ["new", "cur"] {
            let boxes = sink.directory().join("box").join(directory);
            for mail in std::fs::read_dir(boxes).expect("lists").flatten() {
                std::fs::remove_file(mail.path()).expect("is ours");
            }
        }
    }
}

#[test]
fn exactly_the_endings_that_were_asked_for_are_told() {
    let sink = exim();
    let mut expected = Vec::new();
    for flags in 0..16_usize {
        let mut settings = settings(to_exim(sink.port));
        let on = Ending::ALL.into_iter().enumerate();
        let on = on.filter(|(place, _)| flags & (1 << place) != 0);
        settings.on = on.map(|(_, ending)| ending).collect();
        settings.subject = format!("{flags} {{result}}").parse().expect("parses");
        expected.extend(settings.on.iter().map(|ending| format!("{flags} {ending}")));
        let desk = Desk::new(settings);
        for ending in Ending::ALL {
            desk.notifier.ended(&ended(ending));
        }
        let pass = desk.deliver();
        assert_eq!(pass.sent, u64::from(flags.count_ones()));
    }
    expected.sort();
    assert_eq!(subjects(&sink.await_mails(32)), expected);
}

#[test]
fn a_thousand_objects_are_in_the_text_and_one_more_in_a_table() {
    let sink = scripted(&[]);
    let desk = Desk::new(settings(plainly(&sink)));
    let mut event = ended(Ending::Failed);
    event.objects = (0..1000)
        .map(|number| Object {
            path: format!("web01/monday/\"file\",{number}\n--x"),
            outcome: "failed".to_owned(),
            reason: "Größe fehlt".to_owned(),
        })
        .collect();
    event.objects_count = 1000;
    desk.send(&event);
    event.session = ObjectId::random();
    event.objects.push(event.objects[0].clone());
    event.objects_count = 1500;
    desk.send(&event);
    let mails = sink.await_mails(2);
    let lines = |text: &Value| {
        text.as_str()
            .expect("text")
            .matches("failed  web01")
            .count()
    };
    assert_eq!(lines(&mails[0]["body"]), 1000);
    assert_eq!(mails[0]["attachments"], serde_json::json!({}));
    assert_eq!(lines(&mails[1]["body"]), 0);
    let text = mails[1]["body"].as_str().expect("text");
    assert!(text.contains("1001 objects are in"), "{text}");
    assert!(text.contains("and 499 more"), "{text}");
    let table = mails[1]["attachments"]["objects.csv"]
        .as_str()
        .expect("is attached");
    assert_eq!(table.matches("\"failed\",\"Größe fehlt\"").count(), 1001);
    assert!(table.starts_with("path,outcome,reason"), "{table:.80}");
    assert!(table.contains("\"web01/monday/\"\"file\"\",999\n--x\",\"failed\""));
    for mail in &mails {
        assert_eq!(mail["defects"], Value::Array(vec![]), "{mail:.500}");
    }
}

/// How a password goes over the wire.
fn password_is_in(said: &[u8]) -> bool {
    let said = String::from_utf8_lossy(said);
    // Of "\0keep\0open-sesame-0815", and of the password alone.
    [
        "AGtlZXAAb3Blbi1zZXNhbWUtMDgxNQ==",
        "b3Blbi1zZXNhbWUtMDgxNQ==",
        PASSWORD,
    ]
    .iter()
    .any(|form| said.contains(form))
}

#[test]
fn without_tls_the_password_is_not_sent() {
    // It offers AUTH to everybody and would take any password.
    let sink = scripted(&["auth"]);
    let wire = Wire::to(sink.port);
    let mut smtp = to_exim(wire.port);
    smtp.host = "127.0.0.1".to_owned();
    let desk = Desk::new(settings(smtp.clone()));
    let tested = desk.notifier.test().expect("is tried");
    assert!(!tested.sent);
    let sentence = tested.sentence;
    assert!(sentence.contains("does not offer STARTTLS"), "{sentence}");
    assert!(sentence.contains("no password either"), "{sentence}");
    desk.notifier.ended(&ended(Ending::Success));
    assert_eq!(desk.deliver().waiting, 1, "until somebody corrects it");
    smtp.tls = Tls::Implicit;
    let sentence = Desk::new(settings(smtp.clone())).notifier.test();
    let sentence = sentence.expect("is tried").sentence;
    assert!(sentence.contains("does not begin with TLS"), "{sentence}");
    smtp.tls = Tls::None;
    let state = tempfile::tempdir().expect("a directory");
    let refused = Notifier::open(settings(smtp), state.path(), Clock::system());
    let refused = refused.expect_err("can never be right");
    assert_eq!(refused.kind(), Kind::Invalid);
    assert!(refused.to_string().contains("without TLS"), "{refused}");
    let said = wire.said();
    assert!(
        String::from_utf8_lossy(&said).contains("EHLO"),
        "it is asked"
    );
    assert!(!password_is_in(&said));
    assert!(!String::from_utf8_lossy(&said).contains("AUTH"));
    assert!(sink.mails().is_empty());
    assert!(password_is_in(
        b"AUTH PLAIN AGtlZXAAb3Blbi1zZXNhbWUtMDgxNQ=="
    ));
}

#[test]
fn what_goes_over_the_wire_with_tls_shows_nothing() {
    let sink = exim();
    let wire = Wire::to(sink.port);
    Desk::new(settings(to_exim(wire.port))).send(&ended(Ending::Success));
    sink.await_mails(1);
    let said = wire.said();
    assert!(!password_is_in(&said));
    assert!(!String::from_utf8_lossy(&said).contains("web01"));
}

#[test]
fn line_ends_in_names_add_no_header() {
    let sink = exim();
    let evil = "x\r\nBcc: victim@example.org\r\n\r\nbody\u{85}\u{2028}\0y";
    let mut plain = settings(to_exim(sink.port));
    plain.subject = "{job} {backup} {target}".parse().expect("parses");
    let names = |mail: &Value| mail["names"].clone();
    Desk::new(plain.clone()).send(&ended(Ending::Failed));
    let usual = names(&sink.await_mails(1)[0]);
    let mut event = ended(Ending::Failed);
    event.job = Some(evil.to_owned());
    event.backups = vec![evil.to_owned()];
    event.target = evil.to_owned();
    event.objects[0].path = evil.to_owned();
    Desk::new(plain).send(&event);
    let mails = sink.await_mails(2);
    let mail = mails
        .iter()
        .find(|mail| header(mail, "subject").contains("victim"))
        .expect("it came");
    assert_eq!(names(mail), usual);
    assert_eq!(
        header(mail, "envelope-to"),
        "one@example.org, two@example.org, three@example.org"
    );
    let body = mail["body"].as_str().expect("text");
    assert!(!body.contains("\nBcc"), "{body}");
}

#[test]
fn a_server_that_is_down_is_waited_for_and_nobody_else_waits() {
    let [port] = free_ports();
    let desk = Desk::new(settings(to_exim(port)));
    let event = ended(Ending::Success);
    desk.notifier.ended(&event);
    let pass = desk.deliver();
    assert_eq!((pass.sent, pass.waiting, pass.failed), (0, 1, 0));
    assert_eq!(pass.next, Some(Time::new(NOON + 60, 0)));
    let listed = &desk.notifier.list().expect("lists")[0];
    let error = listed.error.as_deref().expect("it was tried");
    assert!(error.contains("nothing listens at"), "{error}");
    desk.later(59);
    desk.notifier.ended(&event);
    assert_eq!(desk.deliver().waiting, 1);
    assert_eq!(desk.notifier.list().expect("lists")[0].attempts, 1);
    let sink = exim_at(port);
    desk.later(1);
    assert_eq!(desk.deliver().sent, 1);
    desk.notifier.ended(&event);
    assert_eq!(desk.deliver(), Pass::default(), "it was told");
    sink.await_mails(1);
    // A person said retry, and it ended so again.
    desk.send(&Ended { round: 1, ..event });
    sink.await_mails(2);
}

#[test]
fn a_message_waits_for_five_days_and_then_stays_with_its_reason() {
    let sink = scripted(&[]);
    sink.flag("say", "451 4.3.0 no disk");
    let desk = Desk::new(settings(plainly(&sink)));
    desk.notifier.ended(&ended(Ending::Success));
    let mut tries = 0;
    while desk.deliver().waiting == 1 {
        tries += 1;
        desk.later(3600);
        assert!(tries < 200, "it never ends");
    }
    assert_eq!(tries, 120);
    assert_eq!((desk.files("queued"), desk.files("failed")), (0, 1));
    let listed = &desk.notifier.list().expect("lists")[0];
    assert_eq!(listed.standing, Standing::Failed);
    let error = listed.error.as_deref().expect("has one");
    assert!(error.contains("five days"), "{error}");
    assert!(error.contains("451 4.3.0 no disk"), "{error}");
    sink.unflag("say");
    assert_eq!(desk.deliver(), Pass::default());
    assert_eq!(desk.notifier.deliver_all().expect("passes").sent, 1);
    sink.await_mails(1);
}

#[test]
fn what_is_refused_for_good_is_kept_with_the_servers_sentence() {
    let sink = scripted(&[]);
    sink.flag("say", "554 5.7.1 we do not like this");
    let desk = Desk::new(settings(plainly(&sink)));
    let event = ended(Ending::NeedsAction);
    desk.notifier.ended(&event);
    desk.notifier.ended(&ended(Ending::Success));
    assert_eq!(desk.deliver().failed, 2, "each is tried");
    let listed = desk.notifier.list().expect("lists");
    let error = listed[0].error.as_deref().expect("has one");
    assert!(error.contains("554 5.7.1 we do not like this"), "{error}");
    sink.unflag("say");
    assert!(!desk.queue(&event), "it was queued before");
    assert_eq!(desk.deliver(), Pass::default());
    assert!(sink.mails().is_empty());
}

#[test]
fn each_recipient_has_it_once_whatever_the_others_server_says() {
    let sink = scripted(&[]);
    sink.flag("later", "");
    let mut settings = settings(plainly(&sink));
    settings.to = [
        "yes@example.org",
        "no-body@example.org",
        "later-on@example.org",
    ]
    .map(str::to_owned)
    .into();
    let desk = Desk::new(settings);
    desk.notifier.ended(&ended(Ending::Success));
    assert_eq!(desk.deliver().waiting, 1);
    desk.later(60);
    assert_eq!(desk.deliver().waiting, 1);
    sink.unflag("later");
    desk.later(120);
    assert_eq!(desk.deliver().failed, 1, "one of them will never have it");
    let mails = sink.await_mails(2);
    let to: Vec<_> = mails
        .iter()
        .map(|mail| header(mail, "envelope-to"))
        .collect();
    assert_eq!(to, ["yes@example.org", "later-on@example.org"]);
    assert_eq!(
        header(&mails[0], "message-id"),
        header(&mails[1], "message-id")
    );
    let listed = &desk.notifier.list().expect("lists")[0];
    assert_eq!(listed.refused.len(), 1);
    assert_eq!(listed.refused[0].0, "no-body@example.org");
    assert!(listed.refused[0].1.contains("nobody is called that"));
    // Only who lacks it is asked again.
    assert_eq!(desk.notifier.deliver_all().expect("passes").failed, 1);
    assert_eq!(sink.mails().len(), 2);
}

/// A host whose configuration sends to a server that needs nothing.
fn host_of(sink: &Sink) -> Host {
    let host = Host::new();
    configure(
        &host,
        &format!(
            "host = \"127.0.0.1\"\nport = {}\ntls = \"none\"\nfrom = \"{FROM}\"\nto = [\"one@example.org\"]\n",
            sink.port
        ),
    );
    host
}

fn configure(host: &Host, table: &str) {
    let file = host.path("keepfs.toml");
    let text = std::fs::read_to_string(&file).expect("reads");
    let (text, _) = text.split_once("[notify]").unwrap_or((&text, ""));
    std::fs::write(&file, format!("{text}[notify]\n{table}")).expect("writes");
}

/// What queues for the command's own state directory.
fn notifier_of(host: &Host) -> Notifier {
    let mut settings = settings(Smtp::new("localhost"));
    settings.timezone = None;
    let state = host.path("state/keepfs");
    Notifier::open(settings, &state, Clock::system()).expect("opens")
}

#[test]
fn killed_while_it_sends_it_loses_nothing_and_the_message_is_the_same() {
    let sink = scripted(&[]);
    let host = host_of(&sink);
    let event = ended(Ending::Warning);
    let notifier = notifier_of(&host);
    assert!(notifier.queue(&event).expect("queues"));
    sink.flag("hold", "");
    const KILLS: usize = 5;
    for kill in 1..=KILLS {
        let mut command = host.command(&["notify", "send"]);
        let mut child = command.stdout(Stdio::null()).spawn().expect("starts");
        // The server has it, and has not said so.
        sink.await_mails(kill);
        child.kill().expect("kill -9");
        child.wait().expect("ends");
        let list = host.json(&["notify", "list", "--json"]);
        assert_eq!(list["messages"][0]["state"], "sending");
        assert!(!notifier.queue(&event).expect("looks"), "it is queued");
    }
    sink.unflag("hold");
    let sent = host.json(&["notify", "send", "--json"]);
    assert_eq!(sent["sent"], 1);
    let mails = sink.await_mails(KILLS + 1);
    let ids: BTreeSet<_> = mails
        .iter()
        .map(|mail| header(mail, "message-id"))
        .collect();
    let expected = format!("<{}-warning@sessions.keepfs>", event.session);
    assert_eq!(ids.into_iter().collect::<Vec<_>>(), [expected]);
    assert!(!notifier.queue(&event).expect("looks"), "it was sent");
    assert_eq!(host.json(&["notify", "send", "--json"])["sent"], 0);
    sink.await_mails(KILLS + 1);
}

/// At any other moment than that between the server's yes and its note there is exactly one message.
#[test]
fn killed_before_it_sends_there_is_one_message() {
    let sink = scripted(&[]);
    let host = host_of(&sink);
    let notifier = notifier_of(&host);
    for _ in 0..5 {
        assert!(notifier.queue(&ended(Ending::Failed)).expect("queues"));
    }
    sink.flag("say", "451 not now");
    // A pass that the server turns away, killed at the next moment.
    for _ in 0..3 {
        let mut command = host.command(&["notify", "send"]);
        let mut child = command.stdout(Stdio::null()).spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(60));
        child.kill().expect("kill -9");
        child.wait().expect("ends");
    }
    // Turned away as well, and by then the server has answered whatever the dead ones had sent.
    host.run(&["notify", "send"]);
    sink.unflag("say");
    assert_code(&host.run(&["notify", "send"]), 0);
    sink.await_mails(5);
}

#[test]
fn two_processes_that_send_at_once_send_each_message_once() {
    let sink = scripted(&[]);
    let host = host_of(&sink);
    let notifier = notifier_of(&host);
    for _ in 0..20 {
        assert!(notifier.queue(&ended(Ending::Failed)).expect("queues"));
    }
    let children: Vec<_> = (0..3)
        .map(|_| {
            let mut command = host.command(&["notify", "send"]);
            command.stdout(Stdio::null()).spawn().expect("starts")
        })
        .collect();
    for mut child in children {
        assert!(child.wait().expect("ends").success());
    }
    sink.await_mails(20);
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let sink = exim();
    let host = Host::new();
    std::fs::write(host.path("right"), format!("{PASSWORD}\n")).expect("writes");
    std::fs::write(host.path("wrong"), "another\n").expect("writes");
    let authority = certificates().authority();
    let authority = format!("ca-file = \"{}\"\n", authority.display());
    let [nobody] = free_ports();
    let test = |port: u16, password: &str, more: &str| {
        configure(
            &host,
            &format!(
                "host = \"localhost\"\nport = {port}\nuser = \"{USER}\"\npassword-file = \"{password}\"\n\
                 from = \"{FROM}\"\nto = [\"one@example.org\"]\n{more}"
            ),
        );
        let output = host.run(&["notify", "test"]);
        let json = host.run(&["notify", "test", "--json"]);
        assert_eq!(output.status.code(), json.status.code());
        let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(
            text.contains(
                json["sentence"]
                    .as_str()
                    .expect("is there")
                    .split(" (")
                    .next()
                    .expect("a part")
            )
        );
        assert!(!text.contains(PASSWORD));
        (output.status.code(), text)
    };
    let (code, text) = test(sink.port, "right", &authority);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("sent: localhost:"), "{text}");
    let mails = sink.await_mails(2);
    assert!(header(&mails[0], "subject").starts_with("keepfs test on "));
    for (port, password, more, what, advice) in [
        (
            nobody,
            "right",
            authority.as_str(),
            "nothing listens",
            "correct host and port",
        ),
        (
            sink.port,
            "wrong",
            authority.as_str(),
            "refuses the user keep or the password (535 ",
            "correct user, password-file",
        ),
        (
            sink.port,
            "right",
            "",
            "is signed by nobody whom this host trusts",
            "ca-file",
        ),
        (
            sink.port,
            "absent",
            authority.as_str(),
            "cannot read the password file",
            "absent",
        ),
        (
            sink.port,
            "right",
            "ca-file = \"right\"\n",
            "holds no certificates",
            "PEM",
        ),
    ] {
        let (code, text) = test(port, password, more);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.starts_with("not sent: "), "{text}");
        assert!(text.contains(what) && text.contains(advice), "{text}");
    }
    configure(
        &host,
        &format!(
            "host = \"127.0.0.1\"\nport = {}\n{authority}from = \"{FROM}\"\nto = [\"one@example.org\"]\n",
            sink.port
        ),
    );
    let text = host.run(&["notify", "test"]).stdout;
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("is of another host"), "{text}");
    sink.await_mails(2);
}

#[test]
fn who_takes_no_mail_from_strangers_says_so() {
    let sink = exim();
    let mut smtp = to_exim(sink.port);
    (smtp.user, smtp.password) = (None, None);
    let tested = Desk::new(settings(smtp)).notifier.test().expect("is tried");
    assert!(!tested.sent);
    assert!(
        tested
            .sentence
            .contains("takes no mail for one@example.org (550 "),
        "{}",
        tested.sentence
    );
}

#[test]
fn sendmail_has_each_session_once() {
    let directory =
        Path::new("/tmp/keepfs-test-servers").join(format!("{}-sendmail", std::process::id()));
    std::fs::create_dir_all(&directory).expect("makes");
    let configuration = exim_configuration(&directory, 0);
    let program = directory.join("sendmail");
    let text = format!(
        "#!/bin/sh\nexec exim4 -C {} -odf \"$@\"\n",
        configuration.display()
    );
    std::fs::write(&program, text).expect("writes");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("is ours");
    let mut settings = settings(Smtp::new("x"));
    settings.way = Way::Sendmail(program);
    let desk = Desk::new(settings);
    let event = ended(Ending::Warning);
    for _ in 0..2 {
        desk.notifier.ended(&event);
        desk.deliver();
    }
    desk.send(&ended(Ending::Success));
    let found =
        |tray: &str| std::fs::read_dir(directory.join("box").join(tray)).map_or(0, Iterator::count);
    assert_eq!(found("new"), 2);
    let mut texts = String::new();
    for mail in std::fs::read_dir(directory.join("box/new"))
        .expect("lists")
        .flatten()
    {
        texts += &std::fs::read_to_string(mail.path()).expect("reads");
    }
    assert_eq!(
        texts
            .matches(&format!("<{}-warning@", event.session))
            .count(),
        1
    );
    assert_eq!(texts.matches("Envelope-to: one@example.org,").count(), 2);
    assert!(desk.notifier.test().expect("is tried").sent);
    std::fs::remove_dir_all(directory).expect("is ours");
}

fn hook(command: String) -> Settings {
    let mut settings = settings(Smtp::new("x"));
    settings.way = Way::Command {
        command,
        timeout: Duration::from_secs(60),
    };
    settings
}

#[test]
fn a_command_has_each_session_once_with_its_facts() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let command = format!(
        "{{ env | grep ^KEEPFS_ | sort; cat; echo; echo END; }} >> {}; [ ! -e {}/broken ] || {{ echo no network >&2; exit 1; }}",
        log.display(),
        directory.path().display()
    );
    let mut settings = hook(command);
    settings.to.clear();
    let desk = Desk::new(settings);
    let event = ended(Ending::NeedsAction);
    for _ in 0..2 {
        desk.notifier.ended(&event);
        desk.deliver();
    }
    let text = std::fs::read_to_string(&log).expect("it ran");
    assert_eq!(text.matches("END\n").count(), 1, "{text}");
    for line in [
        "KEEPFS_RESULT=needs-action".to_owned(),
        format!("KEEPFS_SESSION={}", event.session),
        "KEEPFS_JOB=nightly".to_owned(),
        "KEEPFS_SOURCE=primary".to_owned(),
        "KEEPFS_TARGET=offsite".to_owned(),
        "KEEPFS_OBJECTS=12".to_owned(),
        "KEEPFS_ISSUES=2".to_owned(),
        "KEEPFS_ENDED=2026-11-28T07:00:13Z".to_owned(),
        format!(
            "Message-ID: <{}-needs-action@sessions.keepfs>\r",
            event.session
        ),
    ] {
        assert!(text.contains(&(line.clone() + "\n")), "{line}: {text}");
    }
    std::fs::write(directory.path().join("broken"), "").expect("writes");
    desk.notifier.ended(&ended(Ending::Success));
    assert_eq!(desk.deliver().waiting, 1);
    let error = desk.notifier.list().expect("lists")[0].error.clone();
    let error = error.expect("it was tried");
    assert!(error.contains("exit code 1: no network"), "{error}");
    std::fs::remove_file(directory.path().join("broken")).expect("is ours");
    desk.later(60);
    assert_eq!(desk.deliver().sent, 1);
}

#[test]
fn a_summary_has_a_line_for_each_session() {
    let sink = scripted(&[]);
    let mut settings = settings(plainly(&sink));
    settings.mode = "summary daily 09:30".parse().expect("parses");
    assert_eq!(
        settings.mode,
        Mode::Daily {
            hour: 9,
            minute: 30
        }
    );
    let desk = Desk::new(settings);
    let mut events = Vec::new();
    for number in 0..20 {
        let mut event = ended(if number == 7 {
            Ending::Failed
        } else {
            Ending::Success
        });
        event.backups = vec![format!("host{number:02}")];
        desk.notifier.ended(&event);
        events.push(event);
    }
    desk.deliver();
    desk.later(89 * 60);
    desk.deliver();
    assert!(sink.mails().is_empty(), "it is 09:29:13 in Berlin");
    assert_eq!(desk.files("queued"), 20);
    desk.later(60);
    assert_eq!(desk.deliver().sent, 1);
    desk.deliver();
    let mails = sink.await_mails(1);
    let body = mails[0]["body"].as_str().expect("text");
    assert!(body.starts_with("20 sessions on "), "{body}");
    assert!(body.contains("19 success, 1 failed"), "{body}");
    for event in &events {
        let line = format!("session {}", event.session);
        assert_eq!(body.matches(&line).count(), 1, "{body}");
        assert!(!desk.queue(event), "it was told");
    }
    assert_eq!(body.matches(", session ").count(), 20, "{body}");
    let subject = header(&mails[0], "subject");
    assert!(
        subject.starts_with("keepfs failed: host00, host01, host02 and 17 more"),
        "{subject}"
    );
    assert_eq!(
        header(&mails[0], "message-id"),
        "<summary-2026-11-28@sessions.keepfs>"
    );
    // The next day has its own; a day without sessions none.
    desk.notifier.ended(&ended(Ending::Success));
    desk.later(86_000);
    assert_eq!(desk.deliver(), Pass::default());
    desk.later(400);
    assert_eq!(desk.deliver().sent, 1);
    desk.later(86_400);
    assert_eq!(desk.deliver(), Pass::default());
    sink.await_mails(2);
}

#[test]
fn a_daemon_sends_what_it_and_others_queue() {
    let sink = scripted(&[]);
    let desk = Desk::new(settings(plainly(&sink)));
    let delivering = desk.notifier.keep_delivering().expect("starts");
    for count in 1..=3 {
        desk.notifier.ended(&ended(Ending::Success));
        sink.await_mails(count);
    }
    drop(delivering);
    desk.notifier.ended(&ended(Ending::Success));
    assert_eq!(desk.files("queued"), 1, "nobody sends any more");
}

#[test]
fn a_mount_sends_what_is_queued() {
    let sink = scripted(&[]);
    let host = host_of(&sink);
    host.expect(0, &["init", "primary"]);
    std::fs::create_dir(host.path("mnt")).expect("makes");
    let notifier = notifier_of(&host);
    notifier.ended(&ended(Ending::Failed));
    host.expect(0, &["mount", "primary", "mnt"]);
    let arrived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sink.await_mails(1)));
    host.expect(0, &["umount", "mnt"]);
    arrived.expect("it was sent");
}

#[test]
fn the_end_of_a_command_does_not_wait_for_a_server_that_hangs() {
    let sink = scripted(&[]);
    sink.flag("hold", "");
    let desk = Desk::new(settings(plainly(&sink)));
    desk.notifier.ended(&ended(Ending::Success));
    assert_eq!(
        desk.notifier.deliver_within(Duration::from_millis(200)),
        None
    );
    assert_eq!(desk.files("queued"), 1, "it is not lost");
    sink.unflag("hold");
    // Whoever comes next waits until the first has ended.
    let pass = desk.notifier.deliver_within(Duration::from_secs(60));
    assert_eq!(pass, Some(Pass::default()));
    sink.await_mails(1);
}

#[test]
fn only_the_user_reads_what_is_queued() {
    let sink = scripted(&[]);
    sink.flag("say", "554 no");
    let desk = Desk::new(settings(plainly(&sink)));
    desk.notifier.ended(&ended(Ending::Success));
    desk.deliver();
    desk.notifier.ended(&ended(Ending::Success));
    let mut places = vec![desk.state.path().join("notify")];
    let mut seen = 0;
    while let Some(place) = places.pop() {
        let mode = std::fs::metadata(&place)
            .expect("is there")
            .permissions()
            .mode()
            & 0o777;
        let expected = if place.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{}", place.display());
        if place.is_dir() {
            let inside = std::fs::read_dir(place).expect("lists").flatten();
            places.extend(inside.map(|entry| entry.path()));
        }
        seen += 1;
    }
    assert_eq!(seen, 7, "four directories, a lock and two messages");
}

#[test]
fn a_file_that_is_no_message_stops_nobody() {
    let sink = scripted(&[]);
    let desk = Desk::new(settings(plainly(&sink)));
    let queued = desk.state.path().join("notify/queued");
    std::fs::write(queued.join("garbage"), "{").expect("writes");
    desk.notifier.ended(&ended(Ending::Success));
    let pass = desk.deliver();
    assert_eq!((pass.sent, pass.failed), (1, 1));
    assert_eq!(desk.notifier.list().expect("lists").len(), 1);
    assert_eq!(
        desk.notifier.deliver_all().expect("passes"),
        Pass::default()
    );
}

#[test]
fn the_command_says_what_was_not_sent() {
    let sink = scripted(&[]);
    let host = host_of(&sink);
    assert_eq!(host.expect(0, &["notify", "list"]), "");
    sink.flag("say", "554 5.7.1 we do not like this");
    notifier_of(&host).ended(&ended(Ending::Failed));
    host.expect(3, &["notify", "send"]);
    let text = host.expect(3, &["notify", "list"]);
    assert!(text.starts_with("failed  "), "{text}");
    assert!(text.contains("554 5.7.1 we do not like this"), "{text}");
    host.expect(1, &["notify", "test"]);
    sink.unflag("say");
    let text = host.expect(3, &["notify", "test"]);
    assert!(
        text.starts_with("sent: ") && text.contains("\nfailed  "),
        "{text}"
    );
    host.expect(0, &["notify", "send"]);
    sink.await_mails(2);
}

#[test]
fn without_a_table_nobody_is_told_and_a_wrong_one_is_refused() {
    let host = Host::new();
    let complaint = host.complaint(2, &["notify", "test"]);
    assert!(complaint.contains("[notify]"), "{complaint}");
    configure(
        &host,
        "host = \"h\"\nfrom = \"a@b.org\"\nto = [\"c@d.org\"]\nsubject = \"{resutl}\"\n",
    );
    let complaint = host.complaint(2, &["points"]);
    assert!(
        complaint.contains("unknown placeholder {resutl}"),
        "{complaint}"
    );
}

#[test]
fn a_password_that_cannot_be_found_is_no_reason_to_lose_a_message() {
    let sink = exim();
    let mut smtp = to_exim(sink.port);
    let found = Arc::new(AtomicI64::new(0));
    let asked = found.clone();
    smtp.password = Some(Password::new(move || match asked.fetch_add(1, Relaxed) {
        0 => Err(keepfs::error::Error::new(
            Kind::NoKey,
            "the vault is closed",
        )),
        _ => Ok(Zeroizing::new(PASSWORD.to_owned())),
    }));
    let desk = Desk::new(settings(smtp));
    desk.notifier.ended(&ended(Ending::Success));
    assert_eq!(desk.deliver().waiting, 1);
    let listed = &desk.notifier.list().expect("lists")[0];
    assert_eq!(listed.error.as_deref(), Some("the vault is closed"));
    desk.later(60);
    assert_eq!(desk.deliver().sent, 1);
    sink.await_mails(1);
}
