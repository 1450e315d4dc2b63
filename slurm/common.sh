# shellcheck shell=bash
# What the batch scripts of this folder share. It is sourced by the shell that Slurm starts on the first node.
#
#   neucore_begin             site file, node and rank counts, rendezvous; ends the job with a sentence if it cannot
#   neucore_launch PROGRAM…   run `python PROGRAM…` as one process per rank, in the background; sets neucore_step
#   neucore_await             wait for it and hand signals on; sets neucore_code, the exit code of rank 0
#   neucore_finish            requeue, or leave with neucore_code
#
# Sbatch runs a copy of the script, so that every path starts from the folder of submission (or NEUCORE_HOME).

neucore_say() { echo "slurm: $*"; }
neucore_refuse() { echo "error: $*" >&2; exit 2; }

# ---------------------------------------------------------------------------------------------- beginning

neucore_begin() {
  [[ -n ${SLURM_JOB_ID:-} ]] || neucore_refuse "this script is for sbatch: sbatch --nodes=N --gpus-per-node=G SCRIPT …"
  cd "${SLURM_SUBMIT_DIR:-.}" || neucore_refuse "the folder of submission ${SLURM_SUBMIT_DIR:-.} is not on this node"
  unset FORCE_COLOR TTY_INTERACTIVE TTY_COMPATIBLE # the log is no terminal, whatever the submitting shell was
  export PYTHONUNBUFFERED=1                        # not srun --unbuffered, which gives every rank a terminal
  NEUCORE_MAX_RESTARTS=${NEUCORE_MAX_RESTARTS:-20}
  neucore_restarts=${SLURM_RESTART_COUNT:-0}
  NEUCORE_SRUN_OPTIONS=()
  NEUCORE_CONTAINER=()
  neucore_read_site
  neucore_count_ranks
  neucore_meet
  neucore_say "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST: $neucore_nodes nodes x $neucore_ranks ranks" \
    "($neucore_counted_by), $neucore_cpus CPUs a node, launcher $NEUCORE_LAUNCHER, start $((neucore_restarts + 1))"
  ((neucore_cpus >= neucore_ranks)) ||
    neucore_say "fewer CPUs than ranks: ask for more with --cpus-per-gpu, --cpus-per-task or --exclusive"
}

# The user's site file: modules, environment, container, network. The one place for what differs between clusters.
neucore_read_site() {
  local site=${NEUCORE_SITE:-$NEUCORE_HOME/slurm/site.sh}
  if [[ -f $site ]]; then
    # shellcheck source=/dev/null
    source "$site" || neucore_refuse "the site file $site ended with an error"
  elif [[ -n ${NEUCORE_SITE:-} ]]; then
    neucore_refuse "NEUCORE_SITE=$NEUCORE_SITE does not exist: copy slurm/site.example.sh there"
  elif [[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} && -f $NEUCORE_HOME/.venv/bin/activate ]]; then
    # shellcheck source=/dev/null
    source "$NEUCORE_HOME/.venv/bin/activate"
  fi
  NEUCORE_LAUNCHER=${NEUCORE_LAUNCHER:-srun}
  [[ $NEUCORE_LAUNCHER =~ ^(srun|torchrun|accelerate)$ ]] ||
    neucore_refuse "NEUCORE_LAUNCHER=$NEUCORE_LAUNCHER is none of srun, torchrun, accelerate"
  export NEUCORE_PYTHON=${NEUCORE_PYTHON:-python} NEUCORE_ACCELERATE_CONFIG=${NEUCORE_ACCELERATE_CONFIG:-}
  ((${#NEUCORE_CONTAINER[@]} > 0)) || command -v "$NEUCORE_PYTHON" >/dev/null ||
    neucore_refuse "there is no $NEUCORE_PYTHON on this node: name your environment or container in the site file $site"
}

# Ranks of a node: its GPUs; without GPUs the tasks that were asked for; else one.
neucore_count_ranks() {
  neucore_nodes=${SLURM_JOB_NUM_NODES:-1}
  if ((${SLURM_GPUS_ON_NODE:-0} > 0)); then
    neucore_ranks=$SLURM_GPUS_ON_NODE neucore_counted_by="one per GPU"
  elif [[ ${SLURM_GPUS_PER_NODE:-} =~ ([0-9]+)$ ]]; then
    neucore_ranks=${BASH_REMATCH[1]} neucore_counted_by="one per GPU"
  elif [[ -n ${SLURM_NTASKS_PER_NODE:-} ]]; then
    neucore_ranks=$SLURM_NTASKS_PER_NODE neucore_counted_by="one per task"
  elif [[ -n ${SLURM_NTASKS:-} ]]; then
    ((SLURM_NTASKS % neucore_nodes == 0)) ||
      neucore_refuse "--ntasks=$SLURM_NTASKS cannot be shared equally by $neucore_nodes nodes"
    neucore_ranks=$((SLURM_NTASKS / neucore_nodes)) neucore_counted_by="one per task"
  else
    neucore_ranks=1 neucore_counted_by="one per node"
  fi
  # "16(x3),12" is three nodes of 16 CPUs and one of 12: the poorest node sets the measure.
  neucore_cpus=$(tr , '\n' <<< "${SLURM_JOB_CPUS_PER_NODE:-1}" | sed 's/(.*//' | sort -n | head -n 1)
}

# Where the ranks meet: the first node, and a port of this job, below those that the kernel gives away.
neucore_meet() {
  local first
  first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  export MASTER_ADDR=${NEUCORE_MASTER_ADDR:-$first}
  export MASTER_PORT=${NEUCORE_MASTER_PORT:-$((10000 + SLURM_JOB_ID % 20000))}
  local share=$((neucore_cpus / neucore_ranks))
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}
  export NEUCORE_LAUNCHER NEUCORE_RANKS_PER_NODE=$neucore_ranks
  # Rank 0 writes its exit code here: torchrun and accelerate do not pass one on.
  export NEUCORE_EXIT_FILE=$PWD/.neucore-exit-$SLURM_JOB_ID
  rm -f "$NEUCORE_EXIT_FILE"
}

# ------------------------------------------------------------------------------------------------ running

neucore_launch() {
  local tasks=$neucore_ranks cpus=$((neucore_cpus / neucore_ranks)) more=()
  if [[ $NEUCORE_LAUNCHER != srun ]]; then
    tasks=1 cpus=$neucore_cpus # one launcher a node, which starts the ranks
  fi
  ((cpus > 0)) || { cpus=1 && more+=(--overcommit); }
  # Everything is said here: srun takes --cpus-per-task from the job no longer (22.05), and counts of tasks
  # that were asked of sbatch must not reach a step that has one task a node.
  srun --nodes="$neucore_nodes" --ntasks=$((tasks * neucore_nodes)) --ntasks-per-node="$tasks" \
    --cpus-per-task="$cpus" --distribution=block --export=ALL --wait=60 --kill-on-bad-exit=1 \
    ${more[@]+"${more[@]}"} ${NEUCORE_SRUN_OPTIONS[@]+"${NEUCORE_SRUN_OPTIONS[@]}"} \
    ${NEUCORE_CONTAINER[@]+"${NEUCORE_CONTAINER[@]}"} \
    bash "$NEUCORE_HOME/slurm/task.sh" "$@" &
  neucore_step=$!
  neucore_ending=""
  trap 'neucore_warn "warning signal"' USR2 USR1
  trap 'neucore_ending=1; neucore_warn "Slurm ends this job"' TERM
}

# srun hands the signal to the first process of every task, which is task.sh.
neucore_warn() {
  neucore_say "$1: asking the ranks to save and leave ($(date '+%F %T'))"
  kill -USR2 "$neucore_step" 2>/dev/null || true
}

neucore_await() {
  local status again
  while :; do
    wait "$neucore_step" && status=0 || status=$? # a trapped signal interrupts `wait`
    kill -0 "$neucore_step" 2>/dev/null || break
  done
  wait "$neucore_step" 2>/dev/null && again=0 || again=$? # the true one, if the last wait was interrupted
  ((again == 127)) || status=$again
  neucore_code=$status
  if [[ -s $NEUCORE_EXIT_FILE ]]; then neucore_code=$(< "$NEUCORE_EXIT_FILE"); fi
  rm -f "$NEUCORE_EXIT_FILE"
}

# ------------------------------------------------------------------------------------------------- ending

# 75: saved, to be started again. 0, 2, 76 and a failure of the program end the job.
neucore_finish() {
  case $neucore_code in
    0 | 2) ;;
    75) neucore_requeue ;;
    76) neucore_say "stopped on request (exit code 76): saved, and not requeued" ;;
    *) [[ -n $neucore_ending ]] || neucore_lost_node ;;
  esac
  neucore_say "ended with exit code $neucore_code"
  exit "$neucore_code"
}

neucore_requeue() {
  if [[ -n $neucore_ending ]]; then
    neucore_say "saved; Slurm itself ends this job (cancelled, preempted or out of time), so it is not requeued here"
  elif ((neucore_restarts >= NEUCORE_MAX_RESTARTS)); then
    neucore_say "saved, but not requeued: started again $neucore_restarts times already" \
      "(NEUCORE_MAX_RESTARTS=$NEUCORE_MAX_RESTARTS); submit the same command to go on"
  else
    neucore_say "saved; requeued, restart $((neucore_restarts + 1)) of at most $NEUCORE_MAX_RESTARTS"
    trap - TERM USR1 USR2
    if scontrol requeue "$SLURM_JOB_ID"; then
      sleep 300 & wait $! # Slurm ends this shell
      exit 75
    fi
    neucore_say "Slurm refused to requeue this job; submit the same command to go on"
  fi
}

# Ranks that miss a peer fail before Slurm has noticed that its node is gone, and a job that has failed is not
# requeued. So: do all nodes still answer? If not, wait until Slurm takes the node out and requeues the job.
neucore_lost_node() {
  local patience=${NEUCORE_NODE_WAIT:-600} answering=1
  ((neucore_nodes > 1)) || return 0
  neucore_say "exit code $neucore_code: asking every node whether it still answers"
  timeout 30 srun --nodes="$neucore_nodes" --ntasks="$neucore_nodes" --ntasks-per-node=1 --cpus-per-task=1 --overlap \
    --export=ALL true >/dev/null 2>&1 || answering=0
  ((answering == 0)) || return 0
  neucore_say "not every node answers: waiting up to $patience s for Slurm to take it out and requeue this job"
  trap - TERM USR1 USR2
  sleep "$patience" & wait $!
  neucore_say "the job was not requeued: submit the same command to go on from the last checkpoint"
}
