//! Where passwords and key files come from; never from argv.
//!
//! For one repository, the first of these that exists is used:
//! 1. `--password-file` and `--key-file`. With several repositories in one command each given file is tried on each of
//!    them, and after them what the configuration says;
//! 2. `password-file`, `password-command` or `key-file` of the configuration;
//! 3. systemd credentials: `$CREDENTIALS_DIRECTORY/keepfs.NAME`, then `keepfs.password`;
//! 4. `KEEPFS_PASSWORD`;
//! 5. a question on the terminal.

use super::file::Reach;
use super::program;
use crate::error::{Error, Kind, Result};
use crate::id::random_bytes;
use crate::repository::Credential;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// No password and no key file is longer; whoever names `/dev/urandom` gets a sentence instead of a hang.
const SECRET_BYTES_MAX: u64 = 1 << 20;
/// Twice what a key file needs.
const NEW_KEY_FILE_BYTES: usize = 64;

/// Files named on the command line.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Files that hold a password.
    pub password_files: Vec<PathBuf>,
    /// Key files.
    pub key_files: Vec<PathBuf>,
}

/// Asks a person: the question, and the answer without its line end. `None` when nobody can be asked.
pub type Ask = dyn Fn(&str) -> Result<Option<Zeroizing<String>>> + Send + Sync;

/// Finds what opens repositories.
pub struct Keys {
    given: Given,
    ask: Box<Ask>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({:?})", self.given)
    }
}

impl Keys {
    /// Keys from these files, the environment, and whoever answers `ask`.
    pub fn new(given: Given, ask: Box<Ask>) -> Self {
        Self { given, ask }
    }

    /// What may open the repository `name`, to be tried in this order. `alone` when the command names no other one.
    ///
    /// Fails with `NoKey` when there is nothing and nobody to ask.
    pub fn of(&self, name: &str, reach: &Reach, alone: bool) -> Result<Vec<Credential>> {
        let mut found = self.given.read()?;
        if found.is_empty() || !alone {
            found.extend(configured(reach, false)?);
        }
        if found.is_empty() {
            found.extend(of_environment(name)?);
        }
        if found.is_empty() {
            let password =
                (self.ask)(&format!("password for {name}: "))?.ok_or_else(no_key(name))?;
            found.push(Credential::password(password.as_bytes())?);
        }
        Ok(found)
    }

    /// What shall open the new repository `name`. A key file that does not exist yet is made; a password is asked for
    /// twice.
    pub fn for_new_repository(&self, name: &str, reach: &Reach) -> Result<Credential> {
        let found = match self.given.only(true)? {
            Some(credential) => Some(credential),
            None => configured(reach, true)?,
        };
        let found = match found {
            Some(credential) => Some(credential),
            None => of_environment(name)?,
        };
        match found {
            Some(credential) => Ok(credential),
            None => self.ask_twice(&format!("password for the new repository {name}: ")),
        }
    }

    /// What shall open `name` from now on besides what opens it already: `new`, `KEEPFS_NEW_PASSWORD`, or a question.
    pub fn for_new_slot(&self, name: &str, new: &Given) -> Result<Credential> {
        if let Some(credential) = new.only(true)? {
            return Ok(credential);
        }
        match variable("KEEPFS_NEW_PASSWORD") {
            Some(password) => Credential::password(&password),
            None => self.ask_twice(&format!("new password for {name}: ")),
        }
    }

    fn ask_twice(&self, question: &str) -> Result<Credential> {
        let nobody = || {
            let message = "no password is given; use --password-file or --key-file, or set the variable that --help names";
            Error::new(Kind::NoKey, message)
        };
        let first = (self.ask)(question)?.ok_or_else(nobody)?;
        let second = (self.ask)("the same again: ")?.ok_or_else(nobody)?;
        if *first != *second {
            let message = "the two passwords are not the same; try again";
            return Err(Error::new(Kind::Invalid, message));
        }
        Credential::password(first.as_bytes())
    }
}

fn no_key(name: &str) -> impl FnOnce() -> Error {
    let message = format!(
        "no password for {name} is given; use --password-file, --key-file, the configuration or KEEPFS_PASSWORD"
    );
    move || Error::new(Kind::NoKey, message)
}

impl Given {
    fn read(&self) -> Result<Vec<Credential>> {
        let passwords = self.password_files.iter().map(|path| password_in(path));
        let key_files = self.key_files.iter().map(|path| key_in(path));
        passwords.chain(key_files).collect()
    }

    /// The one credential that these files name; a key file that is missing is made when `make`.
    fn only(&self, make: bool) -> Result<Option<Credential>> {
        match (&self.password_files[..], &self.key_files[..]) {
            ([], []) => Ok(None),
            ([path], []) => password_in(path).map(Some),
            ([], [path]) if make => key_in_or_made(path).map(Some),
            ([], [path]) => key_in(path).map(Some),
            _ => {
                let message = "one password file or key file is enough for one key; the others can follow with `keepfs key add`";
                Err(Error::new(Kind::Invalid, message))
            }
        }
    }
}

fn configured(reach: &Reach, make: bool) -> Result<Option<Credential>> {
    if let Some(path) = &reach.password_file {
        return password_in(path).map(Some);
    }
    if let Some(command) = &reach.password_command {
        let printed = program::output(command, "password-command")?;
        return Credential::password(without_line_end(&printed)).map(Some);
    }
    match &reach.key_file {
        Some(path) if make => key_in_or_made(path).map(Some),
        Some(path) => key_in(path).map(Some),
        None => Ok(None),
    }
}

fn of_environment(name: &str) -> Result<Option<Credential>> {
    if let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from) {
        // A URL is no file's name.
        let of_repository = (!name.contains('/')).then(|| directory.join(format!("keepfs.{name}")));
        let of_all = directory.join("keepfs.password");
        for path in of_repository.into_iter().chain([of_all]) {
            if path.exists() {
                return password_in(&path).map(Some);
            }
        }
    }
    variable("KEEPFS_PASSWORD")
        .map(|password| Credential::password(&password))
        .transpose()
}

fn variable(name: &str) -> Option<Zeroizing<Vec<u8>>> {
    use std::os::unix::ffi::OsStringExt;
    std::env::var_os(name).map(|value| Zeroizing::new(value.into_vec()))
}

/// A file's content without the line end that editors and `echo` add. Everything else belongs to the password.
fn password_in(path: &Path) -> Result<Credential> {
    let content = secret_in(path, "password file")?;
    Credential::password(without_line_end(&content)).map_err(|error| error.context(path.display()))
}

fn key_in(path: &Path) -> Result<Credential> {
    Credential::key_file(&secret_in(path, "key file")?)
        .map_err(|error| error.context(path.display()))
}

pub(super) fn without_line_end(content: &[u8]) -> &[u8] {
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    content.strip_suffix(b"\r").unwrap_or(content)
}

pub(super) fn secret_in(path: &Path, what: &str) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |error| {
        Error::io(
            format_args!("cannot read the {what} {}", path.display()),
            error,
        )
    };
    let mut content = Zeroizing::new(Vec::new());
    File::open(path)
        .map_err(failed)?
        .take(SECRET_BYTES_MAX + 1)
        .read_to_end(&mut content)
        .map_err(failed)?;
    if content.len() as u64 > SECRET_BYTES_MAX {
        let message = format!(
            "{} is too long to be a {what}; name another",
            path.display()
        );
        return Err(Error::new(Kind::Invalid, message));
    }
    Ok(content)
}

/// The key file, made with 64 random bytes for its owner alone when there is none.
fn key_in_or_made(path: &Path) -> Result<Credential> {
    let failed = |error| {
        Error::io(
            format_args!("cannot make the key file {}", path.display()),
            error,
        )
    };
    let made = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => key_in(path),
        Err(error) => Err(failed(error)),
        Ok(mut file) => {
            let key = Zeroizing::new(random_bytes::<NEW_KEY_FILE_BYTES>());
            // Without the key the repository can never be read: it must be on disk before the repository is.
            file.write_all(&*key)
                .and_then(|()| file.sync_all())
                .map_err(failed)?;
            Credential::key_file(&*key)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Mutex;

    fn answering(answers: &[&str]) -> Keys {
        let answers = Mutex::new(
            answers
                .iter()
                .map(|text| text.to_string())
                .collect::<Vec<_>>(),
        );
        let ask = move |_: &str| {
            let mut answers = answers.lock().expect("one thread");
            Ok((!answers.is_empty()).then(|| Zeroizing::new(answers.remove(0))))
        };
        Keys::new(Given::default(), Box::new(ask))
    }

    fn bytes(credential: &Credential) -> &[u8] {
        match credential {
            Credential::Password(bytes) | Credential::KeyFile(bytes) => bytes,
        }
    }

    #[test]
    fn a_new_password_is_asked_for_twice() {
        let same = answering(&["a b ", "a b "])
            .ask_twice("?")
            .expect("the same");
        assert_eq!(bytes(&same), b"a b ");
        let other = answering(&["a", "b"])
            .ask_twice("?")
            .expect_err("not the same");
        assert_eq!(other.kind(), Kind::Invalid);
        let nobody = answering(&[]).ask_twice("?").expect_err("nobody answers");
        assert_eq!(nobody.kind(), Kind::NoKey);
        let empty = answering(&["", ""]).ask_twice("?").expect_err("empty");
        assert_eq!(empty.kind(), Kind::Invalid);
    }

    #[test]
    fn files_lose_one_line_end_and_nothing_else() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("password");
        for (content, password) in [
            ("a b \n", "a b "),
            ("a\r\n", "a"),
            ("a", "a"),
            ("a\n\n", "a\n"),
        ] {
            std::fs::write(&path, content).expect("writes");
            assert_eq!(
                bytes(&password_in(&path).expect("reads")),
                password.as_bytes()
            );
        }
        std::fs::write(&path, "\n").expect("writes");
        assert_eq!(password_in(&path).expect_err("empty").kind(), Kind::Invalid);
        assert_eq!(
            key_in(Path::new("/dev/zero")).expect_err("endless").kind(),
            Kind::Invalid
        );
    }

    #[test]
    fn a_configured_password_wins_over_given_ones_never_and_is_tried_beside_them_for_several() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let [given, configured] = ["given", "configured"].map(|name| {
            let path = directory.path().join(name);
            std::fs::write(&path, name).expect("writes");
            path
        });
        let reach = Reach {
            password_file: Some(configured),
            ..Reach::of_url("/x")
        };
        let keys = Keys {
            given: Given {
                password_files: vec![given],
                key_files: vec![],
            },
            ..answering(&[])
        };
        let texts = |alone| -> Vec<Vec<u8>> {
            let found = keys.of("x", &reach, alone).expect("found");
            found.iter().map(|one| bytes(one).to_vec()).collect()
        };
        assert_eq!(texts(true), [b"given".to_vec()]);
        assert_eq!(texts(false), [b"given".to_vec(), b"configured".to_vec()]);
    }

    #[test]
    fn a_missing_key_file_is_made_once_for_its_owner_alone() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("key");
        let first = key_in_or_made(&path).expect("made");
        let again = key_in_or_made(&path).expect("read");
        assert_eq!(bytes(&first), bytes(&again));
        let mode = std::fs::metadata(&path)
            .expect("is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
