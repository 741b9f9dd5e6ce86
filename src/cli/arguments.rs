//! The command line, as clap reads it. Its texts are the manual: `--help`, `keepfs man`.

use super::exit;
use crate::config::{parse_duration, parse_rate, parse_size};
use crate::source::NamedSource;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;
use std::ffi::OsString;
use std::path::PathBuf;

const ABOUT: &str = "REPO is a name of the configuration, a path (/srv/keep, ./keep) or a URL (s3://bucket/prefix, \
az://container/prefix, gs://bucket/prefix). REPO/BACKUP/POINT/PATH goes on below it; after a URL write REPO::BACKUP/POINT. \
POINT may be `latest`.\n\n\
Passwords come from --password-file, --key-file, the configuration, systemd credentials (keepfs.NAME, keepfs.password), \
KEEPFS_PASSWORD, or a question on the terminal; never from the command line itself. Each given file is tried on each \
repository of the command.\n\n\
Keys of a cloud store come from credentials-command or access-key and secret-key of the configuration, from the usual AWS_*, \
AZURE_* and GOOGLE_* variables, or, for S3, from ~/.aws/credentials and ~/.aws/config (AWS_PROFILE).\n\n\
The configuration is the first of --config, $KEEPFS_CONFIG, ~/.config/keepfs.toml and /etc/keepfs.toml. \
`memory = \"64 MiB\"` at its top bounds what the cache and the buffers of each open repository take (128 MiB without it); `spool = \"8 GiB\"` what \
the open points of a mount may keep on this host's disk until it is stored: whoever writes more waits; `open-memory = \"1 GiB\"` \
what their entries may take in the daemon's memory (a quarter of the host's without it; about 430 bytes a file): whoever makes more \
gets ENOSPC.\n\n\
A mount shows the owners of a restore point by the numbers that this host has for their names, where it knows these; \
`numeric-owners = true` at the top of the configuration shows the numbers as they are stored. ACLs hold numbers alone and \
stay as they are.\n\n\
`acl = \"admin-only\"` and `readers = [\"helpdesk\"]` of a repository are written into it by `init`: the first lets only root and \
who mounts into its directory; the users that the second names read all its complete restore points below .keepfs/readers, \
whoever owns what is in them, and change nothing. `setfattr -n user.keepfs.readers -v helpdesk BACKUP` in a mount does so for \
one backup.";

/// A mounted backup file system.
#[derive(Parser, Debug)]
#[command(name = "keepfs", version, about = "A mounted backup file system: restore points are directories, and copying one is the backup copy", long_about = ABOUT, after_help = exit::TABLE, max_term_width = 110)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What every verb understands.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Configuration to use instead of the usual ones
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// File with the password; may be given several times
    #[arg(long, global = true, value_name = "FILE")]
    pub password_file: Vec<PathBuf>,
    /// Key file; may be given several times. Made by `init` and `key add` when it is missing
    #[arg(long, global = true, value_name = "FILE")]
    pub key_file: Vec<PathBuf>,
    /// Report as JSON on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Causes of errors and what happens meanwhile; twice for more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// The verbs.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Make a repository
    #[command(after_help = "Examples:
  keepfs init /srv/keep                                  asks for a password
  keepfs init --key-file /etc/keepfs/off.key s3://bucket/keep   makes the key file too; keep a copy of it elsewhere
  keepfs init --pack-size '256 MiB' offsite              offsite is in the configuration
  keepfs init --like primary offsite                     cuts files as primary does")]
    Init(Init),
    /// Back up files into a new restore point
    #[command(after_help = "Examples:
  keepfs backup /home primary/home                       the point is named by its time
  keepfs backup --exclude '*.tmp' /etc /var/lib primary/host/before-upgrade
  keepfs backup / primary/host --one-file-system --exclude-caches
  keepfs backup --node web1=/srv/web1 --node web2=/srv/web2 --shared disk=/dev/sdb primary/cluster

One directory is the point's top itself; several sources lie in it by their names. The nodes of a cluster and what they share
are complete as one: when one of them cannot be read at all, there is no new restore point, and the exit code is 1. Exit
code 3: some files could not be read.")]
    Backup(Backup),
    /// Restore a restore point, or a part of it, to plain files
    #[command(after_help = "Examples:
  keepfs restore primary/home/latest /tmp/home
  keepfs restore primary/home/latest/alice/letter.odt /tmp     one file

DIR is made when missing, with the mode and owner that it had. One that is there keeps its own and is merged into: what
has the same name is replaced. Exit code 3: something is missing or lacks its owner.")]
    Restore(Restore),
    /// Copy complete restore points into another repository
    #[command(after_help = "Examples:
  keepfs copy primary offsite                            everything that offsite lacks
  keepfs copy primary/web01 primary/db/latest offsite

Only chunks that the target lacks move. Repositories may have different passwords, pack sizes and stores.")]
    Copy(Copy),
    /// Copy sessions: how they stand, and what to do about what failed
    #[command(after_help = "Examples:
  keepfs session list                                    of all configured repositories
  keepfs session list --unfinished offsite
  keepfs session show 3fa9                               what failed, and why
  keepfs session retry 3fa9                              brings what is missing, and no more
  keepfs session skip 3fa9                               keeps the whole restore points, gives up the others
  keepfs session undo 3fa9                               the target is as it was before
  keepfs session wait offsite/3fa9 && echo copied

Every copy is a session, told by the repository that it copies into. When parts fail after their retries it waits in the state
needs-action, with a list, until somebody says retry, skip or undo; the same copy, run again, is a retry, too.

Exit codes of show, wait and retry: 0 success or undone, 3 warning (something was given up), 4 needs action, 1 failed, or its
process is gone.")]
    Session(SessionArguments),
    /// Move complete restore points into another repository
    #[command(after_help = "Examples:
  keepfs move primary/web01/2026-11-20T02-00-00Z archive
  keepfs move primary/old-host archive

Copies as `keepfs copy` does; a point that the other repository has whole is forgotten where it was, where `keepfs undelete`
brings it back for as long as it is in the trash. Interrupted, it is simply run again. Exit codes are those of copy; 3 also
when a point stays where it was.")]
    Move(Copy),
    /// List restore points
    #[command(after_help = "Examples:
  keepfs points                                          of all configured repositories
  keepfs points primary/home
  keepfs points --json primary | jq -r '.[].backups[].points[].name'
  keepfs points --trash                                  what was forgotten, and until when `keepfs undelete` brings it back
  keepfs points --open                                   what is being written on this host, or was left unfinished, and
                                                         marks in the repositories of open points of other hosts
  keepfs points --open --json | jq -r '.points[] | select(.age_seconds > 86400).path'

An open point is finished in the mount: with `mv NAME.partial NAME`, with `keepfs seal`, or by running the same copy again; rmdir discards it.
Prune waits for the mark of an open point as long as it is there; `keepfs forget --open` removes that of a host that is gone.")]
    Points(Points),
    /// Show how two restore points differ
    #[command(after_help = "Examples:
  keepfs diff primary/home/2026-11-20T02-00-00Z primary/home/latest
  keepfs diff primary/home/latest/alice offsite/home/latest/alice

+ only in B, - only in A, M other content, U other attributes (mode, owner, time, xattrs), T another type.
Exit code 0 when equal, 1 when different, as of diff(1). With --json, one object a line.")]
    Diff(Diff),
    /// Seal an open restore point in a mount: it becomes complete and read-only
    #[command(after_help = "Example:
  keepfs seal /mnt/keep/primary/home/2026-11-21")]
    Seal(Seal),
    /// Forget restore points: they go into the trash
    #[command(after_help = "Examples:
  keepfs forget primary/home/2026-11-20T02-00-00Z
  keepfs points --open primary                           marks of open points, also of hosts that are gone
  keepfs forget --open primary 3fa9                      removes one; the beginning of its id

No data is deleted by it: until `keepfs prune` removes it after its days in the trash, `keepfs undelete` brings it back. Any
other point stays as it is.

An open point has a mark in its repository, for which prune waits. When its host is gone for good, --open removes the mark:
then the next prunes may delete what is stored for that open point alone. Should the host come back, it looks for each chunk
before it seals, and says which file must be copied there again. The mark of an open point of this host is refused: rmdir
it, or `keepfs seal` it.")]
    Forget(Forget),
    /// Bring a forgotten restore point back from the trash
    #[command(after_help = "Examples:
  keepfs points --trash primary                          what can be brought back, and until when
  keepfs undelete primary/home/2026-11-20T02-00-00Z")]
    Undelete(Undelete),
    /// Delete what no restore point needs any more
    #[command(after_help = "Examples:
  keepfs prune --dry-run primary                         what would be done
  keepfs prune                                           all configured repositories; run it daily
  keepfs prune --grace 2h --max-dead 20 primary
  keepfs prune --grace 0 primary                         at once, while nothing else writes

Runs beside backups, copies, mounts and other prunes. Forgotten points are removed after their days in the trash. What nobody
needs is put on a list, and a later run deletes it, when the grace period is over and it is still not needed.")]
    Prune(Prune),
    /// Check that everything restore points need is there and sound
    #[command(after_help = "Examples:
  keepfs check primary                                   the structure: quick
  keepfs check --read-data primary                       every byte
  keepfs check --rebuild-index primary                   after a loss in index/

Exit code 1: something is damaged; the report names the files it costs.")]
    Check(Check),
    /// Show and change the settings that a repository carries with it
    #[command(after_help = "Examples:
  keepfs config offsite                                  all of them
  keepfs config offsite pack-size=\"64 MiB\" level=9
  keepfs config offsite storage-class=STANDARD_IA        for data packs from now on
  keepfs config offsite capacity=\"2 TiB\"                nothing new is begun above that
  keepfs config offsite copy-target=false                takes no copies any more
  keepfs config offsite capacity=                        no limit again

All hosts follow, each command from its start on, a running mount with the next restore point that is begun in it. Changed
are pack-size, level, storage-class, capacity, trash-days, copy-target, copy-source and seal-idle; what is marked fixed was
chosen by `keepfs init`. How a host reaches the repository (URL, endpoint, keys) is in its own configuration.")]
    Config(Config),
    /// Show how much is stored
    #[command(after_help = "Examples:
  keepfs stats primary
  keepfs stats --probe offsite                           does the store keep what a repository needs?
  keepfs stats --json | jq '.repositories[].ratio'")]
    Stats(Stats),
    /// Add, list and remove passwords and key files of a repository
    #[command(after_help = "Examples:
  keepfs key add primary                                 asks for the new password
  keepfs key add --new-key-file /etc/keepfs/spare.key --label spare primary
  keepfs key list primary
  keepfs key remove primary 3fa9

A key file is at least 32 random bytes: head -c 64 /dev/urandom > FILE")]
    Key(Key),
    /// Tell people how copies ended: try it, and see what was not sent
    #[command(after_help = "Examples:
  keepfs notify test                                     sends a message now
  keepfs notify list                                     what waits, and what nobody takes
  keepfs notify send                                     all of it now

One message for each copy that ended, as the configuration says:

  [notify]
  host = \"mail.example.org\"              port = 587, tls = \"starttls\" (or \"implicit\", or \"none\")
  user = \"keepfs\"                        sent over TLS only
  password-file = \"/etc/keepfs/mail.pass\"  or password-command, or the systemd credential keepfs.notify
  from = \"keepfs@example.org\"
  to = [\"admin@example.org\"]
  on = [\"success\", \"warning\", \"failed\", \"needs-action\"]    all but success without it
  subject = \"{result}: {backup} {job} {objects} {issues} {time} {host} {target}\"
  mode = \"each\"                          or \"summary daily 08:00\"; timezone = \"Europe/Berlin\"
  ca-file = \"/etc/keepfs/ca.pem\"         for a server with a certificate of your own

Other ways: way = \"sendmail\" pipes the message into /usr/sbin/sendmail -t -i (sendmail = \"/other/path\"); way = \"command\" and
command = \"…\" runs a shell command for at most timeout = \"60s\", with the message on its standard input and KEEPFS_RESULT,
KEEPFS_BACKUP, KEEPFS_TARGET and others in its environment.

Messages wait in the state directory until they are sent: no copy waits for them or fails by them.")]
    Notify(Notify),
    /// List, start, stop, enable and disable jobs: copies that recur
    #[command(after_help = "Examples:
  keepfs job list
  keepfs job start offsite                               by the daemon that has it; here, when none has
  keepfs job stop --graceful offsite
  keepfs job disable offsite                             no more by itself; by hand it still runs

A job is a section of the configuration:
  [job.offsite]
  source = 'primary/web*'          # backups of a configured repository; a list of such
  target = 'offsite'               # or a list; points keep the names of their backups
  select = 'each'                  # latest; each (the usual one: each point completed from now on, once); all
  schedule = 'daily 02:30'         # immediate, every 5m to 12h, daily 02:30 Mon..Fri, or as OnCalendar of systemd.time(7)
  timezone = 'Europe/Berlin'       # whose clocks schedule and window go by; the host's without it
  window = 'MON TUE WED THU FRI SAT SUN'    # each 24 characters: + for an hour in which it may run, - for others
  retries = 3                      # of a run that failed
  retry-wait = '10m'               # before the first; doubles, to an hour
  rate = '20 MB/s'                 # read, and written; also in a repository's section, and at the top for all
  before = 'COMMAND'               # by sh -c; when it fails or takes longer than hook-timeout = '5m', nothing is copied
  after = 'COMMAND'                # always; KEEPFS_RESULT is success, warning, needs-action, failed or stopped;
                                   # KEEPFS_REASON, KEEPFS_COPIED, KEEPFS_POINTS, KEEPFS_STORED_BYTES, KEEPFS_JOB say more
  rpo = '4h'                       # warn when the newest copy of a backup is older
  on-copy = 'disable'              # while a copy of its backups runs or waits for somebody; 'continue' without it
  enabled = true                   # until `job enable` or `job disable` says otherwise

The daemon of `keepfs mount` runs the jobs whose repositories it mounts; no other service is needed. A schedule goes by the
clock on the wall: what falls into an hour that is left out runs at the first moment after it, an hour that comes twice counts
once. Outside its window a run waits at a pack's end, which is no failure. A point is copied because it is complete in the
source and not in the target, whoever wrote it. Taken out of the configuration, a job leaves all points where they are.")]
    Job(Job),
    /// Mount repositories as directories
    #[command(after_help = "Examples:
  keepfs mount /mnt/keep                                 all configured repositories
  keepfs mount primary /mnt/keep
  keepfs mount main=/srv/keep off=s3://bucket/keep /mnt/keep

  cp -a /mnt/keep/main/home/latest/letter.odt .          restores a file
  cp -a /mnt/keep/main/home/2026-11-20T02-00-00Z /mnt/keep/off/home/     copies a restore point
  grep . /mnt/keep/.keepfs/repositories/*/state          can each be reached?

Returns when the mount is ready and stays in the background. With --foreground it tells systemd (Type=notify) when it is.
`keepfs man mount-helper` shows lines for /etc/fstab.")]
    Mount(Mount),
    /// Unmount
    #[command(
        visible_alias = "unmount",
        after_help = "Examples:
  keepfs umount /mnt/keep
  keepfs umount --lazy /mnt/keep                         goes when nobody uses it any more"
    )]
    Umount(Umount),
    /// What mount(8) runs for `mount -t keepfs` and for lines of /etc/fstab
    #[command(
        after_help = "Examples, with mount-helpers/mount.keepfs installed as /sbin/mount.keepfs:
  mount -t keepfs /etc/keepfs/main.toml /mnt/keep
  mount -t keepfs -o repo=offsite,ro /etc/keepfs/main.toml /mnt/offsite
  mount -t keepfs -o key-file=/etc/keepfs/off.key off=s3://bucket/keep /mnt/off

In /etc/fstab:
  /etc/keepfs/main.toml  /mnt/primary  keepfs  repo=primary,_netdev,nofail     0 0
  /etc/keepfs/main.toml  /mnt/offsite  keepfs  repo=offsite,ro,_netdev,nofail  0 0

Options:
  repo=NAME             the directory of this repository alone
  password-file=FILE    as --password-file; may be given several times
  key-file=FILE         as --key-file; may be given several times
  ro, rw, noexec, exec  as for any mount, for this directory alone
  remount               change these of what is mounted there
  allow_other           let other users in; root does so anyway
Always on, or of no meaning here: default_permissions, nosuid, nodev, defaults, noatime, nodiratime, relatime, async.
For mount(8) and systemd: auto, noauto, nofail, _netdev, user, users, owner, group, nouser, comment=, x-. Others are refused.

As root, all that is mounted of one CONFIG is bound out of one mount, so `cp` from one repository's directory to another's
moves no data through the kernel: out of that of `keepfs mount` with all of CONFIG, if there is one, or else out of one below
/run/keepfs, which ends with the last umount. An ordinary user (option user) mounts all of CONFIG, without repo=.
Nothing is asked without a terminal. Exit codes are those of mount(8): 0 mounted, 1 usage or permissions, 8 interrupted,
32 failed."
    )]
    MountHelper(MountHelper),
    /// Show what keepfs does: two repositories, a backup, a mount, a copy with cp, a comparison with diff
    #[command(after_help = "Examples:
  keepfs demo
  keepfs demo /usr/share/doc

Everything happens in a temporary directory and is gone afterwards, also after Ctrl-C. DIR is only read.")]
    Demo(Demo),
    /// Print completions for a shell
    #[command(after_help = "Example:
  keepfs completions bash > /etc/bash_completion.d/keepfs")]
    Completions(Completions),
    /// Print the manual page, or that of one verb
    #[command(after_help = "Examples:
  keepfs man backup | man -l -
  keepfs man key add | man -l -")]
    Man(Man),
}

#[derive(Args, Debug)]
pub struct Init {
    /// Name or URL; an empty or missing directory, or an unused prefix of a bucket
    #[arg(value_name = "REPO")]
    pub repository: String,
    /// Close a pack after so many bytes: 16 MiB where backups are written, 256 MiB where they are kept
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub pack_size: Option<u64>,
    /// zstd level, 1 to 22
    #[arg(long, value_name = "N")]
    pub level: Option<i32>,
    /// Storage class of data packs, for example STANDARD_IA
    #[arg(long, value_name = "CLASS")]
    pub storage_class: Option<String>,
    /// Days for which a forgotten restore point can be brought back; 7 without it
    #[arg(long, value_name = "N")]
    pub trash_days: Option<u32>,
    /// Seal an open restore point that nobody has changed for so long, as it is: 1h, 2d. Without it only whole copies, a
    /// rename and `keepfs seal` do, as nobody else knows when a tool has done all of its work
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub seal_idle: Option<i64>,
    /// Whom a mount lets into the repository: admin-only (root and who mounts), or stored: whom modes and ACLs let
    #[arg(long, value_name = "WHO")]
    pub acl: Option<String>,
    /// Users who may read every complete restore point in a mount, below .keepfs/readers, and change nothing
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub readers: Option<Vec<String>>,
    /// Cut files as REPO does: what rsync and other tools write anew from there is recognised, and not stored twice
    #[arg(long, value_name = "REPO")]
    pub like: Option<String>,
    /// Another setting, as `keepfs config` takes it; also retention-type, which never changes afterwards. May be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub more: Vec<String>,
    /// A name for the first key
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
}

#[derive(Args, Debug)]
pub struct SessionArguments {
    #[command(subcommand)]
    pub verb: SessionVerb,
}

/// What is asked of sessions.
#[derive(Subcommand, Debug)]
pub enum SessionVerb {
    /// List sessions, the oldest first
    #[command(after_help = "Examples:
  keepfs session list offsite
  keepfs session list --unfinished --json | jq -r '.sessions[] | select(.state == \"needs-action\").id'")]
    List {
        /// Of this repository; of all configured ones without it
        #[arg(value_name = "REPO")]
        repository: Option<String>,
        /// Only those that are not over
        #[arg(long)]
        unfinished: bool,
    },
    /// Show how one stands, with every part that failed
    #[command(after_help = "Example:
  keepfs session show --json 3fa9 | jq -r '.failed[].path'")]
    Show(SessionName),
    /// Wait until nobody works on it, then show it
    #[command(after_help = "Example:
  keepfs session wait offsite/3fa9 && echo copied")]
    Wait(SessionName),
    /// Show what has happened to it
    #[command(after_help = "Example:
  keepfs session log 3fa9")]
    Log(SessionName),
    /// Bring what is missing
    #[command(after_help = "Examples:
  keepfs session retry 3fa9
  keepfs session retry --source /mnt/usb/keep 3fa9       when the configuration does not know where it copies from")]
    Retry {
        #[command(flatten)]
        session: SessionName,
        /// Where it copies from, when no configured repository is that
        #[arg(long, value_name = "REPO")]
        source: Option<String>,
    },
    /// Keep the restore points that are whole, give up the others
    #[command(after_help = "Example:
  keepfs session skip 3fa9                               exit code 3: something was given up")]
    Skip(SessionName),
    /// Take away the restore points that it made
    #[command(after_help = "Example:
  keepfs session undo 3fa9

They are gone for good, without days in the trash; the next prunes give their space back.")]
    Undo(SessionName),
}

#[derive(Args, Debug)]
pub struct SessionName {
    /// The beginning of its id; REPO/ID looks in one repository only
    #[arg(value_name = "ID")]
    pub session: String,
}

#[derive(Args, Debug)]
pub struct Backup {
    /// What to read, and where to: SOURCE… REPO/BACKUP[/POINT]
    #[arg(required = true, num_args = 1.., value_names = ["SOURCE", "REPO/BACKUP[/POINT]"])]
    pub places: Vec<OsString>,
    /// A node of a cluster, instead of a SOURCE: it is nodes/NAME of the restore point
    #[arg(long = "node", value_name = "NAME=PATH", value_parser = named_source())]
    pub nodes: Vec<NamedSource>,
    /// A disk (a block device or an image) or a directory that the nodes share: it is shared/NAME, read and stored once
    #[arg(long = "shared", value_name = "NAME=PATH", value_parser = named_source())]
    pub shared: Vec<NamedSource>,
    /// Leave out what matches: a name anywhere; a path from the source's top with a leading /; directories only with
    /// a trailing /
    #[arg(short, long, value_name = "PATTERN")]
    pub exclude: Vec<OsString>,
    /// Read such patterns from a file, one a line
    #[arg(
        long = "exclude-file",
        visible_alias = "exclude-from",
        value_name = "FILE"
    )]
    pub exclude_from: Vec<PathBuf>,
    /// Leave out the contents of directories that hold NAME
    #[arg(long, value_name = "NAME")]
    pub exclude_if_present: Vec<OsString>,
    /// Leave out the contents of directories that a CACHEDIR.TAG marks as caches
    #[arg(long)]
    pub exclude_caches: bool,
    /// Do not go into other file systems
    #[arg(short = 'x', long)]
    pub one_file_system: bool,
    /// Read every file, even if it has not changed since the newest point
    #[arg(long)]
    pub force: bool,
    /// Threads that hash and compress; one per core without it
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
}

#[derive(Args, Debug)]
pub struct Restore {
    /// REPO/BACKUP/POINT[/PATH]
    #[arg(value_name = "REPO/BACKUP/POINT[/PATH]")]
    pub place: OsString,
    /// Where to
    #[arg(value_name = "DIR")]
    pub target: PathBuf,
    /// Owners by number even where this host knows the name
    #[arg(long)]
    pub numeric: bool,
    /// Threads that write
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
}

#[derive(Args, Debug)]
pub struct Copy {
    /// What to copy, and where to: REPO[/BACKUP[/POINT]]… REPO
    #[arg(required = true, num_args = 2.., value_names = ["REPO[/BACKUP[/POINT]]", "REPO"])]
    pub places: Vec<OsString>,
}

#[derive(Args, Debug)]
pub struct Points {
    /// Of which; all configured repositories without it
    #[arg(value_name = "REPO[/BACKUP[/POINT]]")]
    pub place: Option<OsString>,
    /// The open points of this host instead, and marks of those of others, with their age and how to finish them
    #[arg(long)]
    pub open: bool,
    /// The forgotten points instead, with the time until which they can be brought back
    #[arg(long, conflicts_with = "open")]
    pub trash: bool,
}

#[derive(Args, Debug)]
pub struct Diff {
    /// REPO/BACKUP/POINT[/PATH]
    #[arg(value_name = "A")]
    pub first: OsString,
    /// REPO/BACKUP/POINT[/PATH]
    #[arg(value_name = "B")]
    pub second: OsString,
}

#[derive(Args, Debug)]
pub struct Seal {
    /// The point's directory in a mount
    pub path: PathBuf,
}

#[derive(Args, Debug)]
pub struct Forget {
    /// Which points
    #[arg(required_unless_present = "open", value_name = "REPO/BACKUP/POINT")]
    pub places: Vec<OsString>,
    /// Instead of points, the mark of an open point whose host is gone for good, by the beginning of its id
    #[arg(long, num_args = 2, value_names = ["REPO", "ID"], conflicts_with = "places")]
    pub open: Option<Vec<String>>,
}

#[derive(Args, Debug)]
pub struct Undelete {
    /// Which point
    #[arg(value_name = "REPO/BACKUP/POINT")]
    pub place: OsString,
}

#[derive(Args, Debug)]
pub struct Prune {
    /// Which; all configured ones without it
    #[arg(value_name = "REPO")]
    pub repositories: Vec<String>,
    /// Change nothing, only show what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// How long what nobody needs is left alone, before it is listed and again before it is deleted: 24h, 90m, 2d. With 0
    /// a backup that runs at the same time may have to be run again
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub grace: i64,
    /// Write anew what is needed of packs of which more than so many percent are not; 100 for never
    #[arg(long, value_name = "PERCENT", default_value_t = crate::command::MAX_DEAD, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub max_dead: u8,
}

#[derive(Args, Debug)]
pub struct Check {
    /// Which; all configured ones without it
    #[arg(value_name = "REPO")]
    pub repositories: Vec<String>,
    /// Read and verify every byte
    #[arg(long)]
    pub read_data: bool,
    /// First list anew, from the packs alone, what no readable part of the index lists
    #[arg(long)]
    pub rebuild_index: bool,
}

#[derive(Args, Debug)]
pub struct Config {
    /// Which
    #[arg(value_name = "REPO")]
    pub repository: String,
    /// What to change: all of it at once, or none; nothing is changed without it
    #[arg(value_name = "KEY=VALUE")]
    pub changes: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Stats {
    /// Which; all configured ones without it
    #[arg(value_name = "REPO")]
    pub repositories: Vec<String>,
    /// Also try out what the store can do, with one small object that is removed again
    #[arg(long)]
    pub probe: bool,
}

#[derive(Args, Debug)]
pub struct Key {
    #[command(subcommand)]
    pub verb: KeyVerb,
}

/// What to do with keys.
#[derive(Subcommand, Debug)]
pub enum KeyVerb {
    /// Let another password or key file open the repository
    #[command(after_help = "Examples:
  keepfs key add primary                                 asks for the new password
  keepfs key add --new-key-file /etc/keepfs/spare.key --label spare primary")]
    Add {
        /// Which
        #[arg(value_name = "REPO")]
        repository: String,
        /// File with the new password; else KEEPFS_NEW_PASSWORD, or a question
        #[arg(long, value_name = "FILE")]
        new_password_file: Option<PathBuf>,
        /// The new key file; made when it is missing
        #[arg(long, value_name = "FILE", conflicts_with = "new_password_file")]
        new_key_file: Option<PathBuf>,
        /// A name for it
        #[arg(long, value_name = "TEXT", default_value = "")]
        label: String,
    },
    /// List all keys
    #[command(after_help = "Examples:
  keepfs key list primary
  keepfs key list --json primary | jq -r '.keys[].id'")]
    List {
        /// Which
        #[arg(value_name = "REPO")]
        repository: String,
    },
    /// Remove a key; the last one stays
    #[command(after_help = "Example:
  keepfs key remove primary 3fa9                         the beginning of an id that `keepfs key list` shows")]
    Remove {
        /// Which
        #[arg(value_name = "REPO")]
        repository: String,
        /// The key's id, or its beginning
        #[arg(value_name = "ID")]
        id: String,
    },
}

#[derive(Args, Debug)]
pub struct Notify {
    #[command(subcommand)]
    pub verb: NotifyVerb,
}

/// What to do with messages.
#[derive(Subcommand, Debug)]
pub enum NotifyVerb {
    /// Send a test message now, and say what happened
    #[command(after_help = "Example:
  keepfs notify test                                     exit code 1 when it was not taken, with what to do")]
    Test,
    /// List the messages that were not sent
    #[command(after_help = "Examples:
  keepfs notify list
  keepfs notify list --json | jq -r '.messages[].error'

Exit code 3 when there are messages that nobody takes: they stay, with what the server said.")]
    List,
    /// Send all that waits now, and again what failed
    #[command(after_help = "Example:
  keepfs notify send")]
    Send,
}

#[derive(Args, Debug)]
pub struct Job {
    #[command(subcommand)]
    pub verb: JobVerb,
}

/// What to do with jobs.
#[derive(Subcommand, Debug)]
pub enum JobVerb {
    /// List all jobs
    #[command(after_help = "Example:
  keepfs job list --json | jq -r '.jobs[] | select(.enabled | not).name'")]
    List,
    /// Show how a job stands, and its last run
    #[command(after_help = "Example:
  keepfs job show offsite

It is not-configured (it has no target), disabled, idle, waiting (for its window), running, stopping or retrying.")]
    Show {
        /// Which
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Run a job now, also when it is disabled
    #[command(after_help = "Examples:
  keepfs job start offsite
  keepfs job start --all-points offsite                  history, too

Returns at once when a daemon has the job; when none has, it runs here. Exit codes then: 3 done with warnings, 4 somebody has
to decide, 1 failed or stopped.")]
    Start {
        /// Which
        #[arg(value_name = "NAME")]
        name: String,
        /// Every point that the target lacks, whatever the job selects
        #[arg(long)]
        all_points: bool,
        /// Only the newest point of each backup
        #[arg(long, conflicts_with = "all_points")]
        latest: bool,
    },
    /// Stop a job's run, and the retry that it waits for
    #[command(after_help = "Examples:
  keepfs job stop offsite
  keepfs job stop --graceful offsite

No half point is left, and nothing that has arrived is sent again. An immediate job goes on with the next point that completes,
or when it is started.")]
    Stop {
        /// Which
        #[arg(value_name = "NAME")]
        name: String,
        /// When the pack that is being written has ended
        #[arg(long)]
        graceful: bool,
    },
    /// Let a job run by itself
    #[command(after_help = "Example:
  keepfs job enable offsite")]
    Enable {
        /// Which
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Keep a job from running by itself; a run that goes on is not stopped
    #[command(after_help = "Example:
  keepfs job disable offsite")]
    Disable {
        /// Which
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Change the rate of a job, also while it runs, until its daemon ends
    #[command(after_help = "Examples:
  keepfs job rate offsite '5 MB/s'
  keepfs job rate offsite none")]
    Rate {
        /// Which
        #[arg(value_name = "NAME")]
        name: String,
        /// Bytes a second, read and written; or none
        #[arg(value_name = "RATE", value_parser = rate)]
        rate: RateLimit,
    },
}

/// Bytes a second; none for no limit.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit(pub Option<u64>);

#[derive(Args, Debug)]
pub struct Mount {
    /// What to mount, and where: [NAME | NAME=URL | URL]… DIR; all configured repositories with DIR alone
    #[arg(required = true, num_args = 1.., value_names = ["[NAME=]REPO", "DIR"])]
    pub places: Vec<OsString>,
    /// Stay in the foreground
    #[arg(short, long)]
    pub foreground: bool,
    /// Let other users in, as far as owners and modes allow; root does so anyway, others need user_allow_other in /etc/fuse.conf
    #[arg(long)]
    pub allow_other: bool,
}

#[derive(Args, Debug)]
pub struct Umount {
    /// Where it is mounted
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Take the mount away now; it ends when nobody uses it any more
    #[arg(short, long)]
    pub lazy: bool,
}

#[derive(Args, Debug)]
pub struct MountHelper {
    /// A configuration file, or NAME=URL
    #[arg(value_name = "CONFIG")]
    pub source: OsString,
    /// Where
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Options, separated by commas
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// Ignore options that are not known
    #[arg(short)]
    pub sloppy: bool,
    /// Only look whether the options are right
    #[arg(short)]
    pub fake: bool,
    /// Of no meaning: there is no /etc/mtab to write
    #[arg(short)]
    pub no_mtab: bool,
}

#[derive(Args, Debug)]
pub struct Demo {
    /// What to back up; something that this machine has, without it
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Completions {
    /// For which shell
    pub shell: Shell,
}

#[derive(Args, Debug)]
pub struct Man {
    /// Of which verb
    #[arg(value_name = "VERB", num_args = 0..=2)]
    pub verb: Vec<String>,
}

fn duration(text: &str) -> Result<i64, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

fn rate(text: &str) -> Result<RateLimit, String> {
    if text == "none" {
        return Ok(RateLimit(None));
    }
    let rate = parse_rate(text).map_err(|error| error.to_string())?;
    Ok(RateLimit(Some(rate)))
}

fn named_source() -> impl TypedValueParser<Value = NamedSource> {
    OsStringValueParser::new().try_map(|text| NamedSource::parse(&text))
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_verb_has_an_example() {
        let mut verbs: Vec<clap::Command> =
            Arguments::command().get_subcommands().cloned().collect();
        let mut seen = 0;
        while let Some(verb) = verbs.pop() {
            let help = verb
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.contains("Example"),
                "{} has no example",
                verb.get_name()
            );
            verbs.extend(verb.get_subcommands().cloned());
            seen += 1;
        }
        assert!(seen > 17, "the verbs of keys are among them");
    }
}
