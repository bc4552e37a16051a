"""A SHA-256 of a tree of tensors and plain values, to tell whether anything in it was changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def digest_of(tree: Any) -> str:
    """SHA-256 of the tree's values, in hexadecimal.

    It is the same wherever and however the tree was stored: devices, strides, the order of keys
    and the class of a dict do not count.

    Args:
        tree: dicts, lists and tuples of tensors, str, int, float, bool and None.

    Raises:
        TypeError: something else is inside.
    """
    return hashlib.sha256(_coded(tree, {})).hexdigest()


def _coded(value: Any, known: dict[int, bytes]) -> bytes:
    """Bytes that no other value has: a plain value itself, the digest of all else.

    Args:
        known: what containers are coded as, by id: a tree may hold one in many places.
    """
    if value is None:
        return b"none "
    if isinstance(value, bool):
        return b"bool %d " % value
    if isinstance(value, int):
        return b"int %x " % value
    if isinstance(value, float):
        return b"float %s " % float(value).hex().encode()
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        return b"str %d %s " % (len(text), text)
    if isinstance(value, Tensor):
        return _tensor(value)
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, dict):
        entries = [_coded(key, known) + _coded(part, known) for key, part in value.items()]
        coded = _joined(b"dict", sorted(entries))
    elif isinstance(value, (list, tuple)):
        kind = b"list" if isinstance(value, list) else b"tuple"
        coded = _joined(kind, [_coded(part, known) for part in value])
    else:
        raise TypeError(f"Expected tensors and plain values, got {type(value).__name__}.")
    known[id(value)] = coded
    return coded


def _joined(kind: bytes, parts: Iterable[Any]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return b"%s %s " % (kind, digest.digest())


def _tensor(tensor: Tensor) -> bytes:
    tensor = tensor.detach()
    if tensor.is_nested:
        return _joined(b"nested", [_tensor(part) for part in tensor.unbind()])
    kind = f"{tensor.dtype} {tensor.layout} {tuple(tensor.shape)}".encode()
    if tensor.layout is torch.sparse_coo:
        return _joined(kind, [_tensor(tensor._indices()), _tensor(tensor._values())])
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = (tensor.crow_indices(), tensor.col_indices(), tensor.values())
        return _joined(kind, [_tensor(part) for part in parts])
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        parts = (tensor.ccol_indices(), tensor.row_indices(), tensor.values())
        return _joined(kind, [_tensor(part) for part in parts])
    plain = tensor.cpu().resolve_conj().resolve_neg().contiguous()
    flat = plain.as_strided((plain.numel(),), (1,))  # one element may be contiguous with any stride
    return _joined(kind, [flat.view(torch.uint8).numpy()])
