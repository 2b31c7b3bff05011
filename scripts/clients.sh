# Client libraries of the coordinators in examples/ and of the cookbook, for the tests that run them. Sourced, not run.
# They are pinned by version and checksum in examples/requirements.txt and examples/package-lock.json. Debian packages are
# not used: they are older, and only Debian's own python3 and node find them.

# fetch_clients: installs the libraries. A failure is logged here, and fails the tests that need the library.
fetch_clients() {
    python3 -m pip --version >/dev/null 2>&1 || install_packages python3 python3-pip
    { command -v node && command -v npm; } >/dev/null || install_packages nodejs npm
    install_if_changed "$root/examples/requirements.txt" "$root/.clients" install_redis_py ||
        say "redis-py could not be installed (see above)"
    install_if_changed "$root/examples/package-lock.json" "$root/examples/node_modules" install_node_clients ||
        say "node-redis and ioredis could not be installed (see above)"
}

# install_if_changed LIST FOLDER COMMAND: runs the command, unless the folder was installed from the same list.
install_if_changed() {
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

install_node_clients() {
    say "fetching node-redis and ioredis"
    (cd "$root/examples" && npm ci --silent --include=dev --ignore-scripts --no-audit --no-fund >&2)
}
