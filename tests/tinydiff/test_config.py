"""Configs: what each key does, from the tables themselves, and what hostile values do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from miniatures import TEXT_ENCODERS, UNETS, VAES, class_name, network

from tinydiff.config import CLIPConfig, TinyVAEConfig, UNetConfig, VAEConfig
from tinydiff.config_keys import CLASSES, IGNORED, USED
from tinydiff.errors import ModelFileError, TinyDiffError, UnsupportedModelError
from tinydiff_kernels.plan import Plan

READERS: dict[str, Any] = {
    "UNet2DConditionModel": UNetConfig,
    "AutoencoderKL": VAEConfig,
    "AutoencoderTiny": TinyVAEConfig,
    "CLIPTextModel": CLIPConfig,
    "CLIPTextModelWithProjection": CLIPConfig,
}
SAMPLES = {**UNETS, **VAES, **TEXT_ENCODERS}
PATH = "models/my model/config.json"

Row = tuple[str, str, Any]
NEUTRAL: list[Row] = []
REFUSED: list[Row] = []
OTHERS: tuple[Any, ...] = (True, False, 0, 1, 7, "other", None, [], {}, [7], [None, "other"], {"a": 1}, [[]])
for _class, _rules in CLASSES.items():
    for _key, _rule in _rules.items():
        if isinstance(_rule, tuple):
            _texts = {repr(v) for v in _rule}
            NEUTRAL += [(_class, _key, v) for v in (*_rule, list(_rule), list(_rule) * 3)]
            REFUSED += [(_class, _key, v) for v in OTHERS if repr(v) not in _texts]
OF_RULE = {
    kind: [(c, k) for c, rules in CLASSES.items() for k, rule in rules.items() if rule == kind]
    for kind in (USED, IGNORED)
}


def read(class_: str, config: Mapping[str, Any]) -> Any:
    return READERS[class_].from_json({"_class_name": class_, **config}, PATH)


@pytest.mark.parametrize(("class_", "key", "value"), NEUTRAL)
def test_neutral_value_is_accepted(class_: str, key: str, value: Any) -> None:
    assert read(class_, {key: value}) == read(class_, {})


@pytest.mark.parametrize(("class_", "key", "value"), REFUSED)
def test_value_that_changes_the_network_is_refused_by_name(class_: str, key: str, value: Any) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        read(class_, {key: value})
    for part in (repr(key), class_, PATH, "only"):
        assert part in str(caught.value)


@pytest.mark.parametrize("value", [True, 0, 1, "yes", [], {}, [None]])
@pytest.mark.parametrize("class_", CLASSES)
def test_unknown_key_is_refused_by_name(class_: str, value: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"'use_magic'.*unknown to tinydiff"):
        read(class_, {"use_magic": value})


@pytest.mark.parametrize("class_", CLASSES)
def test_unknown_key_that_is_off_or_private_is_accepted(class_: str) -> None:
    extra = {"use_magic": None, "use_more_magic": False, "_name_or_path": "x", "_commit_hash": 5}
    assert read(class_, extra) == read(class_, {})


@pytest.mark.parametrize(("class_", "key"), OF_RULE[IGNORED])
def test_ignored_key_changes_nothing(class_: str, key: str) -> None:
    for value in [["Any"]] if key == "architectures" else OTHERS:  # a list, or nothing: see test_class_of
        assert read(class_, {key: value}) == read(class_, {})


class Recorder(dict[str, Any]):
    """A config that knows which of its keys were looked at one by one."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.seen.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()


@pytest.mark.parametrize("class_", CLASSES)
def test_used_keys_are_those_that_are_read(class_: str) -> None:
    text_time = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    sdxl = {**text_time, "projection_class_embeddings_input_dim": 9} if class_.startswith("UNet") else {}
    config = Recorder({"_class_name": class_, **sdxl})
    READERS[class_].from_json(config, PATH)
    used = {key for c, key in OF_RULE[USED] if c == class_}
    looked_at = config.seen - {"_class_name", "architectures"}
    assert looked_at <= used
    assert used - looked_at <= ({"projection_dim"} if class_ == "CLIPTextModel" else set())


HOSTILE: tuple[Any, ...] = (
    -1, 0, 1, 2, 3, 99, 2**20, 2**20 + 1, 10**30, -(10**400), 0.5, -0.5, 1e-300, 1e300, float("nan"), float("inf"),
    True, False, None, "", "text", "x" * 10_000, "silu\0", [], [[]], [[[[]]]], {}, {"a": {"b": []}}, [0], [-1], [1, 1],
    [2**20] * 4, [10**30] * 4, [1] * 17, [8] * 16, [True] * 4, ["text"] * 4, [None], [0.5] * 4, [{}], [[1, 1]] * 4,
    [[2, 2], [2, 2], [2, 2], [1, 1]], [[100, 100]] * 4, [float("nan")], "CrossAttnDownBlock2D", ["UpBlock2D"] * 4,
)  # fmt: skip


NEEDED = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 68}
HOSTILE_KEYS = [row for row in OF_RULE[USED] if row != ("CLIPTextModel", "projection_dim")]  # not read there


@pytest.mark.parametrize(("class_", "key"), HOSTILE_KEYS)
def test_hostile_values_end_in_our_errors(class_: str, key: str) -> None:
    """Or in a config that makes a network: built on shapes, in no time."""
    known = [repr(k) for k in CLASSES[class_]]
    refused = accepted = 0
    for value in HOSTILE:
        config = {"_class_name": class_, **(NEEDED if key in NEEDED else {}), key: value}
        try:
            READERS[class_].from_json(config, PATH)
        except TinyDiffError as error:
            message = str(error)
            named = PATH in message and any(k in message for k in known)
            refused += named and len(message) < 500
        else:
            network(config, None, Plan())
            accepted += 1
    assert refused > len(HOSTILE) // 2
    assert refused + accepted == len(HOSTILE)


@pytest.mark.parametrize(("class_", "key"), HOSTILE_KEYS)
def test_nested_objects_are_refused(class_: str, key: str) -> None:
    for value in ({}, {"a": {"b": []}}, [{}], [[[[]]]], [["x"]]):
        with pytest.raises(TinyDiffError, match=PATH):
            read(class_, {**(NEEDED if key in NEEDED else {}), key: value})


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"_class_name": 5}, ModelFileError, "class name"),
        ({"_class_name": ["CLIPTextModel"]}, ModelFileError, "class name"),
        ({"_class_name": "AutoencoderKL"}, UnsupportedModelError, r"AutoencoderKL.*not CLIPTextModel"),
        ({"architectures": 5}, ModelFileError, "architectures"),
        ({"architectures": "CLIPTextModel"}, ModelFileError, "architectures"),
        ({"architectures": {"a": 1}}, ModelFileError, "architectures"),
        ({"architectures": [["CLIPTextModel"]]}, ModelFileError, "class name"),
        ({"architectures": ["T5EncoderModel"]}, UnsupportedModelError, "T5EncoderModel"),
    ],
)
def test_class_of(config: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        CLIPConfig.from_json(config, PATH)


@pytest.mark.parametrize("config", [{}, {"architectures": []}, {"architectures": None}, {"_class_name": None}])
def test_a_config_may_leave_its_class_out(config: dict[str, Any]) -> None:
    assert CLIPConfig.from_json(config, PATH) == read("CLIPTextModel", {})


@pytest.mark.parametrize("class_", CLASSES)
def test_a_config_of_another_class_is_refused(class_: str) -> None:
    for other in set(CLASSES) - {class_}:
        if READERS[other] is not READERS[class_]:
            with pytest.raises(UnsupportedModelError, match=f"class '{other}', not {class_.split('With')[0]}"):
                READERS[class_].from_json({"_class_name": other}, PATH)


# Values that do not fit each other.
MISFITS: list[tuple[str, dict[str, Any], str]] = [
    ("UNet2DConditionModel", {"block_out_channels": [320, 640]}, "down_block_types"),
    ("UNet2DConditionModel", {"down_block_types": ["DownBlock2D"] * 3}, "down_block_types"),
    ("UNet2DConditionModel", {"layers_per_block": [2, 2]}, "layers_per_block"),
    ("UNet2DConditionModel", {"norm_num_groups": 33}, "norm_num_groups"),
    ("UNet2DConditionModel", {"attention_head_dim": [5, 10, 20, 21]}, "attention_head_dim"),
    ("UNet2DConditionModel", {"conv_in_kernel": 4}, "conv_in_kernel"),
    ("UNet2DConditionModel", {"conv_out_kernel": 17}, "conv_in_kernel"),
    ("UNet2DConditionModel", {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "mid_block_type"),
    ("UNet2DConditionModel", {"resnet_time_scale_shift": "ada_group"}, "resnet_time_scale_shift"),
    ("UNet2DConditionModel", {"addition_embed_type": "text"}, "addition_embed_type"),
    ("UNet2DConditionModel", {"addition_embed_type": "text_time"}, "addition_time_embed_dim"),
    ("UNet2DConditionModel", {"transformer_layers_per_block": [[1, 1]] * 4}, "reverse_transformer_layers_per_block"),
    ("UNet2DConditionModel", {"transformer_layers_per_block": [[1], [1, 1], 1, 1]}, "transformer_layers_per_block"),
    (
        "UNet2DConditionModel",
        {"transformer_layers_per_block": 1, "reverse_transformer_layers_per_block": [[1, 1]] * 4},
        "reverse_transformer_layers_per_block",
    ),
    (
        "UNet2DConditionModel",
        {"transformer_layers_per_block": 90, "layers_per_block": 90},
        "transformer_layers_per_block",
    ),
    ("UNet2DConditionModel", {"down_block_types": ["AttnDownBlock2D"] * 4}, "AttnDownBlock2D"),
    ("UNet2DConditionModel", {"up_block_types": ["CrossAttnDownBlock2D"] * 4}, "up_block_types"),
    ("AutoencoderKL", {"block_out_channels": [64, 128]}, "down_block_types"),
    ("AutoencoderKL", {"norm_num_groups": 48}, "norm_num_groups"),
    ("AutoencoderKL", {"scaling_factor": 0}, "scaling_factor"),
    ("AutoencoderTiny", {"encoder_block_out_channels": [64, 64, 32, 32]}, "encoder_block_out_channels"),
    ("AutoencoderTiny", {"encoder_block_out_channels": [64] * 3}, "decoder_block_out_channels"),
    ("AutoencoderTiny", {"num_decoder_blocks": [3, 3, 1]}, "num_decoder_blocks"),
    ("CLIPTextModel", {"num_attention_heads": 7}, "num_attention_heads"),
    ("CLIPTextModel", {"hidden_act": "relu"}, "hidden_act"),
]


@pytest.mark.parametrize(("class_", "config", "key"), MISFITS)
def test_values_that_do_not_fit_each_other(class_: str, config: dict[str, Any], key: str) -> None:
    with pytest.raises(TinyDiffError, match=key) as caught:
        read(class_, config)
    assert PATH in str(caught.value)


@pytest.mark.parametrize("name", SAMPLES)
def test_json_of_every_family_is_read(name: str) -> None:
    config = json.loads(json.dumps(SAMPLES[name]))
    assert read(class_name(config), config).__class__ is READERS[class_name(config)]


def test_blocks_are_spelled_out() -> None:
    c = read("UNet2DConditionModel", UNETS["ssd1b"])
    assert c.down_attention == (False, True, True)
    assert c.up_attention == (True, True, False)
    assert c.layers_per_block == (2, 2, 2)
    assert (c.down_depths, c.mid_depth) == (((1, 1), (2, 2), (4, 4)), 4)
    assert c.up_depths == ((4, 4, 5), (2, 1, 1), (1, 1, 1))
    assert (c.mid, c.heads, c.cross_attention_dim) == ("plain", (2, 4, 8), (56, 56, 56))
    assert (c.text_time, c.time_embed_dim, c.sample_size) == ((8, 68), 64, (8, 8))
    xl = read("UNet2DConditionModel", UNETS["sdxl"])
    assert (xl.down_depths, xl.mid_depth) == (((1, 1), (2, 2), (3, 3)), 3)
    assert xl.up_depths == ((3, 3, 3), (2, 2, 2), (1, 1, 1))


def test_defaults_are_those_of_diffusers() -> None:
    """diffusers' default UNet is Stable Diffusion 1's, but for the width of the text."""
    c = read("UNet2DConditionModel", {"sample_size": 64, "cross_attention_dim": 768})
    assert c.block_out_channels == (320, 640, 1280, 1280)
    assert (c.down_attention, c.up_attention) == ((True, True, True, False), (False, True, True, True))
    assert (c.heads, c.layers_per_block, c.norm_num_groups) == ((8,) * 4, (2,) * 4, 32)
    assert (c.mid, c.time_embed_dim, c.flip_sin_to_cos, c.freq_shift) == ("cross", 1280, True, 0)
    v = read("AutoencoderKL", {})
    assert (v.block_out_channels, v.layers_per_block, v.scaling_factor, v.factor) == ((64,), 1, 0.18215, 1)
    t = read("AutoencoderTiny", {})
    assert (t.encoder_blocks, t.decoder_blocks, t.factor, t.scaling_factor) == ((1, 3, 3, 3), (3, 3, 3, 1), 8, 1)
    assert read("CLIPTextModel", {}).projection_dim is None
    assert read("CLIPTextModelWithProjection", {}).projection_dim == 512


def test_sample_size_may_be_a_pair() -> None:
    assert read("UNet2DConditionModel", {"sample_size": [48, 64]}).sample_size == (48, 64)
