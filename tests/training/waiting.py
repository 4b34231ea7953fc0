"""Finds what would make the host wait for a GPU, on a machine without one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
# Operations whose result, or its size, the host must know: on a GPU it waits for all work there.
WAITING = {
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.nonzero,
    aten.nonzero_static,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.equal,
    aten.bincount,
}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class HostWaits(AssertionError):
    """The host would wait for the device."""


class DeviceTensors(TorchDispatchMode):
    """Takes some tensors, and all that is computed from them, for tensors on a GPU.

    An operation on one of them for whose result the host would wait raises HostWaits. Tensors that
    are made from others, such as random draws on the host, are left alone.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.storages: dict[int, Any] = {}
        for tensor in tensors:
            self.mark(tensor)

    def mark(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.storages[storage._cdata] = storage  # kept, so that its address is not used again

    def holds(self, value: object) -> bool:
        return isinstance(value, Tensor) and value.untyped_storage()._cdata in self.storages

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        leaves = tree_leaves((args, kwargs))
        on_device = any(map(self.holds, leaves))
        packet = func.overloadpacket
        by_mask = packet in INDEXING and any(
            self.holds(value) and value.dtype is torch.bool for value in tree_leaves(args[1])
        )
        if on_device and (packet in WAITING or by_mask):
            raise HostWaits(f"{func} waits for the device")
        result = func(*args, **(kwargs or {}))
        if on_device:
            for value in tree_leaves(result):
                if isinstance(value, Tensor):
                    self.mark(value)
        return result


def only_on_host(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Returns torch.tensor, but for a device: it would copy there and wait."""

    def function(*args: object, **kwargs: object) -> Tensor:
        if kwargs.get("device") is not None:
            raise HostWaits("torch.tensor on a device waits for the copy")
        return make(*args, **kwargs)

    return function


@contextmanager
def no_waiting(tensors: Iterable[Tensor], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Raises HostWaits where the host would wait for these tensors or for what is made of them.

    It would also wait for a copy of its own data to the device, unless that is told not to block.
    """
    mode = DeviceTensors(tensors)

    def goes_to_device(self: Tensor, args: tuple[object, ...], kwargs: dict[str, object]) -> bool:
        targets = (*args, kwargs.get("device"))
        named = any(isinstance(t, torch.device) or mode.holds(t) for t in targets)
        return named and not mode.holds(self) and not kwargs.get("non_blocking")

    def refuse(name: str) -> Callable[..., object]:
        original = getattr(Tensor, name)

        def method(self: Tensor, *args: object, **kwargs: object) -> object:
            if mode.holds(self) and (name != "to" or "cpu" in args):
                raise HostWaits(f"{name} waits for the device")
            if name == "to" and goes_to_device(self, args, kwargs):
                raise HostWaits("a copy to the device blocks")
            return original(self, *args, **kwargs)

        return method

    with monkeypatch.context() as patch:
        # On the CPU these copy nothing, and call no operation.
        for name in ("cpu", "numpy", "tolist", "to"):
            patch.setattr(Tensor, name, refuse(name))
        patch.setattr(torch, "tensor", only_on_host(torch.tensor))
        with mode:
            yield
