#!/bin/bash
# A real Slurm cluster on one Debian machine, for tests: a controller and nodes of one pretended GPU each. As root.
#   slurm-cluster.sh install | start [NODES] | controller | node N | accounting | stop
# `start` prints the line by which Slurm's commands find it. Everything lies in $SLURM_TEST_DIR. With SLURM_TEST_ACCOUNTING
# it has accounting: a slurmdbd and a MariaDB of its own. It uses NODES + 3 ports from $SLURM_TEST_PORT on.
set -euo pipefail

dir=${SLURM_TEST_DIR:-/tmp/stackbench-slurm}
port=${SLURM_TEST_PORT:-16917}
accounting=${SLURM_TEST_ACCOUNTING:-}
host=$(hostname -s)
export SLURM_CONF=$dir/slurm.conf

install_packages() {
  local packages=()
  command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v srun >/dev/null || packages+=(slurm-wlm)
  command -v munged >/dev/null || packages+=(munge)
  command -v slurmdbd >/dev/null || packages+=(slurmdbd)
  command -v mariadbd >/dev/null || packages+=(mariadb-server-core)
  command -v pgrep >/dev/null || packages+=(procps)
  [ ${#packages[@]} -eq 0 ] && return
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}

# Nodes share this machine: tasks are not bound to its CPUs. Short timeouts, so that a killed node is noticed soon; jobs
# begin when they are submitted, and not up to three seconds later.
configure() {
  local nodes=$1
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
SchedulerParameters=batch_sched_delay=0
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=10
SlurmdTimeout=15
GresTypes=gpu
NodeName=gpu[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=$(nproc) RealMemory=2000 Gres=gpu:1 State=UNKNOWN
PartitionName=gpu Nodes=gpu[1-$nodes] Default=YES MaxTime=1:00:00 State=UP OverSubscribe=EXCLUSIVE
CONF
  [ -z "$accounting" ] || cat >> "$SLURM_CONF" <<CONF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + nodes + 1))
JobAcctGatherType=jobacct_gather/none
CONF
  echo "NodeName=gpu[1-$nodes] Name=gpu File=/dev/null" > "$dir/gres.conf"
  [ -d /sys/fs/cgroup/cpu ] && echo "CgroupPlugin=cgroup/v1" > "$dir/cgroup.conf" || : > "$dir/cgroup.conf"
}

start_munge() {  # one for all clusters, of which several may start at once
  (
    flock 9
    pgrep -x munged >/dev/null && exit
    mkdir -p /run/munge
    chown munge:munge /run/munge
    su -s /bin/sh munge -c /usr/sbin/munged 9>&-
  ) 9>/run/stackbench-munge.lock
}

# An empty one, that lets everybody in.
database() {
  mkdir -p "$dir/database"
  setsid mariadbd --no-defaults --user=root --datadir="$dir/database" --skip-grant-tables --socket="$dir/database.sock" \
    --pid-file="$dir/database.pid" --bind-address=127.0.0.1 --port=$((port + $1 + 2)) --innodb-buffer-pool-size=16M \
    --innodb-lock-wait-timeout=900 --performance-schema=OFF >"$dir/database.out" 2>&1 </dev/null &
  wait_for 60 test -S "$dir/database.sock"
}

accounting() {  # accounting NODES: starts slurmdbd
  # The file holds a password as a rule: slurmdbd refuses one that others can read.
  (umask 077; cat > "$dir/slurmdbd.conf" <<CONF
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=$((port + $1 + 1))
SlurmUser=root
AuthType=auth/munge
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((port + $1 + 2))
StorageUser=root
StorageLoc=slurm
PidFile=$dir/slurmdbd.pid
LogFile=$dir/slurmdbd.log
CONF
  )
  SLURM_CONF=$dir/slurmdbd.conf setsid slurmdbd -D >"$dir/slurmdbd.out" 2>&1 </dev/null &
  wait_for 60 sacctmgr --noheader show cluster
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
  if [ -n "$accounting" ]; then
    database "$nodes"
    accounting "$nodes"
    sacctmgr --immediate --quiet add cluster bench >/dev/null
  fi
  controller
  wait_for 60 scontrol ping
  for n in $(seq "$nodes"); do node "$n"; done
  wait_for 60 idle "$nodes"
  echo "export SLURM_CONF=$SLURM_CONF"
  ;;
controller) controller ;;
node) node "$2" ;;
accounting) accounting "$(grep -c . <(scontrol show hostnames "$(sed -n 's/^NodeName=\(\S*\).*/\1/p' "$SLURM_CONF")"))" ;;
stop)
  for file in "$dir"/*.pid; do
    [ -f "$file" ] && kill -9 "$(cat "$file")" 2>/dev/null || true
  done
  rm -rf "$dir"
  ;;
*) echo "slurm-cluster: install, start [NODES], controller, node N, accounting or stop" >&2; exit 2 ;;
esac
