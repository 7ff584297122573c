"""Pickles that make a folder when they are trusted, in every form that torch reads."""

import io
import os
import pickle
from pathlib import Path

import torch


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self._marker,)


def zipped(marker: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"format_version": 1, "network": {"weight": Bomb(marker)}}, buffer)
    return buffer.getvalue()


def legacy(marker: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"network": Bomb(marker)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def bare(marker: Path) -> bytes:
    return pickle.dumps(Bomb(marker))


BOMBS = {"zipped": zipped, "legacy": legacy, "bare": bare}
