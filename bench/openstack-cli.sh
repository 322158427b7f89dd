#!/bin/bash
# What an operator's runbook does today: the steps of option 1 with the plain `openstack` command,
# one after another.
#
#   openstack-cli.sh window|full|incremental|recover
#
# From the environment: PRIMARY, BACKUP (clouds of clouds.yaml); MEMBERS (quiesce order), BOOT (boot
# order); VNF (the VNF file as JSON); STATE (a folder: `answers-MEMBER` are given, what is found and
# made is kept there); NAME of what it makes; OPENSTACK (the command).
#
# curl does what the command cannot: it has no quiesce, and `volume backup record import` of
# openstackclient 10.5 always ends in 404.
set -euo pipefail

FROZEN=()
at_primary() { "$OPENSTACK" --os-cloud "$PRIMARY" "$@"; }
at_backup() { "$OPENSTACK" --os-cloud "$BACKUP" "$@"; }

# field FILE KEY...: a value of a JSON document; the last KEY itself when there is no such value
field() {
    python3 -c '
import json, sys
value = json.load(open(sys.argv[1]))
for key in sys.argv[2:]:
    value = value[int(key)] if isinstance(value, list) else value.get(key, sys.argv[-1])
print(json.dumps(value) if isinstance(value, (dict, list)) else value)' "$@"
}

# call TOKEN METHOD URL [BODY]: one API call that the command line does not know
call() {
    echo 1 >>"$BENCH_CALLS"
    curl -fsS -o /dev/null -X "$2" -H "X-Auth-Token: $1" -H 'Content-Type: application/json' \
        ${4:+-d "$4"} "$3"
}

# public_url CLOUD SERVICE: the public endpoint from the catalog
public_url() {
    "$OPENSTACK" --os-cloud "$1" catalog show "$2" -f json >"$STATE/catalog"
    python3 -c '
import json, sys
endpoints = json.load(sys.stdin)["endpoints"]
print(next(e["url"] for e in endpoints if e["interface"] == "public"))' <"$STATE/catalog"
}

# await SECONDS WANTED COMMAND...: run the command until it prints WANTED; it takes seconds, so no
# pause is needed
await() {
    local deadline=$((SECONDS + $1)) wanted=$2 state
    shift 2
    while state=$("$@") && [[ $state != "$wanted" ]]; do
        [[ ${state,,} == error* ]] && { echo "$*: $state" >&2; return 1; }
        ((SECONDS < deadline)) || { echo "$*: still $state, not $wanted" >&2; return 1; }
    done
    [[ $state == "$wanted" ]]
}

# Whatever happens in the window, everything that may be frozen is thawed, last frozen first.
thaw() {
    trap '' INT TERM
    local deadline=$((SECONDS + 60)) refused
    while ((${#FROZEN[@]})); do
        refused=()
        for ((i = ${#FROZEN[@]} - 1; i >= 0; i--)); do
            call "$TOKEN" POST "$NOVA/servers/${FROZEN[i]}/action" '{"unquiesce": null}' ||
                refused=("${FROZEN[i]}" ${refused[@]+"${refused[@]}"})
        done
        FROZEN=(${refused[@]+"${refused[@]}"})
        ((${#FROZEN[@]})) || break
        ((SECONDS < deadline)) || { echo "MAY STILL BE FROZEN: ${FROZEN[*]}" >&2; exit 1; }
        sleep 1 # a refused thaw has no state to wait for
    done
    trap 'exit 130' INT TERM
}
trap thaw EXIT
trap 'exit 130' INT TERM

discover() {
    local server volume port here key
    for server in $MEMBERS; do
        here=$STATE/$server
        rm -rf "$here.old" && { [[ ! -e $here ]] || mv "$here" "$here.old"; } && mkdir "$here"
        at_primary --os-compute-api-version 2.79 server show "$server" -f json >"$here/server"
        key=$(field "$here/server" key_name)
        at_primary --os-compute-api-version 2.10 keypair show \
            --user "$(field "$here/server" user_id)" --public-key "$key" >"$STATE/key-$key"
        at_primary server volume list "$server" -f json >"$here/attachments"
        python3 -c '
import json, sys
attachments = sorted(json.load(sys.stdin), key=lambda a: a["Device"])
print(*(a["Volume ID"] for a in attachments), sep="\n")' <"$here/attachments" >"$here/volumes"
        while read -r volume; do
            at_primary volume show "$volume" -f json >"$here/volume-$volume"
        done <"$here/volumes"
        at_primary port list --server "$(field "$here/server" id)" -f value -c ID >"$here/ports"
        while read -r port; do
            at_primary port show "$port" -f json >"$here/port-$port"
            at_primary network show "$(field "$here/port-$port" network_id)" \
                -f value -c name >"$here/network-$port"
            at_primary security group show "$(field "$here/port-$port" security_group_ids 0)" \
                -f value -c name >"$here/group-$port"
        done <"$here/ports"
    done
    cat $(printf "$STATE/%s/volumes " $MEMBERS) >"$STATE/volumes"
}

snapshots_in_window() {
    TOKEN=$(at_primary token issue -f value -c id)
    NOVA=$(public_url "$PRIMARY" compute)
    local began server volume id
    : >"$STATE/snapshots"
    began=$(date +%s.%N)
    for server in $MEMBERS; do
        id=$(field "$STATE/$server/server" id)
        FROZEN+=("$id")
        call "$TOKEN" POST "$NOVA/servers/$id/action" '{"quiesce": null}'
    done
    while read -r volume; do
        id=$(at_primary --os-volume-api-version 3.66 volume snapshot create \
            --volume "$volume" "$NAME" -f value -c id)
        echo "$volume $id" >>"$STATE/snapshots"
        await 60 available at_primary volume snapshot show "$id" -f value -c status
    done <"$STATE/volumes"
    thaw
    WINDOW=$(python3 -c 'import sys, time; print(time.time() - float(sys.argv[1]))' "$began")
}

# back_up [--incremental]
back_up() {
    local volume snapshot id
    while read -r volume snapshot; do
        id=$(at_primary volume backup create --snapshot "$snapshot" "$@" --force --name "$NAME" \
            "$volume" -f value -c id)
        await 1200 available at_primary volume backup show "$id" -f value -c status
        at_primary volume backup record export "$id" -f json >"$STATE/record-$id"
        echo "$id" >>"$STATE/chain-$volume"
    done <"$STATE/snapshots"
}

remove_snapshots() {
    at_primary volume snapshot delete $(cut -d' ' -f2 "$STATE/snapshots")
}

# mapped KIND NAME: the name at the backup site
mapped() { field "$VNF" map "$1" "$2"; }

# restore SERVER VOLUME: import the chain, base first, and create the volume from its last backup
restore() {
    local file=$STATE/$1/volume-$2 id newest
    while read -r id; do
        call "$TOKEN" POST "$CINDER/backups/import_record" "$(python3 -c '
import json, sys
record = json.load(open(sys.argv[1]))
fields = {key: record[key] for key in ("backup_service", "backup_url")}
print(json.dumps({"backup-record": fields}))' "$STATE/record-$id")"
        await 300 available at_backup volume backup show "$id" -f value -c status
        newest=$id
    done <"$STATE/chain-$2"
    id=$(at_backup --os-volume-api-version 3.47 volume create --backup "$newest" \
        --size "$(field "$file" size)" --type "$(mapped volume_types "$(field "$file" type)")" \
        "$(field "$file" name)" -f value -c id)
    await 1200 available at_backup volume show "$id" -f value -c status
    echo "$id" >>"$STATE/$1/restored"
}

# boot SERVER: its ports with their MAC and address, the server from its volumes, until it answers
boot() {
    local here=$STATE/$1 port disk options=() root=1
    while read -r disk; do
        if ((root)); then
            options+=(--volume "$disk")
        else
            options+=(--block-device "uuid=$disk,source_type=volume,destination_type=volume")
        fi
        root=0
    done <"$here/restored"
    while read -r port; do
        options+=(--port "$(at_backup port create \
            --network "$(mapped networks "$(<"$here/network-$port")")" \
            --mac-address "$(field "$here/port-$port" mac_address)" \
            --fixed-ip "ip-address=$(field "$here/port-$port" fixed_ips 0 ip_address)" \
            --security-group "$(mapped security_groups "$(<"$here/group-$port")")" \
            "$1" -f value -c id)")
    done <"$here/ports"
    field "$here/server" OS-EXT-SRV-ATTR:user_data | base64 -d >"$here/user_data"
    at_backup server create "$1" --key-name "$(field "$here/server" key_name)" \
        --flavor "$(mapped flavors "$(field "$here/server" flavor original_name)")" \
        "${options[@]}" --user-data "$here/user_data" \
        --config-drive "$(field "$here/server" config_drive | sed s/^$/False/)" \
        -f value -c id >"$here/booted"
    await 300 ACTIVE at_backup server show "$(<"$here/booted")" -f value -c status
    port=$(head -1 "$here/ports")
    until bash "$STATE/answers-$1" "$(field "$here/port-$port" fixed_ips 0 ip_address)"; do
        ((SECONDS < 1800)) || { echo "$1 does not answer" >&2; exit 1; }
    done
}

recover() {
    TOKEN=$(at_backup token issue -f value -c id)
    CINDER=$(public_url "$BACKUP" block-storage)
    local server volume key
    for key in "$STATE"/key-*; do
        at_backup keypair show "${key##*/key-}" >/dev/null 2>&1 ||
            at_backup keypair create --public-key "$key" "${key##*/key-}" >/dev/null
    done
    for server in $MEMBERS; do
        rm -f "$STATE/$server/restored"
        while read -r volume; do
            restore "$server" "$volume"
        done <"$STATE/$server/volumes"
    done
    for server in $BOOT; do boot "$server"; done
}

WINDOW=null
case $1 in
    window | full | incremental)
        discover
        snapshots_in_window
        [[ $1 != full ]] || rm -f "$STATE"/chain-*
        case $1 in
            full) back_up ;;
            incremental) back_up --incremental ;;
        esac
        DONE=$(date +%s.%N)
        remove_snapshots
        ;;
    recover)
        recover
        DONE=$(date +%s.%N)
        ;;
esac
echo "{\"window_s\": $WINDOW, \"done_at\": $DONE}"
