#!/usr/bin/env bash
# One task of a step: runs on every node (torchrun, accelerate) or once per rank (srun), inside the container if there
# is one. It starts `python PROGRAM…` through the launcher and hands the warning signal to the ranks:
#
#   - Slurm signals only the first process of a task (all of them where ProctrackType is not cgroup): this shell;
#   - torchrun and accelerate launch die of USR2 and pass it to nobody, so they are started with USR2 ignored, which
#     their ranks inherit until they install their own handler;
#   - a signal that comes before that handler is lost, so it is repeated until the ranks have gone.
set -uo pipefail

main() {
  local command warned="" repeater="" status again
  set_command "$@"
  trap 'warned=USR2' USR2
  trap 'warned=TERM' TERM
  (trap '' USR2 && exec "${command[@]}") &
  launcher=$!
  while :; do
    wait "$launcher" && status=0 || status=$? # a trapped signal interrupts `wait`
    kill -0 "$launcher" 2>/dev/null || break
    if [[ -n $warned && -z $repeater ]]; then
      repeat "$warned" &
      repeater=$!
      disown "$repeater" # its end is not news
    fi
  done
  wait "$launcher" 2>/dev/null && again=0 || again=$? # the true status, if the last wait was interrupted
  ((again == 127)) || status=$again
  [[ -z $repeater ]] || kill -KILL "$repeater" 2>/dev/null
  exit "$status"
}

set_command() {
  local python=${NEUCORE_PYTHON:-python} ranks=${NEUCORE_RANKS_PER_NODE:-1} options
  local nodes=${SLURM_STEP_NUM_NODES:-${SLURM_JOB_NUM_NODES:-1}}
  case ${NEUCORE_LAUNCHER:-srun} in
    srun) command=("$python" "$@") ;;
    torchrun)
      # "--" because torchrun takes --run (not --run-dir) of the program for a short form of options of its own
      if [[ $1 == -m ]]; then set -- -m -- "${@:2}"; else set -- -- "$@"; fi
      command=("$python" -m torch.distributed.run --nnodes="$nodes" --nproc-per-node="$ranks" --max-restarts=0
        --node-rank="$SLURM_NODEID" --master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT" "$@")
      ;;
    accelerate)
      if [[ -n ${NEUCORE_ACCELERATE_CONFIG:-} ]]; then
        options=(--config_file "$NEUCORE_ACCELERATE_CONFIG")
      else
        options=(--mixed_precision no --dynamo_backend no)
        ((nodes * ranks == 1)) || options+=(--multi_gpu) # several processes; without GPUs they are CPU processes
      fi
      command=("$python" -m accelerate.commands.launch "${options[@]}" --num_machines "$nodes"
        --num_processes $((nodes * ranks)) --machine_rank "$SLURM_NODEID" --rdzv_backend static
        --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" "$@")
      ;;
  esac
}

# The processes that are ranks: the launcher's children, or the one that was started.
ranks_here() {
  if [[ ${NEUCORE_LAUNCHER:-srun} == srun ]]; then
    echo "$launcher"
    return
  fi
  local stat fields
  for stat in /proc/[0-9]*/stat; do
    { fields=$(< "$stat"); } 2>/dev/null || continue
    # "pid (name) state parent …"; the name may hold blanks
    [[ ${fields##*) } != ?\ "$launcher"\ * ]] || { fields=${stat#/proc/} && echo "${fields%/stat}"; }
  done
}

# TERM (the job is cancelled or preempted) ends a rank that is still starting, and is a warning for one that trains. It is
# handed on once: a second one would end training without a checkpoint.
repeat() {
  trap '' USR2 TERM
  local signal=$1 pid
  while kill -0 "$launcher" 2>/dev/null; do
    for pid in $(ranks_here); do kill "-$signal" "$pid" 2>/dev/null || true; done
    signal=USR2
    sleep 5
  done
}

main "$@" # bash has read all of this file by now: it may change while the job runs
