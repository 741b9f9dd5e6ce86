//! Prune: space comes back, and nothing that a point needs ever goes.

use crate::cli::Host;
use crate::engine::full;
use crate::sites::{Files, Random};
use crate::yard::{
    DAY, HOUR, Yard, assert_empty_again, assert_reads, back_up, files, forget, half_gone, point,
};
use keepfs::error::Kind;
use keepfs::id::ChunkId;
use keepfs::prune::{Options, Report};
use keepfs::repository::{Lane, Writer};
use keepfs::store::Store;
use keepfs::store::faults::Stop;
use std::collections::BTreeMap;

#[test]
fn forgotten_space_comes_back_in_two_runs_and_not_before() {
    for wrong in [0, HOUR, -HOUR, 400 * DAY, -400 * DAY] {
        let mut yard = Yard::new();
        yard.wrong = wrong;
        let empty = yard.bytes("");
        let mut random = Random(1);
        for name in ["one", "two", "three"] {
            back_up(&yard.host(), name, &files(&mut random, 5, 150_000)).unwrap();
        }
        let full = yard.bytes("packs/");
        assert!(full > 2_000_000);
        yard.pass(30 * DAY);
        let nothing = yard.prune();
        assert_eq!((nothing.condemned_packs, nothing.deleted_packs), (0, 0));
        for name in ["one", "two", "three"] {
            forget(&yard.host(), name);
        }
        yard.pass(6 * DAY);
        let waits = yard.prune();
        assert_eq!((waits.points_removed, waits.points_in_trash), (0, 3));
        assert_eq!(waits.condemned_packs, 0);
        yard.pass(DAY + HOUR);
        let listed = yard.prune();
        assert_eq!((listed.points_removed, listed.points_in_trash), (3, 0));
        assert_eq!(listed.condemned_bytes, full);
        yard.assert_clean("listed");
        yard.pass(23 * HOUR);
        let early = yard.prune();
        assert_eq!((early.deleted_packs, early.waiting_bytes), (0, full));
        assert_eq!(yard.bytes("packs/"), full);
        yard.pass(HOUR);
        let deleted = yard.prune();
        assert_eq!(deleted.deleted_bytes, full);
        assert_eq!(deleted.condemned_packs, 0);
        yard.assert_clean("deleted");
        yard.prune_all();
        assert_empty_again(&yard, empty);
        yard.assert_clean("empty");
        let new = files(&mut random, 2, 1000);
        back_up(&yard.host(), "one", &new).unwrap();
        assert_reads(&yard.host(), "one", &new, "afterwards");
        yard.assert_clean("afterwards");
    }
}

#[test]
fn without_a_grace_period_one_run_does_it() {
    let yard = Yard::with_trash_days("0");
    let empty = yard.bytes("");
    back_up(&yard.host(), "one", &files(&mut Random(2), 5, 150_000)).unwrap();
    forget(&yard.host(), "one");
    let options = Options {
        grace_seconds: 0,
        ..Options::default()
    };
    let report = yard.try_prune(&options).unwrap();
    assert!(report.deleted_packs > 0, "{report:?}");
    assert_eq!(yard.packs(), []);
    yard.try_prune(&options).unwrap();
    assert_empty_again(&yard, empty);
    yard.assert_clean("at once");
}

#[test]
fn a_dry_run_changes_nothing_and_tells_what_a_run_does() {
    let yard = Yard::new();
    let mut random = Random(3);
    let kept = files(&mut random, 3, 100_000);
    back_up(&yard.host(), "kept", &kept).unwrap();
    back_up(&yard.host(), "gone", &files(&mut random, 3, 100_000)).unwrap();
    forget(&yard.host(), "gone");
    let dry = Options {
        dry_run: true,
        ..Options::default()
    };
    let mut deleted = 0;
    for _ in 0..5 {
        yard.pass(4 * DAY);
        let before = yard.memory.list("").unwrap();
        let told = yard.try_prune(&dry).unwrap();
        assert_eq!(yard.memory.list("").unwrap(), before);
        let done = yard.prune();
        let facts = |report: &Report| {
            (
                report.points_removed,
                report.points_in_trash,
                report.deleted_bytes,
                report.live_bytes,
            )
        };
        assert_eq!(facts(&told), facts(&done));
        if done.deleted_packs == 0 {
            assert_eq!(told.condemned_packs, done.condemned_packs);
        }
        deleted += done.deleted_packs;
    }
    assert!(deleted > 0);
    assert_reads(&yard.host(), "kept", &kept, "kept");
}

#[test]
fn a_prune_that_dies_at_any_write_breaks_nothing_and_the_next_completes() {
    let (yard, points) = half_gone();
    let mut deaths = 0;
    // What lists, what decides and deletes, and what removes the rest.
    for phase in 0..3 {
        let whole = yard.copied();
        whole.store.clear_log();
        whole.prune();
        let writes = whole.store.mutations() as u64;
        for nth in 1..=writes {
            for stop in [Stop::Before, Stop::After] {
                let case = format!("phase {phase}, write {nth} of {writes}, {stop:?}");
                let copy = yard.copied();
                copy.store.stop_at(nth, stop);
                deaths += u64::from(copy.try_prune(&Options::default()).is_err());
                copy.store.heal();
                copy.assert_clean(&case);
                let host = copy.host();
                for (name, files) in &points {
                    assert_reads(&host, name, files, &case);
                }
                assert!(point(&host, "all").is_none(), "{case}");
                copy.prune_all();
                copy.assert_clean(&case);
                let host = copy.host();
                for (name, files) in &points {
                    assert_reads(&host, name, files, &case);
                }
                let (bytes, most) = (copy.bytes("packs/"), 2 * 50_000 + 150_000 + 20_000);
                assert!(bytes < most, "{case}: {bytes} of {most} bytes are left");
            }
        }
        yard.prune();
        yard.pass(DAY + HOUR);
    }
    assert!(deaths > 20, "{deaths} runs died");
}

#[test]
fn what_little_is_needed_of_a_pack_moves_and_readers_find_it() {
    let (yard, points) = half_gone();
    // Opened before anything moves: its index is old, and it has read nothing yet.
    let old = yard.host();
    let listed = yard.prune();
    assert!(listed.rewritten_packs > 0, "{listed:?}");
    assert!(listed.rewritten_bytes < 400_000, "{listed:?}");
    yard.pass(DAY);
    let deleted = yard.prune();
    assert!(deleted.deleted_packs >= 2, "{deleted:?}");
    for (name, files) in &points {
        assert_reads(&old, name, files, "an old index");
        assert_reads(&yard.host(), name, files, "a new one");
    }
    yard.assert_clean("moved");
    let options = Options {
        max_dead: 100,
        ..Options::default()
    };
    let (other, points) = half_gone();
    for _ in 0..3 {
        let report = other.try_prune(&options).unwrap();
        assert_eq!(report.rewritten_packs, 0);
        other.pass(DAY);
    }
    for (name, files) in &points {
        assert_reads(&other.host(), name, files, "not moved");
    }
}

#[test]
fn what_is_in_the_trash_comes_back_until_its_days_are_over() {
    let yard = Yard::new();
    let mut random = Random(8);
    let (one, two) = (files(&mut random, 3, 90_000), files(&mut random, 3, 90_000));
    back_up(&yard.host(), "one", &one).unwrap();
    back_up(&yard.host(), "two", &two).unwrap();
    let root = point(&yard.host(), "one").unwrap().record.tree.root;
    for day in 0..3 {
        forget(&yard.host(), "one");
        yard.pass(3 * DAY);
        yard.prune();
        yard.pass(3 * DAY);
        yard.prune();
        let host = yard.host();
        let contents = host.catalog.contents();
        let [forgotten] = contents.forgotten.as_slice() else {
            panic!("{:?}", contents.forgotten);
        };
        host.catalog.undelete(&forgotten.point).unwrap();
        assert_eq!(point(&yard.host(), "one").unwrap().record.tree.root, root);
        assert_reads(&yard.host(), "one", &one, &format!("day {day}"));
    }
    forget(&yard.host(), "one");
    yard.pass(8 * DAY);
    let host = yard.host();
    let forgotten = host.catalog.contents().forgotten[0].point.clone();
    let late = host.catalog.undelete(&forgotten).unwrap_err();
    assert_eq!(late.kind(), Kind::NotFound, "{late}");
    assert!(point(&yard.host(), "one").is_none());
    // Trying has put it into the trash anew, so it waits there once more.
    yard.pass(8 * DAY);
    assert_eq!(yard.prune().points_removed, 1);
    let gone = host.catalog.undelete(&forgotten).unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound, "{gone}");
    yard.prune_all();
    assert!(point(&yard.host(), "one").is_none());
    assert_reads(&yard.host(), "two", &two, "two");
    yard.assert_clean("undeleted");
}

#[test]
fn a_name_that_is_used_again_is_never_taken_for_the_one_that_is_gone() {
    let yard = Yard::new();
    let mut random = Random(9);
    back_up(&yard.host(), "name", &files(&mut random, 1, 1000)).unwrap();
    back_up(&yard.host(), "other", &files(&mut random, 1, 1000)).unwrap();
    // It has seen the point, and never looks whether it was forgotten.
    let old = yard.host();
    forget(&yard.host(), "name");
    yard.pass(8 * DAY);
    yard.prune();
    yard.prune_all();
    assert_eq!(yard.memory.list("trash/").unwrap(), []);
    let again = files(&mut random, 1, 1000);
    let made = back_up(&yard.host(), "name", &again).unwrap();
    assert!(made.generation > 0);
    assert_reads(&old, "name", &again, "a host that knew the old one");
    assert_reads(&yard.host(), "name", &again, "a new host");
    yard.assert_clean("used again");
}

#[test]
fn in_doubt_nothing_is_pruned() {
    let (yard, _) = half_gone();
    let refused = |damage: &dyn Fn(&Yard)| {
        let copy = yard.copied();
        damage(&copy);
        let before = copy.packs();
        for _ in 0..3 {
            let error = copy.try_prune(&Options::default()).unwrap_err();
            assert_eq!(error.kind(), Kind::Damaged, "{error}");
            assert!(error.message().contains("keepfs check"), "{error}");
            copy.pass(2 * DAY);
        }
        assert_eq!(copy.packs(), before);
    };
    for prefix in ["index/", "points/", "trash/", "packs/tree/"] {
        refused(&|copy| {
            for object in copy.memory.list(prefix).unwrap() {
                let content = vec![0x55; object.size as usize];
                copy.memory.overwrite(&object.name, content.into());
            }
        });
    }
    refused(&|copy| {
        for object in copy.memory.list("packs/data/").unwrap() {
            copy.memory.delete(&object.name).unwrap();
        }
    });
}

/// A file may hold the bytes of a directory's page: that page is gone through all the same.
#[test]
fn a_file_that_holds_a_page_hides_nothing_below_that_page() {
    let yard = Yard::new();
    let mut random = Random(12);
    let real = files(&mut random, 3, 90_000);
    let host = yard.host();
    let made = back_up(&host, "real", &real).unwrap();
    let page = host
        .repository()
        .read_chunk(&made.record.tree.root)
        .unwrap();
    let mut both = real.clone();
    both.insert("a".to_owned(), page.into());
    back_up(&yard.host(), "both", &both).unwrap();
    back_up(&yard.host(), "last", &files(&mut random, 1, 100)).unwrap();
    yard.pass(2 * DAY);
    yard.prune();
    yard.prune_all();
    assert_reads(&yard.host(), "real", &real, "real");
    forget(&yard.host(), "real");
    yard.pass(9 * DAY);
    yard.prune();
    yard.prune_all();
    assert_reads(&yard.host(), "both", &both, "both");
    yard.assert_clean("pages");
}

#[test]
fn chunks_that_two_packs_hold_survive_in_one() {
    let yard = Yard::with_trash_days("0");
    let mut random = Random(13);
    let shared = files(&mut random, 3, 90_000);
    // Two hosts that do not see each other's index store the same.
    let (one, two) = (yard.host(), yard.host());
    back_up(&one, "one", &shared).unwrap();
    back_up(&two, "two", &shared).unwrap();
    let content = random.bytes(1000);
    let writer = Writer::new(one.repository().clone(), None).unwrap();
    writer
        .put(Lane::Alone, ChunkId::of(&content), &content)
        .unwrap();
    writer.flush().unwrap();
    drop(writer);
    let doubled = yard.bytes("packs/data/");
    yard.pass(2 * DAY);
    yard.prune();
    yard.prune_all();
    for name in ["one", "two"] {
        assert_reads(&yard.host(), name, &shared, name);
    }
    let now = yard.bytes("packs/data/");
    assert!(now < doubled * 6 / 10, "{doubled} then, {now} now");
    yard.assert_clean("doubled");
}

#[test]
fn a_hundred_days_rewrite_less_than_they_free() {
    let yard = Yard::with_trash_days("1");
    let mut random = Random(16);
    let mut now = files(&mut random, 40, 50_000);
    let mut kept: BTreeMap<u64, Files> = BTreeMap::new();
    let (mut rewritten, mut deleted) = (0, 0);
    let days = if full() { 100 } else { 30 };
    for day in 0..days {
        for _ in 0..4 {
            let name = format!("d/f{}", random.below(40));
            now.insert(name, random.bytes(50_000).into());
        }
        back_up(&yard.host(), &format!("day{day}"), &now).unwrap();
        kept.insert(day, now.clone());
        if kept.len() > 7 {
            let (oldest, _) = kept.pop_first().unwrap();
            forget(&yard.host(), &format!("day{oldest}"));
        }
        yard.pass(DAY);
        let report = yard.prune();
        let case = format!("day {day}: {report:?}");
        assert!(report.rewritten_bytes < report.live_bytes / 2, "{case}");
        rewritten += report.rewritten_bytes;
        deleted += report.deleted_bytes;
        if day % 10 == 9 {
            let host = yard.host();
            for (day, files) in &kept {
                assert_reads(&host, &format!("day{day}"), files, &case);
            }
            yard.assert_clean(&case);
        }
    }
    assert!(deleted > 4_000_000, "{deleted}");
    assert!(
        rewritten < deleted,
        "{rewritten} rewritten, {deleted} deleted"
    );
    // Seven points of 2 MB that differ in 0.2 MB a day, what waits for its time, and half of each pack at most.
    let bytes = yard.bytes("packs/");
    assert!(bytes < 8_500_000, "{bytes}");
}

#[test]
fn the_command_prunes_and_brings_back() {
    let host = Host::new();
    host.expect(0, &["init", "--trash-days", "3", "primary"]);
    let source = host.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), Random(14).bytes(500_000)).unwrap();
    let source = source.to_str().unwrap();
    host.expect(0, &["backup", source, "primary/web/one"]);
    host.expect(0, &["backup", source, "primary/web/two"]);
    host.expect(1, &["undelete", "primary/web/one"]);
    host.expect(0, &["forget", "primary/web/one"]);
    let trash = host.expect(0, &["points", "--trash", "primary"]);
    assert!(
        trash.contains("primary/web/one") && trash.contains("goes"),
        "{trash}"
    );
    let json = host.json(&["points", "--trash", "--json", "primary"]);
    let line = &json[0]["points"][0];
    assert_eq!(line["point"], "one");
    let day = |name: &str| line[name].as_str().unwrap()[..10].parse().unwrap();
    let (forgotten, goes): (jiff::civil::Date, jiff::civil::Date) = (day("forgotten"), day("goes"));
    assert_eq!(goes, forgotten + jiff::Span::new().days(3));
    let back = host.expect(0, &["undelete", "primary/web/one"]);
    assert!(back.contains("brought back primary/web/one"), "{back}");
    host.expect(1, &["undelete", "primary/web/one"]);
    host.expect(0, &["forget", "primary/web/one", "primary/web/two"]);
    let plan = host.json(&["prune", "--dry-run", "--json", "primary"]);
    assert_eq!(plan[0]["points_in_trash"], 2);
    assert_eq!(plan[0]["points_removed"], 0);
    let text = host.expect(0, &["prune", "--grace", "1h", "primary"]);
    assert!(text.contains("2 can still be brought back"), "{text}");
    host.expect(2, &["prune", "--grace", "5", "primary"]);
    host.expect(2, &["prune", "--max-dead", "101", "primary"]);
    host.expect(0, &["undelete", "primary/web/two"]);
    host.expect(0, &["check", "--read-data", "primary"]);
}
