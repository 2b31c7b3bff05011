# The client libraries that the coordinators in examples/ are written with, for the tests that run them. Sourced, not run.
# Each is pinned by version and checksum: examples/requirements.txt, examples/package-lock.json. Not as Debian packages,
# which only Debian's own python3 and node would find, and which are some years old.

# fetch_clients: what cannot be had is told here, and fails the tests that need it.
fetch_clients() {
    python3 -m pip --version >/dev/null 2>&1 || install_packages python3 python3-pip
    { command -v node && command -v npm; } >/dev/null || install_packages nodejs npm
    once_for "$root/examples/requirements.txt" "$root/.clients" install_redis_py || say "redis-py could not be had (see above)"
    once_for "$root/examples/package-lock.json" "$root/examples/node_modules" install_node_redis ||
        say "node-redis could not be had (see above)"
}

# once_for LIST FOLDER COMMAND: runs the command, unless the folder has what the list asks for.
once_for() {
    local stamp
    stamp=$(sha256sum <"$1")
    [ "$(cat "$2/.made-for" 2>/dev/null)" != "$stamp" ] || return 0
    rm -rf "$2"
    "$3" "$2" && echo "$stamp" >"$2/.made-for"
}

install_redis_py() {
    say "fetching redis-py"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary=:all: \
        --require-hashes --requirement "$root/examples/requirements.txt" --target "$1" >&2
}

install_node_redis() {
    say "fetching node-redis"
    (cd "$root/examples" && npm ci --silent --ignore-scripts --no-audit --no-fund >&2)
}
