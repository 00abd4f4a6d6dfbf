"""One rank of Gloo: its configuration and its commands come on standard input, figures go to standard output."""

import collections
import ctypes
import json
import os
import queue
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
started = json.loads(sys.stdin.readline())
if os.getppid() != started["supervisor"]:
    sys.exit("the benchmark is gone")
config = started["config"]
if config["crowded"] and started["processors"]:
    os.sched_setaffinity(0, started["processors"])
os.environ["GLOO_SOCKET_IFNAME"] = config["interface"]

import torch  # noqa: E402: reads the environment
import torch.distributed as distributed  # noqa: E402

rank, ranks, tensors = config["rank"], config["ranks"], config["tensors"]
commands = queue.Queue()


def listen():
    """Takes commands, also within an operation that hangs; their end is the end of the benchmark."""
    for line in sys.stdin:
        commands.put(line)
    os._exit(0)


def reduce_all(parts):
    """Reduces every tensor, at most `concurrent` of them at once."""
    under_way = collections.deque()
    for part in parts:
        if len(under_way) == config["concurrent"]:
            under_way.popleft().wait()
        under_way.append(distributed.all_reduce(part, async_op=True))
    for work in under_way:
        work.wait()


def iterate(parts, count):
    """Times `count` operations, each begun together with the other ranks."""
    times, cpu = [], 0
    for _ in range(count):
        for part in parts:
            part.fill_(rank + 1.0)
        distributed.barrier()
        cpu_before, before = time.process_time_ns(), time.perf_counter_ns()
        reduce_all(parts)
        times.append(time.perf_counter_ns() - before)
        cpu += time.process_time_ns() - cpu_before
    wanted = ranks * (ranks + 1) / 2.0
    for part in parts:
        if part.min().item() != wanted or part.max().item() != wanted:
            sys.exit("Gloo gave a wrong sum")
    figures = {"nanoseconds": times, "cpuNanoseconds": cpu, "controlMessages": 0}
    print(json.dumps({"time": "", "event": "Iterated", **figures}), flush=True)


threading.Thread(target=listen, daemon=True).start()
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method="tcp://" + config["store"], rank=rank, world_size=ranks)
parts = [torch.empty(config["bytes"] // 4 // tensors) for _ in range(tensors)]
while True:
    iterate(parts, int(commands.get().removeprefix("iterate ")))
