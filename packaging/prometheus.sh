#!/bin/sh
# Writes every number of INFO deploy in the text format of Prometheus, for the textfile collector of node_exporter:
#
#   REDISCLI_AUTH=password prometheus.sh --user monitoring -p 6379 >deploy.prom.new && mv deploy.prom.new deploy.prom
#
# The arguments are those of redis-cli.

set -eu
info=$("${REDIS_CLI:-redis-cli}" "$@" INFO deploy)
printf '%s\n' "$info" | tr -d '\r' | awk -F: '
    /^deploy_[a-z0-9_]+:[0-9]+$/ { print "redis_" $1, $2; numbers++ }
    END { if (!numbers) { print "no INFO deploy" >"/dev/stderr"; exit 1 } }'
