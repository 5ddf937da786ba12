#!/bin/sh
# Starts Alertmanager with alertmanager.yml and the receiver that METRICLOG_ALERT_WEBHOOK names; more arguments go to it.
# METRICLOG_ALERT_TYPE is webhook, slack, discord or, by the address, auto. Only this user can read what results.
set -eu
here=$(dirname "$0")
url=${METRICLOG_ALERT_WEBHOOK:-}

case "${METRICLOG_ALERT_TYPE:-auto} $url" in
  *" ") receiver=nobody url=http://webhook.invalid/ ;;
  slack\ * | auto\ https://hooks.slack.com/*) receiver=slack ;;
  discord\ * | auto\ https://discord.com/* | auto\ https://discordapp.com/*) receiver=discord ;;
  webhook\ * | auto\ *) receiver=webhook ;;
  *)
    echo "METRICLOG_ALERT_TYPE must be auto, webhook, slack or discord" >&2
    exit 1
    ;;
esac
case "$url" in
  *[!A-Za-z0-9:/?\&=%._~+,\;@#!*\(\)-]*)
    echo "METRICLOG_ALERT_WEBHOOK holds a character that is in no address" >&2
    exit 1
    ;;
esac

made=$(mktemp)
# By awk, not by sed, to which an & is an order. In the environment, because everybody can see arguments.
URL=$url RECEIVER=$receiver awk '
  /^  receiver: nobody/ { $0 = "  receiver: " ENVIRON["RECEIVER"] }
  at = index($0, "http://webhook.invalid/") { $0 = substr($0, 1, at - 1) ENVIRON["URL"] "\"" }
  { print }
' "$here/alertmanager.yml" >"$made"

program=$(command -v alertmanager || command -v prometheus-alertmanager)
exec "$program" --config.file="$made" "$@"
