#!/bin/sh
# A machine that goes down and comes back: an engine whose processes all end, and which nobody but this script starts.
# Usage, as root in a network, mount and process namespace of its own: machine.sh FOLDER
#
# FOLDER keeps the engine's data, its socket and its log. A line in the pipe FOLDER/power takes the machine down: "reboot"
# asks the engine, which stops its containers; "cut" ends every process at once. Then it comes back. After "off" it does not.
set -eu
folder=$1
name=$(basename "$folder")

ip link set lo up
# An engine uses the containerd of the system where it finds one, and that one outlives this machine.
[ ! -d /run/containerd ] || mount -t tmpfs tmpfs /run/containerd
echo '{}' >"$folder/daemon.json"
mkfifo "$folder/power"
# Open for writing, too, so that the end of one writer is not the end of the pipe.
exec 3<>"$folder/power"

# Removes the cgroups of the containers. A frozen process ends only once it is thawed. Fails while a process is left.
clear_cgroups() {
  for root in /sys/fs/cgroup/*/"$name" /sys/fs/cgroup/"$name"; do
    [ -d "$root" ] || continue
    for container in "$root"/*/; do
      [ ! -e "$container/freezer.state" ] || echo THAWED >"$container/freezer.state"
      [ ! -e "$container/cgroup.freeze" ] || echo 0 >"$container/cgroup.freeze"
    done
    find "$root" -depth -type d -exec rmdir {} + 2>/dev/null || return 1
  done
}

while :; do
  # What a machine loses when it goes down: files in memory and the state of its network.
  rm -rf "$folder/exec" "$folder/engine.pid" "$folder/engine.sock"
  for bridge in $(ip -o link show type bridge | cut -d: -f2); do ip link delete "$bridge"; done
  nft flush ruleset
  unshare --mount --pid --fork --kill-child --mount-proc \
    dockerd --config-file="$folder/daemon.json" --host="unix://$folder/engine.sock" --pidfile="$folder/engine.pid" \
    --data-root="$folder/engine" --exec-root="$folder/exec" --storage-driver=overlay2 --shutdown-timeout=15 \
    --exec-opt=native.cgroupdriver=cgroupfs --cgroup-parent="/$name" >>"$folder/log" 2>&1 3>&- &
  namespace=$!
  read -r how <&3
  case $how in
    reboot)
      # The only child: PID 1 of the engine's namespace.
      kill $(cat "/proc/$namespace/task/$namespace/children")
      ;;
    *) kill -KILL "$namespace" ;;
  esac
  wait "$namespace" || true
  until clear_cgroups; do sleep 0.1; done
  echo "down: $how" >>"$folder/log"
  [ "$how" != off ] || exit 0
done
