"""A trainer in Python: in each of three rounds, the mean of all workers' vectors becomes the state that they share.
`all_reduce.py RUN SOCKET`, beside a sidecar of `atoll sidecars`; docs/src/sidecar-protocol.md says what each call means."""
import fcntl, mmap, os, pathlib, socket, struct, sys, time
import blake3, grpc, numpy

sys.path.append(str(pathlib.Path(__file__).parents[2] / "proto" / "proto"))
messages, services = grpc.protos_and_services("atoll/v1/sidecar.proto")
from atoll.v1.run_pb2 import CommitRecord, OperationKey
from atoll.v1.session_pb2 import Operation

ROUNDS, BYTES = 3, 400_000
run, path = sys.argv[1:]
me = {"incarnation": time.time_ns(), "rank": 0}  # a later start has a higher incarnation
regions = {}

def share(name):  # makes a region: how the sidecar knows it, and its values
    region, name = os.memfd_create(name, os.MFD_ALLOW_SEALING), f"{me['incarnation']}/{me['rank']}/{name}"
    os.posix_fallocate(region, 0, BYTES)
    fcntl.fcntl(region, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    regions[name] = region
    return messages.Slice(region=name, length=BYTES), numpy.frombuffer(mmap.mmap(region, BYTES), numpy.float32)

def attach():  # passes the regions, attaches, and pulses from then on
    with socket.socket(socket.AF_UNIX) as passing:
        while passing.connect_ex(path + ".regions") != 0: time.sleep(0.1)
        for name, region in regions.items():
            socket.send_fds(passing, [struct.pack("<Q", BYTES), name.encode()], [region])
            if passing.recv(1) != b"\1": sys.exit(f"the sidecar refuses {name}")
    sidecar = services.SidecarStub(grpc.insecure_channel("unix:" + path, [("grpc.default_authority", "sidecar")]))
    slot = sidecar.Attach(messages.AttachRequest(run=run, protocol_low=1, protocol_high=1, ranks=1, **me)).slot
    return sidecar, slot, sidecar.Pulse.future(pulses())  # in a thread of grpcio, as long as somebody holds it

def pulses():
    while True:
        yield messages.PulseRequest(**me)
        time.sleep(0.2)

(shared, state), (given, vector), (taken, mean) = share("state"), share("input"), share("output")
sidecar, committed = None, CommitRecord()
while committed.round < ROUNDS:
    try:
        if sidecar is None: sidecar, slot, pulse = attach()
        begun = sidecar.BeginRound(messages.BeginRoundRequest(
            round=committed.round + 1, state=[dict(key="vector", element_type="ELEMENT_TYPE_F32", slice=shared)],
            committed=committed if committed.round else None, **me))
        vector[:] = state + (slot + 1) * numpy.arange(len(vector))
        reduction = Operation(key=OperationKey(round=begun.round), kind="OPERATION_KIND_ALL_REDUCE", ends_round=True,
                              elements=len(vector), data_type="DATA_TYPE_F32", reduction="REDUCTION_MEAN")
        request = messages.OperateRequest(operation=reduction, input=given, output=taken, weight=1, deadline_milliseconds=60_000, **me)
        while (reply := sidecar.Operate(request)).HasField("in_doubt"): pass  # cut off after the vote: asks again
        if reply.HasField("aborted"): continue  # the round begins again
        committed, state[:] = reply.committed.commit.record, mean
        print(f"round {committed.round}: last element {state[-1]:.1f}, state {blake3.blake3(state.tobytes()).hexdigest()}", flush=True)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAVAILABLE: sidecar = None  # another sidecar knows nothing of this trainer
        elif error.code() != grpc.StatusCode.ABORTED: raise  # else the round begins again
sidecar.Finish(messages.FinishRequest(**me))
