#!/bin/sh
# The least of a claude CLI, in a shell because that starts a hundred times sooner than an interpreter:
# it answers every control request and every message, at once. A word in the file .fault of its
# working directory is what goes wrong: exit (at once), mute (never ready), deaf (ready, then nothing).
fault=
[ -r .fault ] && read -r fault <.fault
[ "$fault" = exit ] && exit 3
session=
for word in "$@"; do
    case $word in
    --session-id=* | --resume=*) session=${word#*=} ;;
    --session-id | --resume) session=next ;;
    *) [ "$session" = next ] && session=$word ;;
    esac
done
ids='"session_id":"'$session'","uuid":"00000000-0000-4000-8000-000000000000"'
state() { printf '{"type":"system","subtype":"session_state_changed","state":"%s",%s}\n' "$1" "$ids"; }
life() { printf '{"type":"command_lifecycle","command_uuid":"%s","state":"%s",%s}\n' "$uuid" "$1" "$ids"; }
value() { # value NAME LINE: the first string with this name
    rest=${2#*\"$1\":\"}
    printf %s "${rest%%\"*}"
}
while read -r line; do
    [ "$fault" = mute ] && continue
    case $line in
    *'"type":"control_request"'*)
        printf '{"type":"control_response","response":{"subtype":"success","request_id":"%s","response":%s}}\n' \
            "$(value request_id "$line")" '{"commands":[],"session_state":"idle","hooks_applied":true}'
        [ "$fault" = deaf ] && exec sleep 600
        ;;
    *'"type":"user"'*)
        uuid=$(value uuid "$line")
        state running
        life queued
        life started
        printf '{"type":"assistant","message":{"id":"m","type":"message","role":"assistant","content":[{"type":"text","text":"yes"}]},%s}\n' "$ids"
        printf '{"type":"result","subtype":"success","is_error":false,"result":"yes","num_turns":1,"usage":{},%s}\n' "$ids"
        life completed
        state idle
        ;;
    esac
done
