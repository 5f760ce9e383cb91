#!/bin/bash
#SBATCH --job-name=polymath
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --signal=B:TERM@300
# A run over all nodes of a Slurm allocation: the trainer on the first node, an engine on each of the others; docs/cluster.md
# explains it. From a checkout on a disk that the nodes share, after `make env`:
#   sbatch recipes/cluster/slurm.sh [RECIPE]
#   sbatch recipes/cluster/slurm.sh resume RUN
# Five minutes before the time is up the run is asked to stop: it saves, and the second form goes on with it.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this with sbatch, from the checkout}"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
port=$((20000 + SLURM_JOB_ID % 20000)) # another job on these nodes has another one
engines=$((${#nodes[@]} - 1))

RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n') # else whoever reaches the port may run code on the nodes
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token

start_ray() { # NODE OPTION...: a node of the cluster, which ends with the job
  srun --nodes=1 --ntasks=1 --nodelist="$1" .venv/bin/ray start --block --disable-usage-stats "${@:2}" &
}

wait_for() { # SECONDS WHAT COMMAND...: until it succeeds
  local deadline=$((SECONDS + $1)) what=$2
  until "${@:3}"; do
    if [ "$SECONDS" -ge "$deadline" ]; then
      echo "waited $1 s for $what; the log of the step that starts Ray there says more" >&2
      exit 1
    fi
    sleep 2
  done
}
head_answers() { .venv/bin/ray health-check --address "$head:$port" 2> /dev/null; }
all_are_there() { [ "$(.venv/bin/ray status --address "$head:$port" 2> /dev/null | grep -c ' node_')" -ge "${#nodes[@]}" ]; }

start_ray "$head" --head --port="$port" --include-dashboard=false --resources='{"trainer_node":1}'
wait_for 300 "Ray's head on $head" head_answers
for node in "${nodes[@]:1}"; do
  start_ray "$node" --address="$head:$port" --resources='{"engine_node":1}'
done
wait_for 300 "Ray on ${#nodes[@]} nodes" all_are_there

if [ "${1:-}" = resume ]; then
  .venv/bin/polymath resume "$2" runtime.address="$head:$port" &
else
  .venv/bin/polymath run "${1:-gpu/math_qwen3}" runtime.address="$head:$port" \
    runtime.num_rollout_workers="$engines" runtime.spread=true \
    runtime.resources.trainer='{GPU: 1, trainer_node: 1}' runtime.resources.rollout='{GPU: 1, engine_node: 1}' &
fi
run=$!
trap 'kill -TERM "$run"' TERM
wait "$run" || wait "$run" # the signal ends the first wait, not the run
