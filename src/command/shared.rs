//! One mount of a configuration, of which any number of directories are binds: one superblock, so that a copy between
//! two repositories stays a copy of references wherever they are mounted.
//!
//! The kernel's table of mounts is the only record of what is mounted: its source names the configuration.

use super::mount::MountArguments;
use crate::config::RepositoryPlace;
use crate::error::{Error, Kind, Result};
use crate::fuse;
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

pub use crate::fuse::Access;

/// Where daemons are mounted that nobody has mounted elsewhere. For root alone: what is seen of them is bound.
const PLACE: &str = "/run/keepfs";
/// Bytes of a configuration's name that its directory in [`PLACE`] shows; a hash tells equal ones apart.
const STEM_BYTES_MAX: usize = 64;

/// The one mount of a configuration file, or of NAME=URL, on this host.
#[derive(Clone, Debug)]
pub struct Shared {
    source: OsString,
    directory: PathBuf,
}

impl Shared {
    /// That of `source`: the canonical path of a configuration file, or NAME=URL.
    pub fn of(source: &OsStr) -> Self {
        let hash = blake3::hash(source.as_bytes()).to_hex();
        let name = format!("{}-{}", stem(source), &hash[..12]);
        Self {
            source: source.to_owned(),
            directory: Path::new(PLACE).join(name),
        }
    }

    /// Where it is mounted when nobody has mounted it elsewhere.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn lock_file(&self) -> PathBuf {
        self.directory.with_extension("lock")
    }

    /// The lock that must be held from before [`Shared::served`] until after [`Shared::bind`]. Waits for whoever mounts
    /// the same, or has just unmounted it.
    pub fn lock(&self) -> Result<File> {
        make(Path::new(PLACE))?;
        fuse::locked(&self.lock_file())
    }

    /// Where a daemon serves it now.
    pub fn served(&self) -> Result<Option<PathBuf>> {
        let served = fuse::served(&self.source)?;
        // Opened, not examined: the kernel still knows the attributes of a dead mount for a while.
        Ok(served
            .into_iter()
            .find(|directory| File::open(directory).is_ok()))
    }

    /// How to mount it where nobody sees it; all configured repositories when none are named.
    pub fn arguments(
        &self,
        repositories: Vec<(String, RepositoryPlace)>,
    ) -> Result<MountArguments> {
        make(&self.directory)?;
        Ok(MountArguments {
            repositories,
            directory: self.directory.clone(),
            source: Some(self.source.clone()),
            while_bound: Some(self.lock_file()),
            ..MountArguments::default()
        })
    }

    /// Shows what is served at `served`, or the directory of one repository of it, at `directory` too. What is there
    /// already is left as it is, apart from `access`.
    pub fn bind(
        &self,
        served: &Path,
        repository: Option<&str>,
        directory: &Path,
        access: Access,
    ) -> Result<()> {
        let root = Path::new("/").join(repository.unwrap_or_default());
        let from = served.join(repository.unwrap_or_default());
        self.require_same_superblock(served, &from, repository)?;
        let there = directory.canonicalize().unwrap_or(directory.to_owned());
        if fuse::is_bound(served, &root, &there)? && File::open(&there).is_ok() {
            return fuse::rebind(&there, access);
        }
        fuse::bind(&from, directory, access)
    }

    /// The daemon may have started before the repository was configured, and somebody may have mounted over it.
    fn require_same_superblock(
        &self,
        served: &Path,
        from: &Path,
        repository: Option<&str>,
    ) -> Result<()> {
        let device = |path: &Path| std::fs::metadata(path).map(|facts| facts.dev());
        let same = match (device(served), device(from)) {
            (Ok(served), Ok(from)) => served == from,
            (_, Err(error)) if error.kind() == std::io::ErrorKind::NotFound => false,
            (Err(error), _) | (_, Err(error)) => {
                return Err(Error::io(
                    format_args!("cannot mount {} from {}", from.display(), served.display()),
                    error,
                ));
            }
        };
        if same {
            return Ok(());
        }
        let message = format!(
            "the keepfs that serves {} at {} does not show {} there; unmount all of it, then mount it again",
            self.source.display(),
            served.display(),
            repository.unwrap_or("itself")
        );
        Err(Error::new(Kind::NotFound, message))
    }
}

/// Changes what the kernel refuses at `directory`, whatever is mounted there.
pub fn remount(directory: &Path, access: Access) -> Result<()> {
    fuse::rebind(directory, access)
}

/// What a person recognises of a source: the name of the file without its extension, or NAME.
fn stem(source: &OsStr) -> String {
    let text = source.to_string_lossy();
    let name = match text.split_once('=') {
        Some((name, _)) if !name.contains('/') => name,
        _ => Path::new(&*text)
            .file_stem()
            .and_then(OsStr::to_str)
            .unwrap_or_default(),
    };
    let plain = |c: &char| c.is_ascii_alphanumeric() || "-_".contains(*c);
    name.chars().filter(plain).take(STEM_BYTES_MAX).collect()
}

/// Makes a directory for root alone. That it is there, also as a mount whose daemon died, is as good.
fn make(directory: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io(
            format_args!("making {}", directory.display()),
            error,
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_a_directory_that_a_person_recognises() {
        let shown = |source: &str| {
            let shared = Shared::of(OsStr::new(source));
            shared.directory().to_str().expect("ASCII").to_owned()
        };
        assert!(shown("/etc/keepfs/main.toml").starts_with("/run/keepfs/main-"));
        assert!(shown("off=s3://bucket/keep").starts_with("/run/keepfs/off-"));
        assert!(shown("/srv/a=b/my file.é.toml").starts_with("/run/keepfs/myfile-"));
        assert_ne!(shown("/etc/a/main.toml"), shown("/etc/b/main.toml"));
    }
}
