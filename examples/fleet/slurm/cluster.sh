#!/bin/sh
# A Slurm cluster of one node on this machine, to try a fleet on: as root, on Debian or Ubuntu, also in a container.
#
#   cluster.sh start FOLDER [SLOTS]   install Slurm if it is missing, and start it; FOLDER holds all that it writes
#   cluster.sh stop FOLDER
#
# It listens on this machine only, and has no accounting. Commands find it by /etc/slurm/slurm.conf, a link into FOLDER:
# variables such as SLURM_CONF do not reach the jobs.
set -eu
FOLDER=$(realpath -m "$2")
FOUND=/etc/slurm/slurm.conf
STATE=$FOLDER/state
HOST=$(hostname -s)

start() {
    if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends munge slurm-wlm >/dev/null
    fi
    mkdir -p "$STATE" "$FOLDER/spool" /run/munge
    chown munge: /run/munge
    pgrep -x munged >/dev/null || runuser -u munge -- munged
    configure "$1" >"$FOLDER/slurm.conf"
    if [ -e "$FOUND" ] && [ ! -L "$FOUND" ]; then
        echo "cluster.sh: $FOUND is of another cluster: remove it first" >&2
        exit 1
    fi
    mkdir -p "$(dirname "$FOUND")"
    ln -sfn "$FOLDER/slurm.conf" "$FOUND"
    slurmctld
    slurmd
    for _ in $(seq 60); do
        if sinfo --noheader --states=idle --format=%n 2>/dev/null | grep -q .; then
            sinfo
            return
        fi
        sleep 1
    done
    echo "cluster.sh: the node is not idle after a minute: see $FOLDER/slurmctld.log and slurmd.log" >&2
    exit 1
}

# Slots may be more than the machine has cores: jobs then share them, as in a test of many jobs on a small machine.
configure() {
    cat <<END
ClusterName=mx
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$STATE
SlurmdSpoolDir=$FOLDER/spool
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/slurmd.pid
SlurmctldLogFile=$FOLDER/slurmctld.log
SlurmdLogFile=$FOLDER/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=200000,batch_sched_delay=0
MaxJobCount=20000
MinJobAge=86400
KillWait=5
ReturnToService=2
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$1 RealMemory=$(free -m | awk '/^Mem/ {print $2}') State=UNKNOWN
PartitionName=main Nodes=$HOST Default=YES MaxTime=INFINITE State=UP
END
}

stop() {
    for name in slurmctld slurmd; do
        if [ -f "$FOLDER/$name.pid" ]; then
            kill "$(cat "$FOLDER/$name.pid")" 2>/dev/null || true
        fi
    done
    if [ "$(readlink "$FOUND")" = "$FOLDER/slurm.conf" ]; then
        rm "$FOUND"
    fi
}

case $1 in
start) start "${3:-$(nproc)}" ;;
stop) stop ;;
*) echo "cluster.sh: start or stop" >&2 && exit 2 ;;
esac
