//! Trees that say what is not so.

use crate::sites::{MIB, Site, assorted};
use keepfs::check::{Options, check};
use keepfs::point::{DirectoryWriter, Draft, Entry, File, Node, PointRecord};
use keepfs::progress::Progress;
use keepfs::repository::{Lane, Writer};
use std::sync::Arc;

#[test]
fn check_names_every_wrong_file_of_a_directory() {
    let mut site = Site::new(MIB, 1);
    let point = site.back_up("web", "one", 100, &assorted(67, 2));
    let end = site.open();
    let writer = Writer::new(end.repository().clone(), None).unwrap();
    let sink = &mut |id, bytes: &[u8]| writer.put(Lane::Tree, id, bytes).map(drop);
    let mut directory = DirectoryWriter::default();
    for name in ["a", "b", "c"] {
        let entry = Entry {
            name: name.into(),
            attributes: Default::default(),
            // Without content a file has no bytes.
            node: Node::File(File {
                size: u64::from(name != "b"),
                ..File::empty()
            }),
        };
        directory.push(Arc::new(entry), sink).unwrap();
    }
    let tree = directory.finish(sink).unwrap();
    writer.flush().unwrap();
    let record = PointRecord {
        name: b"wrong".to_vec(),
        tree,
        ..point.record.clone()
    };
    end.catalog.commit(b"web", Draft { record }).unwrap();
    let report = check(&end.catalog, &Options::default(), &Progress::default()).unwrap();
    let told = |name: &str| {
        let mut sentences = report.problems.iter().map(|problem| &problem.sentence);
        sentences.any(|sentence| sentence.starts_with(&format!("{name}: ")))
    };
    assert_eq!(["a", "b", "c"].map(told), [true, false, true]);
}
