//! Reports as a person reads them, or as JSON.

mod notify;

use super::escape::Name;
use super::exit;
use crate::check::Rebuilt;
use crate::command::{
    BackupReport, CheckReport, CopyReport, DiffReport, ForgetReport, InitReport, KeyReport,
    KeysReport, MoveReport, OpenReport, PointsReport, ProblemReport, PruneReport, RestoreReport,
    SealReport, SettingsReport, StatsReport, TrashReport, UndeleteReport, UnmarkReport,
};
use crate::error::{Error, Result};
use crate::store::Capabilities;
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use serde::Serialize;
use std::io::{self, Write};
use std::time::Duration;

/// A report that can be shown.
pub trait Show: Serialize {
    /// Writes it for a person.
    fn text(&self, out: &mut dyn Write) -> io::Result<()>;

    /// What the process answers.
    fn code(&self) -> u8 {
        exit::DONE
    }
}

/// Prints a report on standard output; returns its exit code.
pub fn print(report: &impl Show, json: bool) -> Result<u8> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = if json {
        json_line(&mut out, report)
    } else {
        report.text(&mut out)
    };
    told(written.and_then(|()| out.flush()))?;
    Ok(report.code())
}

/// One report as one line of JSON.
pub fn json_line(out: &mut dyn Write, report: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, report)?;
    writeln!(out)
}

/// A reader who has seen enough (`keepfs points | head`) is no failure.
pub fn told(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Error::io("cannot print the report", error)),
    }
}

/// `12.3 MiB`.
pub fn bytes(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

pub fn problems(out: &mut dyn Write, what: &str, problems: &[ProblemReport]) -> io::Result<()> {
    for problem in problems {
        writeln!(
            out,
            "{what}: {}: {}",
            Name(&problem.path),
            Name(&problem.sentence)
        )?;
    }
    Ok(())
}

impl<T: Show> Show for Vec<T> {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.iter().try_for_each(|report| report.text(out))
    }

    fn code(&self) -> u8 {
        self.iter().map(Show::code).max().unwrap_or(exit::DONE)
    }
}

impl Show for InitReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "made repository {} in {}",
            self.id,
            Name(&self.location)
        )?;
        writeln!(
            out,
            "without its password or key file nothing in it can ever be read: keep a copy elsewhere"
        )
    }
}

impl Show for BackupReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for notice in &self.notices {
            writeln!(out, "note: {}", Name(notice))?;
        }
        problems(out, "missing", &self.problems)?;
        writeln!(
            out,
            "sealed {}/{}: {} entries, {}",
            Name(&self.backup),
            Name(&self.point),
            count(self.entries),
            bytes(self.bytes)
        )?;
        writeln!(
            out,
            "read {} files ({}), {} unchanged; added {}, stored in {}",
            count(self.files_read),
            bytes(self.bytes_read),
            count(self.files_unchanged),
            bytes(self.new_bytes),
            bytes(self.stored_bytes)
        )
    }

    fn code(&self) -> u8 {
        if self.problems.is_empty() {
            exit::DONE
        } else {
            exit::WARNINGS
        }
    }
}

impl Show for RestoreReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        problems(out, "missing", &self.problems)?;
        problems(out, "not as it was", &self.warnings)?;
        writeln!(
            out,
            "restored {} entries, {} to {}",
            count(self.entries),
            bytes(self.bytes),
            Name(&self.target)
        )?;
        if self.code() == exit::WARNINGS {
            writeln!(
                out,
                "{} missing, {} not as they were",
                count(self.problems_count),
                count(self.warnings_count)
            )?;
        }
        Ok(())
    }

    fn code(&self) -> u8 {
        if self.problems_count + self.warnings_count == 0 {
            exit::DONE
        } else {
            exit::WARNINGS
        }
    }
}

impl Show for CopyReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for point in &self.copied {
            writeln!(out, "copied {}", Name(point))?;
        }
        problems(out, "not copied", &self.problems)?;
        writeln!(
            out,
            "{} restore points copied, {} there already; moved {} chunks, {} were there; stored in {}",
            self.copied.len(),
            self.present.len(),
            count(self.chunks_moved),
            count(self.chunks_present),
            bytes(self.stored_bytes)
        )
    }

    fn code(&self) -> u8 {
        match (self.problems.is_empty(), self.needs_action) {
            (true, _) => exit::DONE,
            (false, true) => exit::NEEDS_ACTION,
            (false, false) => exit::WARNINGS,
        }
    }
}

impl Show for MoveReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.copy.text(out)?;
        for point in &self.moved {
            writeln!(out, "moved {}", Name(point))?;
        }
        problems(out, "stays", &self.kept)
    }

    fn code(&self) -> u8 {
        match self.kept.is_empty() {
            true => self.copy.code(),
            false => self.copy.code().max(exit::WARNINGS),
        }
    }
}

impl Show for PointsReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for backup in &self.backups {
            for point in &backup.points {
                let marks = match (point.latest, point.copied) {
                    (true, true) => "  latest, copy",
                    (true, false) => "  latest",
                    (false, true) => "  copy",
                    (false, false) => "",
                };
                writeln!(
                    out,
                    "{}/{}/{}  {}  {} entries  {}  {}{marks}",
                    Name(&self.repository),
                    Name(&backup.name),
                    Name(&point.name),
                    point.time,
                    count(point.entries),
                    bytes(point.bytes),
                    Name(&point.host)
                )?;
            }
        }
        for (object, reason) in &self.problems {
            writeln!(out, "unreadable: {}: {}", Name(object), Name(reason))?;
        }
        Ok(())
    }

    fn code(&self) -> u8 {
        if self.problems.is_empty() {
            exit::DONE
        } else {
            exit::WARNINGS
        }
    }
}

impl Show for OpenReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for point in &self.points {
            writeln!(
                out,
                "{}  open for {}  {} entries  {}",
                point.path,
                HumanDuration(Duration::from_secs(point.age_seconds)),
                count(point.entries),
                bytes(point.bytes)
            )?;
            writeln!(out, "  {}", point.next)?;
        }
        for mark in &self.marks {
            let host = match mark.host.as_str() {
                "" => String::new(),
                host => format!("on {host}, "),
            };
            let age = HumanDuration(Duration::from_secs(mark.age_seconds));
            writeln!(out, "{}  {}marked for {age}", Name(&mark.path), Name(&host))?;
            writeln!(out, "  {}", Name(&mark.next))?;
        }
        problems(out, "unreadable", &self.problems)
    }

    fn code(&self) -> u8 {
        if self.problems.is_empty() {
            exit::DONE
        } else {
            exit::WARNINGS
        }
    }
}

impl Show for DiffReport {
    fn text(&self, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn code(&self) -> u8 {
        if self.is_equal() {
            exit::DONE
        } else {
            exit::FAILED
        }
    }
}

impl Show for ForgetReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "forgot {}/{}/{}",
            Name(&self.repository),
            Name(&self.backup),
            Name(&self.point)
        )
    }
}

impl Show for UnmarkReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mark = &self.mark;
        writeln!(out, "removed the mark {} of {}", mark.id, Name(&mark.path))
    }
}

impl Show for UndeleteReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "brought back {}/{}/{}",
            Name(&self.repository),
            Name(&self.backup),
            Name(&self.point)
        )
    }
}

impl Show for TrashReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for point in &self.points {
            writeln!(
                out,
                "{}/{}/{}  forgotten {}  goes {}  {} entries  {}",
                Name(&self.repository),
                Name(&point.backup),
                Name(&point.point),
                point.forgotten,
                point.goes,
                count(point.entries),
                bytes(point.bytes)
            )?;
        }
        Ok(())
    }
}

impl Show for PruneReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let done = &self.done;
        let (was, now) = match done.dry_run {
            true => ("would be", ", if it were pruned now"),
            false => ("were", ""),
        };
        writeln!(out, "{}{now}:", Name(&self.repository))?;
        let packs = |packs: u64, size: u64| format!("{} packs ({})", count(packs), bytes(size));
        writeln!(
            out,
            "  {} forgotten points {was} removed for good, {} can still be brought back",
            count(done.points_removed),
            count(done.points_in_trash)
        )?;
        writeln!(
            out,
            "  {} {was} deleted",
            packs(done.deleted_packs, done.deleted_bytes)
        )?;
        if done.condemned_packs > 0 {
            writeln!(
                out,
                "  {} packs {was} listed to be deleted, {} of them nothing needed; {} of {} packs {was} written anew",
                count(done.condemned_packs),
                bytes(done.condemned_bytes),
                bytes(done.rewritten_bytes),
                count(done.rewritten_packs)
            )?;
        }
        if done.waiting_packs > 0 {
            let waiting = packs(done.waiting_packs, done.waiting_bytes);
            writeln!(out, "  {waiting} are listed and wait")?;
        }
        if let Some(time) = &done.waiting_until {
            writeln!(out, "  what is listed goes with a prune after {time}")?;
        }
        if done.rescued_packs > 0 {
            writeln!(out, "  {} listed packs stay", count(done.rescued_packs))?;
        }
        writeln!(
            out,
            "  {} are needed, {} in them not; {} are needed by nobody yet",
            packs(done.live_packs, done.live_bytes),
            bytes(done.dead_bytes),
            packs(done.young_packs, done.young_bytes)
        )?;
        for lease in &done.leases {
            writeln!(out, "  in use: {}", Name(lease))?;
        }
        for note in &done.notes {
            writeln!(out, "  note: {}", Name(note))?;
        }
        Ok(())
    }
}

impl Show for SealReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} is {}", Name(&self.path), Name(&self.state))
    }
}

impl Show for CheckReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let found = &self.found;
        if let Some(rebuilt) = &self.rebuilt {
            writeln!(
                out,
                "index: {} packs with {} chunks listed anew",
                count(rebuilt.packs),
                count(rebuilt.chunks)
            )?;
            for (pack, why) in &rebuilt.problems {
                writeln!(out, "damaged: {pack}: {why}")?;
            }
        }
        for warning in &found.warnings {
            writeln!(out, "warning: {warning}")?;
        }
        for problem in &found.problems {
            writeln!(
                out,
                "damaged: {}: {}",
                Name(&problem.object),
                Name(&problem.sentence)
            )?;
            for path in &problem.lost {
                writeln!(out, "  lost: {}", Name(path))?;
            }
        }
        writeln!(
            out,
            "{}: {} points, {} packs ({}), {} chunks, {} read: {}",
            Name(&self.repository),
            count(found.points),
            count(found.packs),
            bytes(found.pack_bytes),
            count(found.chunks),
            bytes(found.bytes_read),
            match found.problem_count {
                0 => "sound".to_owned(),
                number => format!("{} problems", count(number)),
            }
        )?;
        if found.packs_hashed > 0 {
            let packs = count(found.packs_hashed);
            writeln!(
                out,
                "  {packs} packs that came unhashed from other repositories are now hashed and believed"
            )?;
        }
        if found.condemned_packs > 0 {
            let (packs, size) = (count(found.condemned_packs), bytes(found.condemned_bytes));
            writeln!(
                out,
                "  {packs} packs ({size}) are listed to be deleted by a prune"
            )?;
        }
        if found.unreferenced_packs > 0 {
            let (packs, size) = (
                count(found.unreferenced_packs),
                bytes(found.unreferenced_bytes),
            );
            writeln!(
                out,
                "  {packs} packs ({size}) are in no index: left by a crash, or being written"
            )?;
        }
        Ok(())
    }

    fn code(&self) -> u8 {
        let listed = |rebuilt: &Rebuilt| rebuilt.problems.is_empty();
        let sound = self.found.is_clean() && self.rebuilt.as_ref().is_none_or(listed);
        match (sound, self.found.warnings.is_empty()) {
            (false, _) => exit::FAILED,
            (true, false) => exit::WARNINGS,
            (true, true) => exit::DONE,
        }
    }
}

impl Show for KeyReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{} key {} of {}",
            self.done,
            self.id,
            Name(&self.repository)
        )
    }
}

impl Show for KeysReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for key in &self.keys {
            match &key.problem {
                None => writeln!(
                    out,
                    "{}  {:9}  {}  {}  {}",
                    key.id,
                    key.kind,
                    key.created,
                    Name(&key.host),
                    Name(&key.label)
                )?,
                Some(problem) => writeln!(out, "{}  unreadable: {}", key.id, Name(problem))?,
            }
        }
        Ok(())
    }

    fn code(&self) -> u8 {
        if self.keys.iter().all(|key| key.problem.is_none()) {
            exit::DONE
        } else {
            exit::WARNINGS
        }
    }
}

impl Show for SettingsReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for line in &self.settings {
            let fixed = if line.fixed { "  (fixed)" } else { "" };
            writeln!(out, "{:<14} {}{fixed}", line.name, Name(&line.value))?;
        }
        Ok(())
    }
}

impl Show for StatsReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for line in &self.repositories {
            let stored = &line.stored;
            writeln!(
                out,
                "{} in {}: {}",
                Name(&line.repository),
                Name(&line.location),
                line.state
            )?;
            writeln!(
                out,
                "  {} restore points of {} backups: {} entries, {}",
                count(line.points),
                count(line.backups),
                count(line.entries),
                bytes(line.bytes)
            )?;
            writeln!(
                out,
                "  stored {}: data {}, trees {}, index {}, records {}",
                bytes(stored.total()),
                bytes(stored.data),
                bytes(stored.trees),
                bytes(stored.index),
                bytes(stored.records)
            )?;
            writeln!(
                out,
                "  {} packs, {} chunks in {} index segments, {} mapped here",
                count(line.packs),
                count(line.chunks),
                count(line.segments),
                bytes(line.mapped_bytes)
            )?;
            if let Some(ratio) = line.ratio {
                writeln!(out, "  {ratio:.1} bytes of files for each byte stored")?;
            }
            for (able, what) in line.can.iter().flat_map(Capabilities::listed) {
                let does = match able {
                    Some(true) => "",
                    Some(false) => "NOT ",
                    None => "not told whether it ",
                };
                writeln!(out, "  tried: {does}{what}")?;
            }
        }
        for line in &self.invalid {
            writeln!(out, "{} is {}", Name(&line.repository), Name(&line.state))?;
        }
        Ok(())
    }

    fn code(&self) -> u8 {
        match self.invalid.is_empty() {
            true => exit::DONE,
            false => exit::FAILED,
        }
    }
}
