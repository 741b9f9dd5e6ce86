//! Commands that print a secret: `password-command` and `credentials-command`.

use crate::error::{Error, Kind, Result};
use serde::Deserialize;
use std::process::{Command, Stdio};
use zeroize::Zeroizing;

/// What such a command prints for a cloud store: the form that AWS calls `credential_process`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
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
pub(super) fn credentials(command: &str) -> Result<Credentials> {
    let printed = output(command, "credentials-command")?;
    // The parser's message may quote what it read.
    serde_json::from_slice(&printed).map_err(|_| {
        let message =
            "the credentials-command did not print {\"AccessKeyId\": …, \"SecretAccessKey\": …}";
        Error::new(Kind::NoKey, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_and_never_repeated() {
        let printed =
            r#"echo '{"Version":1,"AccessKeyId":"a","SecretAccessKey":"b","SessionToken":"c"}'"#;
        let read = credentials(printed).expect("reads");
        assert_eq!(
            (read.access_key_id.as_str(), read.secret_access_key.as_str()),
            ("a", "b")
        );
        assert_eq!(read.session_token.as_deref(), Some("c"));
        for command in [
            "echo '{\"AccessKeyId\": \"swordfish\"}'",
            "echo swordfish; exit 3",
        ] {
            let refused = credentials(command).err().expect("refused");
            assert_eq!(refused.kind(), Kind::NoKey);
            assert!(!refused.message().contains("swordfish"), "{refused}");
        }
    }
}
