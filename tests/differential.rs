//! The same random calls on tmpfs and on an open point: every answer, errno and entry must be the same, also after the
//! point was sealed and mounted again.

use crate::calls::{Step, step};
use crate::engine::{Bench, full, seed};
use crate::mount::{Mount, catalog, run};
use crate::mount_writes::{settings, state_of};
use crate::sides::{Side, tree};
use crate::sites::Random;
use std::path::Path;

/// Steps of one run with one seed.
const STEPS: usize = 5_000;
const STEPS_FULL: usize = 100_000;
/// Runs in full mode, each with a seed of its own: a million steps.
const RUNS_FULL: u64 = 10;
/// Steps that are told when one goes wrong.
const TOLD: usize = 12;

fn shorten(text: &str) -> String {
    let short: String = text.chars().take(500).collect();
    short
}

fn tell(seed: u64, done: &[Step]) -> String {
    let last = done
        .iter()
        .enumerate()
        .skip(done.len().saturating_sub(TOLD));
    let last: Vec<String> = last
        .map(|(number, step)| shorten(&format!("{number}: {step:?}")))
        .collect();
    format!("KEEPFS_SEED={seed}, the last steps:\n{}", last.join("\n"))
}

fn assert_same_trees(case: &str, one: &[String], two: &[String]) {
    for (one, two) in one.iter().zip(two) {
        assert_eq!(one, two, "{case}");
    }
    assert_eq!(one.len(), two.len(), "{case}");
}

fn compare(seed: u64, steps: usize) {
    let reference = tempfile::tempdir_in("/dev/shm").unwrap();
    let bench = Bench::new(&settings());
    let mount = Mount::of(vec![("primary", catalog(&bench))]);
    let point = mount.path().join("primary/host/x.partial");
    let tops = [reference.path(), &point].map(|above| above.join("top"));
    for top in &tops {
        run(&format!(
            "mkdir -p '{0}' && chmod 755 '{0}/..' && chmod 777 '{0}'",
            top.display()
        ));
    }
    let mut random = Random(seed);
    let mut sides = tops.each_ref().map(|top| Side::new(top));
    let mut done = Vec::new();
    for _ in 0..steps {
        let step = step(&mut random);
        let [one, two] = sides.each_mut().map(|side| side.make(&step));
        done.push(step);
        if one != two {
            let (one, two) = (shorten(&format!("{one:?}")), shorten(&format!("{two:?}")));
            panic!(
                "{}\ntmpfs:      {one}\nopen point: {two}\n{}\n{}",
                tell(seed, &done),
                sides[0].told,
                sides[1].told
            );
        }
    }
    sides.iter_mut().for_each(Side::close_all);
    let [one, two] = tops.each_ref().map(|top| tree(top, true));
    assert_same_trees(&tell(seed, &done), &one, &two);
    let state = mount.unmount();
    let mount = Mount::with_state(vec![("primary", catalog(&bench))], state);
    let point = mount.path().join("primary/host/x.partial");
    assert_same_trees("open again", &one, &tree(&point.join("top"), true));
    // Complete points do not count the directories in a directory.
    let open = tree(&point, false);
    let sealed = point.with_file_name("x");
    std::fs::rename(&point, &sealed).unwrap();
    assert_eq!(state_of(&sealed), "complete");
    assert_same_trees("sealed", &open, &tree(&sealed, false));
    let state = mount.unmount();
    let mount = Mount::with_state(vec![("primary", catalog(&bench))], state);
    let sealed = mount.path().join("primary/host/x");
    assert_same_trees("mounted again", &open, &tree(&sealed, false));
}

#[test]
fn an_open_point_answers_as_tmpfs_does() {
    let seed = seed("an_open_point_answers_as_tmpfs_does");
    assert!(Path::new("/dev/shm").is_dir());
    match full() {
        false => (0..4).for_each(|run| compare(seed + 2 * run, STEPS)),
        true => (0..RUNS_FULL).for_each(|run| compare(seed + 2 * run, STEPS_FULL)),
    }
}
