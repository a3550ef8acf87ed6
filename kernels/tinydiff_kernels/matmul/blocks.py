"""The loop over tiles: blocks that threads take, the order within a block, and what is asked for ahead of time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.matmul.descriptor import (
    BLOCK_PANELS,
    BLOCK_ROWS,
    COLUMNS,
    GATED,
    NEXT_WORKER,
    OUTPUT,
    OUTPUT_ROWS,
    RESIDUAL,
    RESIDUAL_ROWS,
    ROW_COUNT,
    SCRATCH,
    SCRATCH_BYTES,
    STEPS,
    TAP_COUNT,
    WEIGHTS,
)
from tinydiff_kernels.simd import composed, fetch_add, i64, load, load_acquire, prefetch, prefetch_far

Function = Callable[..., Any]


@composed(nothing)
def ask_for_rows(base: int, offsets: int, row: int, rows: int, nbytes: int) -> None:
    """Bring a tile's part of C, or of the residual, near while it is multiplied: rows lie far apart, so that no CPU
    guesses them."""
    for r in range(row, row + rows):
        for at in range(0, nbytes, 64):
            prefetch(base + load(i64, offsets, 8 * r), at)


def tiled(
    multiply: Function, finish: Function, tile_rows: int, tile_panels: int, step_bytes: int = 64, *, loop: bool = False
) -> Function:
    """`run(desc, counter, cancel)`: take blocks of tiles until none is left.

    A block's panels fit in the second-level cache and serve all its rows. Rows come first: a tile's rows of A stay in
    the first level for all panels, and C is written along its rows, which caches and page tables like. A tile of one
    panel needs no loop around `finish`, for whose counters LLVM spills registers; `loop` where it spills more without.

    A network's weights come from memory in every step. So during a block each tile asks for its share of the panels
    that this thread will probably need next; a step of one has `step_bytes`.
    """

    @composed(nothing)
    def run(desc: int, counter: int, cancel: int) -> None:
        scratch = load(i64, desc, SCRATCH) + SCRATCH_BYTES * fetch_add(counter + NEXT_WORKER, 1)
        edge = scratch + 64 * tile_panels * tile_rows
        rows, block_rows = load(i64, desc, ROW_COUNT), load(i64, desc, BLOCK_ROWS)
        width = 16 - 8 * load(i64, desc, GATED)
        panels = (load(i64, desc, COLUMNS) + width - 1) // width
        block_panels = (load(i64, desc, BLOCK_PANELS) + tile_panels - 1) // tile_panels * tile_panels
        across = (rows + block_rows - 1) // block_rows
        blocks = across * ((panels + block_panels - 1) // block_panels)
        panel_bytes = step_bytes * load(i64, desc, STEPS) * load(i64, desc, TAP_COUNT)
        while load_acquire(cancel) == 0:
            block = fetch_add(counter, 1)
            if block >= blocks:
                break
            first, first_panel = block % across * block_rows, block // across * block_panels
            workers = fetch_add(counter + NEXT_WORKER, 0)
            later = (block + workers) // across * block_panels
            ahead = load(i64, desc, WEIGHTS) + panel_bytes * later
            tiles = (min(rows - first, block_rows) + tile_rows - 1) // tile_rows * (block_panels // tile_panels)
            share = panel_bytes * block_panels // tiles
            end = ahead + share * tiles if first_panel < later < panels else ahead
            for row in range(first, min(rows, first + block_rows), tile_rows):
                inside = min(tile_rows, rows - row)
                for panel in range(first_panel, min(panels, first_panel + block_panels), tile_panels):
                    if tile_panels > 1:  # a tile of one panel is slow enough for what is only written
                        output = load(i64, desc, OUTPUT) + 4 * width * panel
                        ask_for_rows(output, load(i64, desc, OUTPUT_ROWS), row, inside, 4 * width * tile_panels)
                    residual = load(i64, desc, RESIDUAL)  # no `if` here: LLVM would make two loops of this one
                    remembered, some = load(i64, desc, RESIDUAL_ROWS), inside * min(1, residual)
                    ask_for_rows(residual + 64 * panel, remembered, row, some, 64 * tile_panels)
                    until = min(end, ahead + share)
                    while ahead < until:
                        prefetch_far(ahead, 0)
                        ahead += 64
                    multiply(desc, row // tile_rows, panel, panels, scratch)
                    if tile_panels == 1 and not loop:
                        finish(desc, row, inside, panel, scratch, 64, edge)
                    else:
                        for beside in range(min(tile_panels, panels - panel)):
                            finish(desc, row, inside, panel + beside, scratch + 64 * beside, 64 * tile_panels, edge)

    return run
