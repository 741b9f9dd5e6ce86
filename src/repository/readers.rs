//! Who may read a repository in a mount, beside what is stored with each file: the settings `acl` and `readers`.

use super::Settings;
use crate::error::{Error, Kind, Result};

/// Name of the setting that says whom a mount lets into the repository: [`ADMIN_ONLY`], or whom modes and ACLs let.
pub const ACL: &str = "acl";
/// Only root and the owner of the mount.
pub const ADMIN_ONLY: &str = "admin-only";
/// Whom the modes and ACLs of files let.
pub const STORED: &str = "stored";
/// Name of the setting that says which users may read everything: names with commas between them.
pub const READERS: &str = "readers";

/// How one of these settings is stored when a person says `text`. `Invalid` when that is none of its values.
pub fn parse_access(name: &str, text: &str) -> Result<String> {
    let refuse = |why: String| Err(Error::new(Kind::Invalid, why));
    match name {
        ACL if [ADMIN_ONLY, STORED].contains(&text) => Ok(text.to_owned()),
        ACL => refuse(format!(
            "there is no acl {text:?}; choose {ADMIN_ONLY}, or {STORED} for what is stored with each file"
        )),
        READERS => {
            let names = text.split(',').map(str::trim);
            let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
            let odd = |name: &&&str| name.contains([':', '/']) || name.contains(odd_in_name);
            match names.iter().find(odd) {
                Some(name) => refuse(format!("no user can be called {name:?}")),
                None => Ok(names.join(",")),
            }
        }
        _ => refuse(format!("{name} does not say who may read")),
    }
}

fn odd_in_name(character: char) -> bool {
    character.is_control() || character.is_whitespace()
}

impl Settings {
    /// Whether only root and the owner of a mount may enter the repository there.
    pub fn admin_only(&self) -> bool {
        self.text(ACL) == Some(ADMIN_ONLY)
    }

    /// The users who may read everything in a mount, by name.
    pub fn readers(&self) -> impl Iterator<Item = &str> {
        let names = self.text(READERS).unwrap_or_default().split(',');
        names.filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_stored_in_one_form_and_others_are_refused() {
        for (name, text, stored) in [
            (ACL, "admin-only", "admin-only"),
            (ACL, "stored", "stored"),
            (READERS, " helpdesk, audit,", "helpdesk,audit"),
            (READERS, "", ""),
        ] {
            assert_eq!(parse_access(name, text).unwrap(), stored);
        }
        for (name, text) in [(ACL, ""), (ACL, "all"), (READERS, "a b"), ("x", "y")] {
            let refused = parse_access(name, text).unwrap_err();
            assert_eq!(refused.kind(), Kind::Invalid, "{name} {text}");
        }
    }

    #[test]
    fn what_is_not_set_lets_in_whom_files_let() {
        let mut settings = Settings::default();
        assert!(!settings.admin_only());
        assert_eq!(settings.readers().count(), 0);
        let set = [(ACL, ADMIN_ONLY), (READERS, "a,b")];
        settings.more = set.map(|(name, value)| (name.into(), value.into())).into();
        assert!(settings.admin_only());
        assert_eq!(settings.readers().collect::<Vec<_>>(), ["a", "b"]);
    }
}
