"""A reader of torch checkpoints that hold more than arrays. It runs nothing that a file names.

Training programs keep their flags, logs and configs beside the weights, as objects of their own classes. A pickle names
the class of each object and a function that makes it. This reader calls only functions that make tensors, arrays and
plain containers. An `Inert` replaces every other object.
"""

import pickle
from collections import OrderedDict
from functools import cache
from types import ModuleType


class Inert:
    """A stand-in for an object that the reader does not make. Nothing that the pickle does to it has an effect.

    Attributes:
      asked: "module.name" of the class or function that the file asked for.
    """

    asked = ""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def __call__(self, *args, **kwargs):
        """Returns the stand-in itself."""
        return self

    def append(self, value):
        """Stands in for the method of a list."""

    def extend(self, values):
        """Stands in for the method of a list."""

    add = append


def pickle_module(admitted: dict) -> ModuleType:
    """Returns a `pickle_module` for torch.load that makes only tensors, plain containers and the objects of `admitted`.

    Args:
      admitted: maps (module, name) to a function or class that a file may ask for.
    """
    import torch

    makes_tensors = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch", "Size"): torch.Size,
        **{
            ("torch._utils", name): getattr(torch._utils, name)
            for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
        },
    }

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if found := (makes_tensors | admitted).get((module, name)):
                return found
            of_torch = getattr(torch, name, None) if module == "torch" else None
            if isinstance(of_torch, torch.dtype) or (isinstance(of_torch, type) and name.endswith("Storage")):
                return of_torch
            return _inert(f"{module}.{name}")

    module = ModuleType("inert_pickle")
    module.Unpickler = Unpickler
    module.load = lambda file, **options: Unpickler(file, **options).load()
    module.UnpicklingError = pickle.UnpicklingError
    return module


@cache
def _inert(asked: str) -> type[Inert]:
    return type("Inert", (Inert,), {"asked": asked})
