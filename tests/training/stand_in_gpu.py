"""A device like a GPU on a machine without one: tensors on it have shapes and no values.

torch's FakeTensorMode works out the shapes. It needs a device that this torch was built for, and a
torch for CPUs has no CUDA; the device here is the one that torch keeps for new kinds of hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
COPIES = {aten._to_copy, aten.copy_}
# torch has no shapes for them; they change tensors in place and return nothing.
FUSED = {aten._fused_adamw_, aten._fused_sgd_}


class HostWaits(AssertionError):
    """The host would wait for the device."""


class NotInGraph(AssertionError):
    """A CUDA graph cannot hold the operation, or would repeat it on memory that is gone."""


class Hardware(backend_registration._DummyBackendModule):
    """What torch asks about the device."""

    def is_available(self) -> bool:
        return False  # no tensor is ever made on it, only its shape

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend("stand_in_gpu", Hardware())
DEVICE = torch.device("stand_in_gpu", 0)


def _in_bfloat16(name: str) -> Callable[..., object]:
    """Returns an operation of torch that first rounds its floats, as autocast does on a GPU."""

    def narrow(value: object) -> object:
        is_wide = isinstance(value, Tensor) and value.dtype is torch.float32
        return value.to(torch.bfloat16) if is_wide else value

    def function(*args: object, **kwargs: object) -> object:
        with torch._C._DisableAutocast():
            return getattr(torch.ops.aten, name)(*tree_map(narrow, args), **kwargs)

    return function


AUTOCAST = torch.library.Library("_", "IMPL")
AUTOCAST.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
NARROW = torch.library.Library("aten", "IMPL")
for name in ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv2d"):
    NARROW.impl(name, _in_bfloat16(name), "AutocastPrivateUse1")


class Shapes(FakeTensorMode):
    """Works out shapes; the copy of a tensor belongs to the same one."""

    def __deepcopy__(self, memo: object) -> Shapes:
        return self


class StandInGpu(TorchDispatchMode):
    """Runs what is on the host, and works out the shapes of what is on the device.

    An operation for whose result the host would wait raises HostWaits in `watching`; so does a copy
    from the host that blocks, as every copy from memory that is not pinned may. `recording` also
    notes the operations, and refuses those that a CUDA graph cannot hold.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shapes = Shapes()
        self.is_watching = False
        self.operations: list[str] | None = None
        # Storages by address; they are kept, so that no address is used again.
        self.pinned: dict[int, Any] = {}
        self.named: dict[int, tuple[str, Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        if not any(map(_on_device, leaves)):
            return func(*args, **kwargs)
        packet = func.overloadpacket
        if self.is_watching and packet in COPIES:
            self._check_copy(packet, args, kwargs)
        if self.operations is not None:
            self.operations.append(" ".join([str(func), *map(self._describe, leaves)]))
        if packet in FUSED:
            return None
        args, kwargs = tree_map(self._shape_of, (args, kwargs))
        try:
            with self.shapes:
                result = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise HostWaits(f"{func} waits for the device") from error
        if self.operations is not None:
            self._name(f"result {len(self.operations)}", tree_leaves(result))
        return result

    def _shape_of(self, value: object) -> object:
        is_on_host = isinstance(value, Tensor) and not isinstance(value, FakeTensor)
        return self.shapes.from_tensor(value) if is_on_host else value

    def _check_copy(self, packet: Any, args: Any, kwargs: dict[str, Any]) -> None:
        source: Tensor = args[1] if packet is aten.copy_ else args[0]
        target = args[0].device if packet is aten.copy_ else kwargs.get("device") or source.device
        if _on_device(source) and target != DEVICE:
            raise HostWaits("a copy to the host waits for the device")
        if _on_device(source) or target != DEVICE:
            return
        if self.operations is not None:
            raise NotInGraph("a copy of what the host has in this step only")
        blocks = not (
            args[2] if packet is aten.copy_ and len(args) > 2 else kwargs.get("non_blocking")
        )
        if blocks or source.untyped_storage()._cdata not in self.pinned:
            raise HostWaits("a copy to the device blocks")

    def _describe(self, value: object) -> str:
        """Returns an argument of an operation in words that are the same at each step."""
        if not isinstance(value, Tensor):
            return str(value)
        if not isinstance(value, FakeTensor):
            if value.ndim:
                raise NotInGraph(f"a tensor of the host: {value}")
            return f"{value.dtype}={value.item()}"
        name, _ = self.named.get(value.untyped_storage()._cdata, ("", None))
        if not name:
            raise NotInGraph(f"{value} was made outside of the step and does not last")
        return f"{name}:{value.dtype}{tuple(value.shape)}{value.stride()}"

    def _name(self, name: str, values: Iterable[object]) -> None:
        for value in values:
            if isinstance(value, FakeTensor):
                storage = value.untyped_storage()
                self.named.setdefault(storage._cdata, (name, storage))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Raises HostWaits where the host would wait."""

        def pin_memory(tensor: Tensor) -> Tensor:
            copy = tensor.clone()
            storage = copy.untyped_storage()
            self.pinned[storage._cdata] = storage
            return copy

        original = Tensor.pin_memory
        Tensor.pin_memory = pin_memory  # type: ignore[method-assign, assignment]
        self.is_watching = True
        try:
            yield
        finally:
            self.is_watching = False
            Tensor.pin_memory = original  # type: ignore[method-assign]

    @contextmanager
    def recording(self, lasting: dict[str, Tensor]) -> Iterator[list[str]]:
        """Yields the operations of a step, each with its arguments.

        lasting: tensors that a CUDA graph would find where they are, by name. NotInGraph is raised
        for any other tensor that was made before, on the host or the device.
        """
        self.named.clear()
        for name, tensor in lasting.items():
            self._name(name, [tensor])
        self.operations = []
        try:
            yield self.operations
        finally:
            self.operations = None

    def __enter__(self) -> StandInGpu:
        # torch.tensor(..., device=...) then makes the tensor on the host and copies it, as it does
        # for a GPU; FakeTensorMode asks for the same.
        self.lifts = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self.lifts)


def _on_device(value: object) -> bool:
    return isinstance(value, FakeTensor) or (isinstance(value, torch.device) and value == DEVICE)
