"""From one process to many nodes, on torch's own distributed engine as `torchrun` starts it.

torchrun --nproc-per-node 2 -m harmonet train recipe.toml --data heads --out runs/msp
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from harmonet.errors import RunError

PATIENCE = timedelta(minutes=10)  # a rank that has died is missed after this; torch's own default is half an hour
CPU = torch.device("cpu")
COMPILERS = ("g++", "clang++", "c++")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Engine:
    """Where a training computes, and with whom.

    Attributes:
        device: Of this process.
        rank, ranks: Which of how many processes; rank 0 alone writes.
        precision: Of the forward pass and its gradients; weights stay float32.
        shard: Whether parameters are sharded over the ranks (FSDP2) and not copied to each (DDP).
    """

    device: torch.device = CPU
    rank: int = 0
    ranks: int = 1
    precision: str = "float32"
    shard: bool = False

    @property
    def leads(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def wrap(self, model: nn.Module, *, unused: bool) -> nn.Module:
        """What to call in a step in place of the model, which has been moved to the device: gradients are averaged.

        Args:
            model: All of it.
            unused: Whether no prediction reaches some of its trained parameters; torch looks for these at every step.
        """
        if self.ranks == 1:
            return model
        if self.shard:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            # In place. The mesh is named, since by itself it would lie on a GPU wherever there is one.
            fully_shard(model, mesh=init_device_mesh(self.device.type, (self.ranks,)))
            return model
        return nn.parallel.DistributedDataParallel(model, find_unused_parameters=unused)

    @property
    def can_compile(self) -> bool:
        """Whether there is what torch compiles with: on a CPU, a C++ compiler, in CXX or by one of its usual names."""
        return self.device.type != "cpu" or any(map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS)))

    def compile(self, network: nn.Module) -> None:
        """Compile the network in place, when it is first called.

        Raises:
            RunError: There is no compiler.
        """
        if not self.can_compile:
            raise RunError(
                f"[training] compile = true needs a C++ compiler, found none of {', '.join(COMPILERS)}, nor one in "
                "CXX: install one, or leave compile out."
            )
        network.compile()
        if type(network).forward.__module__.startswith("torch."):
            # Torch passes over what its own files define: of a plain nn.Sequential nothing would be compiled, and
            # nothing said. In a function of ours it is taken in whole.
            network._compiled_call_impl = torch.compile(lambda *given: network._call_impl(*given))  # type: ignore[no-untyped-call]

    def states(self, model: nn.Module, optimiser: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
        """Whole weights and optimiser state, whoever holds which part of them; every rank must ask."""
        if not self.shard:
            return model.state_dict(), optimiser.state_dict()
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        weights = self.weights(model)  # first: it shards again what a validation gathered, as the optimiser knows it
        # Of an optimiser that has taken no step, torch would take one to see its state, and the first would be another.
        whole = StateDictOptions(full_state_dict=True)
        moments = get_optimizer_state_dict(model, optimiser, options=whole) if optimiser.state else {}
        return weights, moments

    def weights(self, model: nn.Module) -> dict[str, Any]:
        """Whole weights; every rank must ask."""
        if not self.shard:
            return model.state_dict()
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        # Not `cpu_offload`, which would give rank 0 alone the whole.
        return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))

    def restore(self, model: nn.Module, optimiser: Optimizer, weights: dict[str, Any], moments: dict[str, Any]) -> None:
        """Put back what `states` gave."""
        if not self.shard:
            model.load_state_dict(weights)
            optimiser.load_state_dict(moments)
            return
        from torch.distributed.checkpoint import state_dict as whole_state

        options = whole_state.StateDictOptions(full_state_dict=True)
        whole_state.set_model_state_dict(model, weights, options=options)
        if moments:
            whole_state.set_optimizer_state_dict(model, optimiser, moments, options=options)

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision, around a forward pass."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, PRECISIONS[self.precision])

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.ranks > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether any rank says so: all of them act alike."""
        return flag if self.ranks == 1 else bool(self.sum(torch.tensor(float(flag), device=self.device)))

    def leaders(self, value: float) -> float:
        """The number that rank 0 has: what a clock says differs between ranks, and what they do must not."""
        if self.ranks == 1:
            return value
        return float(self.sum(torch.tensor(value if self.leads else 0.0, dtype=torch.float64, device=self.device)))

    def wait(self) -> None:
        """Until every rank is here."""
        if self.ranks > 1:
            dist.barrier()


ALONE = Engine()


@contextmanager
def launched(device: str = "auto", precision: str = "float32", *, shard: bool = False) -> Iterator[Engine]:
    """The engine of this process; under `torchrun`, one of several.

    Args:
        device: `auto` for a GPU where there is one, else `cpu`, `cuda` or such.
        precision: `float32`, `bfloat16` or `float16`.
        shard: FSDP2 and not DDP.

    Raises:
        RunError: The device is not there, or cannot compute in that precision; inside, another process has ended.
    """
    ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    place = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if precision == "float16" and place.type == "cpu":
        raise RunError("float16 needs a GPU, found a CPU: use precision = 'bfloat16' or 'float32'.")
    if ranks == 1:
        yield Engine(place, precision=precision)
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Engine(place, rank, ranks, precision, shard)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):  # gloo's own are plain ones
            raise
        raise RunError(
            f"process {rank} of {ranks} lost another one ({str(error).splitlines()[0][:120]}): see what that one said, "
            "and give the same command with --resume to go on from the last checkpoint."
        ) from None
    finally:
        dist.destroy_process_group()


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside, only algorithms that give the same bits each time, where that is wanted; others end with an error."""
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS refuses
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _device(name: str, local_rank: int) -> torch.device:
    """The device of that name; of several GPUs, the one of this process."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RunError(f"device {name!r} is none: write auto, cpu, cuda or cuda:1.") from None
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise RunError(f"device {name!r} was asked for, but torch finds no GPU: use device = 'auto' or 'cpu'.")
    device = torch.device("cuda", local_rank if device.index is None else device.index)
    if device.index >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise RunError(f"{device} was asked for, but there are {found} GPUs: start fewer processes on this node.")
    torch.cuda.set_device(device)
    return device
