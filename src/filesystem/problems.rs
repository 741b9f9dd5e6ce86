//! What went wrong, in sentences: the lines of `.keepfs/errors`, and `user.keepfs.error` of a directory.

use crate::clock::Clock;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::num::NonZeroUsize;

/// Lines that are kept; older ones are in the log.
const LINES_MAX: usize = 512;
/// Directories whose last error is kept.
const DIRECTORIES_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// A name in a sentence may hold a newline, or what a terminal takes for a command: shown as `\n` or `\u{1b}`.
pub(super) fn on_one_line(sentence: String) -> String {
    if !sentence.contains(char::is_control) {
        return sentence;
    }
    let shown = |character: char| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    sentence.chars().map(shown).collect()
}

/// The newest refusals and errors.
#[derive(Debug)]
pub(super) struct Problems {
    clock: Clock,
    lines: Mutex<VecDeque<(String, String)>>,
    directories: Mutex<LruCache<u64, String>>,
}

impl Problems {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            lines: Mutex::default(),
            directories: Mutex::new(LruCache::new(DIRECTORIES_MAX)),
        }
    }

    /// Notes a sentence about something in the directory with this inode number. A sentence that repeats the last
    /// one is kept once: a tool that tries again should not push everything else out.
    pub(super) fn note(&self, directory: u64, sentence: String) {
        let sentence = on_one_line(sentence);
        let mut lines = self.lines.lock();
        let repeated = lines.back().is_some_and(|(_, last)| *last == sentence);
        self.directories.lock().put(directory, sentence.clone());
        if repeated {
            return;
        }
        tracing::warn!("{sentence}");
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back((self.clock.now().rfc3339(), sentence));
    }

    /// All lines, oldest first.
    pub(super) fn text(&self) -> String {
        let lines = self.lines.lock();
        lines
            .iter()
            .map(|(time, sentence)| format!("{time} {sentence}\n"))
            .collect()
    }

    /// The last sentence about something in this directory.
    pub(super) fn of_directory(&self, ino: u64) -> Option<String> {
        self.directories.lock().get(&ino).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pretend_to_be_another_line() {
        let problems = Problems::new(Clock::system());
        problems.note(1, "a\nb\u{1b}[2J".to_owned());
        assert_eq!(problems.text().lines().count(), 1);
        assert_eq!(problems.of_directory(1).as_deref(), Some("a\\nb\\u{1b}[2J"));
    }
}
