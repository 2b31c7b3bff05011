# Functions shared by the scripts in this directory. Sourced, not run.

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
        die "root is required and sudo is missing; run as root: $*"
    fi
}

apt_updated=
# install_packages NAME…: installs Debian packages. apt's lists are updated once per run, before the first installation.
install_packages() {
    command -v apt-get >/dev/null || die "missing: $*. They are installed automatically on Debian only; install them and run this script again"
    say "installing $*"
    if [ -z "$apt_updated" ]; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2
        apt_updated=1
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" >&2
}

# The headers of libclang's development package are needed too: libclang.so.1 alone is not enough.
has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] || compgen -G '/usr/lib/llvm-*/lib/libclang.so' >/dev/null
}

# Installs the tools that are needed to build and run the module.
require_tools() {
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
    [ -f "$module" ] || die "the build did not produce $module"
}
