"""Live models: arrays and networks, filled by the weights layer through their names."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from genepool.checkpoints.files.checkpoint import Checkpoint, open_checkpoint
from genepool.checkpoints.layout import Layout, build_layout
from genepool.core.genome import recipe, seed_recipe
from genepool.errors import CheckpointError, ConfigError, GenepoolError
from genepool.models.build import ModelOptions, build_model
from genepool.models.filled import Unchanged
from genepool.models.live import LiveModel

_NETWORKS = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, tied=False, extra=False, rows=3):
        super().__init__()
        self.embed = nn.Embedding(rows, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, rows, bias=False)
        self.register_buffer("scale", torch.ones(2), persistent=False)
        if tied:
            self.head.weight = self.embed.weight
        if extra:
            self.more = nn.Linear(2, 2)

def plain(): return Small()
def tied(): return Small(tied=True)
def extra(): return Small(extra=True)
def wide(): return Small(rows=5)
def other(): return nn.Linear(4, 3)
def nothing(): return None
def fails(): raise RuntimeError("no weights here")

def strided():
    network = Small()
    network.head.weight = nn.Parameter(torch.zeros(4, 3).t())
    return network
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "gp_nets", raising=False)
    (tmp_path / "gp_nets.py").write_text(_NETWORKS)
    return tmp_path


def tensors(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """What a checkpoint of `Small` holds."""
    made = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made).to(dtype)

    return {
        "embed.weight": normal(3, 4),
        "norm.weight": normal(4),
        "norm.bias": normal(4),
        "norm.running_mean": normal(4),
        "norm.running_var": normal(4).abs(),
        "norm.num_batches_tracked": torch.tensor(7 + seed),
        "head.weight": normal(3, 4),
    }


def seeds(
    folder: Path, *dtypes: torch.dtype, leave_out: tuple[str, ...] = ()
) -> tuple[list[Checkpoint], Layout]:
    """Checkpoints of these dtypes."""
    opened: list[Checkpoint] = []
    for number, dtype in enumerate(dtypes):
        held = {n: t for n, t in tensors(number, dtype).items() if n not in leave_out}
        save_file(held, folder / f"seed{number}.safetensors")
        opened.append(open_checkpoint(folder / f"seed{number}.safetensors"))
    return opened, build_layout(opened)


def live(
    folder: Path, checkpoints: list[Checkpoint], layout: Layout, **options: object
) -> LiveModel:
    return build_model(ModelOptions.model_validate(options), layout, checkpoints, folder)


class TestArrays:
    def test_every_dtype_becomes_float32(self, folder: Path) -> None:
        kinds = (torch.float16, torch.bfloat16)
        checkpoints, layout = seeds(folder, *kinds)
        model = live(folder, checkpoints, layout)
        genome = recipe([0, layout.axis.size], np.array([[0.25, 0.75]]))
        model.writer(checkpoints, layout).write(genome)
        assert isinstance(model.value, Mapping)
        assert set(model.value) == set(tensors(0))
        one, other = tensors(0, kinds[0]), tensors(1, kinds[1])
        for slot in layout.slots:
            expected = np.float32(0.25) * one[slot.name].float().numpy()
            expected = expected + np.float32(0.75) * other[slot.name].float().numpy()
            assert model.value[slot.name].dtype == np.float32
            # As in an exported checkpoint, which has the first seed's dtype.
            rounded = torch.from_numpy(expected).to(kinds[0]).float().numpy()
            np.testing.assert_array_equal(model.value[slot.name], rounded)
        # As it was before: what pools of older releases were scored by.
        model.writer(checkpoints, layout, as_exported=False).write(genome)
        head = np.float32(0.25) * one["head.weight"].float().numpy()
        head = head + np.float32(0.75) * other["head.weight"].float().numpy()
        np.testing.assert_array_equal(model.value["head.weight"], head)
        assert model.value["norm.num_batches_tracked"] == 7

    def test_arrays_stand_in_depth_order(self, folder: Path) -> None:
        checkpoints, layout = seeds(folder, torch.float32)
        names = list(live(folder, checkpoints, layout).value)
        assert names[0] == "embed.weight"
        assert names.index("head.weight") > names.index("norm.weight")

    def test_a_task_cannot_change_them(self, folder: Path) -> None:
        checkpoints, layout = seeds(folder, torch.float32)
        value = live(folder, checkpoints, layout).value
        with pytest.raises(ValueError, match="read-only"):
            value["head.weight"][0] = 1
        with pytest.raises(TypeError):
            value["head.weight"] = np.zeros(3)

    @pytest.mark.slow
    def test_torch_is_not_needed(self, folder: Path) -> None:
        seeds(folder, torch.float32)
        code = (
            "import sys; from pathlib import Path; from genepool.models.build import *;"
            "from genepool.checkpoints.files.checkpoint import open_checkpoint as o;"
            "from genepool.checkpoints.layout import build_layout as b;"
            "from genepool.core.genome import seed_recipe;"
            "c = [o('seed0.safetensors')]; l = b(c);"
            "m = build_model(ModelOptions(), l, c, Path());"
            "m.writer(c, l).write(seed_recipe(l.axis.size, 0, 1));"
            "assert 'torch' not in sys.modules; print(m.value['norm.bias'].shape)"
        )
        got = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
        )
        assert got.stdout.strip() == "(4,)"


class TestNetworks:
    @pytest.mark.parametrize(
        ("name", "dtype"),
        [("bf16", "bfloat16"), ("BF16", "bfloat16"), ("fp16", "float16"), ("F32", "float32")],
    )
    def test_names_of_dtypes(self, name: str, dtype: str) -> None:
        assert ModelOptions.model_validate({"dtype": name}).dtype == dtype
        with pytest.raises(ValidationError, match="'float16', 'bfloat16'"):
            ModelOptions.model_validate({"dtype": f"{name}x"})

    @pytest.mark.parametrize("name", ["plain", "strided"])
    @pytest.mark.parametrize("dtype", [None, "bfloat16", "float16", "float64"])
    def test_parameters_and_buffers_are_filled(
        self, folder: Path, name: str, dtype: str | None
    ) -> None:
        checkpoints, layout = seeds(folder, torch.float32, torch.float32)
        model = live(folder, checkpoints, layout, network=f"gp_nets:{name}", dtype=dtype)
        genome = recipe([0, layout.axis.size], np.array([[0.25, 0.75]]))
        model.writer(checkpoints, layout).write(genome)
        held = model.value.state_dict()
        one, other = tensors(0), tensors(1)
        for slot in layout.slots:
            expected = one[slot.name] * 0.25 + other[slot.name] * 0.75
            kind = getattr(torch, dtype or "float32")
            assert torch.equal(held[slot.name], expected.to(kind)), slot.name
        assert held["norm.num_batches_tracked"] == 7

    def test_it_is_ready_to_be_scored(self, folder: Path) -> None:
        checkpoints, layout = seeds(folder, torch.float32)
        network = live(folder, checkpoints, layout, network="gp_nets:plain").value
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())

    def test_tied_weights_are_stored_once(self, folder: Path) -> None:
        checkpoints, layout = seeds(folder, torch.float32, leave_out=("head.weight",))
        model = live(folder, checkpoints, layout, network="gp_nets:tied")
        model.writer(checkpoints, layout).write(seed_recipe(layout.axis.size, 0, 1))
        held = model.value.state_dict()
        assert torch.equal(held["head.weight"], tensors(0)["embed.weight"])

    def test_tied_weights_that_are_stored_twice_are_refused(self, folder: Path) -> None:
        checkpoints, layout = seeds(folder, torch.float32)
        with pytest.raises(CheckpointError, match=r"ties .*'head.weight'.*stored once"):
            live(folder, checkpoints, layout, network="gp_nets:tied")

    @pytest.mark.parametrize(
        ("name", "leave_out", "words"),
        [
            ("extra", (), "the checkpoint has no 'more.weight', 'more.bias'"),
            ("other", (), "the network has no 'embed.weight'"),
            ("plain", ("norm.running_mean",), "the checkpoint has no 'norm.running_mean'"),
            ("wide", (), "'embed.weight' is [5, 4] in the network and [3, 4] in the checkpoint"),
        ],
    )
    def test_what_does_not_fit_is_named(
        self, folder: Path, name: str, leave_out: tuple[str, ...], words: str
    ) -> None:
        checkpoints, layout = seeds(folder, torch.float32, leave_out=leave_out)
        with pytest.raises(CheckpointError) as caught:
            live(folder, checkpoints, layout, network=f"gp_nets:{name}")
        assert words in str(caught.value) and "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"network": "gp_nets:nothing"}, "expected it to return a torch network"),
            (
                {"network": "gp_nets:fails"},
                "failed when it was made: RuntimeError: no weights",
            ),
            ({"network": "gp_nets:absent"}, "has no 'absent'"),
            ({"network": "gp_nets:plain", "device": "cuda:99"}, "device 'cuda:99'"),
            ({"network": "gp_nets:plain", "device": "moon"}, "device 'moon'"),
            ({"device": "cuda"}, "apply to a network or a language model"),
            ({"dtype": "float16"}, "apply to a network or a language model"),
        ],
    )
    def test_what_cannot_be_made_is_said(
        self, folder: Path, options: dict[str, str], words: str
    ) -> None:
        checkpoints, layout = seeds(folder, torch.float32)
        with pytest.raises(ConfigError) as caught:
            live(folder, checkpoints, layout, **options)
        assert words in str(caught.value) and "\n" not in str(caught.value)

    def test_options_are_checked(self) -> None:
        for wrong in ({"dtype": "int8"}, {"network": 3}, {"colour": "red"}):
            with pytest.raises(ValidationError):
                ModelOptions.model_validate(wrong)

    def test_without_torch_the_extra_is_named(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoints, layout = seeds(folder, torch.float32)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(GenepoolError, match=r"pip install '[^']*\[torch\].*whl/cpu"):
            live(folder, checkpoints, layout, network="gp_nets:plain")


@pytest.mark.parametrize("kept", [{"version": 1}, None, torch.zeros(3)])
def test_what_modules_make_for_their_state_besides_weights_is_passed_over(kept: object) -> None:
    class Keeping(torch.nn.Linear):
        def get_extra_state(self) -> object:
            return kept.clone() if isinstance(kept, torch.Tensor) else kept

        def set_extra_state(self, state: object) -> None:
            pass

    network = torch.nn.Sequential(Keeping(2, 2), Keeping(2, 2))
    unchanged = Unchanged(network)
    sample = unchanged.sample()
    assert set(sample) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    unchanged.look("the task", sample)
    network.half()
    with pytest.raises(ConfigError, match=r"has put '0\.weight'"):
        unchanged.look("the task", sample)


def _replace_a_module(network: Any) -> None:
    network[0] = torch.nn.Linear(2, 2)


def _replace_a_parameter(network: Any) -> None:
    network[1][0].weight = torch.nn.Parameter(torch.ones(2, 2))


def _replace_a_buffer(network: Any) -> None:
    network[2].running_mean = torch.zeros(2)


def _put_other_values_in_place(network: Any) -> None:
    network[0].weight.data = torch.ones(2, 2)


def _parametrise(network: Any) -> None:
    torch.nn.utils.parametrizations.orthogonal(network[0])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_replace_a_module, "0.bias"),
        (_replace_a_parameter, "1.0.weight"),
        (_replace_a_buffer, "2.running_mean"),
        (_put_other_values_in_place, "0.weight"),
        (_parametrise, "0.weight"),
    ],
)
def test_tensors_that_genomes_do_not_reach_are_named(
    change: Callable[[Any], None], named: str
) -> None:
    inner = torch.nn.Sequential(torch.nn.Linear(2, 2))
    network: Any = torch.nn.Sequential(torch.nn.Linear(2, 2), inner, torch.nn.BatchNorm1d(2)).eval()
    network.register_buffer("longest", torch.zeros(3), persistent=False)
    unchanged = Unchanged(network)
    network.longest = torch.zeros(5)  # Of no account: it is not saved.
    network[1].append(torch.nn.Identity().eval())
    unchanged.look("the task", None)
    change(network)
    with pytest.raises(ConfigError, match=f"has put .*'{re.escape(named)}'"):
        unchanged.look("the task", None)
