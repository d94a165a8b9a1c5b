#!/usr/bin/env bash
# One SLURM node on loopback for tests: node.sh up DIR | down DIR. Needs root and, once, Debian's
# packages slurm-wlm and munge. All of its files, keys and sockets lie in DIR; no accounting.
set -euo pipefail
action=${1:?up or down} root=${2:?folder}
port=${SLURM_TEST_PORT:-17817} host=$(hostname -s)
export SLURM_CONF=$root/slurm.conf

missing() {
  echo "make test-slurm: $1" >&2
  exit 3
}

install_packages() {
  command -v slurmctld slurmd munged >/dev/null && return
  [ "$(id -u)" = 0 ] || missing "slurm-wlm and munge are not installed; run it as root, or install them"
  command -v apt-get >/dev/null || missing "there is no apt-get; install SLURM and munge by hand"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null ||
    missing "apt-get cannot install slurm-wlm and munge"
}

configure() {
  mkdir -p "$root"/{munge,state,spool,log,run}
  chmod 0755 "$root" && chmod 0700 "$root/munge" && chmod 0711 "$root/run"
  [ -s "$root/munge/key" ] || (umask 077 && head -c 1024 /dev/urandom >"$root/munge/key")
  cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthType=auth/munge
# A requeued job waits until its old credential has expired; two minutes otherwise.
AuthInfo=socket=$root/run/munge.sock,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool
SlurmctldPidFile=$root/run/slurmctld.pid
SlurmdPidFile=$root/run/slurmd.pid
SlurmctldLogFile=$root/log/slurmctld.log
SlurmdLogFile=$root/log/slurmd.log
MailProg=/bin/true
MpiDefault=none
KillWait=3
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
}

up() {
  install_packages
  configure
  munged --key-file="$root/munge/key" --socket="$root/run/munge.sock" --force \
    --pid-file="$root/run/munged.pid" --log-file="$root/log/munged.log" \
    --seed-file="$root/munge/seed" 2>/dev/null
  slurmctld -i
  slurmd -N "$host"
  for _ in $(seq 300); do
    [ "$(sinfo -h -o %T 2>/dev/null)" = idle ] && return
    sleep 0.2
  done
  tail -n 5 "$root"/log/*.log >&2
  missing "the node did not come up"
}

down() {
  for daemon in slurmd slurmctld munged; do
    file=$root/run/$daemon.pid
    [ -s "$file" ] || continue
    pid=$(cat "$file")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 50); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.2
    done
    kill -9 "$pid" 2>/dev/null || true
  done
}

"$action"
