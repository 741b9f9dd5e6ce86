#!/usr/bin/env python3
"""Whole commands of keepfs beside restic, rustic and borg, in one run, as ratios. Python's standard library only; root.

    cargo build --release
    benches/peers.py --corpus DIR [--corpus IMAGE1:IMAGE2 …] [--work DIR | --disk 14G] [--reps 3] [--tools keepfs,restic]

For each corpus (a directory) every tool makes a first backup, a backup with nothing changed, a copy into a second
repository with another password, the copy again, a restore, and a mount: the time until its files can be listed,
`find -ls` cold and again, `cp -a` out of it, 4 KiB reads at random places of its largest file (where one has 256 MiB),
all after the page cache was dropped (a tool that needs a minute for `find` is stopped there), and `cp -a` between two
repositories and into one, which no other can. Of `A:B`, B is what A had become at the next backup. `plain` is the
machine: `tar | zstd | openssl` for a backup, `cp -a` for a restore and for every `cp -a`, `find` for listing.

The order of the tools rotates. Wall time, CPU time and peak memory are those of the whole process tree; stored bytes
are the sizes of the files in the repository. All tools encrypt and compress with zstd 3 (restic: its default). keepfs
opens its repositories with key files, as a password costs 0.2 s of Argon2id on purpose. The source is a bind mount at
one path, read once before. `--disk` makes a fresh ext4 of that size on a loop device: a file system that has been in use
for long makes creating and removing files several times slower from one minute to the next. Tools that are not
installed are left out and named; RESTIC, RUSTIC and BORG name their programs.
"""
import argparse, json, os, random, shutil, statistics, subprocess, sys, tempfile, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
KEEPFS = os.path.join(HERE, "..", "target", "release", "keepfs")
READS, READ_SECONDS_MAX, LARGE_BYTES = 3000, 10, 256 << 20
COPY_OUT_FILES = 8000
MOUNTED_SECONDS_MAX = 60


def anonymous(process):
    """MiB of anonymous memory that a process and its children hold; None when it has ended."""
    try:
        with open(f"/proc/{process}/status") as status:
            held = sum(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024
        with open(f"/proc/{process}/task/{process}/children") as children:
            return held + sum(anonymous(child) or 0 for child in children.read().split())
    except OSError:
        return None


def run(command, env):
    """Wall and CPU seconds, peak resident MiB of the largest process, peak anonymous MiB of all (asked 50 times a second)."""
    began = time.monotonic()
    child = subprocess.Popen(["/bin/bash", "-euc", "-o", "pipefail", command], env={**os.environ, **env},
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    ended, peak = threading.Event(), [0]
    def watch():
        while not ended.wait(0.02):
            peak[0] = max(peak[0], anonymous(child.pid) or 0)
    watcher = threading.Thread(target=watch)
    watcher.start()
    error = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - began
    ended.set()
    watcher.join()
    if status:
        sys.exit(f"failed: {command}\n{error.decode(errors='replace')}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss / 1024, "anonymous": peak[0]}


def stored(path):
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.lstat(os.path.join(d, f)).st_size for d, _, files in os.walk(path) for f in files)


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as control:
        control.write("3\n")


class Tool:
    """Commands as shell lines; {w} is the tool's own directory, {c} the source, {o} where to restore, {m} where to
    mount. `mount` may stay in the foreground. `root` is where the newest backup of the source appears under {m}."""
    env, copy, mount, root, unmount, across, into = {}, "", "", "{m}", "umount {m}", "", ""
    def found(self): return shutil.which(self.exe)


class Plain(Tool):
    name, exe = "plain", "openssl"
    setup = "true"
    backup = "tar -C {c} -c . | zstd -q -3 -T0 | openssl enc -aes-256-ctr -pbkdf2 -pass pass:a > {w}/a"
    again = ""
    restore = "cp -a {c}/. {o}"
    root = "{c}"
    unmount = "true"
    across = into = "cp -a {c}/. {o}"


class Keepfs(Tool):
    name, exe = "keepfs", KEEPFS
    def found(self): return os.path.exists(KEEPFS)
    setup = ("head -c 64 /dev/urandom > {w}/a.key; head -c 64 /dev/urandom > {w}/b.key; "
             "printf '[repository.a]\\nurl = \"{w}/a\"\\nkey-file = \"{w}/a.key\"\\n"
             "[repository.b]\\nurl = \"{w}/b\"\\nkey-file = \"{w}/b.key\"\\npack-size = \"256 MiB\"\\n' > {w}/c.toml; "
             "{exe} --config {w}/c.toml init a; {exe} --config {w}/c.toml init b")
    backup = "{exe} --config {w}/c.toml backup --quiet {c} a/bench"
    again = backup
    copy = "{exe} --config {w}/c.toml copy --quiet a/bench b"
    restore = "{exe} --config {w}/c.toml restore --quiet a/bench/latest {o}"
    mount = "{exe} --config {w}/c.toml mount --foreground {m}"
    root = "{m}/a/bench/latest"
    # The newest point has been copied before; under another name all of its entries are made once more.
    across = "cp -a {m}/a/bench/latest/ {m}/b/bench/across.partial && mv {m}/b/bench/across.partial {m}/b/bench/across"
    into = "mkdir {m}/a/into && cp -a {c}/. {m}/a/into/p.partial && mv {m}/a/into/p.partial {m}/a/into/p"
    env = {"XDG_CACHE_HOME": "{w}/cache"}


class Restic(Tool):
    name, exe = "restic", os.environ.get("RESTIC", "restic")
    env = {"RESTIC_PASSWORD": "a", "RESTIC_FROM_PASSWORD": "a", "RESTIC_CACHE_DIR": "{w}/cache", "RESTIC_REPOSITORY": "{w}/a"}
    setup = "{exe} init; RESTIC_PASSWORD=b {exe} -r {w}/b init --copy-chunker-params --from-repo {w}/a"
    backup = "cd {c} && {exe} -q backup ."
    again = backup
    copy = "RESTIC_PASSWORD=b {exe} -q -r {w}/b copy --from-repo {w}/a"
    restore = "{exe} -q restore latest --target {o}"
    mount = "{exe} -q mount {m}"
    root = "{m}/snapshots/latest"


class Rustic(Tool):
    name, exe = "rustic", os.environ.get("RUSTIC", "rustic")
    env = {"RUSTIC_PASSWORD": "a", "RUSTIC_REPOSITORY": "{w}/a", "RUSTIC_CACHE_DIR": "{w}/cache", "RUSTIC_NO_PROGRESS": "true"}
    setup = ("{exe} init --set-compression 3; cd {w}; printf '[repository]\\nrepository = \"{w}/b\"\\npassword = \"b\"\\n' > t.toml")
    backup = "cd {c} && {exe} backup ."
    again = backup
    copy = "cd {w} && {exe} copy $(test -d {w}/b || echo --init) --target t"
    restore = "{exe} restore latest {o}"
    mount = "{exe} mount {m} latest"


class Borg(Tool):
    name, exe = "borg", os.environ.get("BORG", "borg")
    env = {"BORG_BASE_DIR": "{w}/base", "BORG_PASSPHRASE": "a", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}
    setup = "{exe} init -e repokey-blake2 {w}/a; BORG_PASSPHRASE=b {exe} init -e repokey-blake2 {w}/b"
    backup = "cd {c} && {exe} create -C zstd,3 {w}/a::p$(date +%s%N) ."
    again = backup
    newest = "{w}/a::$({exe} list --last 1 --format '{{archive}}' {w}/a)"
    restore = "cd {o} && {exe} extract " + newest
    mount = "{exe} mount -f " + newest + " {m}"


class Bench:
    """One tool with one corpus, once."""

    def __init__(self, tool, corpus, work, rep):
        self.tool, self.states, self.rep = tool, corpus.split(":"), rep
        self.corpus, self.rows = corpus, []
        self.directory = tempfile.mkdtemp(prefix=f"bench-{tool.name}-", dir=work)
        self.places = {"w": self.directory, "exe": tool.exe, **{key: f"{self.directory}/{name}" for key, name in
                       (("c", "source"), ("o", "out"), ("m", "mount"))}}
        for key in "com":
            os.mkdir(self.places[key])
        self.env = {key: self.line(value) for key, value in tool.env.items()}

    def line(self, command):
        return command.format(**self.places)

    def note(self, step, **figures):
        row = {"corpus": self.corpus, "tool": self.tool.name, "step": step, "rep": self.rep, **figures}
        self.rows.append(row)
        print(json.dumps(row), flush=True)

    def step(self, name, command):
        if command:
            self.note(name, **run(self.line(command), self.env))
            os.sync()

    def show(self, state):
        source = self.places["c"]
        subprocess.run(["umount", "-q", source], stderr=subprocess.DEVNULL)
        subprocess.run(["mount", "--bind", state, source], check=True)
        subprocess.run(["bash", "-c", f"find '{source}' -type f -print0 | xargs -0 cat > /dev/null"], check=True)

    def measure(self):
        try:
            self.show(self.states[0])
            run(self.line(self.tool.setup), self.env)
            self.step("backup", self.tool.backup)
            self.rows[-1]["stored"] = stored(self.directory + "/a")
            self.step("again", self.tool.again)
            for state in self.states[1:]:
                before = stored(self.directory + "/a")
                self.show(state)
                self.step(f"changed to {os.path.basename(state)}", self.tool.again)
                if self.tool.again:
                    self.rows[-1]["stored"] = stored(self.directory + "/a") - before
            self.step("copy", self.tool.copy)
            self.step("copy again", self.tool.copy)
            self.step("restore", self.tool.restore)
            shutil.rmtree(self.places["o"])
            self.mounted()
        finally:
            subprocess.run(["umount", "-q", self.places["c"]], stderr=subprocess.DEVNULL)
            if not os.path.ismount(self.places["c"]):
                shutil.rmtree(self.directory, ignore_errors=True)
        return self.rows

    def mounted(self):
        drop_caches()
        began = time.monotonic()
        served = self.tool.mount and subprocess.Popen(
            ["/bin/bash", "-euc", "exec " + self.line(self.tool.mount)], env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            root = self.line(self.tool.root)
            while not (os.path.isdir(root) and os.listdir(root)):
                if served and served.poll() is not None:
                    sys.exit(f"{self.tool.name} does not mount")
                time.sleep(0.002)
            self.note("mount", wall=time.monotonic() - began)
            root = os.path.realpath(root)
            patience = f"timeout {MOUNTED_SECONDS_MAX}"
            self.step("find -ls, cold", f"{patience} find '{root}' -ls || test $? = 124")
            self.step("find -ls, again", f"{patience} find '{root}' -ls || test $? = 124")
            if self.rows[-1]["wall"] < MOUNTED_SECONDS_MAX:
                self.copy_out(root)
                self.random_reads(root)
            if len(self.states) == 1:
                self.step("cp -a between repositories", self.tool.across)
                shutil.rmtree(self.places["o"], ignore_errors=True)
                self.step("cp -a into the mount", self.tool.into)
        finally:
            subprocess.run(self.line(self.tool.unmount), shell=True, check=True)
            if served:
                served.wait()

    def copy_out(self, root):
        """The directory whose number of files is nearest to what a person might bring back at once."""
        below = {}
        for directory, names, files in os.walk(root, topdown=False):
            below[directory] = len(files) + sum(below.get(os.path.join(directory, name), 0) for name in names)
        chosen = min(below, key=lambda directory: (abs(below[directory] - COPY_OUT_FILES), directory))
        if below[chosen] > 2 * COPY_OUT_FILES or below[chosen] < COPY_OUT_FILES // 8:
            return
        self.step("cp -a out", f"cp -a '{chosen}' {{o}}")
        shutil.rmtree(self.places["o"], ignore_errors=True)

    def random_reads(self, root):
        """One reader, each place at most once; the file has not been read through this mount before."""
        files = [os.path.join(d, f) for d, _, names in os.walk(root) for f in names]
        for path in sorted(path for path in files if os.path.isfile(path) and os.lstat(path).st_size >= LARGE_BYTES):
            drop_caches()
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
            times, began = [], time.monotonic()
            for block in random.Random(1).sample(range(os.fstat(file).st_size // 4096), READS):
                before = time.perf_counter()
                os.pread(file, 4096, block * 4096)
                times.append(time.perf_counter() - before)
                if time.monotonic() - began > READ_SECONDS_MAX:
                    break
            os.close(file)
            self.note(f"4 KiB at random of {os.path.basename(path)}", wall=statistics.median(times), rate=len(times) / sum(times))


def shown(value, what):
    if what == "stored":
        return f"{value / 1e6:.2f} MB"
    if what in ("rss", "anonymous"):
        return f"{value:.0f} MiB"
    return f"{value:.2f} s" if value >= 0.02 else f"{value * 1000:.2f} ms"


def report(rows, corpora, tools):
    def median(tool, corpus, step, what):
        found = [row[what] for row in rows if (row["tool"], row["corpus"], row["step"]) == (tool, corpus, step) and what in row]
        return statistics.median(found) if found else None
    for corpus in corpora:
        print(f"\n{corpus} (medians; keepfs as a share of each other in brackets)\n")
        print("| step | " + " | ".join(tools) + " |\n|---|" + "---|" * len(tools))
        ours_first = sorted((row for row in rows if row["corpus"] == corpus), key=lambda row: row["tool"] != "keepfs")
        for step in dict.fromkeys(row["step"] for row in ours_first):
            for what in ("wall", "rss", "anonymous", "stored"):
                own = median("keepfs", corpus, step, what)
                values = [(tool, median(tool, corpus, step, what)) for tool in tools]
                cells = ["-" if value is None else shown(value, what) +
                         (f" ({own / value:.2f})" if own is not None and value and tool != "keepfs" else "") for tool, value in values]
                if any(value is not None for _, value in values) and not (what in ("rss", "anonymous") and step.startswith(("find", "cp "))):
                    print(f"| {step}, {what} | " + " | ".join(cells) + " |")


def fresh_disk(size):
    image = tempfile.mkstemp(prefix="bench-disk-")[1]
    subprocess.run(["fallocate", "-l", size, image], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", image], check=True)
    directory = tempfile.mkdtemp(prefix="bench-work-")
    subprocess.run(["mount", "-o", "loop,nodiscard,noatime", image, directory], check=True)
    return image, directory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", action="append", required=True)
    parser.add_argument("--work", default=tempfile.gettempdir())
    parser.add_argument("--disk", help="work on a fresh ext4 of this size instead of in --work")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--tools", default="plain,keepfs,restic,rustic,borg")
    parser.add_argument("--json", help="also write every measurement to this file")
    options = parser.parse_args()
    wanted = options.tools.split(",")
    tools = [tool() for tool in (Plain, Keepfs, Restic, Rustic, Borg) if tool.name in wanted]
    for tool in tools:
        if not tool.found():
            print(f"left out, not installed: {tool.name}")
    tools = [tool for tool in tools if tool.found()]
    corpora = [":".join(os.path.realpath(state) for state in corpus.split(":")) for corpus in options.corpus]
    image, work = fresh_disk(options.disk) if options.disk else (None, options.work)
    rows = []
    try:
        for corpus in corpora:
            for rep in range(options.reps):
                for tool in tools[rep % len(tools):] + tools[:rep % len(tools)]:
                    rows += Bench(tool, corpus, work, rep).measure()
    finally:
        if image:
            subprocess.run(["umount", work])
            os.rmdir(work)
            os.remove(image)
    report(rows, corpora, [tool.name for tool in tools])
    if options.json:
        with open(options.json, "w") as output:
            json.dump(rows, output, indent=1)


main()
