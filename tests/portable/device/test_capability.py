"""A capability is a plain record: it travels as JSON and prints as a page."""

import json
import pickle
from dataclasses import FrozenInstanceError

import pytest
import torch

from portable.device.capability import (
    DTYPES,
    AttentionAbility,
    Capability,
    Feature,
    Fp8Format,
    Role,
    Support,
    TileLimits,
    strategy_reasons,
)

FULL = Capability(
    arch="abacus2",
    communicator="string",
    dtypes={
        Role.matmul: {"fp32": Support.native, "bf16": Support.emulated},
        Role.storage: {"fp32": Support.native, "fp64": Support.none},
    },
    reduce_ops={"sum": Support.native, "mean": Support.emulated},
    collectives={"all_reduce": Support.native, "gather": Support.none},
    features=(Feature.async_copy, Feature.ipc),
    fp8=Fp8Format("float8_e4m3fnuz", 240.0, "float8_e5m2fnuz", 57344.0),
    compile_backends=("inductor",),
    attention=AttentionAbility(gqa=Support.native, varlen=Support.emulated, max_head_dim=128),
    tiles=TileLimits(warp_size=64, on_chip_bytes=65536, max_grid=65535),
    strategies={"single": "", "fsdp": "its string is too short"},
    engines={"native": ""},
)
LEAST = Capability(arch="", communicator="", dtypes={}, reduce_ops={}, collectives={})


@pytest.mark.parametrize("capability", [FULL, LEAST])
def test_json_and_pickle_keep_everything(capability):
    assert Capability.from_json(json.loads(json.dumps(capability.to_json()))) == capability
    assert pickle.loads(pickle.dumps(capability)) == capability


def test_it_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        FULL.arch = "other"


def test_what_a_table_does_not_list_is_not_there():
    assert FULL.dtype(Role.matmul, "fp32") is Support.native
    assert FULL.dtype(Role.matmul, "fp64") is Support.none
    assert FULL.dtype(Role.collective, "fp32") is Support.none
    assert FULL.supports(Feature.ipc)
    assert not FULL.supports(Feature.graph_capture)


def test_printed_it_tells_every_ability_and_every_reason():
    text = str(FULL)
    for piece in (
        "arch abacus2, communicator string",
        "matmul: native fp32; emulated bf16",
        "storage: native fp32; none fp64",
        "reductions: native sum; emulated mean",
        "collectives: native all_reduce; none gather",
        "features: async_copy, ipc",
        "float8_e4m3fnuz to 240",
        "compile: inductor",
        "attention: native gqa; emulated varlen; none sliding_window, sink, dropout; head_dim to 128",
        "tiles: 64 threads in step, 65536 bytes on chip, 65535 programs",
        "strategy fsdp: its string is too short",
        "engine native: usable",
    ):
        assert piece in text
    assert "features: none" in str(LEAST)
    assert "fp8" not in str(LEAST)


def test_names_of_number_formats_stand_for_torch_dtypes():
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in DTYPES.values())


def test_without_peers_only_one_process_is_left():
    reasons = strategy_reasons("alone")
    assert {name for name, reason in reasons.items() if not reason} == {"single"}
    assert set(reasons.values()) == {"", "alone"}
    assert set(strategy_reasons("").values()) == {""}
