//! Copies that meet damage, lose a store, are stopped or die: what is told, what is kept, what a rerun does.

use crate::engine::assert_clean;
use crate::sites::{
    Files, MIB, Random, Site, assert_points_are_whole, assorted, chunks_of, copy, everything,
    files_of, missing_chunks, try_copy,
};
use keepfs::copy::{
    Failure, Outcome, SessionReport, SessionState, Transfer, TransferOptions, bring_point,
    copy_point, copy_points, sessions,
};
use keepfs::error::Kind;
use keepfs::progress::Progress;
use keepfs::repository::Writer;
use keepfs::store::faults::{Operation, Stop, Verb};
use std::sync::Arc;

/// What became of each point, in the order of the copy.
fn outcomes_of(report: &SessionReport) -> Vec<Outcome> {
    let points = report.record.points.iter();
    points.map(|point| point.outcome).collect()
}
const READS: &[Verb] = &[Verb::Get, Verb::GetRange];

#[test]
fn damage_costs_exactly_the_files_that_it_hits() {
    let mut source = Site::new(MIB, 1);
    let mut target = Site::new(4 * MIB, 2);
    let mut random = Random(3);
    let good: Files = [("x/good".to_owned(), random.bytes(300_000).into())].into();
    let files = assorted(19, 150);
    source.back_up("web", "good", 100, &good);
    source.back_up("web", "bad", 200, &files);
    let mut later = good.clone();
    later.insert("more".to_owned(), random.text(5000).into());
    source.back_up("web", "later", 300, &later);

    let from = source.open();
    let contents = from.catalog.contents();
    let tree = contents.point(b"web", b"bad").unwrap().record.tree;
    let chunks = chunks_of(&from.trees, &tree);
    let hit = chunks.values().flatten().nth(40).unwrap();
    let location = from.repository().find(hit).unwrap().unwrap();
    let span = location.frames().unwrap()[0];
    let pack = location.pack.id;
    let holds = |id: &keepfs::id::ChunkId| {
        let location = from.repository().find(id).unwrap().unwrap();
        location.pack.id == pack
            && location
                .frames()
                .unwrap()
                .iter()
                .any(|frame| frame.number == span.number)
    };
    let expected: Vec<_> = chunks
        .iter()
        .filter(|(_, ids)| ids.iter().any(holds))
        .map(|(path, _)| path.clone().into_bytes())
        .collect();
    let name = keepfs::store::names::Name::Pack(location.pack.kind, pack).to_string();
    source.store.flip(&name, u64::from(span.object_begin) + 5);

    let report = copy(&source.open(), &target.open());
    assert_eq!(report.record.state, SessionState::NeedsAction);
    let failed: Vec<_> = report
        .record
        .failed
        .iter()
        .map(|part| part.path.clone())
        .collect();
    assert_eq!(failed, expected);
    assert!(
        report
            .record
            .failed
            .iter()
            .all(|part| part.point == b"bad" && part.attempts == 1)
    );
    assert_eq!(
        outcomes_of(&report),
        [Outcome::Copied, Outcome::Failed, Outcome::Copied]
    );
    let contents = target.open().catalog.contents();
    assert!(contents.point(b"web", b"bad").is_none());
    assert_eq!(files_of(&target.open(), "web", "good"), good);
    assert_eq!(files_of(&target.open(), "web", "later"), later);

    // Once the source is whole again, only what failed is moved.
    source.store.heal();
    let missing = missing_chunks(&source.open(), &target.open());
    let (session, moved) = (report.session, report.record.counters.chunks_moved);
    let report = copy(&source.open(), &target.open());
    assert_eq!(report.session, session, "the same session goes on");
    assert_eq!(report.record.state, SessionState::Success);
    let moved = report.record.counters.chunks_moved - moved;
    assert_eq!(moved as usize, missing);
    assert_eq!(files_of(&target.open(), "web", "bad"), files);
}

#[test]
fn a_damaged_tree_page_fails_its_point_and_no_other() {
    let mut source = Site::new(MIB, 1);
    let mut target = Site::new(4 * MIB, 2);
    let good = assorted(23, 30);
    source.back_up("web", "good", 100, &good);
    let mut files = good.clone();
    files.insert("only/here".to_owned(), b"x".to_vec().into());
    source.back_up("web", "bad", 200, &files);
    let from = source.open();
    let contents = from.catalog.contents();
    let top = Arc::new(contents.point(b"web", b"bad").unwrap().record.top());
    let page = from
        .trees
        .resolve(&top, b"only")
        .unwrap()
        .unwrap()
        .tree()
        .unwrap()
        .root;
    let location = from.repository().find(&page).unwrap().unwrap();
    let name = keepfs::store::names::Name::Pack(location.pack.kind, location.pack.id).to_string();
    source.store.flip(
        &name,
        u64::from(location.frames().unwrap()[0].object_begin) + 5,
    );
    let report = copy(&source.open(), &target.open());
    assert_eq!(outcomes_of(&report), [Outcome::Copied, Outcome::Failed]);
    assert!(report.record.failed_total > 0);
    assert_eq!(files_of(&target.open(), "web", "good"), good);
    assert!(
        target
            .open()
            .catalog
            .contents()
            .point(b"web", b"bad")
            .is_none()
    );
}

#[test]
fn a_page_that_cannot_be_read_once_does_not_make_half_a_point() {
    let mut source = Site::new(MIB, 1);
    let mut target = Site::new(4 * MIB, 2);
    let files = assorted(47, 60);
    source.back_up("web", "one", 100, &files);
    let ends = (source.open(), target.open());
    source
        .store
        .fail_at(READS, "packs/tree/", 0..1, Kind::Damaged);
    let report = copy(&ends.0, &ends.1);
    assert_eq!(report.record.state, SessionState::NeedsAction);
    assert_eq!(report.record.points[0].outcome, Outcome::Failed);
    assert!(report.record.failed[0].reason.contains("again"));
    assert_points_are_whole(&ends.0, &ends.1);
    assert!(ends.1.catalog.contents().point(b"web", b"one").is_none());

    let report = copy(&source.open(), &target.open());
    assert_eq!(report.record.points[0].outcome, Outcome::Copied);
    assert_eq!(files_of(&target.open(), "web", "one"), files);
}

#[test]
fn a_transfer_that_lacks_a_chunk_does_not_finish() {
    let mut source = Site::new(MIB, 1);
    let mut target = Site::new(4 * MIB, 2);
    let point = source.back_up("web", "one", 100, &assorted(53, 10));
    let (from, to) = (source.open(), target.open());
    let writer = Writer::new(to.repository().clone(), Some(from.repository().id())).unwrap();
    let options = TransferOptions::default();
    let transfer = Transfer::new(from.trees.clone(), Arc::new(writer), options);
    source
        .store
        .fail_at(READS, "packs/data/", 0..u64::MAX, Kind::Damaged);
    assert!(bring_point(&transfer, &point.record, &Progress::default()).unwrap());
    let failed = transfer.finish().unwrap_err();
    assert_eq!(failed.kind(), Kind::Damaged);
    let failures = transfer.finish_what_can().unwrap().failures;
    let named = |failure: &Failure| failed.message().contains(&failure.chunk.to_string());
    assert!(failures.iter().any(named), "{failed}");
}

#[test]
fn a_merge_of_the_index_that_fails_does_not_fail_a_copy() {
    let (mut source, mut target) = (Site::new(MIB, 1), Site::new(MIB, 2));
    for number in 0..10 {
        let files = [("f".to_owned(), Random(number + 1).bytes(1000).into())].into();
        source.back_up("web", &format!("p{number}"), number as i64, &files);
        target
            .store
            .fail_at(&[Verb::Upload], "index/", 0..u64::MAX, Kind::Full);
        let report = copy(&source.open(), &target.reopen());
        assert_eq!(report.record.state, SessionState::Success);
        assert_eq!(report.record.count(Outcome::Copied), 1);
    }
    let log = target.store.log();
    let merge = |line: &Operation| line.verb == Verb::Upload && line.name.starts_with("index/");
    assert!(log.iter().any(merge), "no merge was tried");
    assert_points_are_whole(&source.open(), &target.open());
}

#[test]
fn a_point_that_was_committed_before_another_failed_is_told() {
    let (mut source, mut target) = (Site::new(MIB, 1), Site::new(4 * MIB, 2));
    for number in 0..3 {
        let files = [("f".to_owned(), Random(number + 1).bytes(1000).into())].into();
        source.back_up("web", &format!("p{number}"), number as i64, &files);
    }
    target
        .store
        .fail_at(&[Verb::Create], "points/", 1..2, Kind::Denied);
    let failed = try_copy(&source.open(), &target.open()).unwrap_err();
    assert_eq!(failed.kind(), Kind::Denied);
    let sessions = sessions(target.open().repository()).unwrap();
    let record = sessions.into_values().next().unwrap();
    let outcomes: Vec<_> = record.points.iter().map(|point| point.outcome).collect();
    let expected = [Outcome::Copied, Outcome::Waiting, Outcome::Waiting];
    assert_eq!(outcomes, expected);
}

#[test]
fn a_copy_that_dies_at_any_write_is_resumed() {
    let mut source = Site::new(MIB, 1);
    let mut random = Random(29);
    let mut files = assorted(31, 30);
    for number in 0..7 {
        files.insert(format!("large/{number}"), random.bytes(3 << 20).into());
    }
    source.back_up("web", "one", 100, &files);
    files.insert("new".to_owned(), random.text(90_000).into());
    source.back_up("web", "two", 200, &files);
    let from = source.open();
    let whole = {
        let target = Site::new(MIB, 2);
        let before = target.store.mutations() as u64;
        copy(&from, &target.reopen());
        target.store.mutations() as u64 - before
    };
    assert!(whole > 20);
    let mut resumed = 0;
    for nth in 1..=whole {
        for stop in [Stop::Before, Stop::After] {
            let mut target = Site::new(MIB, 2);
            let to = target.reopen();
            target.store.stop_at(nth, stop);
            let died = try_copy(&from, &to);
            if !target.store.is_stopped() {
                // How chunks fall into packs depends on threads, so a run may write one pack less.
                assert!(died.is_ok() && nth + 3 > whole);
                continue;
            }
            assert!(died.is_err() || nth + 2 >= whole, "write {nth}: {died:?}");
            drop(to);
            target.store.heal();
            let to = target.open();
            assert_clean(&format!("write {nth}, {stop:?}"), to.repository());
            assert_points_are_whole(&from, &to);
            let missing = missing_chunks(&from, &to);
            resumed += u64::from(missing > 0 && missing < 60);
            let report = copy(&from, &to);
            assert_eq!(report.record.state, SessionState::Success);
            assert_eq!(
                report.record.counters.chunks_moved as usize, missing,
                "write {nth}"
            );
            let to = target.open();
            assert!(to.catalog.contents().point(b"web", b"one").is_some());
            assert_points_are_whole(&from, &to);
            assert_eq!(missing_chunks(&from, &to), 0);
            assert_clean("resumed", to.repository());
        }
    }
    assert!(resumed > 0, "some run found a part of the data there");
}

#[test]
fn a_stopped_copy_keeps_what_has_arrived() {
    let mut source = Site::new(MIB, 1);
    let mut target = Site::new(MIB, 2);
    source.back_up("web", "one", 100, &assorted(37, 60));
    let progress = Progress::default();
    progress.stop();
    let ends = (source.open(), target.open());
    let options = TransferOptions::default();
    let stopped = copy_points(&everything(), &ends.0, &ends.1, &options, &progress).unwrap_err();
    assert_eq!(stopped.kind(), Kind::Interrupted);
    let record = sessions(target.open().repository())
        .unwrap()
        .into_values()
        .next()
        .unwrap();
    assert_eq!(record.state, SessionState::Failed);
    assert_eq!(
        copy(&source.open(), &target.open()).record.state,
        SessionState::Success
    );
}

#[test]
fn a_source_that_goes_away_fails_the_session() {
    let mut source = Site::new(MIB, 1);
    let mut target = Site::new(MIB, 2);
    source.back_up("web", "one", 100, &assorted(41, 60));
    let ends = (source.open(), target.open());
    let point = ends
        .0
        .catalog
        .contents()
        .point(b"web", b"one")
        .unwrap()
        .clone();
    source.store.fail_next(u64::MAX, Kind::Unreachable);
    let options = TransferOptions::default();
    let failed = copy_point(
        &ends.0,
        &point,
        &ends.1,
        b"web",
        &options,
        &Progress::default(),
    );
    assert_eq!(failed.unwrap_err().kind(), Kind::Unreachable);
    source.store.heal();
    let report = copy_point(
        &ends.0,
        &point,
        &ends.1,
        b"web",
        &options,
        &Progress::default(),
    );
    let report = report.unwrap();
    assert_eq!(report.outcome, Outcome::Copied);
    assert!(report.point.unwrap().record.same_content(&point.record));
}
