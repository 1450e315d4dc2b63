# shellcheck shell=bash
# What differs between clusters, in one file of yours. Copy it to slurm/site.sh (git ignores that) and uncomment what you
# need, or keep it anywhere and export NEUCORE_SITE=PATH. The batch scripts read it on the first node, in bash.
#
# Partition, account, time, memory and CPUs are not here: Slurm reads them before any script runs. Give them on the
# command line (sbatch --partition=… --account=… --time=… --cpus-per-gpu=8 …), or once in your shell's start file:
#
#   export SBATCH_PARTITION=gpu SBATCH_ACCOUNT=myproject SBATCH_TIMELIMIT=24:00:00 SBATCH_CPUS_PER_GPU=8

# --- software: modules, then the environment that the package was installed into. Without this the repository's own
#     .venv is taken, unless the submitting shell had an environment active.
# module purge
# module load cuda/12.4
# source "$HOME/envs/neucore-xl/bin/activate"
# NEUCORE_PYTHON=python

# --- container: words that are put before every command on a node.
# NEUCORE_CONTAINER=(apptainer exec --nv --bind /scratch "$HOME/images/neucore-xl.sif")

# --- network: the interface of the fast network, for NCCL (GPUs) and for gloo (small messages).
# export NCCL_SOCKET_IFNAME=ib0
# export GLOO_SOCKET_IFNAME=ib0
# export NCCL_DEBUG=WARN
# NEUCORE_MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)-ib0

# --- nodes without a way out: weights and tokenizers come from their caches.
# export HF_HUB_OFFLINE=1
# export HF_HOME=/scratch/$USER/huggingface

# --- threads of each rank; default: its share of the node's CPUs.
# export OMP_NUM_THREADS=8

# --- more options of every srun.
# NEUCORE_SRUN_OPTIONS=(--mpi=none --cpu-bind=none)

# --- behaviour.
# NEUCORE_LAUNCHER=torchrun                        # srun (default), torchrun or accelerate
# NEUCORE_ACCELERATE_CONFIG=ds_configs/accelerate_zero3.yaml   # with accelerate: its configuration
# NEUCORE_MAX_RESTARTS=20                          # requeues of one job
# NEUCORE_NODE_WAIT=600                            # seconds to wait for Slurm to notice a node that does not answer
