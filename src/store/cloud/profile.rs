//! The credential files that AWS's own tools share: a profile's keys, region and endpoint.
//!
//! They are looked at only when neither the configuration nor the variables give S3 any keys. `AWS_PROFILE` names the
//! profile (`default` without it); `AWS_SHARED_CREDENTIALS_FILE` and `AWS_CONFIG_FILE` stand for `~/.aws/credentials`
//! and `~/.aws/config`. What both files say is taken from the first.

use super::options::{CloudOptions, Secret};
use crate::error::{Error, Kind, Result};
use ini::{Ini, ParseOption, Properties};
use std::path::PathBuf;

/// Variables that give keys, or a way to get some, by themselves.
const OTHER_KEYS: [&str; 3] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];
const REGIONS: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];
const ENDPOINTS: [&str; 3] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];

/// The variables of a process, or those that a test makes up.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// `options` with what the profile adds. Fails with `Invalid` when somebody named a profile that no file has, or one
/// without keys, and when a file is none of this kind.
pub(super) fn complete(options: &CloudOptions, variable: Variables) -> Result<CloudOptions> {
    let mut options = options.clone();
    let given = |names: &[&str]| names.iter().any(|name| set(variable, name).is_some());
    if options.access_key.is_some() || options.secret_key.is_some() || given(&OTHER_KEYS) {
        return Ok(options);
    }
    let named = set(variable, "AWS_PROFILE");
    let profile = named.as_deref().unwrap_or("default");
    let files = [
        File::read(variable, "AWS_SHARED_CREDENTIALS_FILE", "credentials")?,
        File::read(variable, "AWS_CONFIG_FILE", "config")?,
    ];
    let sections: Vec<&Properties> = files
        .iter()
        .flatten()
        .filter_map(|file| file.section(profile))
        .collect();
    let value = |key: &str| {
        let found = sections.iter().find_map(|section| section.get(key));
        found.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let keys = (value("aws_access_key_id"), value("aws_secret_access_key"));
    match (named, keys) {
        (_, (Some(id), Some(secret))) => {
            options.access_key = Some(id);
            options.secret_key = Some(Secret::new(secret));
            options.session_token = value("aws_session_token").map(Secret::new);
        }
        (Some(name), _) => return Err(useless(&name, sections.is_empty())),
        (None, _) => return Ok(options),
    }
    if options.region.is_none() && !given(&REGIONS) {
        options.region = value("region");
    }
    if options.endpoint.is_none() && !given(&ENDPOINTS) {
        options.endpoint = value("endpoint_url");
    }
    Ok(options)
}

fn set(variable: Variables, name: &str) -> Option<String> {
    variable(name).filter(|text| !text.is_empty())
}

fn useless(name: &str, unknown: bool) -> Error {
    let message = match unknown {
        true => format!(
            "AWS_PROFILE names the profile {name:?}, which neither the AWS credentials file nor the AWS config file has; correct the name"
        ),
        false => format!(
            "the AWS profile {name:?} holds no access key; set credentials-command to `aws configure export-credentials --profile {name} --format process`"
        ),
    };
    Error::new(Kind::Invalid, message)
}

/// One of the two files.
struct File(Ini);

impl File {
    /// The file that `named` names, or the one of this name in `~/.aws`; none when it does not exist.
    fn read(variable: Variables, named: &str, name: &str) -> Result<Option<Self>> {
        let of_home =
            || set(variable, "HOME").map(|home| PathBuf::from(home).join(".aws").join(name));
        let path = set(variable, named).map(PathBuf::from).or_else(of_home);
        let Some(path) = path else {
            return Ok(None);
        };
        let shown = path.display();
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map(Some).map_err(|error| {
                error.context(format_args!("the AWS file {shown} cannot be used"))
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(
                format_args!("cannot read the AWS file {shown}"),
                error,
            )),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        // Indented lines are settings within a setting; none of them is ours.
        let lines = text
            .lines()
            .map(|line| match line.starts_with([' ', '\t']) {
                true => "",
                false => line,
            });
        let text = lines.collect::<Vec<_>>().join("\n");
        let option = ParseOption {
            enabled_quote: false,
            enabled_escape: false,
            ..ParseOption::default()
        };
        // Only the line's number is told: the line itself may hold a key.
        Ini::load_from_str_opt(&text, option)
            .map(Self)
            .map_err(|error| Error::new(Kind::Invalid, format!("line {}", error.line + 1)))
    }

    /// The credentials file writes `[name]`, the config file `[profile name]` except for `[default]`.
    fn section(&self, profile: &str) -> Option<&Properties> {
        let long = format!("profile {profile}");
        self.0
            .section(Some(profile))
            .or_else(|| self.0.section(Some(long)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Home(tempfile::TempDir);

    impl Home {
        fn new(credentials: &str, config: &str) -> Self {
            let home = tempfile::tempdir().expect("a temporary directory");
            let aws = home.path().join(".aws");
            std::fs::create_dir(&aws).expect("makes");
            for (name, text) in [("credentials", credentials), ("config", config)] {
                std::fs::write(aws.join(name), text).expect("writes");
            }
            Self(home)
        }

        fn complete(&self, options: &CloudOptions, more: &[(&str, &str)]) -> Result<CloudOptions> {
            complete(options, &|name| match name {
                "HOME" => self.0.path().to_str().map(str::to_owned),
                _ => more
                    .iter()
                    .find(|(other, _)| *other == name)
                    .map(|(_, value)| (*value).to_owned()),
            })
        }
    }

    const CREDENTIALS: &str = "# mine\n[default]\naws_access_key_id = AKIA1\naws_secret_access_key=a/b\\c+d=\"#e\n\n\
        [work]\naws_access_key_id=AKIA2\naws_secret_access_key=two\naws_session_token=three==\n";
    const CONFIG: &str = "[default]\nregion = eu-central-1\ns3 =\n  region = nowhere\n\
        [profile work]\nregion=eu-west-3\nendpoint_url = https://s3.example.org\n[profile login]\nsso_session = x\n";

    #[test]
    fn a_profile_gives_keys_region_and_endpoint() {
        let home = Home::new(CREDENTIALS, CONFIG);
        let plain = home.complete(&CloudOptions::default(), &[]).expect("reads");
        assert_eq!(plain.access_key.as_deref(), Some("AKIA1"));
        assert_eq!(plain.secret_key, Some(Secret::new("a/b\\c+d=\"#e")));
        assert_eq!(plain.region.as_deref(), Some("eu-central-1"));
        assert_eq!((plain.session_token, plain.endpoint), (None, None));
        let work = [("AWS_PROFILE", "work")];
        let named = home
            .complete(&CloudOptions::default(), &work)
            .expect("reads");
        assert_eq!(named.secret_key, Some(Secret::new("two")));
        assert_eq!(named.session_token, Some(Secret::new("three==")));
        assert_eq!(named.region.as_deref(), Some("eu-west-3"));
        assert_eq!(named.endpoint.as_deref(), Some("https://s3.example.org"));
        assert!(!format!("{named:?}").contains("two"));
    }

    #[test]
    fn what_the_configuration_or_a_variable_says_comes_first() {
        let home = Home::new(CREDENTIALS, CONFIG);
        let own = CloudOptions {
            access_key: Some("own".to_owned()),
            ..CloudOptions::default()
        };
        let kept = home.complete(&own, &[]).expect("reads nothing");
        assert_eq!(
            (kept.access_key.as_deref(), kept.region),
            (Some("own"), None)
        );
        let variables = [("AWS_ACCESS_KEY_ID", "other"), ("AWS_PROFILE", "unknown")];
        let kept = home
            .complete(&CloudOptions::default(), &variables)
            .expect("reads nothing");
        assert_eq!(kept.access_key, None);
        let placed = CloudOptions {
            region: Some("here".to_owned()),
            ..CloudOptions::default()
        };
        let kept = home.complete(&placed, &[]).expect("reads");
        assert_eq!(kept.region.as_deref(), Some("here"));
        let kept = home
            .complete(&CloudOptions::default(), &[("AWS_REGION", "there")])
            .expect("reads");
        assert_eq!(kept.region, None, "the variable is read where it is used");
    }

    #[test]
    fn files_may_be_missing_and_profiles_may_not() {
        let empty = Home(tempfile::tempdir().expect("a temporary directory"));
        let none = empty.complete(&CloudOptions::default(), &[]);
        assert_eq!(none.expect("no file is no error").access_key, None);
        let home = Home::new(CREDENTIALS, CONFIG);
        for (name, part) in [
            ("unknown", "correct the name"),
            ("login", "--profile login"),
        ] {
            let refused = home.complete(&CloudOptions::default(), &[("AWS_PROFILE", name)]);
            let refused = refused.expect_err(name);
            assert_eq!(refused.kind(), Kind::Invalid);
            assert!(refused.message().contains(part), "{refused}");
        }
        let other = home.0.path().join("other");
        std::fs::write(
            &other,
            "[x]\naws_access_key_id=1\naws_secret_access_key=2\n",
        )
        .expect("writes");
        let other = other.to_str().expect("UTF-8");
        let variables = [("AWS_SHARED_CREDENTIALS_FILE", other), ("AWS_PROFILE", "x")];
        let read = home.complete(&CloudOptions::default(), &variables);
        assert_eq!(read.expect("reads").access_key.as_deref(), Some("1"));
        let broken = Home::new("[default\nswordfish\n", "");
        let refused = broken.complete(&CloudOptions::default(), &[]);
        let refused = refused.expect_err("no such file").to_string();
        assert!(
            refused.contains("line") && !refused.contains("swordfish"),
            "{refused}"
        );
    }
}
