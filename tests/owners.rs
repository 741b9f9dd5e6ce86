//! Owners who have another number on this host than where they were backed up: shown by name, copied as they are stored.

use crate::backup::entries;
use crate::engine::Bench;
use crate::filesystem::Asked;
use crate::mount::{Mount, catalog, run, try_run};
use crate::mount_writes::{becomes_complete, mount_both, settings, state_of, try_unmatched};
use keepfs::clock::Time;
use keepfs::filesystem::{FileSystem, Options};
use keepfs::id::ChunkId;
use keepfs::point::{
    Attributes, Content, DirectoryWriter, Draft, Entry, File, Node, Owner, PointRecord, Tree,
    Trees, diff,
};
use keepfs::repository::{Lane, Settings, Writer};
use keepfs::source::OwnerNames;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A user and a group that every Linux host knows; where the points come from, both had other numbers.
const NOBODY: u32 = 65534;

fn nobody() -> Owner {
    let mut names = OwnerNames::default();
    Owner {
        uid: 54321,
        gid: 54322,
        user: names.user(NOBODY).to_vec(),
        group: names.group(NOBODY).to_vec(),
    }
}

fn stranger() -> Owner {
    Owner {
        uid: 54321,
        gid: 54322,
        user: b"nobody here is called so".to_vec(),
        group: b"nor this".to_vec(),
    }
}

fn owned(owner: &Owner, mode: u32) -> Attributes {
    Attributes {
        mode,
        owner: Arc::new(owner.clone()),
        mtime: Time::new(1_000_000_000, 6),
        links: 1,
        ..Attributes::default()
    }
}

fn directory(writer: &Writer, entries: Vec<(&str, Attributes, Node)>) -> Tree {
    let mut sink = |id: ChunkId, bytes: &[u8]| writer.put(Lane::Tree, id, bytes).map(drop);
    let mut directory = DirectoryWriter::default();
    for (name, attributes, node) in entries {
        let entry = Entry {
            name: name.into(),
            attributes,
            node,
        };
        directory.push(Arc::new(entry), &mut sink).unwrap();
    }
    directory.finish(&mut sink).unwrap()
}

/// A point `host/point` in which all belongs to `owner`.
fn make_point(bench: &Bench, owner: &Owner) {
    let repository = bench.open();
    let writer = Writer::new(repository.clone(), None).unwrap();
    let file = |text: &str| {
        let id = ChunkId::of(text.as_bytes());
        writer.put(Lane::Alone, id, text.as_bytes()).unwrap();
        Node::File(File {
            size: text.len() as u64,
            content: Content::One(id),
            ..File::empty()
        })
    };
    let inner = vec![("inner", owned(owner, 0o640), file("of the group"))];
    let below = directory(&writer, inner);
    let link = Node::Symlink(b"d/inner".to_vec());
    let top = vec![
        ("d", owned(owner, 0o750), Node::Directory(below)),
        ("link", owned(owner, 0o777), link),
        ("private", owned(owner, 0o600), file("private")),
        ("tool", owned(owner, 0o4755), file("a tool")),
    ];
    let tree = directory(&writer, top);
    writer.flush().unwrap();
    let record = PointRecord {
        mode: 0o755,
        owner: owner.clone(),
        mtime: Time::new(1_000_000_000, 6),
        ..PointRecord::new(b"point", Time::new(5, 6), tree)
    };
    let draft = Draft { record };
    catalog(bench).commit(b"host", draft).unwrap();
}

/// What differs between the points of two repositories as they are stored, and who owns the second one's top.
fn differences(one: (&Bench, &str), two: (&Bench, &str)) -> (Vec<String>, Owner) {
    let [one, two] = [one, two].map(|(bench, name)| {
        let catalog = catalog(bench);
        let point = catalog.contents().point(b"host", name.as_bytes()).cloned();
        let trees = Arc::new(Trees::new(catalog.repository().clone()));
        (trees, point.unwrap().record.clone())
    });
    let mut found = Vec::new();
    let ends = ((&one.0, &one.1.tree), (&two.0, &two.1.tree));
    diff(ends.0, ends.1, &mut |difference| {
        let path = String::from_utf8_lossy(&difference.path);
        found.push(format!("{:?} {path}", difference.change));
        Ok(())
    })
    .unwrap();
    (found, two.1.owner)
}

fn prints_nothing(one: &Path, two: &Path) {
    let (one, two) = (one.display(), two.display());
    let said = run(&format!("rsync -aHAXSnic --delete '{one}/' '{two}/'"));
    assert_eq!(said, "");
}

fn refused(word: &str, script: &str) {
    let output = try_run(script);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains(word),
        "{script}: {said}"
    );
}

struct Two {
    mount: Mount,
    primary: Bench,
    offsite: Bench,
}

/// The second one's directories belong to this user.
fn two_for(user: u32) -> Two {
    let (primary, offsite) = (
        Bench::new(&settings()),
        Bench::new(&Settings {
            uid: user,
            gid: user,
            ..settings()
        }),
    );
    make_point(&primary, &nobody());
    catalog(&offsite).ensure_backup(b"host").unwrap();
    let mount = mount_both(&primary, &offsite, tempfile::tempdir().unwrap());
    Two {
        mount,
        primary,
        offsite,
    }
}

#[test]
fn a_user_of_another_number_reads_own_files_and_copies_keep_the_stored_owner() {
    let two = two_for(0);
    let at = |path: &str| two.mount.path().join(path);
    let (point, copy) = (at("primary/host/point"), at("offsite/host/point"));
    let owners = format!("find '{}' -printf '%U:%G\\n' | sort -u", point.display());
    assert_eq!(run(&owners), format!("{NOBODY}:{NOBODY}\n"));
    let read = |user: u32, group: u32| {
        format!(
            "cd /; setpriv --reuid={user} --regid={group} --clear-groups cat '{0}/private' '{0}/d/inner'",
            point.display()
        )
    };
    assert_eq!(run(&read(NOBODY, NOBODY)), "privateof the group");
    refused("Permission denied", &read(54321, 54322));

    run(&format!(
        "cp -a '{}' '{}/'",
        point.display(),
        at("offsite/host").display()
    ));
    assert!(becomes_complete(&copy), "{}", try_unmatched(&copy));
    prints_nothing(&point, &copy);
    prints_nothing(&copy, &point);
    let private = copy.join("private");
    run(&format!("chown {NOBODY}:{NOBODY} '{}'", private.display()));
    refused(
        "Read-only",
        &format!("chown 54321:54322 '{}'", private.display()),
    );
    let (found, top) = differences((&two.primary, "point"), (&two.offsite, "point"));
    assert_eq!((found, top), (Vec::new(), nobody()));
}

#[test]
fn what_is_sealed_as_written_has_the_owners_of_its_source() {
    let two = two_for(NOBODY);
    // A copy by nobody, who is shown as its owner.
    let copy = two.mount.path().join("offsite/host/point");
    run(&format!(
        "cd '{}'; setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups cp -a primary/host/point offsite/host/",
        two.mount.path().display()
    ));
    assert!(becomes_complete(&copy), "{}", try_unmatched(&copy));
    let (found, top) = differences((&two.primary, "point"), (&two.offsite, "point"));
    assert_eq!((found, top), (Vec::new(), nobody()));

    // More than a copy, and a point of links: what changes hands is this host's.
    run(&format!(
        "cd '{}'; cp -a primary/host/point offsite/host/more.partial; cd offsite/host/more.partial
         chown 0:{NOBODY} tool; chmod 4755 tool; echo x > new; chown 54321:{NOBODY} new; touch -d @1000000000.000000006 .
         mv ../more.partial ../more
         cd ../../../primary/host; cp -al point next.partial; mv next.partial next",
        two.mount.path().display()
    ));
    let (found, top) = differences((&two.primary, "point"), (&two.offsite, "more"));
    assert_eq!(
        (found, top),
        (vec!["Added new".into(), "Attributes tool".into()], nobody())
    );
    let owner = |bench: &Bench, point: &str, path: &str| {
        let catalog = catalog(bench);
        let trees = Arc::new(Trees::new(catalog.repository().clone()));
        let contents = catalog.contents();
        let point = contents.point(b"host", point.as_bytes()).unwrap();
        (*entries(&trees, point)[path.as_bytes()].attributes.owner).clone()
    };
    let stored = nobody();
    let tool = owner(&two.offsite, "more", "tool");
    assert_eq!(
        (tool.uid, &tool.user[..], tool.gid),
        (0, &b"root"[..], 54322)
    );
    let new = owner(&two.offsite, "more", "new");
    assert_eq!((new.uid, &new.user[..]), (54321, &b""[..]));
    assert_eq!((new.gid, new.group), (NOBODY, stored.group.clone()));
    let (found, top) = differences((&two.primary, "point"), (&two.primary, "next"));
    assert_eq!((found, top), (Vec::new(), nobody()));
    let points = two.mount.path().join("primary/host");
    assert_eq!(state_of(&points.join("next")), "complete");
    prints_nothing(&points.join("point"), &points.join("next"));
}

#[test]
fn owners_without_a_name_here_and_numeric_ones_are_shown_as_stored() {
    let day = Duration::from_secs(24 * 3600);
    let minute = Duration::from_secs(60);
    for (owner, numeric, shown, kept) in [
        (nobody(), false, (NOBODY, NOBODY), day),
        (nobody(), true, (54321, 54322), day),
        // Somebody may add the name.
        (stranger(), false, (54321, 54322), minute),
        (
            Owner {
                uid: 0,
                gid: 0,
                ..nobody()
            },
            false,
            (0, 0),
            day,
        ),
    ] {
        let bench = Bench::new(&settings());
        make_point(&bench, &owner);
        let state = tempfile::tempdir().unwrap();
        let options = Options {
            numeric_owners: numeric,
            ..Options::new(state.path().to_owned())
        };
        let repositories = vec![("primary".to_owned(), catalog(&bench))];
        let filesystem = FileSystem::new(repositories, options);
        let asked = Asked { filesystem };
        for path in ["", "/d/inner", "/link"] {
            let path = format!("primary/host/point{path}");
            let found = asked.find(&path).unwrap().unwrap();
            let case = format!("{path} of {owner:?}");
            assert_eq!(
                (found.uid, found.gid, found.kept),
                (shown.0, shown.1, kept),
                "{case}"
            );
        }
    }
}
