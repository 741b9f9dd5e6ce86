#!/usr/bin/env python3
"""Whole commands of keepfs beside restic, rustic and borg, in one run, as ratios. Python's standard library only.

    cargo build --release
    benches/peers.py --corpus DIR [--corpus DIR2 …] [--work DIR] [--reps 3] [--tools keepfs,restic,borg]

For each corpus (a directory) every tool makes a first backup, a backup with nothing changed, a copy into a second
repository with another password, the copy again, and a restore; the order of the tools rotates. Wall time, CPU time
and peak memory are those of the whole process tree; stored bytes are the sizes of the files in the repository. All
tools encrypt and compress with zstd 3 (restic: its default). keepfs opens its repositories with key files, as a
password costs 0.2 s of Argon2id on purpose; that cost has a row of its own. Tools that are not installed are left
out and named.
"""
import argparse, json, os, resource, shutil, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
KEEPFS = os.path.join(HERE, "..", "target", "release", "keepfs")


def run(command, env):
    """Wall and CPU seconds, peak resident MiB of the largest process."""
    began = time.monotonic()
    child = subprocess.Popen(["/bin/bash", "-euc", command], env={**os.environ, **env},
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - began
    if status:
        sys.exit(f"failed: {command}\n{error.decode(errors='replace')}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss / 1024}


def stored(path):
    return sum(os.lstat(os.path.join(d, f)).st_size for d, _, files in os.walk(path) for f in files)


class Tool:
    """Commands as shell lines; {w} is the tool's own directory, {c} the corpus, {o} where to restore."""
    env = {}
    def found(self): return shutil.which(self.exe)


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
    env = {"XDG_CACHE_HOME": "{w}/cache"}


class Restic(Tool):
    name, exe = "restic", os.environ.get("RESTIC", "restic")
    env = {"RESTIC_PASSWORD": "a", "RESTIC_FROM_PASSWORD": "a", "RESTIC_CACHE_DIR": "{w}/cache", "RESTIC_REPOSITORY": "{w}/a"}
    setup = "{exe} init; RESTIC_PASSWORD=b {exe} -r {w}/b init --copy-chunker-params --from-repo {w}/a"
    backup = "cd {c} && {exe} -q backup ."
    again = backup
    copy = "RESTIC_PASSWORD=b {exe} -q -r {w}/b copy --from-repo {w}/a"
    restore = "{exe} -q restore latest --target {o}"


class Rustic(Tool):
    name, exe = "rustic", os.environ.get("RUSTIC", "rustic")
    env = {"RUSTIC_PASSWORD": "a", "RUSTIC_REPOSITORY": "{w}/a", "RUSTIC_CACHE_DIR": "{w}/cache", "RUSTIC_NO_PROGRESS": "true"}
    setup = ("{exe} init --set-compression 3; cd {w}; printf '[repository]\\nrepository = \"{w}/b\"\\npassword = \"b\"\\n' > t.toml")
    backup = "cd {c} && {exe} backup ."
    again = backup
    copy = "cd {w} && {exe} copy $(test -d {w}/b || echo --init) --target t"
    restore = "{exe} restore latest {o}"


class Borg(Tool):
    name, exe = "borg", os.environ.get("BORG", "borg")
    env = {"BORG_BASE_DIR": "{w}/base", "BORG_PASSPHRASE": "a", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}
    setup = "{exe} init -e repokey-blake2 {w}/a; BORG_PASSPHRASE=b {exe} init -e repokey-blake2 {w}/b"
    backup = "cd {c} && {exe} create -C zstd,3 {w}/a::p$(date +%s%N) ."
    again = backup
    copy = ""
    restore = "cd {o} && {exe} extract {w}/a::$({exe} list --last 1 --format '{{archive}}' {w}/a)"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", action="append", required=True)
    parser.add_argument("--work", default=tempfile.gettempdir())
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--tools", default="keepfs,restic,rustic,borg")
    parser.add_argument("--json", help="also write every measurement to this file")
    options = parser.parse_args()
    wanted = options.tools.split(",")
    tools = [tool() for tool in (Keepfs, Restic, Rustic, Borg) if tool.name in wanted]
    for tool in tools:
        if not tool.found():
            print(f"left out, not installed: {tool.name}")
    tools = [tool for tool in tools if tool.found()]
    rows = []
    for corpus in options.corpus:
        corpus = os.path.realpath(corpus)
        subprocess.run(["bash", "-c", f"find '{corpus}' -type f -print0 | xargs -0 cat > /dev/null"])
        for rep in range(options.reps):
            for tool in tools[rep % len(tools):] + tools[:rep % len(tools)]:
                rows += measure(tool, corpus, options.work, rep)
    report(rows, options.corpus)
    if options.json:
        with open(options.json, "w") as output:
            json.dump(rows, output, indent=1)


def measure(tool, corpus, work, rep):
    directory = tempfile.mkdtemp(prefix=f"bench-{tool.name}-", dir=work)
    rows = []
    try:
        places = {"w": directory, "c": corpus, "o": directory + "/out", "exe": tool.exe}
        env = {key: value.format(**places) for key, value in tool.env.items()}
        os.mkdir(places["o"])
        run(tool.setup.format(**places), env)
        for step in ("backup", "again", "copy", "copy again", "restore"):
            command = getattr(tool, step.split()[0] if step != "again" else "again")
            if not command:
                continue
            row = {"corpus": corpus, "tool": tool.name, "step": step, "rep": rep, **run(command.format(**places), env)}
            if step == "backup":
                row["stored"] = stored(directory + "/a")
            rows.append(row)
            print(json.dumps(row), flush=True)
            os.sync()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return rows


def report(rows, corpora):
    median = lambda tool, corpus, step, what: statistics.median(
        [row[what] for row in rows if (row["tool"], row["corpus"], row["step"]) == (tool, os.path.realpath(corpus), step) and what in row] or [float("nan")])
    names = list(dict.fromkeys(row["tool"] for row in rows))
    for corpus in corpora:
        print(f"\n{os.path.basename(os.path.normpath(corpus))} (medians; keepfs as a share of each peer in brackets)\n")
        print("| step | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
        for step in ("backup", "again", "copy", "copy again", "restore"):
            for what, unit in (("wall", "s"), ("rss", "MiB")) + ((("stored", "MB"),) if step == "backup" else ()):
                cells = []
                own = median("keepfs", corpus, step, what)
                for name in names:
                    value = median(name, corpus, step, what)
                    shown = value / 1e6 if what == "stored" else value
                    cells.append(f"{shown:.2f}" + (f" ({own / value:.2f})" if name != "keepfs" else ""))
                print(f"| {step}, {what} {unit} | " + " | ".join(cells) + " |")


main()
