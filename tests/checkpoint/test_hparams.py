"""Hyperparameters: collected in __init__, saved as plain data, used to make the object again."""

from __future__ import annotations

import enum
import sys
from argparse import Namespace
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fulmen as L
from fulmen.checkpoint import files, hparams
from fulmen.checkpoint.hparams import AttributeDict
from fulmen.errors import ForeignCheckpoint, MisconfigurationException


class Net(L.LightningModule):
    def __init__(self, width, depth=2, *args, act="relu", **rest):
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(width, depth)


class Wide(Net):
    def __init__(self, width, extra=3):
        super().__init__(width * 10, act="tanh")


class Holder(L.LightningModule):
    """Calls save_hyperparameters as a test wants."""

    def __init__(self, call, a=1, b=2):
        super().__init__()
        call(self, a, b)


def saved(module: L.LightningModule, path: str = "a.ckpt", **more) -> str:
    checkpoint = {"state_dict": module.state_dict(), "fulmen": {"version": 1}, **more}
    hparams.store(checkpoint, module)
    files.write(checkpoint, path)
    return path


# ---- collecting


def test_all_arguments_are_kept_those_in_kwargs_too():
    module = Net(4, 5, "lost", act="tanh", seed=1)
    assert module.hparams == {"width": 4, "depth": 5, "act": "tanh", "seed": 1}
    assert module.hparams.width == 4


def test_a_subclass_is_seen_through_and_its_own_values_count():
    assert Wide(2).hparams == {"width": 2, "depth": 2, "act": "tanh", "extra": 3}


def test_names_and_ignored_names_choose():
    assert Holder(lambda self, a, b: None).hparams == {}

    class Some(L.LightningModule):
        def __init__(self, a, b=2, c=3):
            super().__init__()
            self.save_hyperparameters("a", "c")

    class Ignoring(L.LightningModule):
        def __init__(self, a, b=2, c=3):
            super().__init__()
            self.save_hyperparameters(ignore=["a", "b"])

    class IgnoringOne(L.LightningModule):
        def __init__(self, a, b=2):
            super().__init__()
            self.save_hyperparameters(ignore="a")

    assert Some(1).hparams == {"a": 1, "c": 3}
    assert Ignoring(1).hparams == {"c": 3}
    assert IgnoringOne(1).hparams == {"b": 2}


@pytest.mark.parametrize("values", [{"lr": 1}, Namespace(lr=1)], ids=["dict", "Namespace"])
def test_a_container_gives_its_items(values):
    class Model(L.LightningModule):
        def __init__(self, hparams, other=0):
            super().__init__()
            self.save_hyperparameters(hparams)

    module = Model(values)
    assert module.hparams == {"lr": 1}
    assert isinstance(module.hparams, AttributeDict)
    assert module._hparams_name == "hparams"


def test_a_dataclass_gives_its_fields():
    @dataclass
    class Config:
        lr: float = 0.5

    assert Holder(lambda self, a, b: self.save_hyperparameters(a), Config()).hparams == {"lr": 0.5}


def test_a_dataclass_module_keeps_its_fields():
    @dataclass(eq=False)
    class Model(L.LightningModule):
        width: int
        depth: int = 2

        def __post_init__(self):
            super().__init__()
            self.save_hyperparameters()

    assert Model(3).hparams == {"width": 3, "depth": 2}


def test_several_calls_add_up():
    def call(self, a, b):
        self.save_hyperparameters({"x": a})
        self.save_hyperparameters({"y": b}, logger=False)

    module = Holder(call)
    assert module.hparams == {"x": 1, "y": 2}
    assert module._log_hyperparams is False


def test_it_may_be_called_before_the_module_is_initialized():
    class Early(L.LightningModule):
        def __init__(self, width, net):
            self.save_hyperparameters()
            super().__init__()
            self.net = net

    net = nn.Linear(1, 1)
    module = Early(3, net)
    assert module.hparams.net is net
    assert list(module.state_dict()) == ["net.weight", "net.bias"]  # not a second time under hparams


def test_a_datamodule_has_them_as_well():
    class Data(L.LightningDataModule):
        def __init__(self, folder, size=4):
            super().__init__()
            self.save_hyperparameters()

    assert Data("x").hparams == {"folder": "x", "size": 4}


def test_what_was_there_at_first_is_kept_apart():
    module = Net(4)
    module.hparams.width = 9
    module.hparams["depth"] = [1]
    module.hparams_initial["width"] = 100
    assert module.hparams_initial == {"width": 4, "depth": 2, "act": "relu"}
    assert module.hparams.width == 9
    module.remove_ignored_hparams(["depth", "unknown"])
    assert module.hparams == {"width": 9, "act": "relu"}


def test_mistakes_are_named():
    with pytest.raises(MisconfigurationException, match=r"'cal'.*Did you mean 'call'\?"):
        Holder(lambda self, a, b: self.save_hyperparameters("cal"))
    with pytest.raises(TypeError, match=r"save_hyperparameters\(5\) must get names"):
        Holder(lambda self, a, b: self.save_hyperparameters(5))
    with pytest.raises(AttributeError, match=r"cannot be assigned. Call self.save_hyperparameters"):
        Net(4).hparams = {"a": 1}
    with pytest.raises(AttributeError, match=r"'widht' is not among .*Did you mean 'width'"):
        Net(4).hparams.widht  # noqa: B018


def test_an_attribute_dict_is_a_dict_with_attributes():
    items = AttributeDict(lr=0.1, name="x")
    items.a = 1
    del items.lr
    assert items == {"name": "x", "a": 1}
    assert repr(items) == '"a":    1\n"name": x'
    assert {"name", "a"} <= set(dir(items))


# ---- plain data


class Mode(enum.Enum):
    FAST = "fast"


@dataclass
class Inner:
    rate: float = 0.1
    mode: Mode = Mode.FAST


@dataclass
class Config:
    inner: Inner = field(default_factory=Inner)
    path: Path = Path("x")


PLAIN = {
    "none": (None, None),
    "numbers": ([1, 2.5, True, 1j], [1, 2.5, True, 1j]),
    "tuple": ((1, (2,)), (1, (2,))),
    "named tuple": (namedtuple("Pair", "a b")(1, 2), (1, 2)),
    "sets": ([{1}, frozenset({2})], [{1}, {2}]),
    "ordered": (OrderedDict(a=1), OrderedDict(a=1)),
    "range": (range(3), [0, 1, 2]),
    "path": (Path("a") / "b", str(Path("a") / "b")),
    "enum": (Mode.FAST, "fast"),
    "namespace": (Namespace(a=Namespace(b=1)), OrderedDict(a=OrderedDict(b=1))),
    "dataclass": (Config(), OrderedDict(inner=OrderedDict(rate=0.1, mode="fast"), path="x")),
    "torch": (
        [torch.float16, torch.device("cpu"), torch.Size([2])],
        [torch.float16, torch.device("cpu"), torch.Size([2])],
    ),
    "numpy numbers": ([np.float64(0.5), np.float32(0.5), np.int64(3), np.bool_(True)], [0.5, 0.5, 3, True]),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_what_is_saved_is_plain_and_loads_safely(kind):
    value, expected = PLAIN[kind]
    plain, omitted = hparams.to_saveable({"x": value})
    assert (plain, omitted) == ({"x": expected}, [])
    files.write(plain, "a.ckpt")
    loaded = torch.load("a.ckpt", weights_only=True)["x"]
    assert loaded == expected
    assert type(loaded) is type(expected)


@pytest.mark.parametrize("value", [Namespace(lr=Namespace(end=1)), hparams.AttributeDict(lr=Namespace(end=1))])
def test_what_has_attributes_has_them_again_without_an_annotation(value):
    class Model(L.LightningModule):
        def __init__(self, args):
            super().__init__()
            self.save_hyperparameters()
            self.end = args.lr.end

    again = Model.load_from_checkpoint(saved(Model(value)))
    assert Model.load_from_checkpoint(saved(again)).end == 1
    assert torch.load("a.ckpt", weights_only=True)["hyper_parameters"]["args"].lr.end == 1


def test_names_of_dict_s_methods_stay_items():
    plain, _ = hparams.to_saveable({"x": Namespace(items=1)})
    assert (type(plain["x"]), plain["x"]) == (dict, {"items": 1})


def test_tensors_are_saved_without_their_history():
    plain, _ = hparams.to_saveable({"x": torch.ones(2, requires_grad=True) * 2})
    assert plain["x"].requires_grad is False


def test_what_is_not_plain_is_left_out_and_named_once():
    odd = {"net": nn.Linear(1, 1), "fn": lambda x: x, "nested": {"deep": [print]}, "lr": 0.1}
    with pytest.warns(UserWarning, match=r"'net', 'fn', 'nested'.*save_hyperparameters\(ignore="):
        plain, omitted = hparams.to_saveable(odd)
    assert (plain, omitted) == ({"lr": 0.1}, ["net", "fn", "nested"])
    assert hparams.to_saveable(odd) == (plain, omitted)  # without a second warning, which would be an error here


# ---- making it again


def test_a_module_is_made_again_with_its_arguments_and_weights():
    module = Net(4, act="tanh", seed=1)
    again = Net.load_from_checkpoint(saved(module))
    assert again.hparams == module.hparams
    assert torch.equal(again.layer.weight, module.layer.weight)
    assert Net.load_from_checkpoint("a.ckpt", seed=2).hparams.seed == 2


def test_a_subclass_takes_only_the_arguments_that_it_knows():
    assert Wide.load_from_checkpoint(saved(Wide(2))).hparams == Wide(2).hparams


def test_loading_leaves_the_random_state_alone():
    path = saved(Net(4))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Net.load_from_checkpoint(path)
    assert torch.equal(torch.rand(1), expected)


def test_annotations_bring_values_back_in_their_form():
    class Model(L.LightningModule):
        def __init__(
            self, config: Config, mode: Mode | None = None, folder: Path = Path(), rest: Namespace | None = None
        ):
            super().__init__()
            self.save_hyperparameters()

    module = Model(Config(inner=Inner(rate=0.5)), Mode.FAST, Path("y"), Namespace(a=1))
    again = Model.load_from_checkpoint(saved(module))
    assert again.hparams == module.hparams
    assert isinstance(again.hparams.config.inner, Inner)


KINDS = [
    Mode.FAST,
    Path("y"),
    Namespace(a=[Mode.FAST]),
    {"to": Path("z"), "n": np.int64(3)},
    (frozenset({1}), range(2)),
]


@pytest.mark.parametrize("value", KINDS, ids=str)
def test_kinds_come_back_without_an_annotation(value):
    class Model(L.LightningModule):
        def __init__(self, argument):
            super().__init__()
            self.save_hyperparameters()

    again = Model.load_from_checkpoint(saved(Model(value))).hparams.argument
    assert (again, type(again)) == (value, type(value))
    assert again.a[0] is Mode.FAST if isinstance(value, Namespace) else True


def test_an_enum_that_is_gone_comes_back_as_its_value(monkeypatch):
    class Model(L.LightningModule):
        def __init__(self, mode):
            super().__init__()
            self.save_hyperparameters()

    path = saved(Model(Mode.FAST))
    monkeypatch.delattr(sys.modules[__name__], "Mode")
    with pytest.warns(UserWarning, match="Mode.FAST of the module .* which is not there"):
        assert Model.load_from_checkpoint(path).hparams.mode == "fast"


def test_a_container_argument_comes_back_with_attributes_and_takes_changes():
    class Model(L.LightningModule):
        def __init__(self, hparams):
            super().__init__()
            self.save_hyperparameters(hparams)
            self.layer = nn.Linear(hparams.width, 1)

    path = saved(Model(Namespace(width=3, lr=0.1)))
    assert Model.load_from_checkpoint(path).hparams == {"width": 3, "lr": 0.1}
    assert Model.load_from_checkpoint(path, lr=5).hparams == {"width": 3, "lr": 5}


class Body(nn.Linear):
    """What a file cannot rebuild: a module of the user's own."""


class Wrap(L.LightningModule):
    def __init__(self, net, loss=None, lr=0.1):
        super().__init__()
        self.save_hyperparameters(ignore=["loss"])
        self.net = net


def wrapped() -> str:
    with pytest.warns(UserWarning, match=r"\['net'\] are not plain data"):
        return saved(Wrap(Body(2, 1), lr=0.7))


def test_arguments_that_were_left_out_are_asked_for():
    path = wrapped()
    with pytest.raises(
        TypeError, match=r"Wrap needs net, which 'a.ckpt' does not hold.*checkpoint\('a.ckpt', net=...\)"
    ):
        Wrap.load_from_checkpoint(path)
    assert Wrap.load_from_checkpoint(path, net=nn.Linear(2, 1)).hparams.lr == 0.7


def test_where_a_default_stands_in_for_what_was_left_out_it_is_told():
    class Model(L.LightningModule):
        def __init__(self, tool=None, lr=0.1):
            super().__init__()
            self.save_hyperparameters()

    with pytest.warns(UserWarning, match=r"\['tool'\] are not plain data"):
        path = saved(Model(object()))
    with pytest.warns(
        UserWarning, match=r"'a.ckpt' does not hold the hyperparameters \['tool'\].*'a.ckpt', tool=...\)"
    ):
        Model.load_from_checkpoint(path)
    assert Model.load_from_checkpoint(path, tool=3).hparams.tool == 3


def test_an_unknown_argument_is_refused_with_the_nearest_right_one():
    with pytest.raises(TypeError, match=r"Wrap has no argument 'los', only net, loss, lr. Did you mean 'loss'\?"):
        Wrap.load_from_checkpoint(wrapped(), net=nn.Linear(2, 1), los=1)


def test_weights_of_another_model_are_told_by_their_keys():
    path = wrapped()
    with pytest.raises(
        ForeignCheckpoint, match=r"does not fit Wrap. Missing keys: net.0.weight, net.0.bias. Unexpected"
    ):
        Wrap.load_from_checkpoint(path, net=nn.Sequential(nn.Linear(2, 1)))
    with pytest.raises(ForeignCheckpoint, match=r"'a.ckpt' holds the weights of another model.*size mismatch"):
        Wrap.load_from_checkpoint(path, net=nn.Linear(3, 1))
    with pytest.warns(UserWarning, match=r"'a.ckpt' was loaded in part. Unexpected keys: net.bias."):
        Wrap.load_from_checkpoint(path, net=nn.Linear(2, 1, bias=False), strict=False)


def test_strict_loading_of_the_module_is_heeded():
    class Loose(Wrap):
        def __init__(self, net):
            super().__init__(net)
            self.strict_loading = False

    with pytest.warns(UserWarning, match="was loaded in part"):
        Loose.load_from_checkpoint(wrapped(), net=nn.Linear(2, 1, bias=False))


def test_on_an_instance_it_is_an_error_that_shows_the_right_call():
    module = Net(4)
    with pytest.raises(TypeError, match=r"called on an instance.*model = Net.load_from_checkpoint\('a.ckpt'\)"):
        module.load_from_checkpoint(saved(module))


def test_on_an_instance_whose_arguments_nobody_saved_the_instance_stands_in():
    module = Wrap(nn.Linear(2, 1))
    path = wrapped()
    before = module.net.weight.clone()
    with pytest.warns(UserWarning, match=r"called on an instance of Wrap.*Better call Wrap.load_from_checkpoint\('a"):
        again = module.load_from_checkpoint(path)
    assert torch.equal(again.net.weight, files.read(path)["state_dict"]["net.weight"])
    assert torch.equal(module.net.weight, before)


def test_a_file_without_weights_is_foreign():
    files.write({"model": 1, "fulmen": {}}, "a.ckpt")
    with pytest.raises(ForeignCheckpoint, match=r"'a.ckpt' is not a trainer's checkpoint: it has no 'state_dict'"):
        Net.load_from_checkpoint("a.ckpt")


def test_the_hooks_of_the_module_see_the_checkpoint():
    class Late(L.LightningModule):
        def configure_model(self):
            self.layer = nn.Linear(2, 1)

        def on_load_checkpoint(self, checkpoint):
            self.note = checkpoint["note"]

    module = Late()
    module.configure_model()
    again = Late.load_from_checkpoint(saved(module, note="hello"))
    assert again.note == "hello"
    assert torch.equal(again.layer.weight, module.layer.weight)


def test_a_datamodule_is_made_again_with_its_state():
    class Data(L.LightningDataModule):
        def __init__(self, size, folder="x"):
            super().__init__()
            self.save_hyperparameters()
            self.position = 0

        def load_state_dict(self, state_dict):
            self.position = state_dict["position"]

    checkpoint = {"fulmen": {}, Data.__qualname__: {"position": 7}}
    hparams.store(checkpoint, Data(3))
    files.write(checkpoint, "a.ckpt")
    again = Data.load_from_checkpoint("a.ckpt", folder="y")
    assert (again.hparams, again.position) == ({"size": 3, "folder": "y"}, 7)
