# What the scripts beside this one share. Sourced, not run.

set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
servers_dir=$root/.servers
release_dir=${CARGO_TARGET_DIR:-$root/target}/release
module=$release_dir/libredis_deploy.so

say() { printf '%s\n' "== $*" >&2; }
die() { printf '%s\n' "error: $*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "installing needs root, and there is no sudo; please run as root: $*"
    fi
}

apt_updated=
# Installs Debian packages; apt's lists are refreshed once per run, and only where something is missing.
install_packages() {
    command -v apt-get >/dev/null || die "missing: $*. This script installs them on Debian only; please install them and run it again"
    say "installing $*"
    if [ -z "$apt_updated" ]; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2
        apt_updated=1
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" >&2
}

# The headers that come with libclang's development package are needed too: a bare libclang.so.1 is not enough.
has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] || compgen -G '/usr/lib/llvm-*/lib/libclang.so' >/dev/null
}

# Everything that building and running the module takes.
need_tools() {
    local missing=()
    if ! command -v cargo >/dev/null && [ -f "$HOME/.cargo/env" ]; then
        . "$HOME/.cargo/env"
    fi
    command -v cargo >/dev/null || die "cargo is missing: install Rust 1.88 or newer with rustup"
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    has_libclang || missing+=(libclang-dev)
    command -v "${REDIS_SERVER:-redis-server}" >/dev/null || missing+=(redis-server)
    command -v redis-cli >/dev/null || missing+=(redis-tools)
    [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
}

build_module() {
    say "building the module (release)"
    (cd "$root" && cargo build --release --locked)
    [ -f "$module" ] || die "the build made no $module"
}
