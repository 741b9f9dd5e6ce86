//! Copies of restore points: whole, later, partly there, round in a circle; and what they cost.

use crate::sites::{
    BLOCK, Body, Files, MIB, Random, Site, assert_points_are_whole, assorted, chunks_of, copy,
    copy_with, everything, files_of, missing_chunks,
};
use keepfs::copy::{
    End, Outcome, Scope, Selection, SessionState, Transfer, TransferOptions, Verdict, bring_point,
    copy_points, plan, sessions,
};
use keepfs::error::Kind;
use keepfs::point::{Draft, PointRecord, Visit, Walk};
use keepfs::progress::Progress;
use keepfs::repository::{Lane, Writer};
use keepfs::store::faults::Verb;
use keepfs::store::{DirectoryStore, MemoryStore, SharedStore, Store};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

#[test]
fn a_first_copy_moves_frames_as_they_are_and_stands_alone() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let in_directory = |at: usize| -> SharedStore {
        Arc::new(DirectoryStore::open(directories[at].path()).unwrap())
    };
    let stores: [[SharedStore; 2]; 2] = [
        [
            Arc::new(MemoryStore::new()) as SharedStore,
            Arc::new(MemoryStore::new()),
        ],
        [in_directory(0), in_directory(1)],
    ];
    for [from, to] in stores {
        let files = assorted(11, 250);
        let mut source = Site::in_store(from, MIB, 1);
        let mut target = Site::in_store(to, 8 * MIB, 2);
        let point = source.back_up("web", "one", 100, &files);
        let progress = Progress::default();
        let options = TransferOptions::default();
        let ends = (source.open(), target.open());
        let report = copy_points(&everything(), &ends.0, &ends.1, &options, &progress).unwrap();

        assert_eq!(report.record.state, SessionState::Success);
        let counters = report.record.counters;
        assert_eq!(counters.frames_cut, 0);
        assert!(counters.frames_moved > 20);
        let packs = target.store.list("packs/data/").unwrap();
        let stored: u64 = packs.iter().map(|pack| pack.size).sum();
        assert_eq!(stored, counters.data_bytes_written);
        assert!(packs.len() as u64 <= stored.div_ceil(8 * MIB) + 2);
        let tree = point.record.tree;
        assert_eq!(progress.bytes.load(Relaxed), tree.bytes);
        assert_eq!(progress.items.load(Relaxed), tree.entries);
        assert_eq!(progress.bytes_total.load(Relaxed), tree.bytes);

        for object in source.store.list("").unwrap() {
            source.store.delete(&object.name).unwrap();
        }
        let target = target.open();
        assert_eq!(files_of(&target, "web", "one"), files);
        let contents = target.catalog.contents();
        let copied = contents.point(b"web", b"one").unwrap();
        assert!(copied.record.same_content(&point.record));
        assert_eq!(copied.record.time, point.record.time);
        let origin = copied.record.origin.clone().unwrap();
        assert_eq!(
            (origin.repository, origin.point),
            (ends.0.repository().id(), point.id)
        );
        assert_side_table_reads(&target, "web", "one");
    }
}

fn assert_side_table_reads(end: &End, backup: &str, point: &str) {
    let contents = end.catalog.contents();
    let record = &contents
        .point(backup.as_bytes(), point.as_bytes())
        .unwrap()
        .record;
    let mut side =
        keepfs::point::SideReader::new(end.trees.clone(), record.side.clone(), record.side_bytes);
    let last = record.tree.entries - 1;
    assert_eq!(side.get(last).unwrap().unwrap().inode, last);
}

#[test]
fn moved_frames_are_the_sources_own() {
    let mut source = Site::new(MIB, 1);
    let target = Site::new(4 * MIB, 2);
    let point = source.back_up("web", "one", 100, &assorted(5, 100));
    let (from, to) = (source.open(), target.reopen());
    let writer = Writer::new(to.repository().clone(), Some(from.repository().id())).unwrap();
    let writer = Arc::new(writer);
    let transfer = Transfer::new(
        from.trees.clone(),
        writer.clone(),
        TransferOptions::default(),
    );
    for visit in Walk::new(from.trees.clone(), &point.record.tree) {
        if let Visit::Entry { entry, .. } = visit.unwrap()
            && let Some(file) = entry.file()
        {
            transfer.want_file(file, Lane::Group(0)).unwrap();
        }
    }
    let report = transfer.finish().unwrap();
    assert_eq!(report.frames_cut, 0);
    assert_eq!(writer.written.frames_compressed.load(Relaxed), 0);
    assert_eq!(
        writer.written.frames_moved.load(Relaxed),
        report.frames_moved
    );
    assert_eq!(missing_chunks(&from, &to), 0);
    let mut shapes = [&from, &to].map(|end| {
        let chunks = chunks_of(&from.trees, &point.record.tree);
        let shape = |id| {
            let location = end.repository().find(id).unwrap().unwrap();
            let frames = location.frames().unwrap();
            let lengths: Vec<_> = frames
                .iter()
                .map(|frame| (frame.plain_bytes(), frame.stored_bytes()))
                .collect();
            (location.offset - frames[0].stream_begin, lengths)
        };
        chunks.values().flatten().map(shape).collect::<Vec<_>>()
    });
    assert!(!shapes[0].is_empty());
    let copied = std::mem::take(&mut shapes[1]);
    assert_eq!(shapes[0], copied);
}

#[test]
fn a_second_run_moves_nothing_and_lists_no_pack() {
    let mut source = Site::new(MIB, 1);
    let mut target = Site::new(4 * MIB, 2);
    source.back_up("web", "one", 100, &assorted(3, 120));
    source.back_up("web", "two", 200, &assorted(3, 121));
    copy(&source.open(), &target.open());
    for site in [&source, &target] {
        site.store.clear_log();
    }
    let report = copy(&source.open(), &target.open());
    assert_eq!(report.record.counters.data_bytes_read, 0);
    assert_eq!(report.record.counters.stored_bytes, 0);
    assert_eq!(report.record.count(Outcome::Present), 2);
    for site in [&source, &target] {
        let touches_packs = |name: &str| name.is_empty() || name.starts_with("packs/");
        assert!(
            !site
                .store
                .log()
                .iter()
                .any(|line| touches_packs(&line.name))
        );
    }
    let all = sessions(target.open().repository()).unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all[&report.session], report.record);
}

#[test]
fn a_later_point_costs_what_changed() {
    let mut source = Site::new(MIB, 1);
    let mut target = Site::new(4 * MIB, 2);
    let mut files = Files::new();
    for number in 0..6000 {
        let body = format!("file {number}").into_bytes();
        files.insert(format!("big/f{number:05}"), body.clone().into());
        files.insert(format!("d{}/f{number:05}", number % 40), body.into());
    }
    source.back_up("web", "one", 100, &files);
    copy(&source.open(), &target.open());
    let change: Body = b"changed".to_vec().into();
    files.insert("big/f03000".to_owned(), change.clone());
    files.insert("d7/f00007".to_owned(), change);
    source.back_up("web", "two", 200, &files);
    let (from, to) = (source.open(), target.open());
    source.store.clear_log();
    let report = copy(&from, &to);
    let counters = report.record.counters;
    assert_eq!((counters.chunks_moved, counters.frames_moved), (1, 1));
    // One leaf of the large directory, one small directory, their tops: four frames of trees at most, one of data.
    let reads = source.store.log();
    let reads = reads
        .iter()
        .filter(|line| line.verb == Verb::GetRange && line.name.starts_with("packs/"));
    assert!(reads.count() <= 6);
    // Two leaves were looked at, of at most 1024 files each.
    assert!(counters.chunks_present < 2048);
    assert_eq!(files_of(&target.open(), "web", "two"), files);
}

#[test]
fn a_later_image_costs_what_changed() {
    let mut source = Site::new(MIB, 1);
    let mut target = Site::new(4 * MIB, 2);
    let blocks = 20_000;
    let mut image = Random(8).bytes(blocks * BLOCK as usize);
    let one: Files = [("disk.img".to_owned(), image.clone().into())].into();
    source.back_up("vm", "one", 100, &one);
    let report = copy(&source.open(), &target.open());
    assert_eq!(report.record.counters.frames_cut, 0);
    assert_eq!(report.record.counters.chunks_moved as usize, blocks);
    image[7_000_000] ^= 1;
    let two: Files = [("disk.img".to_owned(), image.into())].into();
    source.back_up("vm", "two", 200, &two);
    let report = copy(&source.open(), &target.open());
    let counters = report.record.counters;
    assert_eq!(counters.chunks_moved, 1);
    // One leaf of at most 4096 extents was looked at; it may have been cut in two by the change.
    assert!(counters.chunks_present < 8192);
    let target = target.open();
    assert_eq!(files_of(&target, "vm", "one"), one);
    assert_eq!(files_of(&target, "vm", "two"), two);
}

#[test]
fn threads_share_a_transfer() {
    let mut source = Site::new(MIB, 1);
    let mut target = Site::new(4 * MIB, 2);
    let files = assorted(43, 150);
    let point = source.back_up("web", "one", 100, &files);
    let (from, to) = (source.open(), target.open());
    let writer = Writer::new(to.repository().clone(), Some(from.repository().id())).unwrap();
    let options = TransferOptions::default();
    let transfer = Transfer::new(from.trees.clone(), Arc::new(writer), options);
    let chunks = chunks_of(&from.trees, &point.record.tree);
    let chunks: Vec<_> = chunks.values().flatten().collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (transfer, chunks, to) = (&transfer, &chunks, &to);
            scope.spawn(move || {
                for part in chunks.chunks(40).skip(thread / 2) {
                    for id in part {
                        transfer.want(**id, Lane::Group(0)).unwrap();
                    }
                    transfer.finish().unwrap();
                    // Whoever asked finds it durable, although another thread may have asked first.
                    let there = |id: &&&_| to.repository().find(id).unwrap().is_some();
                    assert!(part.iter().all(|id| there(&id)));
                }
            });
        }
    });
    assert_eq!(transfer.report().failures, []);
}

#[test]
fn what_the_target_has_a_part_of_is_cut() {
    let mut source = Site::new(MIB, 1);
    let mut target = Site::new(4 * MIB, 2);
    let files = assorted(7, 200);
    let half: Files = files.clone().into_iter().step_by(2).collect();
    target.back_up("own", "half", 50, &half);
    source.back_up("web", "one", 100, &files);
    let before = stored_in(&target, "packs/data/");
    let report = copy(&source.open(), &target.open());
    assert!(report.record.counters.frames_cut > 0);
    assert!(report.record.counters.chunks_present > 0);
    assert!(stored_in(&target, "packs/data/") - before < stored_in(&source, "packs/data/") * 3 / 4);
    let target = target.open();
    assert_eq!(files_of(&target, "web", "one"), files);
    assert_eq!(files_of(&target, "own", "half"), half);
}

#[test]
fn a_point_of_the_targets_own_that_refers_to_unhashed_contents_is_no_base() {
    let (mut source, mut other) = (Site::new(MIB, 1), Site::new(MIB, 3));
    let mut target = Site::new(4 * MIB, 2);
    let files = assorted(59, 20);
    let point = source.back_up("web", "one", 100, &files);
    let foreign = other.back_up("web", "one", 100, &files);
    // As a mount seals what was linked from the other repository.
    let (from, to) = (other.open(), target.open());
    let writer = Writer::new(to.repository().clone(), Some(from.repository().id())).unwrap();
    let options = TransferOptions::default();
    let transfer = Transfer::new(from.trees.clone(), Arc::new(writer), options);
    assert!(bring_point(&transfer, &foreign.record, &Progress::default()).unwrap());
    transfer.finish().unwrap();
    let record = PointRecord {
        name: b"linked".to_vec(),
        ..foreign.record.clone()
    };
    to.catalog.commit(b"web", Draft { record }).unwrap();

    let (from, to) = (source.open(), target.open());
    let report = copy(&from, &to);
    assert_eq!(report.record.points[0].outcome, Outcome::Copied);
    let writer = Writer::new(to.repository().clone(), Some(from.repository().id())).unwrap();
    let chunks = chunks_of(&from.trees, &point.record.tree);
    let from_the_source = |id| writer.has(id).unwrap();
    assert!(chunks.values().flatten().all(from_the_source));
}

fn stored_in(site: &Site, prefix: &str) -> u64 {
    site.store
        .list(prefix)
        .unwrap()
        .iter()
        .map(|object| object.size)
        .sum()
}

#[test]
fn little_patience_cuts_frames_and_loses_nothing() {
    let mut source = Site::new(MIB, 1);
    let mut target = Site::new(4 * MIB, 2);
    let files = assorted(9, 200);
    source.back_up("web", "one", 100, &files);
    let options = TransferOptions {
        waiting_max: 20,
        workers: 1,
        ..TransferOptions::default()
    };
    let report = copy_with(&options, &source.open(), &target.open());
    assert!(report.unwrap().record.counters.frames_cut > 0);
    assert_eq!(files_of(&target.open(), "web", "one"), files);
}

#[test]
fn recompressing_uses_the_targets_level() {
    let mut source = Site::new(MIB, 1);
    let mut target = Site::new(4 * MIB, 2);
    let files = assorted(13, 80);
    source.back_up("web", "one", 100, &files);
    let options = TransferOptions {
        recompress: true,
        ..TransferOptions::default()
    };
    let report = copy_with(&options, &source.open(), &target.open());
    let counters = report.unwrap().record.counters;
    assert_eq!(counters.frames_moved, 0);
    assert!(counters.frames_cut > 0);
    assert_eq!(files_of(&target.open(), "web", "one"), files);
}

#[test]
fn a_circle_of_copies_ends_at_the_same_root() {
    let mut sites = [
        Site::new(MIB, 1),
        Site::new(4 * MIB, 2),
        Site::new(2 * MIB, 3),
    ];
    let files = assorted(17, 100);
    let point = sites[0].back_up("web", "one", 100, &files);
    let mut roots = vec![point.record.tree.root];
    for (from, to, into) in [(0, 1, "web"), (1, 2, "web"), (2, 0, "back")] {
        let ends = (sites[from].open(), sites[to].open());
        let selection = Selection {
            scopes: vec![Scope::Backup(b"web".to_vec())],
            into: Some(into.as_bytes().to_vec()),
        };
        let options = TransferOptions::default();
        let report = copy_points(&selection, &ends.0, &ends.1, &options, &Progress::default());
        let counters = report.unwrap().record.counters;
        assert_eq!(counters.frames_cut, 0);
        assert_eq!(
            counters.data_bytes_read == 0,
            to == 0,
            "the first one has everything"
        );
        let contents = sites[to].open().catalog.contents();
        roots.push(
            contents
                .point(into.as_bytes(), b"one")
                .unwrap()
                .record
                .tree
                .root,
        );
    }
    assert_eq!(roots, [roots[0]; 4]);
    assert_eq!(files_of(&sites[2].open(), "web", "one"), files);
    assert_eq!(files_of(&sites[0].open(), "back", "one"), files);
}

#[test]
fn the_plan_skips_what_is_there_and_refuses_other_content_of_the_same_name() {
    let mut source = Site::new(MIB, 1);
    let mut target = Site::new(MIB, 2);
    let (one, two) = (assorted(1, 5), assorted(2, 5));
    source.back_up("web", "newer", 300, &one);
    source.back_up("web", "older", 100, &one);
    source.back_up("db", "newer", 200, &two);
    target.back_up("web", "newer", 300, &two);
    target.back_up("db", "newer", 1, &two);
    let (from, to) = (source.open(), target.open());
    let (from, to) = (from.catalog.contents(), to.catalog.contents());
    let told = |selection: &Selection| -> Vec<_> {
        let steps = plan(selection, &from, &to).unwrap();
        steps
            .iter()
            .map(|step| {
                let name = [&step.from, &b"/"[..], step.point.name()].concat();
                (String::from_utf8(name).unwrap(), step.verdict)
            })
            .collect()
    };
    let line = |name: &str, verdict| (name.to_owned(), verdict);
    assert_eq!(
        told(&everything()),
        [
            line("web/older", Verdict::Copy),
            line("db/newer", Verdict::Present),
            line("web/newer", Verdict::Conflict),
        ]
    );
    let into = Selection {
        scopes: vec![Scope::Repository, Scope::Backup(b"db".to_vec())],
        into: Some(b"all".to_vec()),
    };
    assert_eq!(
        told(&into),
        [
            line("web/older", Verdict::Copy),
            line("db/newer", Verdict::Copy),
            line("web/newer", Verdict::Conflict),
        ]
    );
    for scope in [
        Scope::Backup(b"nothing".to_vec()),
        Scope::Point {
            backup: b"web".to_vec(),
            point: b"nothing".to_vec(),
        },
    ] {
        let selection = Selection {
            scopes: vec![scope],
            into: None,
        };
        assert_eq!(
            plan(&selection, &from, &to).unwrap_err().kind(),
            Kind::NotFound
        );
    }

    let report = copy(&source.open(), &target.open());
    assert_eq!(report.record.state, SessionState::NeedsAction);
    assert_eq!(report.record.failed.len(), 1);
    assert!(report.record.failed[0].path.is_empty());
    assert_eq!(files_of(&target.open(), "web", "older"), one);
    assert_eq!(files_of(&target.open(), "web", "newer"), two);
}

#[test]
fn small_points_share_packs() {
    let mut source = Site::new(MIB, 1);
    let mut target = Site::new(4 * MIB, 2);
    let mut files = Files::new();
    for number in 0..12 {
        files.insert(
            format!("f{number}"),
            Random(number + 1).bytes(20_000).into(),
        );
        source.back_up("web", &format!("p{number:02}"), number as i64, &files);
    }
    let report = copy(&source.open(), &target.open());
    assert_eq!(report.record.count(Outcome::Copied), 12);
    assert_eq!(report.record.counters.data_packs, 1);
    let to = target.open();
    assert_eq!(files_of(&to, "web", "p11"), files);
    let from = source.open();
    assert_points_are_whole(&from, &to);
}
