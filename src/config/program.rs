//! Commands that print a secret: `password-command` and `credentials-command`.

use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::store::{Keys, Secret};
use serde::Deserialize;
use std::process::{Command, Stdio};
use zeroize::Zeroizing;

/// What such a command prints for a cloud store: the form that AWS calls `credential_process`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<String>,
}

/// What `command` prints, run by `sh -c`. It may ask on the terminal; its own messages go to stderr.
pub(super) fn output(command: &str, what: &str) -> Result<Zeroizing<Vec<u8>>> {
    // The command is not repeated in messages: people write passwords into it.
    let output = Command::new("/bin/sh")
        .args(["-c", command])
        .env_remove("KEEPFS_PASSWORD")
        .env_remove("KEEPFS_NEW_PASSWORD")
        .stderr(Stdio::inherit())
        .stdin(Stdio::inherit())
        .output()
        .map_err(|error| Error::io(format_args!("cannot run the {what}"), error))?;
    let printed = Zeroizing::new(output.stdout);
    if !output.status.success() {
        let message = format!(
            "the {what} failed ({}); run it by hand to see why",
            output.status
        );
        return Err(Error::new(Kind::NoKey, message));
    }
    Ok(printed)
}

/// Access keys from a `credentials-command`.
pub(super) fn keys(command: &str) -> Result<Keys> {
    let printed = output(command, "credentials-command")?;
    // The parsers' messages may quote what they read.
    keys_in(&printed).ok_or_else(|| {
        let message = "the credentials-command did not print {\"AccessKeyId\": …, \"SecretAccessKey\": …}, with an \"Expiration\" like 2026-11-21T10:00:00Z if any";
        Error::new(Kind::NoKey, message)
    })
}

fn keys_in(printed: &[u8]) -> Option<Keys> {
    let read: Credentials = serde_json::from_slice(printed).ok()?;
    let expires = match read.expiration {
        Some(text) => Some(text.parse::<jiff::Timestamp>().ok()?),
        None => None,
    };
    Some(Keys {
        access_key: read.access_key_id,
        secret_key: Secret::new(read.secret_access_key),
        session_token: read.session_token.map(Secret::new),
        expires: expires.map(|time| Time::new(time.as_second(), 0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_and_never_repeated() {
        let printed = r#"echo '{"Version":1,"AccessKeyId":"a","SecretAccessKey":"b","SessionToken":"c","Expiration":"1970-01-01T00:01:00Z"}'"#;
        let read = keys(printed).expect("reads");
        assert_eq!(read.access_key, "a");
        assert_eq!(read.secret_key, Secret::new("b"));
        assert_eq!(read.session_token, Some(Secret::new("c")));
        assert_eq!(read.expires, Some(Time::new(60, 0)));
        for command in [
            "echo '{\"AccessKeyId\": \"swordfish\"}'",
            "echo '{\"AccessKeyId\": \"a\", \"SecretAccessKey\": \"b\", \"Expiration\": \"swordfish\"}'",
            "echo swordfish; exit 3",
        ] {
            let refused = keys(command).expect_err("refused");
            assert_eq!(refused.kind(), Kind::NoKey);
            assert!(!refused.message().contains("swordfish"), "{refused}");
        }
    }
}
