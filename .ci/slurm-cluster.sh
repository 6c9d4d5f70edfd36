#!/bin/bash
# A real Slurm cluster on one Debian machine, for tests: a controller and nodes of one pretended GPU each. As root.
#   slurm-cluster.sh install | start [NODES] | controller | node N | stop
# `start` prints the line by which Slurm's commands find it. Everything lies in $SLURM_TEST_DIR.
set -euo pipefail

dir=${SLURM_TEST_DIR:-/tmp/stackbench-slurm}
port=${SLURM_TEST_PORT:-16917}
export SLURM_CONF=$dir/slurm.conf

install_packages() {
  command -v slurmctld >/dev/null && command -v munged >/dev/null && return
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
}

# Nodes share this machine: tasks are not bound to its CPUs. Short timeouts, so that a killed node is noticed soon.
configure() {
  local nodes=$1 host
  host=$(hostname -s)
  mkdir -p "$dir/state"
  cat > "$SLURM_CONF" <<CONF
ClusterName=bench
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=10
SlurmdTimeout=15
GresTypes=gpu
NodeName=gpu[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=$(nproc) RealMemory=2000 Gres=gpu:1 State=UNKNOWN
PartitionName=gpu Nodes=gpu[1-$nodes] Default=YES MaxTime=1:00:00 State=UP OverSubscribe=EXCLUSIVE
CONF
  echo "NodeName=gpu[1-$nodes] Name=gpu File=/dev/null" > "$dir/gres.conf"
  [ -d /sys/fs/cgroup/cpu ] && echo "CgroupPlugin=cgroup/v1" > "$dir/cgroup.conf" || : > "$dir/cgroup.conf"
}

start_munge() {
  pgrep -x munged >/dev/null && return
  mkdir -p /run/munge
  chown munge:munge /run/munge
  su -s /bin/sh munge -c /usr/sbin/munged
}

controller() { setsid slurmctld -D >"$dir/slurmctld.out" 2>&1 </dev/null & }
node() { setsid slurmd -D -N "gpu$1" >"$dir/slurmd.gpu$1.out" 2>&1 </dev/null & }

wait_for() {  # wait_for SECONDS COMMAND…: until it succeeds
  local until=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $until ] || { echo "slurm-cluster: not in time: $*" >&2; tail -5 "$dir"/*.log >&2; exit 1; }
    sleep 0.2
  done
}

idle() { [ "$(sinfo --noheader --Node --format=%T | grep -cx idle)" = "$1" ]; }

case ${1:-start} in
install) install_packages ;;
start)
  nodes=${2:-3}
  install_packages
  configure "$nodes"
  start_munge
  controller
  wait_for 20 scontrol ping
  for n in $(seq "$nodes"); do node "$n"; done
  wait_for 30 idle "$nodes"
  echo "export SLURM_CONF=$SLURM_CONF"
  ;;
controller) controller ;;
node) node "$2" ;;
stop)
  for file in "$dir"/*.pid; do
    [ -f "$file" ] && kill -9 "$(cat "$file")" 2>/dev/null || true
  done
  rm -rf "$dir"
  ;;
*) echo "slurm-cluster: install, start [NODES], controller, node N or stop" >&2; exit 2 ;;
esac
