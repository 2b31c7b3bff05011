# Static checks: format, lints and dependencies. Sourced, not run.
#
# Each check counts as one test in checks_passed, checks_failed or checks_skipped.

checks_passed=0
checks_failed=0
checks_skipped=0

# run_check NAME COMMAND…: runs a check and counts its result.
run_check() {
    local name=$1
    shift
    say "checking $name"
    if (cd "$root" && "$@"); then
        checks_passed=$((checks_passed + 1))
    else
        say "FAILED: $name: $*"
        checks_failed=$((checks_failed + 1))
    fi
}

# skip_check NAME REASON: counts a check that cannot run here.
skip_check() {
    say "SKIPPED: $1: $2"
    checks_skipped=$((checks_skipped + 1))
}

# has_component SUBCOMMAND COMPONENT: whether cargo has a subcommand, after trying to install its component with rustup.
has_component() {
    cargo "$1" --version >/dev/null 2>&1 && return 0
    command -v rustup >/dev/null || return 1
    say "installing $2"
    rustup component add "$2" >&2 && cargo "$1" --version >/dev/null 2>&1
}

check_format() {
    if ! has_component fmt rustfmt; then
        skip_check format "rustfmt is not installed"
        return 0
    fi
    run_check "format of the module" cargo fmt --all --check
    run_check "format of benches" cargo fmt --check --all --manifest-path benches/Cargo.toml
    run_check "format of fuzz" cargo fmt --check --manifest-path fuzz/Cargo.toml
}

check_lints() {
    if has_component clippy clippy; then
        run_check lints cargo clippy --locked --workspace --all-targets -- -D warnings
    else
        skip_check lints "clippy is not installed"
    fi
}

# Licenses, bans and sources are checked offline. Advisories need a database that cargo-deny downloads.
check_dependencies() {
    local log
    if ! cargo deny --version >/dev/null 2>&1; then
        skip_check dependencies "cargo-deny is not installed (cargo install cargo-deny --locked)"
        return 0
    fi
    run_check "licenses and sources" cargo deny --locked check bans licenses sources
    log=$(mktemp)
    if (cd "$root" && cargo deny --locked check advisories) 2>&1 | tee "$log" >&2; then
        checks_passed=$((checks_passed + 1))
    elif grep -q 'failed to fetch advisory database' "$log"; then
        skip_check advisories "the advisory database cannot be downloaded"
    else
        say "FAILED: advisories: cargo deny check advisories"
        checks_failed=$((checks_failed + 1))
    fi
    rm -f "$log"
}

run_checks() {
    check_format
    check_lints
    check_dependencies
}
