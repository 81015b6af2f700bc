"""Long work, item by item: here, or shared among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch

from phonofilm.processes import end_with_parent

Tools = TypeVar("Tools")
Item = TypeVar("Item")
Found = TypeVar("Found")

_tools: list[Any] = []  # of this process, if it is one that shares the work


def spread(
    work: Callable[[Tools, Item], Found],
    items: Iterable[Item],
    here: Tools,
    there: Callable[[], Tools] | None = None,
    workers: int = 1,
) -> Iterator[Found]:
    """work(tools, item) of each item, in their order, as soon as it is there.

    here: the tools of this process. there: makes those of each of `workers` other processes, of one thread each, which
    end with this one; work, items and `there` have to be pickled for it. With one worker, or without `there`, all is
    done here.
    """
    if workers == 1 or there is None:
        for item in items:
            yield work(here, item)
        return
    context = torch.multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _prepare, (there,)) as pool:
        yield from pool.map(partial(_work, work), items)


def _prepare(there: Callable[[], Any]) -> None:
    end_with_parent()
    torch.set_num_threads(1)
    _tools.append(there())


def _work(work: Callable[[Any, Item], Found], item: Item) -> Found:
    return work(_tools[-1], item)
