"""Children computed on a device have the bits of those computed on the CPU.

Without a device the kernel of triton runs in triton's interpreter, and torch's operations on the
CPU; with one, `pytest -m cuda` runs the same tests there.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genepool.checkpoints.files.checkpoint import Checkpoint, open_checkpoint
from genepool.checkpoints.layout import Layout, build_layout
from genepool.core.genome import Recipe, Vector, recipe
from genepool.errors import CheckpointError, InputError
from genepool.materialise import chunks as cutting
from genepool.materialise import device as module
from genepool.materialise.cpu import Materialiser
from genepool.materialise.device import DeviceMaterialiser
from genepool.materialise.torch import destination
from tests.build import TORCH, Tensors, bits, network, opened
from tests.materialise.test_cpu import random_recipe

Make = Callable[..., DeviceMaterialiser]


@dataclass(frozen=True)
class Way:
    """Where, and by what, children are computed."""

    device: str
    by_triton: bool

    def tensors(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}

    def writer(self, *given: Any, **named: Any) -> DeviceMaterialiser:
        return DeviceMaterialiser(*given, by_triton=self.by_triton, **named)


def kernel_module(interpreted: bool, patch: pytest.MonkeyPatch) -> ModuleType:
    """The kernel's module, for triton's interpreter or for its compiler."""
    if interpreted:
        patch.setenv("TRITON_INTERPRET", "1")
    else:
        patch.delenv("TRITON_INTERPRET", raising=False)
    found = importlib.import_module("genepool.materialise.triton_kernel")
    return importlib.reload(found)


@pytest.fixture(
    params=[
        Way("cpu", False),
        Way("cpu", True),
        pytest.param(Way("cuda", False), marks=pytest.mark.cuda),
        pytest.param(Way("cuda", True), marks=pytest.mark.cuda),
    ],
    ids=["torch", "interpreter", "cuda-torch", "cuda-triton"],
)
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    """Every way there is here."""
    chosen: Way = request.param
    with pytest.MonkeyPatch.context() as patch:
        if chosen.by_triton:
            pytest.importorskip("triton", reason="needs triton, which is not installed")
            found = kernel_module(chosen.device == "cpu", patch)
            if chosen.device == "cpu":
                patch.setattr(found, "BLOCK", 64)
        if chosen.device == "cpu":
            patch.setattr(cutting, "GRAIN", 64)
        yield chosen


@pytest.fixture
def large_blocks(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes its time for each block, whatever its size."""
    if way == Way("cpu", True):
        monkeypatch.setattr("genepool.materialise.triton_kernel.BLOCK", 2**16)


def same(got: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal bits; where there is NaN, there is NaN (of which kind depends on the processor)."""
    got, expected = got.cpu(), expected.cpu()
    holes = expected.isnan().reshape(-1).numpy()
    if not np.array_equal(holes, got.isnan().reshape(-1).numpy()):
        return False
    return np.array_equal(bits(got)[~holes], bits(expected)[~holes])


def on_the_cpu(
    genome: Recipe | Vector,
    checkpoints: Sequence[Checkpoint],
    layout: Layout,
    tensors: Tensors,
    **named: Any,
) -> dict[str, torch.Tensor]:
    """What the CPU's materialiser writes into tensors like these."""
    out = {name: torch.zeros(t.shape, dtype=t.dtype) for name, t in tensors.items()}
    places = {name: destination(tensor) for name, tensor in out.items()}
    Materialiser(checkpoints, layout, places, 1, **named).write(genome)
    return out


@dataclass(frozen=True)
class Case:
    shapes: list[int]
    seeds: list[str]
    out: list[str]
    shifts: list[int]
    segments: int
    exported: bool
    place: str
    chunk: int
    number: int


codes = st.sampled_from(list(TORCH))
cases = st.builds(
    Case,
    shapes=st.lists(st.one_of(st.integers(1, 9), st.integers(60, 400)), min_size=1, max_size=4),
    seeds=st.lists(codes, min_size=1, max_size=4),
    out=st.lists(codes, min_size=4, max_size=4),
    shifts=st.lists(st.sampled_from([0, 0, 1, 3]), min_size=4, max_size=4),
    segments=st.one_of(st.integers(1, 5), st.just(30)),
    exported=st.booleans(),
    place=st.sampled_from(["device", "host"]),
    chunk=st.sampled_from([1, 3000, 2**26]),
    number=st.integers(0, 2**32 - 1),
)


def _agrees(case: Case, way: Way) -> None:
    rng = np.random.default_rng(case.number)
    models: list[Tensors] = [
        {
            f"layer{i}.weight": torch.from_numpy(rng.standard_normal(n)).to(TORCH[code])
            for i, n in enumerate(case.shapes)
        }
        for code in case.seeds
    ]
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "CHUNK", case.chunk)
        checkpoints = [opened(Path(directory) / str(i), m) for i, m in enumerate(models)]
        layout = build_layout(checkpoints)
        # A shifted tensor begins at an address that is no multiple of sixteen bytes.
        tensors = {
            slot.name: torch.full((slot.stop - slot.start + shift,), 9.0, dtype=TORCH[code]).to(
                way.device
            )[shift:]
            for slot, code, shift in zip(layout.slots, case.out, case.shifts, strict=False)
        }
        writer = way.writer(
            checkpoints, layout, tensors, 1, as_exported=case.exported, seeds=case.place
        )
        # The second child is equal to the first on some stretches.
        first = random_recipe(rng, layout.axis.size, case.segments, len(models))
        rows = first.coefs.copy()
        rows[rng.random(len(rows)) < 0.5] *= 0.5
        for genome in (first, recipe(first.bounds, rows), first):
            writer.write(genome)
            expected = on_the_cpu(genome, checkpoints, layout, tensors, as_exported=case.exported)
            for name, tensor in tensors.items():
                assert same(tensor, expected[name]), name


quick = settings(
    deadline=None,
    max_examples=6,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@quick
@given(case=cases)
def test_every_child_has_the_bits_of_the_cpu(case: Case, way: Way) -> None:
    _agrees(case, way)


# Not on a card: every example would compile kernels of its own there.
@pytest.mark.slow
@pytest.mark.parametrize("way", [Way("cpu", False), Way("cpu", True)], indirect=True, ids=str)
@settings(quick, max_examples=50)
@given(case=cases)
def test_many_children_have_the_bits_of_the_cpu(case: Case, way: Way) -> None:
    _agrees(case, way)


def _single(directory: Path, values: NDArray[np.float32]) -> tuple[list[Checkpoint], Layout]:
    checkpoint = opened(directory, {"w.weight": torch.from_numpy(values)})
    return [checkpoint], build_layout([checkpoint])


def _neighbours(exact: NDArray[np.float32]) -> NDArray[np.float32]:
    """Ties, and the float32 values on either side of each."""
    around = (np.nextafter(exact, np.float32(limit)) for limit in (-np.inf, np.inf))
    return np.concatenate([exact, *around]).astype(np.float32)


@pytest.mark.parametrize("code", ["BF16", "F16"])
@pytest.mark.usefixtures("large_blocks")
def test_every_tie_is_rounded_to_even(tmp_path: Path, way: Way, code: str) -> None:
    patterns = np.arange(2**16, dtype=np.uint32)
    if code == "BF16":
        with np.errstate(invalid="ignore"):
            ties = (patterns << np.uint32(16) | np.uint32(0x8000)).view(np.float32)
    else:
        halves = patterns.astype(np.uint16).view(np.float16).astype(np.float64)
        finite = np.sort(halves[np.isfinite(halves)])
        edge = 65520.0  # From here on numbers are infinite.
        ties = np.array([-edge, *(finite[1:] + finite[:-1]) / 2, edge], dtype=np.float32)
    values = _neighbours(ties[~np.isnan(ties)])
    checkpoints, layout = _single(tmp_path, values)
    tensors = {"w.weight": torch.zeros(values.size, dtype=TORCH[code], device=way.device)}
    writer = way.writer(checkpoints, layout, tensors, seeds="device")
    for coef in (1.0, -1.0):
        genome = recipe([0, values.size], np.array([[coef]]))
        with np.errstate(all="ignore"):  # The interpreter computes with numpy.
            writer.write(genome)
        expected = torch.from_numpy(values * np.float32(coef)).to(TORCH[code])
        assert same(tensors["w.weight"], expected)
        direct = on_the_cpu(genome, checkpoints, layout, tensors)["w.weight"]
        assert same(direct, expected)


@pytest.mark.parametrize("code", TORCH)
@pytest.mark.usefixtures("large_blocks")
def test_zeros_subnormals_infinities_and_nan_are_those_of_the_cpu(
    tmp_path: Path, way: Way, code: str
) -> None:
    tiny = [1e-45, 1e-40, 2.0**-24, 2.0**-25, 2.0**-126, 2.0**-133, 2.0**-134, 3e-8, 6.1e-5]
    large = [65504.0, 65519.0, 65520.0, 3.3e38, 3.4028235e38, np.inf, np.nan]
    odd = np.array([0.0, *tiny, 1.0, *large], dtype=np.float32)
    odd = np.concatenate([odd, -odd])
    left, right = (part.reshape(-1).copy() for part in np.meshgrid(odd, odd))
    pair = [{"w.weight": torch.from_numpy(part).to(TORCH[code])} for part in (left, right)]
    checkpoints = [opened(tmp_path / str(i), model) for i, model in enumerate(pair)]
    layout = build_layout(checkpoints)
    rows = [
        [0.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.5, 0.5], [1.0, -1.0], [-0.3, 1.3], [1e-38, 1e-30],
        [2.0, 3e38], [1e-60, 1.0], [-1.0, 0.0],
    ]  # fmt: skip
    for out in TORCH:
        tensors = {"w.weight": torch.zeros(left.size, dtype=TORCH[out], device=way.device)}
        writer = way.writer(checkpoints, layout, tensors, seeds="device")
        for row in rows:
            genome = recipe([0, left.size], np.array([row]))
            with np.errstate(all="ignore"):
                writer.write(genome)
            expected = on_the_cpu(genome, checkpoints, layout, tensors)
            assert same(tensors["w.weight"], expected["w.weight"]), (out, row)


def _family(directory: Path, codes: Sequence[str] = ("F32", "BF16", "F16")) -> tuple[Any, Layout]:
    checkpoints = [opened(directory / str(i), network(i, code)) for i, code in enumerate(codes)]
    return checkpoints, build_layout(checkpoints)


def _zeros(layout: Layout, way: Way, code: str = "F32") -> dict[str, torch.Tensor]:
    return way.tensors({s.name: torch.zeros(s.shape, dtype=TORCH[code]) for s in layout.slots})


def _matches(
    tensors: Tensors, genome: Recipe | Vector, checkpoints: list[Checkpoint], layout: Layout
) -> bool:
    expected = on_the_cpu(genome, checkpoints, layout, tensors)
    return all(same(tensors[name], expected[name]) for name in tensors)


def test_what_did_not_change_is_not_written_again(tmp_path: Path, way: Way) -> None:
    checkpoints, layout = _family(tmp_path)
    tensors = _zeros(layout, way)
    size, bias = layout.axis.size, next(s for s in layout.slots if s.name == "fc1.bias")
    writer = way.writer(checkpoints, layout, tensors, seeds="host")
    row, other = [0.2, 0.3, 0.5], [0.5, 0.3, 0.2]
    first = recipe([0, bias.start, bias.stop, size], np.array([row, other, row]))
    writer.write(first)
    # Behind torch's back: where it is not written again, this stays.
    tensors["fc1.bias"].data[3] = 77.0
    tensors["fc2.bias"].data[1] = 78.0
    writer.write(recipe([0, bias.start, bias.stop, size], np.array([other, other, row])))
    assert tensors["fc1.bias"][3].item() == 77.0
    assert tensors["fc2.bias"][1].item() == 78.0
    assert same(
        tensors["fc1.weight"],
        on_the_cpu(recipe([0, size], np.array([other])), checkpoints, layout, tensors)[
            "fc1.weight"
        ],
    )
    last = recipe([0, size], np.array([other]))
    writer.write(last)
    assert tensors["fc2.bias"][1].item() != 78.0
    assert tensors["fc1.bias"][3].item() == 77.0
    # What was changed in the usual way is noticed, and all of it is written.
    with torch.inference_mode():
        tensors["fc2.weight"][0] += 1.0
    writer.write(last)
    assert _matches(tensors, last, checkpoints, layout)


def test_after_a_child_that_failed_all_of_the_next_is_written(
    tmp_path: Path, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "CHUNK", 1)  # Many chunks.
    checkpoints, layout = _family(tmp_path)
    tensors = _zeros(layout, way)
    writer = way.writer(checkpoints, layout, tensors, seeds="host")
    size = layout.axis.size
    good = recipe([0, size], np.array([[0.2, 0.3, 0.5]]))
    writer.write(good)
    computing: Any = writer._computing
    run = computing.run

    def fails(numbers: range, place: int) -> None:
        run(numbers, place)
        raise torch.OutOfMemoryError("no memory")

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(computing, "run", fails)
        writer.write(recipe([0, size], np.array([[0.5, 0.5, 0.0]])))
    assert not _matches(tensors, good, checkpoints, layout)
    writer.write(good)
    assert _matches(tensors, good, checkpoints, layout)
    # Nor after a genome or a seed that was refused.
    with pytest.raises(InputError, match="recipe over 2 seeds; 3 were given"):
        writer.write(recipe([0, size], np.array([[0.5, 0.5]])))
    tensors["fc1.bias"].data[0] = 55.0
    writer.write(good)
    assert _matches(tensors, good, checkpoints, layout)
    file = tmp_path / "1" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:64])
    with pytest.raises(CheckpointError, match="the file was cut to 64 bytes"):
        writer.write(good)


def test_dense_genomes_and_recipes_take_turns(tmp_path: Path, way: Way) -> None:
    checkpoints, layout = _family(tmp_path)
    tensors = _zeros(layout, way, "BF16")
    writer = way.writer(checkpoints, layout, tensors, seeds="device")
    size = layout.axis.size
    plain = recipe([0, size], np.array([[0.2, 0.3, 0.5]]))
    dense = Vector(np.random.default_rng(0).standard_normal(size).astype(np.float32))
    for genome in (plain, dense, plain):
        writer.write(genome)
        assert _matches(tensors, genome, checkpoints, layout)


def test_strided_tied_carried_and_scalar_tensors(tmp_path: Path, way: Way) -> None:
    models = [{**network(i), "scale": torch.tensor(2.0 + i)} for i in range(2)]
    checkpoints = [opened(tmp_path / str(i), model) for i, model in enumerate(models)]
    layout = build_layout(checkpoints)
    shapes = {slot.name: slot.shape for slot in layout.slots}
    tensors: dict[str, torch.Tensor | None] = {
        name: torch.zeros(shape, device=way.device) for name, shape in shapes.items()
    }
    tensors["fc2.weight"] = torch.zeros(32, 5, device=way.device).t()
    tensors["fc2.bias"] = None
    steps = torch.zeros(2, dtype=torch.int64, device=way.device)
    writer = way.writer(checkpoints, layout, {**tensors, "steps": steps}, seeds="device")
    assert steps.tolist() == [3, 7]
    genome = recipe([0, 50, layout.axis.size], np.array([[0.25, 0.75], [0.5, -0.5]]))
    for _ in range(2):
        writer.write(genome)
        given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        whole = {s.name: torch.zeros(s.shape) for s in layout.slots}
        expected = on_the_cpu(genome, checkpoints, layout, whole)
        for name, tensor in given.items():
            assert same(tensor.contiguous(), expected[name]), name
            tensor.zero_()  # Noticed: it is written again.


def test_further_rows_come_from_the_first_seed(tmp_path: Path, way: Way) -> None:
    models = [{"e.weight": torch.randn(rows, 3)} for rows in (6, 4)]
    checkpoints = [opened(tmp_path / str(i), model) for i, model in enumerate(models)]
    layout = build_layout(checkpoints, rows={"e.weight": 4})
    tensors = {"e.weight": torch.zeros(6, 3, device=way.device)}
    writer = way.writer(checkpoints, layout, tensors, seeds="host")
    writer.write(recipe([0, 12], np.array([[0.25, 0.75]])))
    got = tensors["e.weight"].cpu()
    assert torch.equal(got[4:], models[0]["e.weight"][4:])
    assert torch.equal(got[:4], models[0]["e.weight"][:4] * 0.25 + models[1]["e.weight"] * 0.75)


@pytest.mark.parametrize(
    ("free", "host", "expected"),
    [
        ((10**6, 10**6), None, "_Resident"),
        ((10**6, 10**8), None, "_Streamed"),  # No room for the model's work.
        ((5000, 10**5), 10**6, "_Streamed"),
        ((5000, 10**5), 5000, None),
        (None, 10**6, "_Streamed"),
    ],
)
def test_seeds_lie_where_there_is_room(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free: tuple[int, int] | None,
    host: int | None,
    expected: str | None,
) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda _device: free)
    monkeypatch.setattr(module, "free_host_bytes", lambda: host)
    checkpoints, layout = _family(tmp_path)
    cpu = Way("cpu", False)
    tensors = _zeros(layout, cpu)
    writer = cpu.writer(checkpoints, layout, tensors)
    seeds: Any = writer._seeds
    assert (None if seeds is None else type(seeds).__name__) == expected
    genome = recipe([0, layout.axis.size], np.array([[0.2, 0.3, 0.5]]))
    writer.write(genome)
    assert _matches(tensors, genome, checkpoints, layout)


def test_tensors_that_overlap_are_refused(tmp_path: Path, way: Way) -> None:
    checkpoints, layout = _family(tmp_path)
    tensors = _zeros(layout, way)
    both = torch.zeros(40, device=way.device)
    with pytest.raises(InputError, match=r"'fc1\.bias', 'fc2\.bias' share memory"):
        way.writer(checkpoints, layout, {**tensors, "fc1.bias": both[:32], "fc2.bias": both[31:36]})


def test_positions_beyond_32_bits(tmp_path: Path, way: Way) -> None:
    """A tensor of more than 2**31 elements lies before the one that the model holds."""
    huge, count, rng = 2**31 + 5, 300, np.random.default_rng(0)
    checkpoints: list[Checkpoint] = []
    for name in ("1", "2"):
        end = 2 * huge + 4 * count
        entries = {
            "layers.0.weight": {"dtype": "BF16", "shape": [huge], "data_offsets": [0, 2 * huge]},
            "layers.1.weight": {"dtype": "F32", "shape": [count], "data_offsets": [2 * huge, end]},
        }
        head = json.dumps(entries).encode()
        path = tmp_path / f"{name}.safetensors"
        with path.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            # A hole, which takes no room on the disk.
            file.seek(2 * huge, 1)
            file.write(rng.standard_normal(count).astype(np.float32).tobytes())
        checkpoints.append(open_checkpoint(path))
    layout = build_layout(checkpoints)
    tensors = {"layers.0.weight": None, "layers.1.weight": torch.zeros(count, device=way.device)}
    writer = way.writer(checkpoints, layout, tensors, 1, seeds="device")
    for at in (100, 170):
        bounds = [0, 2**31, huge + at, huge + count]
        genome = recipe(bounds, rng.standard_normal((3, 2)))
        writer.write(genome)
        expected = torch.zeros(count)
        places = {"layers.0.weight": None, "layers.1.weight": destination(expected)}
        Materialiser(checkpoints, layout, places, 1).write(genome)
        held = tensors["layers.1.weight"]
        assert held is not None and same(held, expected)
        left, right = (c.tensors["layers.1.weight"].raw for c in checkpoints)
        coefs = genome.coefs.astype(np.float32)
        rows = np.where(np.arange(count) < at, 1, 2)
        exact = coefs[rows, 0] * left + coefs[rows, 1] * right
        assert np.array_equal(expected.numpy(), exact)
